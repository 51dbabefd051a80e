"""Which rows a training step gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vivavoce.train import draw
from vivavoce.types import Clip, InputError


class Pieces:
    """A source of which only the runs of consecutive frames matter."""

    size = (8, 8)

    def __init__(self, *lengths: int) -> None:
        ends = torch.tensor(lengths).cumsum(0)
        self.spans = torch.stack([ends - torch.tensor(lengths), torch.tensor(lengths)], 1)

    def __len__(self) -> int:
        return int(self.spans[:, 1].sum())

    def clip(self, rows: object, needs: object = None) -> Clip:
        raise AssertionError("no row is read")


def test_every_row_comes_once_before_any_comes_twice() -> None:
    source, config = Pieces(10), SimpleNamespace(batch=4, seed=3)
    rows = torch.cat([draw(source, config, step) for step in range(5)])
    assert sorted(rows.tolist()) == sorted([*range(10), *range(10)])
    assert not torch.equal(rows[:10], rows[10:])


def test_windows_stay_inside_a_piece_and_reach_all_of_it() -> None:
    source, config = Pieces(7, 2, 5), SimpleNamespace(batch=6, window_rows=4)
    starts = set()
    for step in range(60):
        windows = draw(source, config, step).reshape(6, 4)
        assert bool((windows.diff(dim=1) == 1).all())
        starts |= set(windows[:, 0].tolist())
    assert starts == {0, 1, 2, 3, 9, 10}  # the piece of two rows is too short for any
    assert torch.equal(draw(source, config, 5), draw(source, config, 5))


def test_windows_longer_than_every_piece_are_refused() -> None:
    with pytest.raises(InputError, match="longest piece has 7 frames, a window 8"):
        draw(Pieces(7, 3), SimpleNamespace(batch=1, window_rows=8), 0)
