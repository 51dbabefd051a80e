"""Memory that is free but not given back."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1  # of glibc's mallopt
KEPT = 1 << 30  # bytes


@lru_cache(maxsize=2)
def _glibc(name: str) -> Any:
    """A function that only glibc has; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def one_heap() -> None:
    """Let threads begun from now on take memory from one heap, for as long as the process lives; does nothing where the C library is
    not glibc.

    glibc gives threads heaps of their own, up to eight for each core, and `trim` does not reach what is free at the end of one of
    those: 16 threads that each held some pictures for a moment leave 300 MB behind, which no other thread takes. Threads that work on
    pictures ask for memory too seldom to wait for each other there.
    """
    if (limit := _glibc("mallopt")) is not None:
        limit(ARENA_MAX, 1)


def keep() -> None:
    """Let the process keep what it frees, for as long as it lives: for work that asks for as much again at once, as training and
    measuring do. Does nothing where the C library is not glibc.

    glibc maps large pieces anew each time, and the system fills them with zeros page by page: a third of an evaluation on a CPU, a tenth
    of a training. `trim` gives back what is kept.
    """
    if (limit := _glibc("mallopt")) is not None and limit(MMAP_THRESHOLD, KEPT):  # an older glibc refuses so much
        limit(TRIM_THRESHOLD, KEPT)


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
    if now - _last >= apart and (give_back := _glibc("malloc_trim")) is not None:
        _last = now
        give_back(0)


@contextmanager
def trimmed(every: float = 1.0) -> Iterator[None]:
    """`trim` every so many seconds meanwhile, and at the end: for work whose threads take and leave much, none knowing of the others."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every):
            trim()

    thread = threading.Thread(target=watch, name="trim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        trim()
