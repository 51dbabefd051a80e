"""Poses from pictures: an ellipsoid painted all over, drawn ray by ray, whose landmarks are wrong by known amounts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivavoce.face import mesh as canonical_mesh
from vivavoce.face import pose, regions
from vivavoce.face.track import Track
from vivavoce.media import write_image
from vivavoce.prepare import Folder
from vivavoce.prepare.headpose import DEPTHS, REACH, deepest, faded, refined

SIZE, FOCAL, COUNT = 160, 420.0, 40
AXES = torch.tensor([0.08, 0.125, 0.1], dtype=torch.float64)  # metres
COVERED, LOST = 20, 30  # frames: one hidden by a hand, one without a face


def rays(rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:  # [3,3], [3] -> [H,W,3] metres on the head, [H,W] hits
    """Where the rays of all pixels meet the ellipsoid."""
    y, x = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float64) + 0.5] * 2, indexing="ij")
    toward = torch.stack([(x - SIZE / 2) / FOCAL, (SIZE / 2 - y) / FOCAL, -torch.ones_like(x)], -1) @ rotation / AXES
    start = -(rotation.T @ translation) / AXES
    a, b, c = toward.square().sum(-1), (toward * start).sum(-1), start.square().sum() - 1
    inside = b.square() - a * c
    return (start + toward * ((-b - inside.clamp(min=0).sqrt()) / a)[..., None]) * AXES, inside > 0


def drawn(rotation: Tensor, translation: Tensor, light: float, covered: bool, marks: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H,W,3] and labels [H,W]."""
    points, hit = rays(rotation, translation)
    x, y, z = (100 * points).unbind(-1)  # cm
    waves = (1.1 * x + 0.6 * y).sin() + (0.5 * x - 1.3 * y + 1).sin() + (2.1 * y + 0.8 * z).sin() + (1.7 * x - z).sin()
    hair = torch.sigmoid((y - 6.5) / 0.3)
    grey = torch.where(hit, (0.62 + marks * waves) * (1 - hair) + (0.25 + 1.4 * marks * waves) * hair, 0.8)
    if covered:
        grey[20:120, 50:110] = 0.1
    labels = torch.where(hit, torch.where(y > 6.5, regions.HAIR, regions.HEAD), regions.BACKGROUND)
    return (255 * light * grey).round().byte()[..., None].expand(-1, -1, 3).numpy(), labels.numpy()


def top(rotation: Tensor, translation: Tensor) -> Tensor:  # [T,3,3], [T,3] -> [T,3,2] px
    """Where points of the hair are seen."""
    points = torch.tensor([[0.0, 0.11, 0.04], [0.06, 0.08, 0.0], [-0.06, 0.08, 0.0]], dtype=torch.float64)
    return pose.project(pose.camera_from_pose(rotation, translation, torch.tensor([FOCAL]), torch.tensor([SIZE / 2] * 2)), points)


def off(found: Track, truth: tuple[Tensor, Tensor]) -> Tensor:  # -> [T] px
    """How far the hair is drawn beside its place, but for what all frames have in common."""
    away = top(pose.matrix_from_euler(found.rotation.double()), found.translation.double()) - top(*truth)
    return (away - away.median(0).values).norm(dim=-1).mean(1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Track, tuple[Tensor, Tensor]]:
    """Pictures and parsing of the head, its poses by landmarks, and the true ones."""
    g, t = torch.Generator().manual_seed(3), torch.arange(COUNT, dtype=torch.float64)
    euler = torch.stack([0.08 * (t / 5).sin(), 0.12 * (t / 7).cos(), 0.05 * (t / 4).sin()], 1)
    place = torch.tensor([0.0, 0.0, -0.9]) + torch.stack([0.01 * (t / 6).sin(), 0.008 * (t / 9).cos(), 0.02 * (t / 8).sin()], 1)
    truth = pose.matrix_from_euler(euler), place
    made = Folder(tmp_path_factory.mktemp("head"))
    for k in range(COUNT):
        picture, labels = drawn(truth[0][k], truth[1][k], 1 + 0.1 * float(torch.sin(t[k] / 3)), k == COVERED)
        write_image(made.image(k), picture)
        colours = regions.colours_from_labels(torch.from_numpy(labels)[None])[0]
        write_image(made.file("parsing", f"{k}.png"), colours.permute(1, 2, 0).contiguous().numpy())
    faces = [int(k != LOST) for k in range(COUNT)]
    made.update(size=[SIZE, SIZE], frames=COUNT, faces=faces, split=COUNT * 10 // 11)
    mesh = torch.from_numpy(canonical_mesh.vertices()).double()
    mesh[:, 2] = AXES[2] * (1 - (mesh[:, :2] / AXES[:2]).square().sum(1)).clamp(min=0).sqrt()
    slow = 0.025 * torch.stack([(t / 3).sin(), (t / 4).cos(), (t / 5).sin()], 1)  # what expressions do to landmarks
    wrong = euler + slow + 0.004 * torch.randn(COUNT, 3, generator=g)
    near = place * (1 + 0.008 * (t / 3.5).cos()[:, None])
    found, nothing = torch.tensor(faces, dtype=torch.bool), torch.zeros(COUNT)
    track = Track(
        wrong.float(), near.float(), FOCAL, torch.tensor([SIZE / 2] * 2), mesh.float(), torch.zeros(0, 468, 3),
        torch.zeros(COUNT, 0), found, nothing, torch.zeros(COUNT, dtype=torch.bool),
    )  # fmt: skip
    return made, track, truth


def test_the_picture_brings_the_pose_nearer_to_the_truth(scene: tuple[Folder, Track, tuple[Tensor, Tensor]]) -> None:
    folder, track, truth = scene
    told = list[int]()
    better, followed = refined(folder, track, lambda done, total: told.append(done))
    before, after = off(track, truth), off(better, truth)
    assert COUNT - 4 <= followed <= COUNT - 1 and told[-1] == COUNT  # the frame without a face tells nothing
    assert float(before.mean()) > 0.6  # px
    assert float(after.mean()) < 0.65 * float(before.mean())
    assert float(after[COVERED]) < 0.6 * float(before.max()) and float(after[LOST]) < 0.6 * float(before.max())
    assert better.focal == track.focal and better.expression is track.expression and better.vertices is track.vertices


def test_without_a_head_the_landmarks_are_kept(scene: tuple[Folder, Track, tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    folder, track, _ = scene
    bare = Folder(tmp_path)
    bare.update(size=[SIZE, SIZE], frames=COUNT, faces=folder.clip["faces"])
    for k in range(COUNT):
        write_image(bare.image(k), np.full((SIZE, SIZE, 3), 90, np.uint8))
        write_image(bare.file("parsing", f"{k}.png"), np.full((SIZE, SIZE, 3), 255, np.uint8))
    assert refined(bare, track, lambda done, total: None) == (track, 0)


def test_a_head_that_never_moves_stays(scene: tuple[Folder, Track, tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    """Nothing becomes better there, so that no frame can be laid on the first picture again."""
    folder, track, truth = scene
    still, count = Folder(tmp_path), 12
    still.update(size=[SIZE, SIZE], frames=count, faces=[1] * count)
    for k in range(count):
        for name in ("ori_imgs", "parsing"):
            (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(folder.image(0), still.image(k))
        shutil.copy(folder.file("parsing", "0.png"), still.file("parsing", f"{k}.png"))
    euler, rows = pose.euler_from_matrix(truth[0][:1]).float().expand(count, -1), torch.ones(count, dtype=torch.bool)
    held = replace(track, rotation=euler, translation=truth[1][:1].float().expand(count, -1), found=rows, shots=~rows)
    moved, _ = refined(still, held, lambda done, total: None)
    assert torch.allclose(moved.rotation, held.rotation, atol=2e-3) and torch.allclose(moved.translation, held.translation, atol=2e-3)


def test_corrections_fade_where_frames_have_none() -> None:
    change, good, shots = np.ones((100, 6)), np.zeros(100, bool), np.zeros(100, bool)
    good[[10, 16, 60]], shots[50] = True, True
    change[16], change[60] = 3, 5
    out = faded(change, good, shots)[:, 0]
    assert np.allclose(out[10:17], np.linspace(1, 3, 7)) and out[16 + REACH + 1] == 0 and 0 < out[16 + REACH // 2] < 3
    assert np.all(out[40:48] == 0) and out[60] == 5 and out[99] == 0  # nothing goes over the cut, nothing far


def test_a_head_turned_away_and_a_blank_picture_stay(scene: tuple[Folder, Track, tuple[Tensor, Tensor]]) -> None:
    folder, track, _ = scene
    from vivavoce.prepare import headpose

    turned = pose.matrix_from_euler(track.rotation.double()).numpy()
    poses = headpose.Poses.of(folder, turned, track.translation.double().numpy(), FOCAL)
    model = poses.canonical(track.vertices.double().numpy(), np.arange(COUNT))
    assert model is not None
    levels = headpose.pyramid(headpose.small(folder.image(3)))
    away = pose.matrix_from_euler(torch.tensor([0.0, 0.9, 0.0], dtype=torch.float64)).numpy()
    assert not model.find(levels, away @ turned[3], poses.translation[3])[1]
    change, _ = model.find([np.full_like(p, 0.4) for p in levels], turned[3], poses.translation[3])
    assert np.isfinite(change).all()


def test_the_depth_under_which_frames_agree_best_is_found() -> None:
    """In few steps, between them, and not beyond the ends."""
    asked = list[int]()

    def valley(middle: float, step: int) -> float:
        asked.append(step)
        return (step - middle) ** 2

    assert abs(deepest(partial(valley, 1.3)) - 1.3) < 1e-9 and len(set(asked)) <= 4
    assert abs(deepest(partial(valley, -0.2)) + 0.2) < 1e-9
    assert deepest(partial(valley, 9)) == DEPTHS[1] and deepest(partial(valley, -9)) == DEPTHS[0]
    assert deepest(lambda step: 1.0) == 0  # a head that never turns tells no depth


def test_a_smooth_head_before_a_bright_wall_keeps_its_pose(scene: tuple[Folder, Track, tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    """There the outline alone is to be seen, and it does not turn with the head."""
    made, track, truth = scene
    smooth = Folder(tmp_path)
    for k in range(COUNT):
        picture, _ = drawn(truth[0][k], truth[1][k], 1.0, False, 0.02)
        write_image(smooth.image(k), picture)
        (tmp_path / "parsing").mkdir(exist_ok=True)
        shutil.copy(made.file("parsing", f"{k}.png"), smooth.file("parsing", f"{k}.png"))
    smooth.update(size=[SIZE, SIZE], frames=COUNT, faces=made.clip["faces"], split=COUNT)
    better, _ = refined(smooth, track, lambda done, total: None)
    assert float(off(better, truth).mean()) < float(off(track, truth).mean())
