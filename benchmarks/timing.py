"""The clock that the benchmarks of methods share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    """Median wall time of one call, after two calls that compile and fill caches."""
    taken = []
    for turn in range(times + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= 2:
            taken.append(time.perf_counter() - begun)
    return sorted(taken)[len(taken) // 2]
