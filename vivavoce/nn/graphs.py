"""Functions of rows as CUDA graphs. A network that makes a few rows is hundreds of small kernels, which a CPU starts one by one in more
time than a GPU computes them in, and threads that do so at once wait for each other: the interpreter has one lock. Recorded, they are
one call.

`nn/replay.py` does so for heads of one person, whose weights and identity it watches; here everything that changes is an input.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from vivavoce.turns import away

log = logging.getLogger(__name__)

WARM = 3  # calls before a recording: algorithms and workspaces must be chosen by then
URGENT = -1  # priority of a stream whose few small kernels need not wait for large ones
_recording = threading.Lock()  # recording begins with a wait for the whole device, which another recording forbids


class Packing:
    """Tensors of known shapes as one row of numbers: one copy to a device, and one back, whatever they are."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.sizes = [prod(shape) for shape in self.shapes.values()]

    def pack(self, parts: Mapping[str, Tensor], rows: int) -> Tensor:  # {name: [B,*shape]} -> [B,N]
        """Raises KeyError or RuntimeError for parts of other names or shapes."""
        return torch.cat([parts[name].reshape(rows, size) for name, size in zip(self.shapes, self.sizes, strict=True)], 1)

    def parts(self, packed: Tensor) -> dict[str, Tensor]:  # [B,N] -> {name: [B,*shape]}
        """Inverse of `pack`, without a copy."""
        pieces = zip(self.shapes.items(), packed.split(self.sizes, 1), strict=True)
        return {name: piece.unflatten(1, shape) for (name, shape), piece in pieces}


def plain(rows: Tensor) -> Tensor:
    """How a graph holds an input, unless it is told otherwise."""
    return rows.clone(memory_format=torch.contiguous_format)


@dataclass
class _Graph:
    """What was recorded for one number of rows, with the tensors that it reads and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    out: Tensor


class Graphs:
    """A function of rows as CUDA graphs, one for each number of rows that is a power of two; other numbers are filled up.

    Graphs run in a stream of their own, and a call returns when its rows are there: nothing that other threads give the device
    meanwhile has to wait behind them; what two threads ask for is made one after the other. Where the device refuses to record, the
    function is called as it is.

    Args:
        work: tensors with one row an item -> one with as many; it draws nothing by chance and waits for no value on the device.
        device: where it works; rows given may be elsewhere.
        hold: makes what a graph reads from rows like those given.
        priority: of the stream, 0 or `URGENT`.
        fetch: rows are given back on the CPU.
    """

    def __init__(
        self,
        work: Callable[..., Tensor],
        device: torch.device,
        hold: Callable[[Tensor], Tensor] = plain,
        priority: int = 0,
        fetch: bool = False,
    ) -> None:
        self.work, self.device, self.hold, self.priority, self.fetch = work, device, hold, priority, fetch
        self.on = device.type == "cuda"  # False: never a graph
        self.stream: torch.cuda.Stream | None = None
        self.made: dict[int, _Graph] = {}
        self.lock = threading.Lock()  # what a call puts into the stream stays together

    @torch.no_grad()
    def __call__(self, *rows: Tensor) -> Tensor:
        count = len(rows[0])
        full = 1 << (count - 1).bit_length()
        if self.on and full not in self.made:
            with self.lock:
                self._record(full, rows)
        if not self.on:
            made = self.work(*(v.to(self.device) for v in rows))
            return made.cpu() if self.fetch else made
        graph, there = self.made[full], torch.cuda.Event(blocking=True)  # one that does not hold a core while it is waited for
        with self.lock, torch.cuda.device(self.device):
            place: dict[str, Any] = {"device": "cpu", "pin_memory": True} if self.fetch else {}
            out = torch.empty_like(graph.out[:count], **place)  # of the caller's stream, which will read it and give it back
            assert self.stream is not None
            if any(value.is_cuda for value in rows):  # else nothing that the device is at is waited for
                self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for held, value in zip(graph.inputs, rows, strict=True):
                    held[:count].copy_(value, non_blocking=True)
                    if count < full:
                        held[count:].copy_(value[-1:].expand_as(held[count:]), non_blocking=True)
                graph.graph.replay()
                out.copy_(graph.out[:count], non_blocking=True)
                there.record()
        with away():
            there.synchronize()
        return out

    def _record(self, full: int, rows: tuple[Tensor, ...]) -> None:
        """Makes the graph for so many rows; turns graphs off where the device refuses."""
        with _recording, torch.cuda.device(self.device):
            if self.stream is None:
                self.stream = torch.cuda.Stream(self.device, priority=self.priority)
            inputs = tuple(self.hold(v[-1:].to(self.device).expand(full, *v.shape[1:])) for v in rows)
            here = torch.cuda.current_stream()
            self.stream.wait_stream(here)
            try:
                with torch.cuda.stream(self.stream):
                    for _ in range(WARM):
                        self.work(*inputs)
                self.stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):  # other threads go on meanwhile
                    out = self.work(*inputs)
            except RuntimeError as error:
                torch.cuda.set_stream(here)  # a recording that breaks off leaves its own behind
                log.warning("rows are made without a CUDA graph: %s", error)
                self.on = False
                return
            self.made[full] = _Graph(graph, inputs, out)
