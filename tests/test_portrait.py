"""How large a portrait is taken, and where its face then lies; by a landmarker that finds a face where it was put."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import hostile
from vivavoce import run
from vivavoce.data import portrait
from vivavoce.data.portrait import MARGIN, Portrait, Size
from vivavoce.face import mesh
from vivavoce.face.landmarker import Face


class Put:
    """Finds one face: of that share of the picture's longest side, in its middle."""

    share = 0.2

    def __call__(self, picture: np.ndarray) -> list[Face]:
        points = mesh.vertices()[np.r_[0:468, 0:10]] * [1, -1, 1]
        points = (points - points.mean(0)) * self.share * max(picture.shape[:2]) / np.ptp(points[:, :2], axis=0).max()
        points[:, :2] += np.array(picture.shape[1::-1]) / 2
        box = np.concatenate([points[:, :2].min(0), points[:, :2].max(0)])
        return [Face(points.astype(np.float32), np.zeros(52, np.float32), 1.0, box)]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> type[Put]:
    monkeypatch.setattr(portrait, "Landmarker", Put)
    monkeypatch.setattr(Put, "share", 0.2)
    return Put


def middle(made: Portrait) -> list[float]:
    """Where the face lies in the whole picture, in its sides."""
    assert made.row.points is not None
    found = made.where.outside(made.row.points[:, :, :2].mean(1, keepdim=True))[0, 0]
    return (found / torch.tensor([made.full[1], made.full[0]])).tolist()


@pytest.mark.parametrize(
    ("share", "size", "full", "side"),
    [
        (0.2, Size(), (960, 1920), 806),  # too large for players
        (0.2, Size(600), (300, 600), 256),  # as wished
        (0.2, Size(most=640, moving=512), (320, 640), 268),  # a person to the waist
        (0.5, Size(most=640, moving=512), (244, 488), 512),  # a face that fills the picture: it is what is drawn
        (0.5, Size(most=640), (320, 640), 672),  # the crop alone is smaller
        (0.5, Size(900, moving=512), (244, 488), 512),
    ],
)
def test_a_portrait_is_as_large_as_it_may_be(
    share: float, size: Size, full: tuple[int, int], side: int, put: type[Put], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put, "share", share)
    made = Portrait(np.zeros((1200, 2400, 3), np.uint8), name="me", size=size)
    assert made.full == full == tuple(made.picture.shape[-2:]) and made.reduced
    assert made.size == (min(side, 640),) * 2 and middle(made) == pytest.approx([0.5, 0.5], abs=0.01)
    assert made.row.points is not None
    wide = float(np.ptp(made.row.points[0, :, :2].numpy(), axis=0).max()) / float(made.where.scale)
    assert wide == pytest.approx(share * max(full), rel=0.02) and (side == 256 or wide * MARGIN == pytest.approx(side, rel=0.02))


def test_a_portrait_that_is_small_enough_stays_as_it_is(put: type[Put]) -> None:
    made = Portrait(np.zeros((400, 300, 3), np.uint8), name="me", size=Size(most=640, moving=512))
    assert made.full == (400, 300) and not made.reduced


def test_who_speaks_live_is_told_that_the_portrait_is_smaller(put: type[Put], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = hostile.picture(tmp_path / "face.jpg", np.zeros((900, 700, 3), np.uint8))
    for wishes, share, longest in (
        ({}, 0.2, 900),
        ({"live": True}, 0.2, 640),
        ({"live": True, "size": 900}, 0.5, 900),
        ({"live": True}, 0.5, 488),
    ):
        monkeypatch.setattr(put, "share", share)
        notes = list[str]()
        made = run._portrait(large, run.Options(device="cpu", **wishes), notes)  # type: ignore[arg-type]
        assert max(made.full) == longest and any(f"reduced to {longest} px" in note for note in notes) == (longest < 900)
