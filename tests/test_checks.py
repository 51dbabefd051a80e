"""The checks of a clip: each measure answers what was put in, and a bad clip is refused with the true reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tests.drawn import Scene, drawn, folder_of, points_of, shot
from tests.films import steady, tone
from vivavoce.face import regions
from vivavoce.media import read_image, write_audio
from vivavoce.prepare import Folder, checks, measures, sync, verdicts
from vivavoce.prepare.folder import Options
from vivavoce.types import HOP, InputError


def speech(opening: np.ndarray, late: float, seed: int = 0) -> torch.Tensor:  # [T], s -> [T*640]
    """Noise whose loudness and colour follow the opening of a mouth, so many seconds later."""
    generator = np.random.default_rng(seed)
    samples = np.arange(len(opening) * HOP) / HOP - late * 25
    wide = np.interp(samples, np.arange(len(opening)) + 0.5, opening)
    noise = generator.normal(size=len(samples))
    dull = ndimage.gaussian_filter1d(noise, 6)
    return torch.from_numpy((0.02 * (noise - dull) * (1 - wide) + 0.3 * dull * wide).astype(np.float32))


def syllables(count: int, seed: int = 1) -> np.ndarray:  # -> [count] 0..1
    """A mouth that opens 3 to 6 times a second, never twice alike."""
    pulses = np.random.default_rng(seed).normal(size=count)
    slow = ndimage.gaussian_filter1d(pulses, 1.2)
    return np.clip(0.3 + 0.5 * slow / slow.std(), 0, 1)


def in_pieces(sound: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from sound.split(50 * HOP)


@pytest.mark.parametrize("late", [-0.2, -0.06, 0.0, 0.1, 0.24])
def test_the_offset_of_the_sound_is_found(late: float) -> None:
    opening = syllables(500)
    lips = opening * 0.1 + np.random.default_rng(2).normal(size=500) * 0.01
    lips[100:120] = np.nan  # frames without a face
    found = sync.offset(sync.spectrum(in_pieces(speech(opening, late)), 500), lips)
    assert found is not None and found.confidence > sync.SURE and found.offset == pytest.approx(late, abs=0.012)
    verdict = verdicts.judged_sync(found)
    assert verdict.verdict == ("pass" if abs(late) < 0.08 else "warn" if abs(late) < 0.16 else "refuse")
    assert late == 0 or ("after" if late > 0 else "before") in verdict.what


def test_lips_of_another_are_told() -> None:
    """Nobody's offset is believed where the one who is heard is not the one who is seen."""
    sure = []
    for seed in range(8):
        sound = speech(syllables(400, seed), 0.0)
        found = sync.offset(sync.spectrum(in_pieces(sound), 400), syllables(400, seed + 100) * 0.1)
        assert found is not None
        sure.append(found.confidence)
    assert max(sure) < sync.SURE + 0.5 and np.mean(np.array(sure) > sync.SURE) <= 0.125
    assert sync.offset(np.full((400, sync.BANDS), -7.0), syllables(400)) is None  # silence
    assert sync.offset(np.random.default_rng(0).normal(size=(400, sync.BANDS)), np.full(400, np.nan)) is None
    assert verdicts.judged_sync(None).verdict == "warn"


def test_turns_cut_off_and_jitter() -> None:
    points = points_of(replace(Scene(), turning=0.0), 100)
    assert np.abs(measures.turns(points)[:, 1]).max() < 6
    angle = math.radians(40)
    turned = points.copy()
    x, z = points[..., 0] - 64, points[..., 2]
    turned[..., 0], turned[..., 2] = 64 + x * math.cos(angle) - z * math.sin(angle), x * math.sin(angle) + z * math.cos(angle)
    assert np.median(np.abs(measures.turns(turned)[:, 1])) == pytest.approx(40, abs=4)
    assert measures.cut_off(points, (128, 128)).max() == 0
    assert measures.cut_off(points - [0, points[0, :, 1].mean(), 0], (128, 128)).min() > 0.3
    still = points_of(Scene(), 300)[:, list(regions.STILL), :2]
    wide = float(np.linalg.norm(still[:, regions.STILL.index(33)] - still[:, regions.STILL.index(263)], axis=1).mean())
    noisy = still + np.random.default_rng(0).normal(size=still.shape).astype(np.float32) * 0.02 * wide
    usable = np.ones(300, bool)
    assert measures.jitter(still, usable) < 0.006
    assert measures.jitter(noisy, usable) == pytest.approx(0.02, rel=0.25)


def test_sharpness_knows_blur_at_any_size() -> None:
    rough = np.random.default_rng(0).normal(size=(240, 240, 3))
    face = 120 + 40 * ndimage.gaussian_filter(rough, (12, 12, 0)) * 12 + 20 * ndimage.gaussian_filter(rough, (0.7, 0.7, 0))
    sharp = measures.sharpness(face.astype(np.float32))
    soft = measures.sharpness(ndimage.gaussian_filter(face, (4, 4, 0)).astype(np.float32))
    assert sharp > 0.3 and soft < 0.05
    points = np.zeros((478, 3), np.float32)
    points[0, :2], points[1, :2] = (20, 20), (620, 620)
    large = np.asarray(Image.fromarray(face.clip(0, 255).astype(np.uint8)).resize((640, 640)))
    part = measures.face_part(large, points)
    assert part.shape[1] == measures.FACE


def test_a_moving_camera_is_told() -> None:
    points = points_of(Scene(), 24)
    boxes = np.concatenate([points[:, :, :2].min(1), points[:, :, :2].max(1)], 1) / 128
    still = np.stack([drawn(Scene(), p) for p in points]).astype(np.float32)
    moving = np.stack([drawn(Scene(), p, shift=3.0 * k) for k, p in enumerate(points)]).astype(np.float32)
    assert measures.unsteady(still, boxes.astype(np.float32)) < 2 and measures.unsteady(moving, boxes.astype(np.float32)) > 8


def test_loudness_and_clipping() -> None:
    quiet, loud = torch.full((10 * HOP,), 0.001), torch.full((30 * HOP,), 0.1)
    loud[: 3 * HOP] = 1.0
    levels, full, peak = measures.loudness(iter([quiet, loud]))
    assert levels[:10] == pytest.approx(-60, abs=0.01) and levels[20:] == pytest.approx(-20, abs=0.01)
    assert full == pytest.approx(3 / 40) and peak == 1.0


def prepared(place: Path, late: float = 0.0) -> Folder:
    """A folder up to the step: a drawn clip of 8 s with its sound, so many seconds late."""
    pictures, points = shot(Scene(), 200)
    opening = syllables(200)
    points[:, [87, 14, 317], 1] = points[:, [82, 13, 312], 1] + 4 * opening[:, None]
    folder = folder_of(place, pictures, points * 4)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).resize((512, 512), Image.Resampling.NEAREST).save(place / "ori_imgs" / f"{k}.jpg", quality=95)
    write_audio(place / "aud.wav", [speech(opening, late)])
    steady(place / "film.mp4", seconds=2, sound=tone(2, 16000), sound_rate=16000)
    folder.update(size=[512, 512], shots=[[0, 199, "kept"]], jumps=[])
    return folder


def verdict_of(folder: Folder) -> dict[str, str]:
    return {v["name"]: v["verdict"] for v in folder.clip["checks"]}


class Alone:
    """Finds no other face: a drawn head is none for the detector."""

    def __init__(self, threads: int = 1) -> None:
        pass

    def __call__(self, picture: np.ndarray) -> list[object]:
        return []


@pytest.fixture(autouse=True)
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "Landmarker", Alone)


def test_a_good_clip_passes(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    checks.run(folder, lambda done, total: None)
    checks.verify(folder)
    found = verdict_of(folder)
    assert {name for name, verdict in found.items() if verdict != "pass"} == {"length"}  # 8 s
    assert json.loads((tmp_path / "checks.json").read_text()) == folder.clip["checks"]
    assert abs(folder.clip["sync"]["offset"]) < 0.02


def test_a_bad_clip_is_refused_with_every_reason(tmp_path: Path) -> None:
    folder = prepared(tmp_path, late=0.3)
    for k in range(200):
        dark = (read_image(folder.image(k)) // 16).astype(np.uint8)
        Image.fromarray(dark).save(folder.image(k), quality=95)
    with pytest.raises(InputError, match=r"brightness of the face.*sound (29|30)\d ms after the lips") as told:
        checks.run(folder, lambda done, total: None)
    assert "--force" in str(told.value) and "film.mp4" in str(told.value)
    assert not (tmp_path / "checks.json").exists() and verdict_of(folder)["sync"] == "refuse"
    page = (tmp_path / "refused.html").read_text("utf-8")
    assert "refused.html" in str(told.value) and page.count("<img") == 1 and page.count("<svg") >= 4 and "refused: brightness" in page
    folder.options = Options(force=True)
    checks.run(folder, lambda done, total: None)
    checks.verify(folder)
    assert "refuse" in verdict_of(folder).values() and not (tmp_path / "refused.html").exists()


def test_silence_is_refused(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    write_audio(tmp_path / "aud.wav", [torch.zeros(200 * HOP)])
    told = r"refused: the sound track is empty \(digital silence\); 0 % .* silence.*use a copy of the video that has its sound; or go on"
    with pytest.raises(InputError, match=told):
        checks.run(folder, lambda done, total: None)


def test_an_offset_that_cannot_be_told_says_why() -> None:
    said = verdicts.judged_sync(None)
    assert said.verdict == "warn" and "less than 4 s" in said.what
    said = verdicts.judged_sync(sync.Sync(-0.034, 2.3, 0.3, [0.0] * 31))
    assert said.verdict == "warn" and "34 ms before" in said.what and "2.3, believed from 4" in said.what and "20 s" in said.advice
    assert "perhaps" not in verdicts.judged_sync(sync.Sync(0.249, 1.1, 0.1, [0.0] * 31)).what  # noise is no guess
    assert verdicts.judged_sync(sync.Sync(0.237, 8.9, 0.4, [0.0] * 31)).limit == "at most 80 ms, refused above 160 ms"


def test_every_limit_is_between_pass_and_refuse() -> None:
    for check in (*verdicts.EARLY, *verdicts.LATE):
        little = abs(check.warn) * (0.01 if check.low else -0.01)
        fine, worse = check.warn + little, check.warn - little
        assert verdicts.judged(check, fine).verdict == "pass" and verdicts.judged(check, worse).verdict == "warn"
        if check.refuse is not None:
            far = check.refuse - abs(check.refuse) * 0.01 if check.low else check.refuse * 1.01
            assert verdicts.judged(check, far).verdict == "refuse"
