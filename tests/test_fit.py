"""Trackers that fit a face model, on heads made with small models in the real ones' file formats, and on a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.heads import recorded, turn_errors
from tests.models import SKINS, Shot, film, pictures, take, write_bfm, write_ict
from vivavoce.face import fit_video, mesh, morphable_bfm, morphable_ict, pose, track
from vivavoce.face.morphable import Morphable
from vivavoce.face.regions import STILL
from vivavoce.types import InputError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Morphable]:
    folder = tmp_path_factory.mktemp("models")
    mesh.vertices()
    write_bfm(folder)
    write_ict(folder / "ict_facekit.npz")
    with pytest.MonkeyPatch.context() as patch:
        take(patch, folder)
        return {"bfm": morphable_bfm.load(), "ict": morphable_ict.load()}


def all_found(shot: Shot) -> Tensor:
    return torch.ones(len(shot.points), dtype=torch.bool)


def reprojection(found: track.Track, shot: Shot) -> Tensor:  # -> [T,468] px
    return (pose.project(found.camera, found.deformed) - shot.clean).norm(dim=-1)


def acceleration(points: Tensor) -> float:  # [T,P,2] px -> px a frame^2
    return float((points[2:] - 2 * points[1:-1] + points[:-2]).norm(dim=-1).median())


@pytest.mark.parametrize("name, noise", [("bfm", 0.5), ("bfm", 1.0), ("ict", 0.5)])
def test_head_is_found(models: dict[str, Morphable], name: str, noise: float) -> None:
    model = models[name]
    shot = film(model, 60, noise)
    found, identity = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size)
    errors, gauge = turn_errors(found.rotation, shot.rotation)
    assert float(errors.mean()) < 0.5 and gauge < 1  # degrees; the model fixes which way a head looks
    assert float(reprojection(found, shot).mean()) < 0.5 < 1 > float(reprojection(found, shot).quantile(0.95))
    assert abs(found.focal / 1198 - 1) < 0.15
    assert identity.shape == (len(model.identity),)
    if model.bounded:
        assert float(found.expression.min()) >= 0 and float(found.expression.max()) <= 1
    jaw = torch.stack([found.expression[:, 0], shot.expression[:, 0]])
    assert float(torch.corrcoef(jaw)[0, 1]) > 0.95


@pytest.mark.parametrize("name", ["bfm", "ict"])
def test_still_head_is_still(models: dict[str, Morphable], name: str) -> None:
    model = models[name]
    shot = film(model, 80, 0.5, turning=0.0)
    found, _ = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size)
    still = pose.project(found.camera, found.vertices)[:, list(STILL)]
    assert acceleration(still) < 0.03 < 0.5 < acceleration(shot.points[:, list(STILL), :2])
    assert float(found.rotation.std(0).max().rad2deg()) < 0.15


@pytest.mark.parametrize("focal, distance", [(720.0, 0.5), (2050.0, 1.5)])
def test_focal_length_is_found(models: dict[str, Morphable], focal: float, distance: float) -> None:
    model = models["bfm"]
    shot = film(model, 50, 0.5, focal=focal, distance=distance)
    found, _ = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size)
    assert abs(found.focal / focal - 1) < 0.2
    known, _ = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size, focal=focal)
    assert known.focal == pytest.approx(focal, rel=1e-5)
    assert abs(float(known.translation[:, 2].mean()) / -distance - 1) < 0.05


def test_pictures_tell_more_than_landmarks(models: dict[str, Morphable]) -> None:
    """With poor landmarks the pictures nearly halve what the pose is off by, and the mesh stays where it was."""
    model = models["bfm"]
    shot = film(model, 24, 0.5, side=256)
    skin = torch.randn(SKINS, generator=torch.Generator().manual_seed(3))
    blurred = shot.points.clone()
    blurred[..., :2] += 1.5 * torch.randn(24, 478, 2, generator=torch.Generator().manual_seed(4))
    wrong = []
    for images in (None, lambda rows: pictures(model, shot, rows, skin)):
        found, _ = fit_video.fit_video(model, blurred.__getitem__, all_found(shot), shot.size, 2.34 * 256, images)
        wrong.append((float(turn_errors(found.rotation, shot.rotation)[0].mean()), float(reprojection(found, shot).mean())))
    (turn_alone, off_alone), (turn, off) = wrong
    assert turn < 0.7 * turn_alone and off < 1.05 * off_alone and off < 0.5


def test_frames_without_a_face_are_filled(models: dict[str, Morphable]) -> None:
    model = models["ict"]
    shot = film(model, 80)
    points, found = shot.points.clone(), all_found(shot)
    gap = slice(30, 36)
    points[gap], found[gap] = torch.nan, False
    result, _ = fit_video.fit_video(model, points.__getitem__, found, shot.size)
    errors, _ = turn_errors(result.rotation, shot.rotation)
    assert float(errors[gap].max()) < 2.5 and bool(result.error.isnan().eq(~found).all())
    for value in (result.rotation, result.translation, result.expression):
        assert bool(value.isfinite().all()) and len(value) == 80


def test_chunks_do_not_matter(models: dict[str, Morphable], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["ict"]
    shot = film(model, 50)
    one, _ = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size, 1198.0)
    monkeypatch.setattr(fit_video, "CHUNK", 7)
    two, _ = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size, 1198.0)
    assert torch.allclose(one.rotation, two.rotation, atol=1e-4) and torch.allclose(one.expression, two.expression, atol=1e-2)


def test_too_few_frames_are_told(models: dict[str, Morphable]) -> None:
    shot = film(models["ict"], 3)
    with pytest.raises(InputError, match="1 frames with a face"):
        fit_video.fit_video(models["ict"], shot.points.__getitem__, torch.tensor([False, True, False]), shot.size)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bfm", "ict"])
def test_device_gives_the_same(models: dict[str, Morphable], name: str) -> None:
    model = models[name]
    shot = film(model, 40, side=256)
    images = (lambda rows: pictures(model, shot, rows)) if name == "bfm" else None
    here, _ = fit_video.fit_video(model, shot.points.__getitem__, all_found(shot), shot.size, 600.0, images)
    there, _ = fit_video.fit_video(model.to(torch.device("cuda")), shot.points.__getitem__, all_found(shot), shot.size, 600.0, images)
    assert float((here.rotation - there.rotation).abs().max().rad2deg()) < 0.05
    assert torch.allclose(here.translation, there.translation, atol=2e-3)


@pytest.mark.real
@pytest.mark.assets
def test_recording(shared_data: Path) -> None:
    recorded_points = recorded(shared_data / "video" / "dfrf_cnn2.mp4")
    model = morphable_ict.read(shared_data / "models" / "ict_facekit.npz")
    found = torch.ones(len(recorded_points), dtype=torch.bool)
    result, identity = fit_video.fit_video(model, recorded_points.__getitem__, found, (512, 512))
    assert float(result.error.mean()) < 1.2  # px; eyes 138 px apart
    assert 0.4 < -float(result.translation[:, 2].mean()) < 2.5
    assert float(identity.abs().max()) < 5 and float(result.expression.min()) >= 0 and float(result.expression.max()) <= 1
    gap = (recorded_points[:, 13] - recorded_points[:, 14])[:, :2].norm(dim=1).numpy()
    shown = pose.project(result.camera, result.deformed)
    ours = (shown[:, 13] - shown[:, 14]).norm(dim=1).numpy()
    assert np.corrcoef(gap, ours)[0, 1] > 0.9  # the lips open when they do
