"""Arrays on disk read and written row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vivavoce.prepare.rows import reader, writing
from vivavoce.types import InputError


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(40, 3, 2)).astype(np.float32)
    with writing(tmp_path / "a.npy", values.shape, np.float32) as append:
        for part in np.split(values, 4):
            append(part)
    return tmp_path / "a.npy", values


def test_any_rows_in_any_order(table: tuple[Path, np.ndarray]) -> None:
    path, values = table
    read = reader(path, "run: it again")
    for rows in ([0], [39], [5, 6, 7, 20, 3, 3], list(range(40)), []):
        assert np.array_equal(read(rows), values[rows])
    assert np.array_equal(np.load(path), values)


def test_rows_that_are_not_there(table: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = table
    read = reader(path, "run: it again")
    for wrong in ([40], [-1]):
        with pytest.raises(IndexError):
            read(wrong)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 8)
    with pytest.raises(InputError, match="cut short; run: it again"):
        read([39])
    with pytest.raises(InputError, match="missing or no NumPy file"):
        reader(tmp_path / "b.npy", "run: it again")
