# make demo                                  a portrait speaks: out/demo.mp4
# make demo VIDEO=me.mp4 AUDIO=words.wav     prepares your video, trains on it, speaks your words
# make test                                  the tests
# All of them make .venv themselves, with nothing but Python 3.11 or newer and a package index.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= out
METHOD ?= egs_talker
PRESET ?= cpu
TESTED := face_landmarker selfie_segmentation whisper_tiny_en sample_portrait

# Pins hold for the build environment too, which `pip install -c` does not reach.
export PIP_CONSTRAINT := $(abspath constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint types structure check clean

$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "vivavoce needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0   # first: the project's own range is then met, and nothing larger is taken
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet --editable '.[dev,wav2vec2,tts,ray,serve,metrics,onnx,viewer]'
	$(BIN)/vivavoce assets fetch $(TESTED)   # the tests themselves reach for nothing
	@touch $@

ifdef VIDEO
ifndef AUDIO
$(error VIDEO needs AUDIO: make demo VIDEO=me.mp4 AUDIO=words.wav)
endif
demo: $(VENV)/.core
	@mkdir -p "$(OUT)"
	@name=$$(basename "$(VIDEO)") && name="$(OUT)/$${name%.*}" && \
	$(BIN)/vivavoce prepare "$(VIDEO)" --folder "$$name" && \
	$(BIN)/vivavoce train $(METHOD) "$$name" --preset $(PRESET) --out "$$name-$(METHOD)" && \
	$(BIN)/vivavoce run "$$name-$(METHOD)" --audio "$(AUDIO)" --out "$$name-speaks.mp4" && \
	echo "video: $$name-speaks.mp4"
else
demo: $(VENV)/.core
	@mkdir -p "$(OUT)"
	$(BIN)/vivavoce assets fetch sample_portrait sample_speech
	$(BIN)/vivavoce run sample_portrait --audio sample_speech --out "$(OUT)/demo.mp4"
	@echo "video: $(OUT)/demo.mp4"
endif

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

structure: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/test_structure.py

check: lint types structure test

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
