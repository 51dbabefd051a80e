"""Where the body lies: a made-up torso of known cloth, moved by known amounts, half behind a head."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from vivavoce.data.person import Person
from vivavoce.face import regions
from vivavoce.nn.torso import Torso
from vivavoce.prepare import Folder, body, steps
from vivavoce.types import InputError

SIZE = 192
MIDDLE = np.array([SIZE * 0.5, SIZE * 0.75])  # px, of the body


def similarity(right: float, down: float, turn: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """[3,3] in px about the body's middle: at rest -> in the frame."""
    c, s = scale * math.cos(turn), scale * math.sin(turn)
    m = np.array([[c, -s], [s, c]])
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = m, MIDDLE - m @ MIDDLE + (right, down)
    return out


def cloth_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness of the cloth at rest, known everywhere, so that moving it needs no interpolation."""
    waves = np.sin(0.31 * x + 0.17 * y) + np.sin(0.13 * x - 0.26 * y + 1) + np.sin(0.07 * x + 0.05 * y + 2)
    return np.asarray(0.45 + 0.1 * waves)


def frame(motion: np.ndarray, head: float = 0.0, gain: float = 1.0, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Brightness [H,W] and labels: shoulders over a ramp, and a head so many px from the middle that hides part of them."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    back = np.linalg.inv(motion)
    rx, ry = back[0, 0] * x + back[0, 1] * y + back[0, 2], back[1, 0] * x + back[1, 1] * y + back[1, 2]
    inside = np.clip((ry - 0.5 * SIZE) / 2, 0, 1) * np.clip((0.42 * SIZE - np.abs(rx - SIZE / 2)) / 2, 0, 1)
    picture = (0.8 - 0.2 * x / SIZE) * (1 - inside) + cloth_at(rx, ry) * inside
    face = ((x - SIZE / 2 - head) / 40) ** 2 + ((y - SIZE * 0.36) / 50) ** 2 < 1
    labels = np.where(inside > 0.5, regions.CLOTH, regions.BACKGROUND)
    labels[face] = regions.HEAD
    picture = gain * np.where(face, 0.75 + 0.1 * np.sin((x - head) / 5), picture) + bias
    return picture.astype(np.float32), labels.astype(np.uint8)


def pixels(maps: np.ndarray) -> np.ndarray:
    """[...,3,3] in -1..1 -> px."""
    to = np.array([[2 / SIZE, 0, -1], [0, 2 / SIZE, -1], [0, 0, 1.0]])
    return np.asarray(np.linalg.inv(to) @ maps @ to)


def off(found: np.ndarray, true: np.ndarray) -> float:  # [3,3] px -> px
    """Root mean square distance over the body between where two maps take its points."""
    y, x = np.mgrid[int(SIZE * 0.55) : SIZE : 6, int(SIZE * 0.15) : int(SIZE * 0.85) : 6].reshape(2, -1)
    gap = ((found - true) @ np.stack([x, y, np.ones_like(x)]))[:2]
    return float(np.sqrt(np.square(gap).sum(0).mean()))


MOTIONS = [
    similarity(0.3, -0.45), similarity(2.25, 1.5), similarity(-6.4, 3.3), similarity(9, -5.5), similarity(0, 0, 0.04),
    similarity(1.2, 0.6, -0.06), similarity(0, 0, 0, 1.03), similarity(-3.7, 2.1, 0.03, 0.96),
]  # fmt: skip


def at_rest() -> body.Canonical:
    picture, labels = frame(np.eye(3))
    return body.Canonical(picture, labels == regions.CLOTH)


@pytest.mark.parametrize("motion", MOTIONS)
def test_known_motions_are_found_behind_a_moving_head(motion: np.ndarray) -> None:
    found, share = body.follow(at_rest(), body.pyramid(frame(motion, head=14)[0]), np.eye(3))
    assert share > 0.5
    assert off(pixels(found), motion) < 0.1


def test_brightness_may_change() -> None:
    for gain, bias in ((0.75, 0.0), (1.0, 0.12), (1.15, -0.08)):
        found, share = body.follow(at_rest(), body.pyramid(frame(MOTIONS[2], -8, gain, bias)[0]), np.eye(3))
        assert share > 0.5 and off(pixels(found), MOTIONS[2]) < 0.1


def test_a_stretched_body_is_followed_too() -> None:
    motion = similarity(2, 1) @ np.array([[0.95, 0.02, 0.05 * MIDDLE[0]], [0, 1, 0], [0, 0, 1]])
    found, _ = body.follow(at_rest(), body.pyramid(frame(motion)[0]), np.eye(3))
    assert off(pixels(found), motion) < 0.15


def test_a_body_lost_is_told_and_found_again() -> None:
    model = at_rest()
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0.5, 1, (SIZE, SIZE)), 2).astype(np.float32)
    assert body.follow(model, body.pyramid(noise), np.eye(3))[1] < body.SHARE
    strayed = np.eye(3)
    strayed[:2, 2] = 0.6
    found, share = body.follow(model, body.pyramid(frame(MOTIONS[1])[0]), strayed)
    assert share > 0.5 and off(pixels(found), MOTIONS[1]) < 0.1


def test_noise_is_no_body_and_ends_no_step() -> None:
    """Of a picture without a body each step of the search can be wilder than the last."""
    rng, where = np.random.default_rng(0), np.zeros((64, 64), bool)
    where[30:50, 10:50] = True
    for _ in range(10):
        model = body.Canonical(rng.random((64, 64), np.float32), where)
        found, share = model.find(body.pyramid(rng.random((64, 64), np.float32)), np.eye(3))
        assert np.isfinite(found).all() and share < body.SHARE


def test_failed_frames_take_the_nearest_good_one() -> None:
    rows = np.arange(7.0)[:, None, None] * np.ones((2, 3))
    good = np.array([False, True, False, False, False, True, False])
    assert body.settled(rows, good)[:, 0, 0].tolist() == [1, 1, 1, 5, 5, 5, 5]
    assert np.array_equal(body.settled(rows, np.zeros(7, bool))[3], np.eye(3)[:2])


def test_a_collar_that_moves_by_itself_is_followed_by_the_spline() -> None:
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5

    def collar(right: float) -> np.ndarray:
        """The cloth shifted by so many px around its middle, at rest elsewhere."""
        near = np.exp(-(((x - MIDDLE[0]) / 30) ** 2 + ((y - MIDDLE[1]) / 30) ** 2))
        return cloth_at(x - right * near, y).astype(np.float32)

    model = body.Canonical(collar(0), frame(np.eye(3))[1] == regions.CLOTH)
    levels = body.pyramid(collar(3))
    matrix, _ = body.follow(model, levels, np.eye(3))
    row = torch.from_numpy(np.concatenate([matrix[:2], model.bend(levels[0], matrix).reshape(2, -1)], 1)[None]).float()
    torso = Torso((SIZE, SIZE))
    torch.nn.init.zeros_(torso.flow[2].weight)
    with torch.no_grad():
        torso.picture[:3] = torch.from_numpy(collar(0))
        torso.picture[3] = 1
        bent, straight = (torso(torch.zeros(1, 6), r, (SIZE, SIZE))[0][0, 0].numpy() for r in (row, row[..., :3]))
    inside = np.s_[int(MIDDLE[1]) - 30 : int(MIDDLE[1]) + 30, int(MIDDLE[0]) - 40 : int(MIDDLE[0]) + 40]
    errors = [float(np.abs(p - collar(3))[inside].mean()) for p in (bent, straight)]
    assert errors[0] < 0.25 * errors[1], errors


def folder_of(path: Path, motions: list[np.ndarray], wide: int = SIZE) -> Folder:
    """A person folder of these frames, so many px wide."""
    (path / "ori_imgs").mkdir(parents=True)
    (path / "parsing").mkdir()
    cut = slice((SIZE - wide) // 2, (SIZE + wide) // 2)
    for k, motion in enumerate(motions):
        picture, labels = frame(motion, head=6 * math.sin(k))
        Image.fromarray((picture[:, cut] * 255).round().astype(np.uint8)).convert("RGB").save(path / "ori_imgs" / f"{k}.jpg", quality=98)
        colours = regions.colours_from_labels(torch.from_numpy(labels[None, :, cut].copy()))[0]
        Image.fromarray(colours.permute(1, 2, 0).numpy()).save(path / "parsing" / f"{k}.png")
    (path / "clip.json").write_text(json.dumps({"frames": len(motions), "size": [SIZE, wide], "video": {"file": "x.mp4"}}))
    return Folder(path)


def walk(count: int) -> list[np.ndarray]:
    """A body that sways."""
    return [similarity(5 * math.sin(k / 3), 2 * math.cos(k / 4), 0.03 * math.sin(k / 5)) for k in range(count)]


def test_the_step_makes_a_row_a_frame_and_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "RUN", 5)
    motions = walk(16)
    folder = folder_of(tmp_path / "p", motions, 176)
    step = next(s for s in steps() if s.name == "body")
    with pytest.raises(InputError, match="--only body"):
        step.verify(folder)
    told: list[int] = []

    def kill(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step.run(folder, kill)
    assert not folder.outputs(step.outputs) and not list(folder.path.glob(".part-*"))
    step.run(folder, kill)
    step.verify(folder)
    rows = np.load(folder.file("body.npy"))
    assert rows.dtype == np.float32 and rows.shape == (16, 2, 67) and told[-1] == 16 and folder.clip["body"]["followed"] == 16
    to = np.array([[2 / 176, 0, -(1 + 16 / 176)], [0, 2 / SIZE, -1], [0, 0, 1]])  # px of the uncut frame -> -1..1 of the cut one
    found = np.linalg.inv(to) @ np.concatenate([rows[..., :3], np.tile([[[0, 0, 1.0]]], (16, 1, 1))], 1) @ to
    for k in range(1, 16):  # nobody says which picture is canonical: what counts is how frames lie to each other
        assert off(found[k] @ np.linalg.inv(found[0]), motions[k] @ np.linalg.inv(motions[0])) < 0.15
    before = folder.file("body.npy").stat().st_mtime_ns
    step.run(folder, kill)
    assert folder.file("body.npy").stat().st_mtime_ns == before
    np.save(folder.file("body.npy"), rows[:-1])
    with pytest.raises(InputError, match="16 maps"):
        step.verify(folder)


def test_a_still_body_and_one_without_cloth_stay(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "still", [np.eye(3)] * 6)
    body.run(folder, lambda done, total: None)
    rows = np.load(folder.file("body.npy"))
    assert np.abs(rows[..., :3] - np.eye(3)[:2]).max() < 2e-4
    assert np.abs(rows[..., 3:]).max() < 5e-3  # nodes far from any cloth, half a pixel
    bare = folder_of(tmp_path / "bare", [similarity(0, 200)] * 6)
    body.run(bare, lambda done, total: None)
    body.verify(bare)
    assert np.array_equal(np.load(bare.file("body.npy")), np.tile(np.eye(2, 67, dtype=np.float32), (6, 1, 1)))


def test_a_person_gives_the_rows_and_the_identity_where_an_older_folder_has_none(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "p", [np.eye(3)] * 3).path
    frames = [{"img_id": k, "transform_matrix": np.eye(4).tolist()} for k in (0, 2)]
    table = {"focal_len": 200.0, "cx": SIZE / 2, "cy": SIZE / 2, "frames": frames}
    (path / "transforms_train.json").write_text(json.dumps(table))
    plain = Person(path, split="train").clip([0, 1], {"body"}).body
    assert plain is not None and plain.tolist() == [np.eye(3)[:2].tolist()] * 2
    np.save(path / "body.npy", np.arange(18, dtype=np.float32).reshape(3, 2, 3))
    rows = Person(path, size=SIZE // 2, split="train").clip([1, 0], {"body"}).body
    assert rows is not None and rows[:, 0, 0].tolist() == [12, 0]
    np.save(path / "body.npy", np.zeros((2, 2, 3), np.float32))
    with pytest.raises(InputError, match="--only body"):
        Person(path, split="train").clip([0], {"body"})
