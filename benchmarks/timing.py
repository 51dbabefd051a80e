"""The clocks that the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def once(work: Callable[[], Any], device: torch.device | str) -> float:
    """Seconds of wall time of one call, the device's work included."""
    waits = torch.device(device).type == "cuda"
    if waits:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if waits:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def seconds(work: Callable[[], Any], device: torch.device | str, times: int) -> float:
    """Median of so many calls, after two that compile and fill caches."""
    taken = [once(work, device) for _ in range(times + 2)][2:]
    return sorted(taken)[len(taken) // 2]


def fewest(work: Callable[[], Any], device: torch.device | str, times: int, patience: float = float("inf")) -> float:
    """The least milliseconds of so many calls, after one that compiles; after `patience` seconds no further one, but the second."""
    taken = [once(work, device), once(work, device)]
    while len(taken) <= times and sum(taken) < patience:
        taken.append(once(work, device))
    return 1e3 * min(taken[1:])
