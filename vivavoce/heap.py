"""Memory that is free but not given back."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim() -> None:
    """Give the system the pages of holes in the heap; does nothing where the C library is not glibc.

    torch asks for aligned memory, and glibc finds the hole that a picture leaves a few bytes too small for the next picture: the
    next goes elsewhere, small things that stay keep the holes apart, and after minutes most of the heap is holes. So it is with
    what threads leave behind. It costs 5 ms; pictures outside the heap (M_MMAP_THRESHOLD) would cost
    as much again as rendering them.
    """
    if (give_back := _malloc_trim()) is not None:
        give_back(0)
