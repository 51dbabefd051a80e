"""One of several threads computes at a time, and lets the others when it waits.

torch gives the interpreter's lock back at each of its operations and takes it again. Where a dozen threads do so at once, each of a
picture's hundred operations waits for another thread's: live sessions passed the lock around for longer than they computed. A thread
that has the turn finds the lock free, and gives the turn away where it would wait for long: for sound, or for the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_mine = threading.local()


class Turns:
    """Who of several threads may compute."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One thread at a time is within."""
        with self.lock:
            _mine.turns = self
            try:
                yield
            finally:
                _mine.turns = None


@contextmanager
def away() -> Iterator[None]:
    """What the thread waits for within, others do not wait for; nothing for a thread that has no turn."""
    turns: Turns | None = getattr(_mine, "turns", None)
    if turns is None:
        yield
        return
    _mine.turns = None
    turns.lock.release()
    try:
        yield
    finally:
        turns.lock.acquire()
        _mine.turns = turns
