"""NumPy files written row by row: a memory map would count every page it ever touched as memory of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
