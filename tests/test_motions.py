"""Motion of a person folder in each motion space, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.folders import lineage_folder
from vivavoce.data import motions
from vivavoce.data.corpus import Corpus
from vivavoce.data.person import Person
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
    with pytest.raises(InputError, match=r"keypoints.*landmarks"):
        Person(folder, space="keypoints").clip([0], {"motion"})
