"""Which rows a step gets, and a thread that reads them ahead. They depend on the seed and the step alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vivavoce.train import ranks
from vivavoce.types import Clip, InputError, Source

AHEAD = 3  # clips read before they are wanted


def seed(config: Any, step: int) -> int:
    """Of everything random in a step."""
    return (int(getattr(config, "seed", 0)) * 1_000_003 + step * 7919) % (2**63)


def draw(source: Source, config: Any, step: int) -> Tensor:  # -> [batch], or [batch * window_rows]
    """Rows of a step: every row once before any comes twice (a permutation an epoch); `batch` consecutive rows where the
    config says `contiguous`; or, where it has `window_rows`, `batch` windows of that many consecutive rows one after another,
    each from one piece of one video."""
    length = len(source)
    batch, window = int(getattr(config, "batch", 1)), int(getattr(config, "window_rows", 0))
    generator = torch.Generator().manual_seed(seed(config, step))
    if window:
        return _windows(source, window, batch, generator).flatten()
    batch = min(batch, length)
    if getattr(config, "contiguous", False):
        return torch.randint(length - batch + 1, (1,), generator=generator) + torch.arange(batch)
    places = torch.arange(step * batch, (step + 1) * batch)
    parts = []
    for epoch in torch.unique(places // length).tolist():
        generator = torch.Generator().manual_seed(seed(config, -2 - int(epoch)))
        parts.append(torch.randperm(length, generator=generator)[places[places // length == epoch] % length])
    return torch.cat(parts)


def _windows(source: Source, rows: int, count: int, generator: torch.Generator) -> Tensor:  # -> [count,rows]
    """Places are equally likely wherever a whole window fits. Raises InputError when none does."""
    whole = torch.tensor([[0, len(source)]])  # a source that does not say otherwise is one piece
    spans: Tensor = getattr(source, "spans", whole)
    places = (spans[:, 1] - rows + 1).clamp(min=0)
    if not int(places.sum()):
        cause = f"its longest piece has {int(spans[:, 1].max())} frames, a window {rows}"
        raise InputError("training data", cause, "give longer videos, or a shorter window")
    at = torch.randint(int(places.sum()), (count,), generator=generator)
    ends = places.cumsum(0)
    span = torch.searchsorted(ends, at, right=True)
    return (spans[span, 0] + at - (ends - places)[span])[:, None] + torch.arange(rows)


def mine(rows: Tensor, config: Any) -> Tensor:  # [B] or [B * window_rows] -> this process's part
    """Every n-th row or window; a stretch of consecutive rows is cut into n stretches. Raises InputError when they cannot be shared out."""
    count = ranks.count()
    if count == 1:
        return rows
    groups = rows.reshape(-1, int(getattr(config, "window_rows", 0)) or 1)
    if len(groups) % count:
        cause = f"a step of {len(groups)} rows cannot be shared out evenly over {count} processes"
        raise InputError("--batch", cause, f"choose a multiple of {count}, up to the number of rows there are")
    if getattr(config, "contiguous", False):
        return groups.reshape(count, -1)[ranks.number()]
    return groups[ranks.number() :: count].flatten()


def batches(source: Source, config: Any, needs: frozenset[str], steps: range, device: str | torch.device) -> Iterator[tuple[int, Clip]]:
    """(step, clip) with the next clips read by a thread while this one trains."""
    ahead: queue.Queue[tuple[int, Clip] | BaseException] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def read() -> None:
        try:
            for step in steps:
                item = (step, source.clip(mine(draw(source, config, step), config), needs).to(device))
                while not stop.is_set():
                    try:
                        ahead.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
        except BaseException as error:  # handed to the training thread, which raises it
            ahead.put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ahead.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=5)
