"""Work on many frames at once without holding many frames."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4  # items in flight for each thread


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """Results of `work` in the order of the items, made by several threads, few items ahead of what is taken.

    Decoding, JPEG and PNG coding, NumPy, torch and LiteRT let go of the interpreter while they work, so threads are enough.
    The first error ends the rest.
    """
    count = threads or cores()
    with ThreadPoolExecutor(count) as pool:
        flying: deque[Future[R]] = deque()
        try:
            for item in items:
                flying.append(pool.submit(work, item))
                if len(flying) >= AHEAD * count:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()
