"""Threads that compute beside each other: one at a time, which lets the others when it waits; or each without a team of its own.

torch gives the interpreter's lock back at each of its operations and takes it again. Where a dozen threads do so at once, each of a
picture's hundred operations waits for another thread's: live sessions passed the lock around for longer than they computed. A thread
that has the turn finds the lock free, and gives the turn away where it would wait for long: for sound, or for the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

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


def alone() -> None:
    """From now on torch computes what this thread asks for without helpers; what other threads ask for as before.

    A live picture's parts are small: on two cores, which other sessions and the coding of JPEGs need too, a session with helpers takes
    up to twice as long for them; where nobody else works, helpers would gain a tenth.
    """
    import torch

    if (before := torch.get_num_threads()) == 1:
        return
    torch.set_num_threads(1)  # of this thread, and of all that begin from now on
    restoring = threading.Thread(target=torch.set_num_threads, args=(before,))
    restoring.start()
    restoring.join()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """torch and NumPy's linear algebra on one thread, here and in threads begun inside: the frames are the parallel part.

    A team of theirs for each of many threads would wait for itself most of the time, and sums cut among as many threads as
    are free at the moment differ in their last bits from machine to machine, and from run to run.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"):
            yield
    finally:
        torch.set_num_threads(before)
