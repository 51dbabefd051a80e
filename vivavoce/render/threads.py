"""numba's parallel kernels in several Python threads: one lock, for the threading layer that needs it, and how many cores one takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vivavoce.render.backends import installed

_LOCK = threading.Lock()


@contextmanager
def kernels() -> Iterator[None]:
    """Wrap every call of a `parallel=True` kernel in this.

    numba's fallback layer `workqueue` ends the process when two Python threads call parallel kernels at once; `omp` and
    `tbb` do not mind. The layer is known only after the first parallel call, which is therefore locked as well.
    """
    import numba

    try:
        safe = numba.threading_layer() != "workqueue"
    except ValueError:  # no parallel kernel has run yet
        safe = False
    if safe:
        yield
    else:
        with _LOCK:
            yield


def half() -> None:
    """From now on kernels that this thread calls take half of the threads they could: others draw too, or code what is drawn.

    On two cores a live session that takes both waits for the other one at the end of each kernel, and is a quarter slower.
    """
    if not installed("numba"):
        return
    import numba

    numba.set_num_threads(max(1, numba.config.NUMBA_NUM_THREADS // 2))
