"""`python -m vivavoce.prepare.worker`: the host of `parallel.spread`'s processes.

It reads one pickle from its standard input, (make, items, count), and a byte more when it is its turn, as one team works at a time.
Then it starts the workers and writes a pickle (True, result) or (False, error) for each item to its standard output. When its input
ends, because the one who started it is done or dead, it ends with all its workers at once. The workers are forked before any thread
runs, so they share what the host has imported; where forking is not safe they are started afresh. A program of ours is the main
module here, whatever the user's is.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, BinaryIO

from vivavoce import heap

APART = 5.0  # s between two looks at what a worker left free: what it gives back it has to ask for again
_work: Callable[[Any], Any] | None = None


def _run(make: Callable[[], Callable[[Any], Any]], item: Any) -> bytes:
    """One item in a worker; the answer as it is sent."""
    global _work
    try:
        if _work is None:
            _work = make()
        return pickle.dumps((True, _work(item)))
    except Exception as error:
        return _sendable(error)
    finally:
        heap.trim(APART)  # holes add up: 60 MB after 600 pictures of 512 px


def _alone() -> None:
    """A worker uses one core, also where torch asks for more."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _end_with(source: BinaryIO) -> None:
    """Wait for the end of the input, then end everything."""
    source.read()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _sendable(error: Exception) -> bytes:
    try:
        pickle.loads(whole := pickle.dumps((False, error)))
        return whole
    except Exception:  # an error of a kind that cannot be sent
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def main() -> None:
    """Do the work that is asked for, then wait to be ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us decides
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what nets and codecs print is no answer
    make, items, count = pickle.load(sys.stdin.buffer)
    gc.freeze()  # a collection writes to every object it looks at: each worker would get a copy of all that was imported, 40 MB
    if not sys.stdin.buffer.read(1):
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(count, context, initializer=_alone) as pool:
        futures = [pool.submit(_run, make, item) for item in items]  # the first starts all workers
        watch = threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True)
        watch.start()
        for future in as_completed(futures):
            if future.exception() is not None:  # a worker is lost: without an answer the other side knows
                break
            answers.write(future.result())
            answers.flush()
        answers.close()
        watch.join()


if __name__ == "__main__":
    main()
