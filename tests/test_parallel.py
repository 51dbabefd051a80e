"""Threads, processes and the order of steps: results, errors, and that nothing outlives the one who started it."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vivavoce.prepare import parallel
from vivavoce.prepare.folder import Folder
from vivavoce.prepare.parallel import CORES, cores, counted, each, spread
from vivavoce.prepare.schedule import overlapped
from vivavoce.types import InputError

ROOT = Path(__file__).resolve().parent.parent
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")


def squares(offset: int) -> Callable[[int], tuple[int, int]]:
    """Work: a number's square, and who made it."""
    return lambda k: (k * k + offset, os.getpid())


def frozen() -> Callable[[int], int]:
    """Work: how many objects no collection of this process looks at."""
    return lambda k: gc.get_freeze_count()


def failing(kind: str) -> Callable[[int], int]:
    """Work that fails at 5."""

    def work(k: int) -> int:
        if k == 5 and kind == "input":
            raise InputError("5.jpg", "is no picture", "take another")
        if k == 5 and kind == "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "5.png")
        if k == 5 and kind == "unsendable":
            raise type("Local", (Exception,), {})("of a class that only the worker knows")
        if k == 5 and kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    return work


def sleeping(folder: Path, quick: int = 0) -> Callable[[int], int]:
    """Work that says who does it and never ends, but for the first so many."""

    def work(k: int) -> int:
        (folder / f"{os.getpid()}.pid").write_text("")
        time.sleep(600 if k >= quick else 0)
        return k

    return work


def test_processes_give_what_threads_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, "3")
    found: dict[int, list[tuple[int, int]]] = {}
    for frames in (parallel.LONG - 1, parallel.LONG):
        found[frames] = []
        spread(partial(squares, 7), range(40), frames, found[frames].append)
    threads, processes = found.values()
    assert sorted(v for v, _ in threads) == sorted(v for v, _ in processes) == [k * k + 7 for k in range(40)]
    assert {pid for _, pid in threads} == {os.getpid()} and os.getpid() not in {pid for _, pid in processes}


class Patient:
    """A `make` that notes when a process has taken it in; its work waits until that of the other team has been taken in too."""

    def __init__(self, folder: Path, name: str, other: str) -> None:
        self.folder, self.name, self.other = folder, name, other

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        (self.folder / self.name).touch()

    def __call__(self) -> Callable[[int], tuple[float, float]]:
        def work(_: int) -> tuple[float, float]:
            begun = time.time()
            while not (self.folder / self.other).exists():
                assert time.time() < begun + 120, "the other team does not get ready"
                time.sleep(0.02)
            return begun, time.time()

        return work


@needs_posix
def test_one_team_works_while_the_next_gets_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, "2")
    times: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}

    def team(name: str) -> None:
        spread(Patient(tmp_path, name, "ab".replace(name, "")), range(6), parallel.LONG, times[name].append)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(team, times))
    first, second = sorted(times.values(), key=min)
    assert max(end for _, end in first) < min(begun for begun, _ in second)


@needs_posix
def test_workers_share_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection writes to every object it looks at: to what was there before the workers, and is theirs together, none may."""
    monkeypatch.setenv(CORES, "2")
    found: list[int] = []
    spread(frozen, range(2), parallel.LONG, found.append)
    assert min(found) > 10_000


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        ("input", InputError, r"5\.jpg: is no picture; take another"),
        ("disk", OSError, "No space left"),
        ("unsendable", RuntimeError, "only the worker knows"),
        pytest.param("killed", RuntimeError, "a worker process was lost", marks=needs_posix),
    ],
)
def test_the_first_error_of_a_process_ends_the_rest(kind: str, error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, "2")
    heard: list[int] = []
    with pytest.raises(error, match=told) as raised:
        spread(partial(failing, kind), range(5000), parallel.LONG, heard.append)
    assert len(heard) < 5000
    if isinstance(raised.value, OSError):
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "5.png")


def test_the_first_error_of_a_thread_ends_the_rest() -> None:
    heard: list[int] = []
    with pytest.raises(InputError, match="no picture"):
        spread(partial(failing, "input"), range(5000), 1, heard.append)
    assert len(heard) <= 5


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] if Path("/proc").is_dir() else ""
        os.kill(pid, 0)
    except (OSError, IndexError):
        return False
    return state != "Z"


def pids(folder: Path, count: int) -> list[int]:
    """The workers, once so many have begun."""
    until = time.monotonic() + 60
    while len(found := list(folder.glob("*.pid"))) < count:
        assert time.monotonic() < until, "the workers did not begin"
        time.sleep(0.02)
    return [int(p.stem) for p in found]


def end(processes: list[int]) -> None:
    until = time.monotonic() + 10
    while any(alive(pid) for pid in processes):
        assert time.monotonic() < until, "a worker outlived the one who started it"
        time.sleep(0.02)


@needs_posix
def test_workers_die_with_the_one_who_started_them(tmp_path: Path) -> None:
    """Killed with -9 while workers work: they end at once, and the folder's lock, which they share, is free again."""
    code = f"""
from functools import partial
from pathlib import Path
from typing import Any
from tests.test_parallel import sleeping
from vivavoce.prepare.folder import Folder
from vivavoce.prepare.parallel import LONG, spread
with Folder({str(tmp_path)!r}).lock():
    spread(partial(sleeping, Path({str(tmp_path)!r})), range(9), LONG, print)
"""
    env = os.environ | {CORES: "2", "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT)
    workers = pids(tmp_path, 2)
    with pytest.raises(InputError, match="another run"), Folder(tmp_path).lock():
        pass
    run.kill()
    run.wait()
    with Folder(tmp_path).lock():
        end(workers)


@needs_posix
def test_workers_die_when_nobody_wants_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, "2")

    class Enough(Exception):
        pass

    def stop(k: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        spread(partial(sleeping, tmp_path, 1), range(9), parallel.LONG, stop)
    end(pids(tmp_path, 1))


def test_progress_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    heard = counted(lambda done, total: told.append((done, total)), 3, 10)
    for frames in (None, 4, None):
        heard(frames)
    assert told == [(3, 10), (4, 10), (8, 10), (9, 10)]
    monkeypatch.setenv(CORES, "7")
    assert cores() == 7
    monkeypatch.setenv(CORES, "many")
    assert cores() >= 1


def test_each_keeps_the_order_and_few_in_flight() -> None:
    flying, most, lock = 0, 0, threading.Lock()

    def items() -> object:
        nonlocal flying, most
        for k in range(60):
            with lock:
                flying += 1
                most = max(most, flying)
            yield k

    out = []
    for k in each(lambda k: k, items(), 2):  # type: ignore[var-annotated, arg-type]
        out.append(k)
        with lock:
            flying -= 1
    assert out == list(range(60)) and most <= 2 * parallel.AHEAD + 1


# ---- the order of steps ----


@dataclass(frozen=True)
class Named:
    name: str
    inputs: tuple[str, ...] = ()


def test_steps_overlap_but_wait_for_what_they_read() -> None:
    steps = [Named("a", ("video",)), Named("b", ("a",)), Named("c", ("a",)), Named("d", ("b", "c"))]
    together, order = threading.Barrier(2, timeout=10), list[str]()

    def act(step: Named, check: Callable[[], None]) -> None:
        if step.name in "bc":
            together.wait()  # both are at work at once, or this breaks
        order.append(step.name)

    overlapped(steps, act)
    assert order[0] == "a" and set(order[1:3]) == {"b", "c"} and order[3] == "d"


def test_a_failure_ends_the_others_and_begins_nothing() -> None:
    steps = [Named("long"), Named("bad"), Named("after", ("bad",)), Named("next", ("long",))]
    ran: list[str] = []

    def act(step: Named, check: Callable[[], None]) -> None:
        ran.append(step.name)
        if step.name == "bad":
            raise InputError("bad", "is bad", "")
        for _ in range(1000):
            check()
            time.sleep(0.01)

    begun = time.monotonic()
    with pytest.raises(InputError, match="is bad"):
        overlapped(steps, act)
    assert sorted(ran) == ["bad", "long"] and time.monotonic() - begun < 5


def test_the_first_of_several_failures_in_their_order_is_told() -> None:
    both = threading.Barrier(2, timeout=10)

    def act(step: Named, check: Callable[[], None]) -> None:
        both.wait()
        raise InputError(step.name, "failed", "")

    with pytest.raises(InputError, match="one: failed"):
        overlapped([Named("one"), Named("two")], act)
