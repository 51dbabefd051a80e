"""Speech features and face shapes in a person folder: made, kept, taken from others, and written for the lineage."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivavoce import speech
from vivavoce.data import features
from vivavoce.face import mesh, pose, regions
from vivavoce.media import audio
from vivavoce.prepare import Folder, Options, idexp
from vivavoce.prepare import audio as sound_step
from vivavoce.prepare import speech as step
from vivavoce.types import HOP, RATE, InputError

FRAMES = 61


class Sums:
    """An encoder that tells of each step its place and its loudness, and remembers what it was given."""

    name, dim, lookahead = "sums", 29, 0

    def __init__(self, fail_at: int = 1 << 60) -> None:
        self.pushed: list[int] = []
        self.fail_at = fail_at

    def start(self) -> tuple[int, Tensor]:
        return 0, torch.zeros(0)

    def push(self, samples: Tensor, state: tuple[int, Tensor], last: bool = False) -> tuple[Tensor, tuple[int, Tensor]]:
        self.pushed.append(len(samples))
        at, kept = state[0], torch.cat([state[1], samples])
        if at >= self.fail_at:
            raise OSError(28, "No space left on device")
        whole = len(kept) // (HOP // 2) * (HOP // 2)
        blocks = kept[:whole].reshape(-1, HOP // 2)
        place = torch.arange(at, at + len(blocks)) % 512  # whole numbers that float16 holds
        return torch.stack([place, *[blocks.abs().mean(1)] * 28], 1), (at + len(blocks), kept[whole:])


def made(path: Path, frames: int = FRAMES, encoders: tuple[str, ...] = ("deepspeech",)) -> Folder:
    """A folder that has its sound."""
    path.mkdir(exist_ok=True)
    t = np.arange(frames * HOP) / RATE
    samples = np.sin(440 * t) * np.sin(7 * t) * 20000
    with wave.open(str(path / "aud.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    folder = Folder(path, Options(speech=encoders))
    folder.update(frames=frames, split=frames * 10 // 11)
    return folder


def nothing(done: int, total: int) -> None:
    pass


def test_features_are_written_in_our_form_and_the_lineages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Sums()
    monkeypatch.setattr(speech, "load", lambda name, device: encoder)
    monkeypatch.setattr(step, "AT_ONCE", 10)
    folder, told = made(tmp_path / "she"), list[tuple[int, int]]()
    step.run(folder, lambda done, total: told.append((done, total)))
    step.verify(folder)
    assert max(encoder.pushed) == 10 * HOP and sum(encoder.pushed) == FRAMES * HOP  # never more at once: memory does not grow
    assert told[-1] == (FRAMES, FRAMES) and told == sorted(told)
    ours, theirs = np.load(tmp_path / "she" / "aud_deepspeech.npy"), np.load(tmp_path / "she" / "aud_ds.npy")
    assert ours.dtype == np.float16 and ours.shape == (FRAMES, 2, 29) and theirs.dtype == np.float32
    padded = np.pad(ours.reshape(-1, 29), ((8, 8), (0, 0))).astype(np.float32)
    assert np.array_equal(theirs, np.stack([padded[2 * t : 2 * t + 16] for t in range(FRAMES)]))
    assert np.array_equal(features.steps(theirs)[: 2 * FRAMES], features.steps(ours)) and not features.steps(theirs)[2 * FRAMES :].any()
    assert (tmp_path / "she" / "aud.npy").read_bytes() == (tmp_path / "she" / "aud_deepspeech.npy").read_bytes()


def test_hubert_is_written_two_steps_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "she", encoders=("hubert",))
    ours = np.random.default_rng(0).normal(size=(FRAMES, 2, 1024)).astype(np.float16)
    np.save(folder.file("aud_hubert.npy"), ours)
    step.run(folder, nothing)
    theirs = np.load(folder.file("aud_hu.npy"))
    assert theirs.dtype == np.float32 and np.array_equal(theirs, ours)


def test_a_run_that_broke_off_goes_on_and_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "AT_ONCE", 10)
    whole, cut = (made(tmp_path / name, encoders=("mel", "deepspeech")) for name in ("whole", "cut"))
    real = speech.load

    def load(name: str, device: str) -> speech.Encoder:
        return real(name, device) if name == "mel" else encoder

    monkeypatch.setattr(speech, "load", load)
    encoder = Sums()
    step.run(whole, nothing)
    encoder = Sums(fail_at=60)
    with pytest.raises(OSError, match="space"):
        step.run(cut, nothing)
    assert {p.name for p in cut.path.iterdir()} == {"aud.wav", "clip.json", "aud_mel.npy"}  # nothing that is half written
    stamp = cut.file("aud_mel.npy").stat().st_mtime_ns
    with pytest.raises(InputError, match="aud_deepspeech"):
        step.verify(cut)
    encoder = Sums()
    step.run(cut, nothing)
    step.verify(cut)
    assert cut.file("aud_mel.npy").stat().st_mtime_ns == stamp
    for name in ("aud_mel.npy", "aud_deepspeech.npy", "aud_ds.npy", "aud.npy"):
        assert cut.file(name).read_bytes() == whole.file(name).read_bytes()


@pytest.mark.parametrize("short", [0, 1])
def test_features_that_somebody_else_made_need_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    def load(name: str, device: str) -> speech.Encoder:
        raise AssertionError("no encoder is needed")

    monkeypatch.setattr(speech, "load", load)
    folder = made(tmp_path / "she")
    np.save(folder.file("aud_ds.npy"), np.ones((FRAMES - short, 16, 29)))
    before = folder.file("aud_ds.npy").read_bytes()
    step.run(folder, nothing)
    step.verify(folder)
    assert folder.file("aud_ds.npy").read_bytes() == folder.file("aud.npy").read_bytes() == before
    assert not folder.file("aud_deepspeech.npy").exists()


@pytest.mark.parametrize(
    ("table", "cause"),
    [
        (np.ones((FRAMES - 2, 16, 29)), "shape"),
        (np.ones((FRAMES, 5, 29)), "speech features"),
        (np.ones((FRAMES, 16), np.int64), "speech features"),
        (np.full((FRAMES, 2, 29), np.nan, np.float32), "not finite"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path: Path, table: np.ndarray, cause: str) -> None:
    folder = made(tmp_path / "she")
    np.save(folder.file("aud_ds.npy"), table)
    with pytest.raises(InputError, match=f"aud_ds.npy.*{cause}.*--only speech"):
        step.verify(folder)


def test_every_form_has_an_encoder_and_files_of_the_step_are_not_those_of_another() -> None:
    assert features.LINEAGE.keys() <= set(speech.names())
    assert not set(step.STEP.outputs) & set(idexp.STEP.outputs)
    assert not any("*" in name for name in (*step.STEP.outputs, *idexp.STEP.outputs))


def test_sound_of_another_rate_is_resampled_and_never_taken_for_ours(tmp_path: Path) -> None:
    heard = []
    for rate in (RATE, 44100):
        t = np.arange(rate * 2) / rate
        with wave.open(str(tmp_path / f"{rate}.wav"), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes((np.sin(2 * np.pi * (300 * t + 400 * t * t)) * 9000).astype("<i2").tobytes())
        heard.append(speech.encode(speech.load("mel"), audio(tmp_path / f"{rate}.wav"))[2:-2])
    strong = heard[0] > 0
    assert strong.sum() > 200 and (heard[0] - heard[1])[strong].abs().max() < 0.02
    folder = made(tmp_path / "she")
    (tmp_path / "44100.wav").replace(folder.file("aud.wav"))
    with pytest.raises(InputError, match=r"aud\.wav.* 44100 Hz"):
        sound_step.verify(folder)


# ---- the face's shape ----


def tracked(frames: int, larger: float) -> tuple[dict[str, Tensor], Tensor]:
    """What a tracker writes of a head somewhat larger than usual, and where its 468 points lie in each frame, metres."""
    random = torch.Generator().manual_seed(0)
    rest = torch.from_numpy(mesh.vertices()) * larger
    basis = torch.randn(7, regions.MESH, 3, generator=random) * 0.002
    expression = torch.randn(frames, 7, generator=random)
    padded = torch.cat([expression, torch.zeros(frames, 72)], 1)
    euler, trans = torch.randn(frames, 3, generator=random), torch.randn(frames, 3, generator=random)  # the pose must not matter
    table = {"exp": padded, "euler": euler, "trans": trans, "vertices": rest[None] * pose.LINEAGE, "basis": basis}
    return table, rest + torch.einsum("tk,kpc->tpc", expression, basis)


@pytest.mark.assets
def test_shapes_are_displacements_without_pose_in_centimetres(tmp_path: Path, asset: Callable[[str], Path]) -> None:
    asset("face_landmarker")
    folder = made(tmp_path / "she")
    table, shapes = tracked(FRAMES, 1.1)
    torch.save(table, folder.file("track_params.pt"))
    idexp.run(folder, nothing)
    idexp.verify(folder)
    every, train, held = (np.load(folder.file(name)) for name in idexp.FILES)
    points = list(regions.LANDMARKS_68)
    wanted = (shapes[:, points] - torch.from_numpy(mesh.vertices())[points]) * 100
    assert every.dtype == np.float32 and np.abs(every - wanted.numpy()).max() < 1e-4
    assert np.array_equal(np.concatenate([train, held]), every) and len(train) == folder.split
    assert 0.3 < np.abs(every).mean() < 1.0  # a tenth larger than a head: centimetres


@pytest.mark.assets
def test_shapes_from_another_programs_tracking_are_refused(tmp_path: Path, asset: Callable[[str], Path]) -> None:
    asset("face_landmarker")
    folder = made(tmp_path / "she")
    table, _ = tracked(FRAMES, 1.0)
    for theirs in ({k: v for k, v in table.items() if k != "basis"}, table | {"vertices": torch.zeros(FRAMES, 34650, 3)}):
        torch.save(theirs, folder.file("track_params.pt"))
        with pytest.raises(InputError, match="another program"):
            idexp.run(folder, nothing)
    with pytest.raises(InputError, match="--only idexp"):
        idexp.verify(folder)
