"""A Ray cluster, or Ray on this machine alone, and many videos on it: Ray gives out the work.

The files' folders must be seen under the same path from every machine, and vivavoce be installed there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivavoce.prepare.many import EACH, Outcome, Report, outcome_of, placed
from vivavoce.prepare.parallel import CORES, cores
from vivavoce.types import InputError

LOOK = 0.2  # s between two looks at what was reported


def connect(address: str) -> Any:
    """The module `ray`, connected; address "": a cluster of this machine alone. Raises InputError when there is none."""
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray", f"Ray is not installed ({error})", "run: pip install 'vivavoce[ray]'") from error
    if not ray.is_initialized():
        here: dict[str, Any] = {"address": address} if address else {"num_cpus": cores(), "include_dashboard": False, "address": "local"}
        try:
            ray.init(logging_level="warning", log_to_driver=False, configure_logging=False, **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            cause = f"cannot be reached ({' '.join(str(error).split())[:200]})"
            raise InputError(f"--ray {address}".strip(), cause, "start it with: ray start --head, or leave the address out") from error
    return ray


def prepare_on_ray(
    videos: Sequence[Path],
    folder: Path | None = None,
    jobs: int | None = None,
    report: Report | None = None,
    address: str = "",
    **options: Any,
) -> list[Outcome]:
    """As `many.prepare_many`, on the Ray cluster at `address` ("": on this machine; "auto": the one that runs here).

    `jobs` videos at once on a machine like this one; each asks Ray for its share of this machine's cores.
    """
    to = placed(videos, folder)
    began = time.monotonic()
    ray = connect(address)
    from ray.util.queue import Empty, Queue

    share = max(1, min(cores(), EACH) if jobs is None else cores() // jobs)
    heard: Any = Queue(actor_options={"num_cpus": 0})

    def work(number: int, video: str, to: str | None) -> Outcome:
        os.environ[CORES] = str(share)
        return outcome_of(video, to, options, lambda step, done, total: heard.put((number, step, done, total)))

    task = ray.remote(num_cpus=share, max_retries=1)(work)
    at = [str(t.resolve()) if t is not None else None for t in to]
    asked = [task.remote(k, str(Path(v).resolve()), t) for k, (v, t) in enumerate(zip(videos, at, strict=True))]
    left, found = list(asked), dict[Any, Outcome]()
    while left:
        ready, left = ray.wait(left, num_returns=len(left), timeout=LOOK)
        try:
            while report is not None:
                report(*heard.get_nowait())
        except Empty:
            pass
        for one in ready:
            number = asked.index(one)
            try:
                found[one] = ray.get(one)
            except ray.exceptions.RayError as error:  # the machine or the process was lost
                lost = f"its process was lost ({type(error).__name__})"
                found[one] = Outcome(str(videos[number]), "", 0, time.monotonic() - began, lost, True)
            if report is not None:
                report(number, "", 1, 1)
    heard.shutdown()
    return [found[one] for one in asked]
