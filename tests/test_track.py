"""The mesh tracker on synthetic heads whose pose, focal length, shape and expression are known, and on recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.heads import recorded, talking_head, turn_errors
from vivavoce.face import pose, regions, track
from vivavoce.face.smooth import noise_of, steady
from vivavoce.types import InputError

STILL = list(regions.STILL)


def jitter(points: Tensor) -> float:  # [T,P,2] px -> median acceleration, px a frame^2
    return float((points[2:] - 2 * points[1:-1] + points[:-2]).norm(dim=-1).median())


def all_found(points: Tensor) -> Tensor:
    return torch.ones(len(points), dtype=torch.bool)


def rigid(found: track.Track) -> Tensor:  # [T,27,2] px
    return pose.project(found.camera, found.vertices)[:, STILL]


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_talking_head_is_found(noise: float) -> None:
    head = talking_head(noise=noise)
    found = track.track(head.points, all_found(head.points), head.size)
    errors, gauge = turn_errors(found.rotation, head.rotation)
    assert float(errors.mean()) < 0.5
    assert gauge < 2  # which way a head with another shape looks is a matter of 2 degrees
    assert 900 < found.focal < 1600  # truth 1200
    assert float((rigid(found) - head.clean[:, STILL]).norm(dim=-1).mean()) < 0.5
    assert float(found.error.mean()) < 2 * noise + 0.3
    raw, ours, truth = jitter(head.points[:, STILL, :2]), jitter(rigid(found)), jitter(head.clean[:, STILL])
    assert ours < truth + 0.1 * raw  # the landmarks' noise is nearly gone
    assert float((found.vertices - track.aligned(head.shape, found.vertices, torch.ones(468))).norm(dim=1).mean()) < 0.002


def test_known_focal_is_kept_and_distance_follows() -> None:
    head = talking_head(frames=80, focal=700, distance=0.5)
    found = track.track(head.points, all_found(head.points), head.size, focal=700)
    assert found.focal == 700
    assert abs(float(found.translation[:, 2].mean()) + 0.5) < 0.03


def test_still_head_is_still_and_its_focal_comes_from_the_prior() -> None:
    head = talking_head(turning=0.0, noise=0.5)
    found = track.track(head.points, all_found(head.points), head.size)
    assert jitter(rigid(found)) < 0.03 < 0.5 < jitter(head.points[:, STILL, :2])
    assert 0.5 < -float(found.translation[:, 2].mean()) < 1.6
    assert float(found.rotation.std(0).max().rad2deg()) < 0.2  # the mouth, which opens 18 mm, does not turn the head


def test_quick_turn_does_not_lag() -> None:
    head = talking_head(noise=0.6)
    found = track.track(head.points, all_found(head.points), head.size)
    middle = slice(90, 110)  # 14 degrees in about 8 frames
    truth, ours = head.rotation[middle, 1], found.rotation[middle, 1]
    bias = (found.rotation[:, 1] - head.rotation[:, 1]).median()
    assert float((ours - truth - bias).abs().max().rad2deg()) < 1.2
    best = min(range(-3, 4), key=lambda k: float((ours[3:-3] - head.rotation[93 + k : 107 + k, 1] - bias).abs().mean()))
    assert best == 0


def test_frames_without_a_face_are_filled() -> None:
    head = talking_head(frames=120)
    found = all_found(head.points)
    gap = slice(40, 48)
    points = head.points.clone()
    points[gap], found[gap] = torch.nan, False
    result = track.track(points, found, head.size)
    errors, _ = turn_errors(result.rotation, head.rotation)
    assert float(errors[gap].max()) < 2.5
    assert bool(result.found.eq(found).all())
    assert bool(result.error.isnan().eq(~found).all())
    for value in (result.rotation, result.translation, result.expression):
        assert bool(value.isfinite().all())
        assert len(value) == 120


def test_wild_frames_do_not_spoil_the_rest() -> None:
    head = talking_head(frames=120)
    points = head.points.clone()
    points[[20, 61, 62]] += torch.tensor([25.0, -12.0, 0.0])  # the landmarks slip for a frame or two
    result = track.track(points, all_found(points), head.size)
    assert float((rigid(result) - head.clean[:, STILL]).norm(dim=-1).mean(1)[[18, 22, 59, 64]].max()) < 1.2


def test_cut_between_shots_stays_sharp() -> None:
    """The second cut falls into the middle of a turn of 14 degrees in 8 frames, of which each of its shots holds but a half."""
    head = talking_head(frames=120)
    jump = torch.zeros(120, 1, 3)
    jump[30:] += torch.tensor([-20.0, 25.0, 0.0])
    jump[60:] += torch.tensor([30.0, 10.0, 0.0])
    result = track.track(head.points + jump, all_found(head.points), head.size)
    assert result.shots.nonzero()[:, 0].tolist() == [30, 60]
    away = (rigid(result) - head.clean[:, STILL] - jump[..., :2]).norm(dim=-1).mean(1)  # of jumps of 32 px
    assert float(away[28:32].max()) < 0.5
    assert float(away[58:62].max()) < 1.8


def test_expression_is_in_the_basis_not_in_the_pose() -> None:
    head = talking_head(noise=0.3)
    result = track.track(head.points, all_found(head.points), head.size)
    seen = pose.project(result.camera, result.deformed)
    chin = [152, 14, 17]
    assert float((seen[:, chin] - head.clean[:, chin]).norm(dim=-1).mean()) < 0.5
    assert float((pose.project(result.camera, result.vertices)[:, chin] - head.clean[:, chin]).norm(dim=-1).mean()) > 1.5
    spread = result.expression.std(0)
    assert 0.7 < float(spread[0]) < 1.3 and float(spread.min()) > 0.1  # what only noise moves is smoothed, the jaw is not


def test_resting_face_has_a_still_mesh() -> None:
    """Noise of the landmarks becomes neither expression nor motion: at most half of what fitting each frame by itself leaves."""
    head = talking_head(turning=0.0, noise=0.0)
    clean = torch.cat([head.clean[:1], head.points[:1, :468, 2:]], 2).expand(150, -1, -1)
    points = clean + torch.tensor([0.5, 0.5, 1.0]) * torch.randn(150, 468, 3, generator=torch.Generator().manual_seed(5))
    points = torch.cat([points, points[:, :10]], 1)
    found = track.track(points, all_found(points), head.size)
    shown = pose.project(found.camera, found.deformed)
    moved = (shown[1:] - shown[:-1]).norm(dim=-1).quantile(0.95)
    rotation, translation = pose.solve(points[:, :468, :2], found.vertices, torch.tensor([found.focal]), found.center, track.stillness())
    single = pose.project(pose.camera_from_pose(rotation, translation, torch.tensor([found.focal]), found.center), found.vertices)
    assert float(moved) < 0.5 * float((single[1:] - single[:-1]).norm(dim=-1).quantile(0.95))


def test_too_few_frames_is_told() -> None:
    head = talking_head(frames=3)
    with pytest.raises(InputError, match="1 frames with a face"):
        track.track(head.points, torch.tensor([False, True, False]), head.size)


def test_a_channel_of_noise_alone_is_stilled_whatever_its_noise_is_said_to_be() -> None:
    t, chance = np.arange(200), np.random.default_rng(2)
    noise = chance.normal(size=200)
    speech = 3 * np.sin(2 * np.pi * t / 7) * np.sin(2 * np.pi * t / 60) + 0.3 * noise  # syllables of 7 frames
    told = steady(np.stack([noise, speech], 1), np.ones(200, bool), noise=np.array([0.3, 0.3]))
    assert np.abs(np.diff(told[:, 0])).mean() < 0.25 * np.abs(np.diff(noise)).mean()  # told 0.3 alone: 0.9
    assert np.abs(told[:, 1] - speech).std() < 0.35  # lips keep their pace


def test_steady_keeps_what_moves_and_drops_what_trembles() -> None:
    t = np.arange(400) / 25
    path = 10 * np.tanh((t - 8) / 0.15) + np.sin(2 * np.pi * 1.2 * t)
    rng = np.random.default_rng(0)
    noisy = path + 0.3 * rng.standard_normal(len(t))
    ours = steady(noisy[:, None], np.ones(len(t), bool))[:, 0]
    assert abs(noise_of(noisy, np.ones(len(t), bool)) - 0.3) < 0.06
    assert np.sqrt(np.mean((ours - path) ** 2)) < 0.25
    assert np.median(np.abs(np.diff(ours, 2) - np.diff(path, 2))) < 0.35 * np.median(np.abs(np.diff(noisy, 2) - np.diff(path, 2)))
    short = steady(noisy[:3, None], np.ones(3, bool))
    assert np.array_equal(short[:, 0], noisy[:3])


@pytest.mark.real
@pytest.mark.assets
def test_recording(shared_data: Path) -> None:
    points = recorded(shared_data / "video" / "dfrf_cnn2.mp4")
    result = track.track(points, all_found(points), (512, 512))
    assert float(result.error.mean()) < 0.8  # px; eyes 138 px apart
    assert jitter(rigid(result)) < 0.6 * jitter(points[:, STILL, :2])
    assert 0.4 < -float(result.translation[:, 2].mean()) < 2.5
