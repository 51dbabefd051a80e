"""Work on many frames at once without holding many frames: threads for short work, processes for long work."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4  # items in flight for each thread
CORES = "VIVAVOCE_CORES"  # environment: cores that this process may use, for several side by side
MOST = 16  # processes of one step, each about 50 MB: a machine of more cores does not take more memory
LONG = 400  # frames of work from which a team of processes, two seconds until it stands, pays
TEAM = threading.Lock()  # one team of processes at a time: two would share the cores and hold twice the memory
BEGIN = b"!"  # said to a host whose turn it is
ONE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # set to 1 where the processes are the parallel part


def cores() -> int:
    """CPU cores this process may use."""
    given = os.environ.get(CORES, "")
    return int(given) if given.isdigit() and int(given) else len(_allowed())


def _allowed() -> Sequence[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def each(work: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Generator[R]:
    """Results of `work` in the order of the items, made by several threads, few items ahead of what is taken.

    Decoding, JPEG and PNG coding, NumPy, torch and LiteRT let go of the interpreter while they work, so a few threads are
    enough. The first error ends the rest.
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


def spread(make: Callable[[], Callable[[T], R]], items: Sequence[T], frames: int, heard: Callable[[R], None], most: int = MOST) -> None:
    """`make()(item)` for every item, over every core: by threads, or by processes when there is much to do.

    Sixteen threads of NumPy wait for the interpreter and for the one address space they share; processes do not. `make` is
    called once a thread or process and holds what the work needs (a net, a picture that all frames share).

    Args:
        make: a module's function, or a `functools.partial` of one, so that it can be sent to a process.
        items: what to work on; small, they are sent too.
        frames: how many frames of work they are.
        heard: called with each result as it comes, in no order. most: threads or processes, where each holds much.
    Raises:
        the first error of the work or of `heard`, which ends the rest; RuntimeError when a process is lost (killed, out of memory).
    """
    count = min(cores(), len(items), most)
    if count > 1 and frames >= LONG:
        _processes(make, items, count, heard)
        return
    own = threading.local()

    def work(item: T) -> R:
        if not hasattr(own, "work"):
            own.work = make()
        done: R = own.work(item)
        return done

    with closing(each(work, items, max(1, count))) as results:
        for result in results:
            heard(result)


def counted(progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int | None], None]:
    """What `spread` hears: the number of frames of each result (nothing: one frame) is added up and told as progress."""
    count = done
    progress(count, total)

    def heard(frames: int | None) -> None:
        nonlocal count
        count += 1 if frames is None else frames
        progress(count, total)

    return heard


def _processes(make: Callable[[], Callable[[T], R]], items: Sequence[T], count: int, heard: Callable[[R], None]) -> None:
    """A host process (`worker.py`) forks `count` workers that share its memory and its imports, and ends when we do, however we end."""
    package = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(dict.fromkeys([str(package), *sys.path]))
    env = os.environ | {"PYTHONPATH": paths, **dict.fromkeys(ONE, "1")}
    command = [sys.executable, "-m", "vivavoce.prepare.worker"]
    group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
    # close_fds=False hands on what is meant to be: the folder's lock, which then holds until the last worker is gone
    host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, close_fds=False, **group)
    assert host.stdin is not None and host.stdout is not None
    with _ended(host):
        try:
            pickle.dump((make, list(items), count), host.stdin)
            host.stdin.flush()
            with TEAM, _ended(host):  # it imports what it needs while another team is at work, and has gone before the next one begins
                host.stdin.write(BEGIN)
                host.stdin.flush()
                for _ in items:
                    good, value = pickle.load(host.stdout)
                    if not good:
                        raise value
                    heard(value)
        except (EOFError, BrokenPipeError) as e:
            raise RuntimeError("a worker process was lost: killed, or out of memory") from e


@contextmanager
def _ended(host: subprocess.Popen[bytes]) -> Iterator[None]:
    """No longer there afterwards, however it ends."""
    assert host.stdin is not None and host.stdout is not None
    try:
        yield
    finally:
        with suppress(BrokenPipeError):
            host.stdin.close()  # the host ends its workers when this ends
        host.stdout.close()
        host.wait()
