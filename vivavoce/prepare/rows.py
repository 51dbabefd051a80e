"""NumPy files written row by row: a memory map would count every page it ever touched as memory of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from vivavoce.types import InputError


@contextmanager
def writing(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends values, in order, to a new `.npy` file of that shape. Raises ValueError when they do not fill it."""
    count = 0
    with open(path, "wb") as file:
        npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape})

        def append(values: np.ndarray) -> None:
            nonlocal count
            file.write(np.ascontiguousarray(values, dtype).tobytes())
            count += values.size

        yield append
    if count != np.prod(shape):
        raise ValueError(f"{path.name}: {count} values do not make {list(shape)}")


def opened(path: Path, remedy: str) -> np.ndarray:
    """An array on disk, read where it is touched. Raises InputError when it is missing or no array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise InputError(path, "missing or no NumPy file", remedy) from e


def reader(path: Path, remedy: str) -> Callable[[np.ndarray | list[int]], np.ndarray]:
    """A function that reads the rows of those numbers, and no others, from a `.npy` file: runs of neighbours at once, no memory map.

    Raises InputError when the file is missing, no array, or shorter than it says.
    """
    layout = opened(path, remedy)
    shape, dtype, start, known = layout.shape[1:], layout.dtype, getattr(layout, "offset", 0), len(layout)
    size = int(np.prod(shape))
    del layout

    def read(rows: np.ndarray | list[int]) -> np.ndarray:
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < known:
            raise IndexError(f"{path.name} has {known} rows")
        out = np.empty((len(wanted), *shape), dtype)
        with open(path, "rb") as file:
            edges = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
            for first, last in pairwise(edges):
                if first == last:
                    continue
                file.seek(start + int(wanted[first]) * size * dtype.itemsize)
                values = np.fromfile(file, dtype, (last - first) * size)
                if len(values) != (last - first) * size:
                    raise InputError(path, "is cut short", remedy)
                out[first:last] = values.reshape(-1, *shape)
        return out

    return read
