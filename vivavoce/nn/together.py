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

from vivavoce.turns import away

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
        self.batch: list[_Turn[Asked, Made]] = []  # that this thread is to make; its own is the first
        self.woken = threading.Event()  # answered, or to make a batch


class Together(Generic[Asked, Made]):
    """Calls of any number of threads as calls of `work` with lists.

    Args:
        work: several questions -> as many answers; it returns when they are there, not when they are under way.
        most: questions at once. A batch has a power of two of them, for which CUDA graphs are kept.
        filled: a batch is all that wait: `work` fills it up to a power of two, which takes it no longer.
        abreast: batches at once. Two keep a GPU busy, which begins the second when the first is done; it is given the second as soon
            as half of `most` wait. `work` must allow for it.
    """

    def __init__(self, work: Callable[[list[Asked]], Sequence[Made]], most: int = 8, abreast: int = 1, filled: bool = False) -> None:
        self.work, self.most, self.abreast, self.filled = work, most, abreast, filled
        self.lock = threading.Lock()  # of what is below, never held while a batch is made
        self.waiting: deque[_Turn[Asked, Made]] = deque()
        self.making = 0  # batches
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
            if first := not self.making:
                self.making = 1  # nobody begins one while this thread gathers
            else:
                self._begin(self.most // 2)
        try:
            if first:
                self._gather()
        finally:
            self._ended(first)
            self._wait(mine)
        if mine.error is not None:
            raise mine.error
        return mine.made[0]

    def _wait(self, mine: _Turn[Asked, Made]) -> None:
        """Until the question is answered, or by answering it."""
        try:
            if not mine.woken.is_set():
                with away():
                    mine.woken.wait()
        finally:  # also when the program is told to end meanwhile
            with self.lock:
                if mine in self.waiting:
                    self.waiting.remove(mine)
            if mine.batch:
                self._make(mine.batch)

    def _begin(self, fewest: int) -> None:
        """Where there is room, and so many wait: who waits longest makes a batch of them. The lock is held."""
        if self.making < self.abreast and len(self.waiting) >= fewest:
            count = min(self.most, len(self.waiting))
            batch = [self.waiting.popleft() for _ in range(count if self.filled else 1 << (count.bit_length() - 1))]
            self.making += 1
            batch[0].batch = batch
            batch[0].woken.set()

    def _ended(self, ended: bool) -> None:
        """A batch, or the gathering for one; what waits is the next."""
        if ended:
            with self.lock:
                self.making -= 1
                self._begin(self.most // 2 if self.making else 1)

    def _make(self, turns: list[_Turn[Asked, Made]]) -> None:
        try:
            self._do(turns)
        finally:
            self._ended(True)
            for turn in turns:
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
            with away():
                come = self.came.wait(QUIET)
            if not come or time.monotonic() - now > LONGEST:
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

    def __init__(self, work: Callable[..., Tensor], most: int = 8, abreast: int = 1, filled: bool = False) -> None:
        self.work = work
        self.together: Together[tuple[Tensor, ...], Tensor] = Together(self._all, most, abreast, filled)

    def __call__(self, *asked: Tensor) -> Tensor:
        return self.together(asked)

    def _all(self, asked: list[tuple[Tensor, ...]]) -> Sequence[Tensor]:
        made = self.work(*asked[0]) if len(asked) == 1 else self.work(*(torch.cat(part) for part in zip(*asked, strict=True)))
        settle(made.device)
        return made.split([len(one[0]) for one in asked])


def settle(device: torch.device) -> None:
    """Wait until what was asked of a device is there: a GPU says at once that it will do the work, and nothing would gather behind it."""
    if device.type == "cuda" and not (stream := torch.cuda.current_stream(device)).query():
        with away():
            stream.synchronize()


def fetched(rows: Tensor) -> Tensor:
    """What lies on a device, on the CPU; nobody waits for a GPU that has other work before it but the one who asks."""
    if rows.device.type != "cuda":
        return rows.cpu()
    here = torch.empty_like(rows, device="cpu", pin_memory=True)
    here.copy_(rows, non_blocking=True)
    settle(rows.device)
    return here
