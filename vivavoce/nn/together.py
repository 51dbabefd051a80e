"""What several threads ask of one network at the same moment, done as one batch.

While one batch is being made, what is asked meanwhile gathers and is the next. Who finds nothing being made waits a moment for those
who have asked of late too: their questions are often on their way. One thread alone is served as if it called the work itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

LATELY = 0.5  # s since a thread's last question in which its next one is thought of
QUIET, LONGEST = 0.001, 0.004  # s without a new question after which nobody is waited for; most waiting
Asked = TypeVar("Asked")
Made = TypeVar("Made")


class _Turn(Generic[Asked, Made]):
    """One thread's question, and its answer."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.done = asked, False
        self.made: list[Made] = []
        self.error: Exception | None = None
        self.woken = threading.Event()  # answered, or to make the next batch


class Together(Generic[Asked, Made]):
    """Calls of any number of threads as calls of `work` with lists, one at a time.

    Args:
        work: several questions -> as many answers; it returns when they are there, not when they are under way.
        most: questions at once. A batch has a power of two of them, for which CUDA graphs are kept.
    """

    def __init__(self, work: Callable[[list[Asked]], Sequence[Made]], most: int = 8) -> None:
        self.work, self.most, self.lock = work, most, threading.Lock()  # the lock: of what is below, never held while a batch is made
        self.waiting: deque[_Turn[Asked, Made]] = deque()
        self.busy = False  # somebody makes a batch, or has been told to
        self.asking: dict[int, float] = {}  # thread -> when it asked last
        self.came = threading.Event()
        self.batches: dict[int, int] = {}  # how often so many were done at once

    def __call__(self, asked: Asked) -> Made:
        """Raises what `work` raises for this question alone."""
        mine: _Turn[Asked, Made] = _Turn(asked)
        with self.lock:
            self.asking[threading.get_ident()] = time.monotonic()
            self.waiting.append(mine)
            self.came.set()
            waits, self.busy = self.busy, True
        if waits:
            mine.woken.wait()
        if not mine.done:
            self._batch(alone=not waits)
        if mine.error is not None:
            raise mine.error
        return mine.made[0]

    def _batch(self, alone: bool) -> None:
        """The questions that wait longest, the caller's among them, who may be `alone` in waiting; whoever waits then makes the next."""
        turns: list[_Turn[Asked, Made]] = []
        try:
            if alone:
                self._gather()
            with self.lock:
                count = min(self.most, len(self.waiting))
                turns += [self.waiting.popleft() for _ in range(1 << (count.bit_length() - 1))]
            self._do(turns)
        finally:
            with self.lock:
                self.busy = bool(self.waiting)
                if self.waiting:
                    self.waiting[0].woken.set()
            for turn in turns:  # those after whom nothing came are answered too, when the program is told to end meanwhile
                turn.error = turn.error or (None if turn.done else RuntimeError("interrupted"))
                turn.done = True
                turn.woken.set()

    def _gather(self) -> None:
        """Wait for those who have asked of late, until they are there or nobody has come for a moment."""
        now = time.monotonic()
        with self.lock:
            self.asking = {thread: asked for thread, asked in self.asking.items() if now - asked <= LATELY}
        while (count := len(self.waiting)) < min(self.most, len(self.asking)):
            self.came.clear()
            if len(self.waiting) > count:
                continue
            if not self.came.wait(QUIET) or time.monotonic() - now > LONGEST:
                return

    def _do(self, turns: list[_Turn[Asked, Made]]) -> None:
        try:
            for turn, made in zip(turns, self.work([t.asked for t in turns]), strict=True):
                turn.made.append(made)
        except Exception as error:
            if len(turns) > 1:  # what one of them did wrong is not the others' fault
                for turn in turns:
                    turn.made.clear()
                    self._do([turn])
                return
            turns[0].error = error
        self.batches[len(turns)] = self.batches.get(len(turns), 0) + 1
        for turn in turns:
            turn.done = True


class Rows:
    """A function of tensors with one row an item -> a tensor with as many rows, for many threads: their rows go in one after another."""

    def __init__(self, work: Callable[..., Tensor], most: int = 8) -> None:
        self.work = work
        self.together: Together[tuple[Tensor, ...], Tensor] = Together(self._all, most)

    def __call__(self, *asked: Tensor) -> Tensor:
        return self.together(asked)

    def _all(self, asked: list[tuple[Tensor, ...]]) -> Sequence[Tensor]:
        made = self.work(*asked[0]) if len(asked) == 1 else self.work(*(torch.cat(part) for part in zip(*asked, strict=True)))
        settle(made)
        return made.split([len(one[0]) for one in asked])


def settle(made: Tensor) -> None:
    """Wait until a tensor is there: a GPU says at once that it will do the work, and nothing would gather behind it."""
    if made.is_cuda:
        torch.cuda.current_stream(made.device).synchronize()
