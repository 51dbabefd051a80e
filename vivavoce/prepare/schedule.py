"""The order of things: a step begins as soon as those it reads are done, so that steps which use one core fill the gaps of others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """Something that has a name and waits for others."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...


S = TypeVar("S", bound=Waiting)


class Abandoned(Exception):
    """Another step failed: this one need not go on."""


def overlapped(steps: Sequence[S], act: Callable[[S, Callable[[], None]], None]) -> None:
    """Call `act(step, check)` for every step, each after those it reads, several at once.

    Args:
        steps: in an order in which they could run one by one; inputs that are not among them are there already.
        act: does the step and calls `check()` often; that raises `Abandoned` when the work is to end.
    Raises:
        the error of the first step, in the order given, that failed; the others have then ended.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Abandoned

    left, flying = list(steps), dict[Future[None], S]()
    failed: list[S] = []
    errors: dict[str, BaseException] = {}
    with ThreadPoolExecutor(max(1, len(left))) as pool:
        try:
            while left or flying:
                waiting = {s.name for s in (*left, *flying.values())}
                for step in [s for s in left if not waiting & set(s.inputs) and not failed]:
                    left.remove(step)
                    flying[pool.submit(act, step, check)] = step
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    step = flying.pop(future)
                    if (error := future.exception()) is not None:
                        stop.set()
                        if not isinstance(error, Abandoned):
                            failed.append(step)
                            errors[step.name] = error
        finally:
            stop.set()  # a keyboard's interrupt ends them too
    if failed:
        raise errors[min(failed, key=list(steps).index).name]
