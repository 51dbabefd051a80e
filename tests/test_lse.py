"""LSE-C and LSE-D: every stage against what the reference's own code gave."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.published import fill, film, voice
from vivavoce.metrics import lse
from vivavoce.metrics.expert_sync import accuracy, expert_sync
from vivavoce.metrics.lse import crops
from vivavoce.metrics.offsets import Sync, Watch
from vivavoce.nn.lip_expert import LipExpert
from vivavoce.nn.syncnet import SyncNet
from vivavoce.speech.mfcc import as_16_bit, mfcc
from vivavoce.types import InputError

# Of python_speech_features 0.6 (mfcc), librosa 0.10.1 under Rudrabha/Wav2Lip 5c90fa9 (audio.py: mel), and joonson/syncnet_python
# 6efbb1c (run_pipeline.py's crop_video, SyncNetInstance.evaluate on the weights of published.py) on published.py's voice and film.
SOUND, SCORES = (np.load(Path(__file__).parent / f"published_{name}.npz") for name in ("sound", "lse"))


def test_mfcc_are_those_of_python_speech_features() -> None:
    loud = torch.from_numpy((voice().double() * 20000).numpy().astype(np.int16))
    ours = mfcc(loud)
    assert ours.shape == (int(SOUND["frames"]), 13)
    assert np.abs(ours[:60].numpy() - SOUND["mfcc"]).max() < 1e-5
    assert np.abs(ours[-2:].numpy() - SOUND["last"]).max() < 1e-5


def test_mfcc_of_silence_and_of_a_moment() -> None:
    assert torch.isfinite(mfcc(torch.zeros(1000))).all()
    assert mfcc(torch.ones(10)).shape == (1, 13)
    with pytest.raises(InputError, match="one row"):
        mfcc(torch.zeros(0))


def test_16_bits() -> None:
    assert as_16_bit(torch.tensor([0.5, 1.0, -1.5])).tolist() == [16384, 32767, -32768]


def test_crops_are_those_of_the_reference() -> None:
    ours = crops(*film())
    theirs = SCORES["crops"][..., ::-1]  # blue first there
    assert ours.shape == (14, 3, 224, 224)
    assert np.array_equal(ours[::5, :, ::8, ::8].permute(0, 2, 3, 1).numpy(), theirs)


@cache
def net() -> SyncNet:
    made = fill(SyncNet)
    with torch.no_grad():
        for value in made.netfclip[3].parameters():
            value.mul_(0.05)  # so that lips and sound weigh alike in the distance
    return made


def scores(sound: Tensor) -> Sync:
    return lse.lse(crops(*film()), sound, net())


def test_scores_are_those_of_the_reference() -> None:
    made = scores(voice(14 / 25))
    assert made.windows == 9  # 14 - 5
    theirs = SCORES["distances"]
    assert np.ptp(theirs.mean(0)) > 1
    assert np.abs(made.distances.numpy() - theirs).max() < 1e-4 * theirs.max()
    assert made.offset == int(SCORES["offset"])
    assert made.confidence == pytest.approx(float(SCORES["confidence"]), abs=2e-3)
    assert made.distance == pytest.approx(float(theirs.mean(0).min()), abs=2e-3)


def test_sound_and_picture_of_different_length() -> None:
    assert scores(voice(10 / 25)).windows == 5


def test_the_offset_is_found_however_the_frames_come() -> None:
    codes = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))

    def watched(moved: int, piece: int) -> Sync:
        sound = codes.roll(moved, 0)
        frames = torch.arange(64.0)[:, None]
        watch = Watch(60, lambda f: codes[f[:-4, 0].long()], lambda a, b: sound[a:b], torch.nn.functional.pairwise_distance)
        for part in frames.split(piece):
            watch.push(part)
        return watch.score()

    for moved in (-4, 0, 7):
        found = watched(moved, 64)
        assert found.offset == -moved and found.confidence > 1 and found.windows == 60
        for piece in (1, 7):
            assert torch.allclose(watched(moved, piece).distances, found.distances, atol=1e-6)
    padded = torch.cat([torch.zeros(15, 8), codes.roll(7, 0), torch.zeros(15, 8)])
    want = torch.stack([(codes - padded[k : k + 60] + 1e-6).norm(dim=1) for k in range(31)], 1)  # beyond the ends: zeros
    assert torch.allclose(watched(7, 64).distances, want, atol=1e-5)
    with pytest.raises(InputError, match="no moment"):
        Watch(3, torch.clone, lambda a, b: codes[a:b], torch.dist).score()


def test_what_is_too_short_or_no_crop_is_refused() -> None:
    with pytest.raises(InputError, match="too short"):
        lse.lse(torch.zeros(5, 3, 224, 224, dtype=torch.uint8), torch.zeros(16000), net())
    with pytest.raises(InputError, match="too short"):
        lse.lse(torch.zeros(30, 3, 224, 224, dtype=torch.uint8), torch.zeros(0), net())
    with pytest.raises(InputError, match="uint8"):
        lse.lse(torch.zeros(30, 3, 96, 96), torch.zeros(16000), net())
    with pytest.raises(InputError, match="not a number"):
        lse.lse(torch.zeros(30, 3, 224, 224, dtype=torch.uint8), torch.full((16000,), torch.nan), net())
    with pytest.raises(InputError, match="one box"):
        crops(np.zeros((2, 10, 10, 3), np.uint8), np.zeros((1, 4)))
    with pytest.raises(InputError, match="one box"):
        crops(np.zeros((1, 10, 10, 3), np.uint8), np.full((1, 4), np.nan))


def test_without_the_authors_weights_the_error_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    monkeypatch.setenv("VIVAVOCE_ASSETS", "")
    with pytest.raises(InputError, match="syncnet"):
        lse.syncnet()


class Told(LipExpert):
    """An expert that reads a number off the first pixel and off the first bin: in sync when they are alike."""

    def __init__(self) -> None:
        super().__init__(0.01)
        self.codes = torch.nn.functional.normalize(torch.rand(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)

    def hear(self, mel: Tensor) -> Tensor:
        return self.codes[mel[:, 0, 0, 0].long()]

    def see(self, lips: Tensor) -> Tensor:
        return self.codes[(lips[:, 2, 0, 0] * 255).round().long()]


@pytest.mark.parametrize("moved", [-3, 0, 6])
def test_expert_sync_finds_the_offset(moved: int) -> None:
    faces = (torch.arange(40) / 255)[:, None, None, None].expand(40, 3, 96, 96)
    mel = torch.arange(40.0)[:, None, None, None].expand(40, 1, 80, 16).roll(moved, 0)
    found = expert_sync(faces, mel, Told())
    assert found.offset == -moved and found.distance < 0.01 < found.confidence
    if not moved:
        assert accuracy(faces, mel, Told(), 7)[0] == 1
    with pytest.raises(InputError, match="no two moments"):
        expert_sync(faces[:5], mel, Told())
    with pytest.raises(InputError, match="not a number"):
        expert_sync(faces / 0, mel, Told())
