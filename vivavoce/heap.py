"""Memory that is free but not given back."""

from __future__ import annotations

import ctypes
import sys
import time
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


_last = 0.0  # s of the monotonic clock, of the last look


def trim(apart: float = 0.0) -> None:
    """Give the system the pages of holes in the heap, no sooner than `apart` seconds after the last time; does nothing where the C
    library is not glibc.

    torch asks for aligned memory, and glibc finds the hole that a picture leaves a few bytes too small for the next picture: the
    next goes elsewhere, small things that stay keep the holes apart, and after minutes most of the heap is holes. So it is with
    what threads leave behind. It costs 5 ms; pictures outside the heap (M_MMAP_THRESHOLD) would cost
    as much again as rendering them.
    """
    global _last
    now = time.monotonic()
    if now - _last >= apart and (give_back := _malloc_trim()) is not None:
        _last = now
        give_back(0)
