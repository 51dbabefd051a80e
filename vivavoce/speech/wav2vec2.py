"""wav2vec 2.0 and its kind, at 50 Hz, through transformers (extra `wav2vec2`): the networks that talking heads were trained with.

Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations" (arXiv 2006.11477); Hsu et al.,
"HuBERT" (arXiv 2106.07447); Conneau et al., "Unsupervised Cross-lingual Representation Learning" (XLSR, arXiv 2006.13979). All have
the same convolutions, which turn 400 samples every 320 into a step, and a transformer trained on whole utterances with attention
both ways. As with Whisper, it sees windows at fixed places here and the block in the middle is kept, so that a stream and a file
give the same numbers. RAD-NeRF, whose files those of `esperanto` and `wav2vec2-960h` follow, has these very windows, ER-NeRF
runs HuBERT over pieces of 20 s, which no live stream can wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from vivavoce import assets
from vivavoce.speech import Stream, batched
from vivavoce.types import HOP, STEPS, InputError


@dataclass(frozen=True)
class Model:
    """Where the weights are, which output is meant, and the window in steps of 20 ms: before, of, and after those kept."""

    repository: str  # on the Hugging Face hub
    scores: bool  # True: one number a letter, before the softmax (CTC); False: the last hidden state
    past: int
    block: int
    future: int


MODELS = {
    "wav2vec2": Model("facebook/wav2vec2-base", False, 40, 10, 6),  # 768 numbers
    "hubert": Model("facebook/hubert-large-ls960-ft", False, 40, 20, 10),  # 1024
    "xlsr": Model("facebook/wav2vec2-large-xlsr-53", False, 40, 20, 10),  # 1024, 53 languages
    "esperanto": Model("cpierse/wav2vec2-large-xlsr-53-esperanto", True, 10, 50, 10),  # 44
    "wav2vec2-960h": Model("facebook/wav2vec2-large-960h-lv60-self", True, 10, 50, 10),  # 32
}
NAMES = tuple(MODELS)
FIELD = 400  # samples that a step's convolutions see
BATCH = 32  # windows at once


class Wav2Vec2:
    """The encoder (see speech.Encoder).

    Args:
        network: transformers' model whose convolutions have stride 320 and field 400; its device is where features are made.
        past, block, future: steps of a window before, of, and after those kept. A step waits for at most block + future - 1
            steps after it.
    """

    def __init__(self, network: Any, name: str, past: int, block: int, future: int) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name, self.past, self.block = name, past, block
        self.dim = int(network.config.vocab_size if hasattr(network, "lm_head") else network.config.hidden_size)
        step, steps = HOP // STEPS, past + block + future
        self.margin = (FIELD - step) // 2  # samples a step's field reaches over its 20 ms at either side
        self.hop, self.before = block * step, past * step + self.margin
        self.width = (steps - 1) * step + FIELD
        self.lookahead = -(-((block + future - 1) * step + self.margin) // 16)  # ms

    def start(self) -> Stream:
        return Stream.begin(self.width, self.hop, self.before, next(self.network.parameters()).device)

    @torch.no_grad()
    def push(self, samples: Tensor, state: Stream, last: bool = False) -> tuple[Tensor, Stream]:  # [n] -> [m,D]
        windows, steps, state = state.push(samples, last)
        return batched(self._features, windows, BATCH, self.dim)[:steps], state

    def _features(self, windows: Tensor) -> Tensor:  # [n,width] -> [n * block,D]
        # Each window to mean 0 and variance 1, as the authors' feature extractor does with an utterance; 1e-7 keeps silence silent.
        level = (windows.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
        steps = self.network((windows - windows.mean(1, keepdim=True)) / level)[0]  # last hidden state, or scores
        return steps[:, self.past : self.past + self.block].flatten(0, 1)


def _place(repository: str) -> str:
    """A folder of the model among the user's own or in the cache, else its name on the hub."""
    places = [folder / repository.rpartition("/")[2] for folder in (*assets.folders(), assets.cache())]
    return next((str(p) for p in places if (p / "config.json").is_file()), repository)


def load(device: str | torch.device = "cpu", name: str = "wav2vec2", model: str = "") -> Wav2Vec2:
    """One of MODELS, with its own weights or those of `model`, a name on the Hugging Face hub or a folder.

    Raises InputError when transformers is not installed or the weights cannot be had.
    """
    try:
        from transformers import AutoModel, AutoModelForCTC
    except ImportError as error:
        raise InputError(name, "transformers is not installed", "run: pip install 'vivavoce[wav2vec2]'") from error
    known = MODELS[name]
    model = model or _place(known.repository)
    try:
        network = (AutoModelForCTC if known.scores else AutoModel).from_pretrained(model, local_files_only=assets.offline())
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        remedy = f"connect to the internet, or run: hf download {model}"
        raise InputError(model, f"the weights of {name} cannot be had ({cause})", remedy) from error
    stride = prod(getattr(network.config, "conv_stride", [0]))
    if stride != HOP // STEPS:
        raise InputError(model, f"a step is {stride} samples, not {HOP // STEPS}", f"use {known.repository} or one of its kind")
    return Wav2Vec2(network.to(device), name, known.past, known.block, known.future)
