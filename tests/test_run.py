"""`run`: what it falls back on, what a kill leaves, and that its memory does not grow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests import hostile
from tests.folders import lineage_folder
from tests.synthetic import SyntheticPerson
from vivavoce import cli, registry, run, speech
from vivavoce.media import frames, read_image
from vivavoce.methods.face_warp import FaceWarp, Identity
from vivavoce.train import train
from vivavoce.types import Clip, InputError

SIZE, ROWS = 48, 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of egs_talker that hears mel spectra, which need no file, trained for a second on a folder it can play."""
    place = tmp_path_factory.mktemp("trained")
    folder = lineage_folder(place / "person", SIZE, ROWS)
    np.save(folder / "blendshapes.npy", np.zeros((ROWS, 52), np.float32))
    method = registry.find("egs_talker").cls
    person = SyntheticPerson(SIZE, ROWS, method.window, dim=80)
    extra = {"folder": str(folder), "size": SIZE}
    return train("egs_talker", person, place / "run", registry.configure("egs_talker", "tiny"), speech="mel", extra=extra)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of r2_talker, and beside it a generator of landmarks and, newer, one of blendshapes."""
    place = tmp_path_factory.mktemp("moved")
    folder = lineage_folder(place / "person", SIZE, ROWS)
    np.save(folder / "blendshapes.npy", np.zeros((ROWS, 52), np.float32))
    for number, (name, out, changes) in enumerate(
        (
            ("geneface_motion", "mine", {}),
            ("geneface_motion", "other_space", {"space_name": "blendshapes"}),
            ("r2_talker", "r2_talker", {}),
            ("geneface_motion", "newest", {"space_name": "bfm"}),
        )
    ):
        config = registry.configure(name, "tiny", steps=1, **changes)
        method = registry.find(name).cls(config)
        person = SyntheticPerson(SIZE, ROWS + 4, method.window, dim=80, space=method.space)
        run_folder = train(name, person, folder / "runs" / out, config, speech=method.speech, extra={"folder": str(folder), "size": SIZE})
        os.utime(run_folder / "model.safetensors", (number, number))
    return folder


def test_a_generator_trained_beside_the_renderer_moves_it(moved: Path, tmp_path: Path) -> None:
    report = run.speak(
        moved, hostile.wav(tmp_path / "a.wav", 0.4), tmp_path / "said.mp4", run.Options(pose="generator", background="white")
    )
    assert report.frames == 10
    assert f"speaking with the trained run {moved / 'runs' / 'r2_talker'}" in report.notes[0]  # not the newer generator
    assert f"its face is moved by {moved / 'runs' / 'mine'}" in report.notes[1]
    talker, size, _ = run.build(moved / "runs" / "r2_talker", run.Options(generator=str(moved / "runs" / "mine")))
    assert size == (SIZE, SIZE) and talker.generator is not None and talker.generator.space == "landmarks"
    with pytest.raises(InputError, match="motion spaces differ"):
        run.build(moved, run.Options(generator=str(moved / "runs" / "newest")))


def test_without_a_generator_the_command_that_trains_one_is_named(moved: Path, tmp_path: Path) -> None:
    alone = tmp_path / "runs" / "alone"
    shutil.copytree(moved / "runs" / "r2_talker", alone)
    about = json.loads((alone / "config.json").read_text())
    (alone / "config.json").write_text(json.dumps(about | {"folder": str(lineage_folder(tmp_path / "person", SIZE, ROWS))}))
    with pytest.raises(InputError, match=rf"landmarks.*run: vivavoce train geneface_motion {tmp_path / 'person'} --preset landmarks"):
        run.build(alone, run.Options())


def no_whisper(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without network that never fetched Whisper's weights."""
    load = speech.load

    def refuse(name: str, device: str = "cpu") -> speech.Encoder:
        if name == "whisper":
            raise InputError("whisper_tiny_en", "is not on this machine", "run: vivavoce assets fetch whisper_tiny_en")
        return load(name, device)

    monkeypatch.setattr(speech, "load", refuse)


class Drawn(SyntheticPerson):
    """The made-up person as a portrait."""

    full = (SIZE, SIZE)
    paste = None


def portrait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(run, "_portrait", lambda path, options, notes: Drawn(SIZE, 1))
    return hostile.picture(tmp_path / "face.png")


def test_without_whisper_a_portrait_speaks_from_mel_and_the_user_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    picture = portrait(monkeypatch, tmp_path)
    no_whisper(monkeypatch)
    report = run.speak(picture, hostile.wav(tmp_path / "a.wav", 1.0), tmp_path / "said.mp4")
    assert len(report.notes) == 1 and "mel instead of whisper" in report.notes[0] and "assets fetch whisper_tiny_en" in report.notes[0]
    shown = np.stack(list(frames(tmp_path / "said.mp4"))).astype(float)
    assert len(shown) == 25 and np.abs(shown[8:] - shown[0]).max() > 20  # it moves


def test_a_generator_of_the_users_own_has_no_spare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    picture = portrait(monkeypatch, tmp_path)
    no_whisper(monkeypatch)
    monkeypatch.setattr(run, "_is_run", lambda name: name == "mine")
    monkeypatch.setattr(run, "load_run", lambda name, device: (registry.find("speech_motion").cls.shipped(0), {}))
    with pytest.raises(InputError, match="assets fetch whisper_tiny_en"):
        run.build(picture, run.Options(generator="mine"))


def test_no_frames_outlive_their_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the encoder's queue nor the preview nor a name in the loop keeps them while the next are drawn."""
    picture = portrait(monkeypatch, tmp_path)
    no_whisper(monkeypatch)
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    draw = FaceWarp.render

    def render(self: FaceWarp, identity: Identity, clip: Clip) -> Tensor:
        alive.append(sum(frames() is not None for frames in made))
        frames = draw(self, identity, clip)
        made.append(weakref.ref(frames))
        return frames

    monkeypatch.setattr(FaceWarp, "render", render)
    run.speak(picture, hostile.wav(tmp_path / "a.wav", 2.0), tmp_path / "said.mp4", run.Options(block=4))
    assert len(made) == 14 and max(alive) == 0
    assert read_image(tmp_path / "said-preview.png").shape == (SIZE, run.PREVIEW * SIZE, 3)


def words(source: Path, audio: Path, out: Path) -> list[str]:
    return ["run", str(source), "--audio", str(audio), "--out", str(out), "--device", "cpu"]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_killed_then_the_same_command_gives_the_same_film(trained: Path, tmp_path: Path) -> None:
    audio = hostile.wav(tmp_path / "a.wav", 6.0)
    (tmp_path / "cut").mkdir()
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut" / "said.mp4"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    assert cli.main(words(trained, audio, whole)) == 0
    command = [sys.executable, "-m", "vivavoce.cli", *words(trained, audio, cut)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    part = cut.with_name(".part-said.mp4")
    while process.poll() is None and not (part.is_file() and part.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and part.is_file() and not cut.exists()
    assert cli.main(words(trained, audio, cut)) == 0
    assert cut.read_bytes() == whole.read_bytes()
    assert cut.with_name("said-preview.png").read_bytes() == whole.with_name("whole-preview.png").read_bytes()
    assert sorted(p.name for p in cut.parent.iterdir()) == ["said-preview.png", "said.mp4"]
