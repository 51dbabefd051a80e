"""One lock around numba's parallel kernels, for the threading layer that needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
