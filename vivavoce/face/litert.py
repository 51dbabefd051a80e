"""Nets that LiteRT runs, opened without its greeting.

LiteRT greets on the process's standard error from C++, where a user should read nothing but what concerns them. For the moment of
opening, that descriptor leads nowhere. Nets are opened by several threads at once: without the lock the second one would take
"nowhere" for the place to go back to, and every later message of the process, errors included, would be lost.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

_opening = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """What is written to descriptor 2 meanwhile is lost; one thread at a time."""
    with _opening:
        sys.stderr.flush()
        kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(null)


def opened(threads: int, **model: Any) -> Interpreter:
    """A net with its memory; `model`: `model_path` or `model_content`."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        net = Interpreter(num_threads=threads, **model)
        net.allocate_tensors()
    return net
