"""Frames drawn as one CUDA graph. A frame of a trained head is some hundred small kernels: a GPU computes them in a fraction of the time
that a CPU takes to start them one by one. Recorded, they are started at once.

A graph holds addresses, not values: weights that change in place are seen by it, and whatever else may change (a parameter replaced,
another identity, other sizes) is looked for before each frame, and recorded anew. Frames are the same with a graph and without one.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from vivavoce.render import splats
from vivavoce.types import Clip

log = logging.getLogger(__name__)

SEEN = 2  # frames drawn one kernel at a time before a graph is made: rows that come once are not worth one
KEPT = 12  # graphs of one module at most
SPARE = 1.3  # tiles that the splats of later frames may touch, as a multiple of those of the frames seen


def tensors(part: Any) -> list[Tensor]:
    """All tensors of nested dataclasses and tuples, in their order."""
    if isinstance(part, Tensor):
        return [part]
    inner = part if isinstance(part, tuple) else [getattr(part, f.name) for f in dataclasses.fields(part)] if _record(part) else []
    return [tensor for one in inner for tensor in tensors(one)]


def _record(part: Any) -> bool:
    return dataclasses.is_dataclass(part) and not isinstance(part, type)


class _Held:
    """What a graph reads beside its inputs: every tensor of a module, and an identity. Held, so that nothing else gets their addresses."""

    def __init__(self, module: nn.Module, identity: Any) -> None:
        self.identity = tensors(identity)
        self.entries: list[tuple[dict[str, Any], str, Any, int]] = []
        self.memory: list[Tensor] = list(self.identity)
        for part in module.modules():
            for entries in (part._parameters, part._buffers, part._modules):
                for name, value in entries.items():
                    mine = [value.detach()] if isinstance(value, Tensor) else []
                    self.entries.append((entries, name, value, mine[0].data_ptr() if mine else 0))
                    self.memory += mine

    def fits(self, identity: Any) -> bool:
        """Whether all of it is where it was."""
        now = tensors(identity)
        same = len(now) == len(self.identity) and all(a is b for a, b in zip(now, self.identity, strict=True))
        if not same or any(entries.get(name) is not value for entries, name, value, _ in self.entries):
            return False
        return all(value.data_ptr() == address for _, _, value, address in self.entries if isinstance(value, Tensor))


class _Graph:
    """Recorded frames, and the tensors that it reads and writes."""

    def __init__(self, work: Callable[[Clip], Tensor], clip: Clip, pairs: tuple[int, ...], pool: Any) -> None:
        device = tensors(clip)[0].device
        self.clip, self.pairs = clip.to(device, copy=True), pairs
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # what loads with its first call must not do so while a graph is recorded
            self._draw(work)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.frames, self.taken = self._draw(work)

    def _draw(self, work: Callable[[Clip], Tensor]) -> tuple[Tensor, Tensor]:
        with splats.bounded(self.pairs) as room:
            frames = work(self.clip)
        return frames, torch.stack(room.taken)

    def play(self, clip: Clip) -> tuple[Tensor, list[int]]:
        """Frames of these rows, and the pairs that each picture of splats wanted: one that wanted more than it may take is not whole."""
        for mine, given in zip(tensors(self.clip), tensors(clip), strict=True):
            mine.copy_(given, non_blocking=True)
        self.graph.replay()
        frames = self.frames.clone()
        return frames, self.taken.tolist()


@dataclasses.dataclass
class _Shape:
    """Rows of one shape that were drawn before."""

    held: _Held
    times: int = 0
    pairs: tuple[int, ...] = ()  # most that each picture of splats wanted
    graph: _Graph | None = None


class Replay:
    """Calls a function that draws rows, or plays what it did. One for each module; a copy of it starts with nothing."""

    def __init__(self) -> None:
        self.on = True  # False: never a graph
        self.graphs = 0  # recorded so far
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: Any = None

    def __reduce__(self) -> tuple[type[Replay], tuple[()]]:
        return Replay, ()

    def forget(self) -> None:
        """Give up all graphs and their memory."""
        with self._lock:
            self._shapes.clear()
            self._pool = None

    def __call__(self, module: nn.Module, work: Callable[[Clip], Tensor], identity: Any, clip: Clip, about: Hashable) -> Tensor:
        """Frames [T,3,H,W] of the rows.

        Args:
            module: whose weights `work` reads.
            work: clip -> frames; draws nothing by chance and waits for no value on the device.
            identity: tensors that `work` reads beside the weights.
            clip: rows with no other fields than those that `work` reads.
            about: whatever else decides what `work` does.
        """
        if not self._able(module, clip):
            return work(clip)
        given = tensors(clip)
        key = (about, torch.is_inference_mode_enabled(), *((t.shape, t.dtype) for t in given))
        with self._lock, torch.cuda.device(given[0].device):
            shape = self._shapes.get(key)
            if shape is None or not shape.held.fits(identity):
                shape = self._shapes[key] = _Shape(_Held(module, identity))
            self._shapes.move_to_end(key)
            while len(self._shapes) > KEPT:
                self._shapes.popitem(last=False)
            if shape.graph is None and shape.times >= SEEN and not self._recorded(shape, work, clip):
                return work(clip)
            if shape.graph is not None:
                frames, taken = shape.graph.play(clip)
                if all(most >= pairs for most, pairs in zip(shape.graph.pairs, taken, strict=True)):
                    return frames
                shape.graph = None  # the head came nearer than it was: drawn again, and recorded with more room
            with splats.bounded() as room:
                frames = work(clip)
            shape.times += 1
            taken = torch.stack(room.taken).tolist() if room.taken else []
            shape.pairs = tuple(map(max, taken, shape.pairs)) if shape.pairs else tuple(taken)
            return frames

    def _able(self, module: nn.Module, clip: Clip) -> bool:
        """Whether a graph would be right: a trained head on a GPU, without gradients, on the stream that everything else runs on."""
        device = next((t.device for t in tensors(clip)), torch.device("cpu"))
        if not self.on or device.type != "cuda" or module.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cuda"):
            return False
        plain = torch.cuda.current_stream(device) == torch.cuda.default_stream(device)
        return plain and not torch.cuda.is_current_stream_capturing() and splats.choose(device) == "triton"

    def _recorded(self, shape: _Shape, work: Callable[[Clip], Tensor], clip: Clip) -> bool:
        """Makes the graph; False, and never another, where the device refuses."""
        if self._pool is None or all(other.graph is None for other in self._shapes.values()):
            self._pool = torch.cuda.graph_pool_handle()  # a pool ends with its last graph
        try:
            shape.graph = _Graph(work, clip, tuple(int(SPARE * pairs) + 1024 for pairs in shape.pairs), self._pool)
        except RuntimeError as error:
            log.warning("frames are drawn without a CUDA graph: %s", error)
            self.on = False
            return False
        self.graphs += 1
        return True
