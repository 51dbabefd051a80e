"""Motion of a person folder in each motion space, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import hostile
from tests.folders import lineage_folder
from vivavoce.data import motions
from vivavoce.data.corpus import Corpus
from vivavoce.data.person import Person
from vivavoce.face.crop import crop
from vivavoce.media import read_image, write_image
from vivavoce.nn.liveportrait import SMALL, Networks, weights
from vivavoce.prepare import Folder, chosen, steps
from vivavoce.prepare import keypoints as step
from vivavoce.types import InputError

SIZE, COUNT = 32, 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = lineage_folder(tmp_path / "person", SIZE, COUNT)
    rows = np.arange(COUNT * 204, dtype=np.float32).reshape(COUNT, 68, 3)
    np.save(made / "aud_idexp.npy", rows)
    np.save(made / "blendshapes.npy", np.full((COUNT, 52), 0.25, np.float32))
    return made


def test_landmarks_are_the_points_of_the_frame_one_after_another(folder: Path) -> None:
    motion = Person(folder, split="val", space="landmarks").clip([1], {"motion"}).motion
    assert motion is not None and motion.space == "landmarks" and motion.expression.shape == (1, 204)
    assert torch.equal(motion.expression[0], 9 * 204 + torch.arange(204.0))  # the second held-out frame is frame 9
    both = Corpus([folder, folder], space="landmarks").clip([0, COUNT], {"motion"}).motion
    assert both is not None and torch.equal(both.expression[0], both.expression[1])


def test_blendshapes_are_what_a_folder_gives_by_itself_and_pose_is_the_same_in_every_space(folder: Path) -> None:
    a, b = (Person(folder, **options).clip(slice(0, 3), {"motion"}).motion for options in ({}, {"space": "landmarks"}))
    assert a is not None and b is not None and a.space == "blendshapes" and bool((a.expression == 0.25).all())
    assert torch.equal(a.rotation, b.rotation) and torch.equal(a.translation, b.translation) and torch.equal(a.scale, b.scale)


def test_an_older_repositorys_two_parts_are_read_in_place_of_the_whole(folder: Path) -> None:
    whole = np.load(folder / "aud_idexp.npy")
    (folder / "aud_idexp.npy").unlink()
    np.save(folder / "aud_idexp_train.npy", whole[:8])
    np.save(folder / "aud_idexp_val.npy", whole[8:].reshape(-1, 204))
    assert np.array_equal(motions.table(folder, "landmarks", COUNT), whole.reshape(COUNT, 204))


@pytest.mark.parametrize("space, name, step", [("landmarks", "aud_idexp.npy", "idexp"), ("blendshapes", "blendshapes.npy", "landmarks")])
def test_what_is_missing_names_the_command_that_makes_it(folder: Path, space: str, name: str, step: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}.*run: vivavoce prepare {folder} --only {step}"):
        Person(folder, space=space).clip([0], {"motion"})


@pytest.mark.parametrize("rows", [np.zeros((COUNT, 67, 3)), np.zeros((COUNT - 4, 68, 3)), np.full((COUNT, 68, 3), np.nan)])
def test_a_table_of_no_use_is_refused_in_one_line(folder: Path, rows: np.ndarray) -> None:
    np.save(folder / "aud_idexp.npy", rows.astype(np.float32))
    with pytest.raises(InputError, match="--only idexp"):
        Person(folder, space="landmarks").clip([0], {"motion"})


def test_an_unknown_space_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(InputError, match=r"flame.*landmarks"):
        Person(folder, space="flame").clip([0], {"motion"})


# ---- LivePortrait's key points ----


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder of two shots, in the second of which the face is elsewhere and one frame lacks it; M's weights in the authors' form."""
    monkeypatch.setattr(step, "Networks", lambda: Networks(SMALL))
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    monkeypatch.setenv("VIVAVOCE_ASSETS", str(tmp_path / "assets"))
    made = Folder(tmp_path / "person")
    face, points = hostile.portrait(128, 128), 30 + 60 * np.random.default_rng(0).random((10, 478, 3), np.float32)
    points[:5] = points[0]
    for k in range(10):
        write_image(made.image(k), np.roll(255 - face if k % 2 else face, 6 * (k >= 5), 1))
        points[k, :, 0] += 6 * (k >= 5)
    points[7] = np.nan
    np.save(made.file("landmarks.npy"), points)
    made.update(frames=10, size=[128, 128], faces=[int(k != 7) for k in range(10)], shots=[[0, 4, "kept"], [5, 8, "kept"], [9, 9, "fade"]])
    return made


def authors_weights(tmp_path: Path) -> Networks:
    torch.manual_seed(0)
    networks = Networks(SMALL)
    for parameter in networks.motion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / "assets" / "liveportrait").mkdir(parents=True)
    torch.save(weights.keys(networks, "motion"), tmp_path / "assets" / "liveportrait" / "motion_extractor.pth")
    return networks.eval()


def test_key_points_are_measured_where_the_weights_are(films: Folder, tmp_path: Path) -> None:
    without = [s.name for s in chosen(steps(), ())]
    assert "landmarks" in without and "keypoints" not in without and "keypoints" in [s.name for s in chosen(steps(), ("keypoints",))]
    with pytest.raises(InputError, match="fetch"):
        step.run(films, lambda done, total: None)
    networks = authors_weights(tmp_path)
    assert "keypoints" in [s.name for s in chosen(steps(), ())]
    told: list[tuple[int, int]] = []
    step.run(films, lambda done, total: told.append((done, total)))
    step.verify(films)
    table = np.load(films.file("keypoints.npy"))
    assert table.shape == (10, 70) and told[-1] == (8, 8)
    assert np.flatnonzero(np.isnan(table).any(1)).tolist() == [7, 9]
    where = next(iter(step.shots(films)))[1]
    picture = torch.from_numpy(np.stack([read_image(films.image(k)) for k in (0, 1)])).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        wanted = networks.measure(torch.nn.functional.avg_pool2d(crop(picture, where[torch.zeros(2, dtype=torch.long)]), 2))[1]
    assert np.allclose(table[:2], step.rows(wanted), atol=1e-5) and np.abs(table[0] - table[1]).max() > 1e-4
    assert np.allclose(table[0], table[2], atol=1e-5)  # the same picture in the same crop
    np.save(films.file("keypoints.npy"), table[:9])
    with pytest.raises(InputError, match="--only keypoints"):
        step.verify(films)


def test_a_generator_is_trained_in_key_points(folder: Path) -> None:
    with pytest.raises(InputError, match=r"keypoints.npy.*--only keypoints.*weights"):
        Person(folder, space="keypoints").clip([0], {"motion"})
    rows = np.random.default_rng(0).normal(size=(COUNT, 70)).astype(np.float32)
    np.save(folder / "keypoints.npy", rows)
    motion = Person(folder, space="keypoints").clip([2], {"motion"}).motion
    assert motion is not None and motion.space == "keypoints" and motion.expression.shape == (1, 63)
    whole = torch.cat([motion.rotation, motion.translation, motion.scale, motion.expression], 1)
    assert np.array_equal(whole.numpy(), rows[2:3])  # the pose is of the crop that the points are in, not of the camera
    np.save(folder / "keypoints.npy", rows[:, :63])
    with pytest.raises(InputError, match=r"not \[T,70\]"):
        Person(folder, space="keypoints").clip([0], {"motion"})
