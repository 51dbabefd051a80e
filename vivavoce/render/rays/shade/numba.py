"""A whole frame on a CPU: the side of the numba kernel that torch sees. float32 tensors on the CPU only."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from vivavoce.render.backends import floats
from vivavoce.render.rays.contract import STOP, Composited
from vivavoce.render.rays.numba import cells_of
from vivavoce.render.rays.occupancy import Occupancy

from . import numba_kernels
from .contract import Level, Scene
from .numba_vectors import OUTS

LEAST = 1024  # rays of a thread


def _padded(count: int) -> int:
    return -(-count // OUTS) * OUTS


class _Packed:
    """Layers as the kernel reads them: one row of numbers each, and all weights in one array."""

    def __init__(self) -> None:
        self.rows = np.zeros((13, 4), np.int64)
        self.parts: list[Tensor] = []
        self.length = 0

    def _put(self, part: Tensor) -> int:
        start = self.length
        self.parts.append(part.reshape(-1))
        self.length += part.numel()
        return start

    def add(self, place: int, weight: Tensor, bias: Tensor | float | None = None) -> None:
        """A layer [outputs,inputs], with a bias [outputs] or one number."""
        outputs, inputs = weight.shape
        wide = _padded(outputs)
        full = weight.new_zeros(wide, inputs)
        full[:outputs] = weight
        beside = weight.new_zeros(wide)
        if bias is not None:
            beside[:outputs] = bias
        start = self._put(full.view(-1, OUTS, inputs).transpose(1, 2))
        self.rows[place] = start, self._put(beside), inputs, wide


def _layers(scene: Scene) -> _Packed:
    net, k, packed = scene.net, numba_kernels, _Packed()
    if scene.listen is not None:
        first, bias, second, third = scene.listen
        packed.add(k.LISTEN, first, bias)
        packed.add(k.ATTEND, second)
        packed.add(k.POINT, third)
    packed.add(k.FIRST, torch.cat(net.first, 1), net.bias)
    if net.gates is not None:
        for place, weight in zip((k.HEAR, k.HEARD, k.LOOK, k.LIDS, k.SEEN), net.gates, strict=True):
            packed.add(place, weight)
    packed.add(k.SECOND, net.second, net.bend)
    inner = _padded(len(net.second))
    packed.add(k.SOLID, net.solid[None], net.shift)
    behind = net.tint.new_zeros(len(net.tint), inner - net.tint.shape[1])  # harmonics lie behind the padded layer
    packed.add(k.TINT, torch.cat([net.tint, behind, scene.sight], 1), scene.beside)
    packed.add(k.LAST, net.last)
    return packed


def _levels(levels: Sequence[Level]) -> tuple[Any, ...]:
    """As `numba_kernels.read` takes them. Tables are given by their addresses: the caller keeps them."""
    widths = [level.table.shape[1] for level in levels]
    return (
        np.array([floats(level.table).ctypes.data for level in levels], np.int64),
        np.array([(4 * width).bit_length() - 1 for width in widths], np.int64),
        np.array([level.scale for level in levels], np.float32),
        np.array([(level.second, level.third) for level in levels], np.uint32).reshape(-1, 2),
        np.array([level.hashed for level in levels], np.bool_),
        np.array([level.mask for level in levels], np.uint32),
        np.array([level.share for level in levels], np.float32),
        np.array([(*level.axes, -1)[:3] for level in levels], np.int64).reshape(-1, 3),
        np.array(widths, np.int64),
    )


def draw(
    scene: Scene,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],  # origins [R,3], directions [R,3], near [R], far [R]
    occupancy: Occupancy,
    step: float,
    most: int,
    stop: float,
) -> Composited:
    """As `rays.trace` of the scene's field, in the box of the occupancy."""
    assert scene.places.levels is not None
    packed, places = _layers(scene), _levels(scene.places.levels)
    around = _levels(scene.around.levels or []) if scene.around is not None else _levels([])
    weights = floats(torch.cat(packed.parts))
    count, inputs = len(rays[2]), int(packed.rows[:, 2].max())
    rows = np.array([int(packed.rows[numba_kernels.FIRST, 2]), max(int(packed.rows[:, 3].max()), inputs) + numba_kernels.HARMONICS])
    drawn, opacity, depth = torch.zeros(count, 3), torch.zeros(count), torch.zeros(count)
    unit = 1 / (occupancy.high - occupancy.low)
    thin = np.float32(1 / float((occupancy.high - occupancy.low).mean()))
    shares = min(numba.get_num_threads(), -(-count // LEAST))
    work = (
        shares, tuple(floats(part) for part in rays), cells_of(occupancy.cells), floats(occupancy.low), floats(unit), np.float32(step),
        most, np.float32(max(stop, STOP)), thin, places, around, packed.rows, weights, rows,
        (drawn.numpy(), opacity.numpy(), depth.numpy()),
    )  # fmt: skip
    if shares < 2:
        numba_kernels.draw(0, *work)
    else:  # threads of our own: numba's would compile the kernel once more, and not let two streams draw at once
        with ThreadPoolExecutor(shares) as pool:
            list(pool.map(lambda which: numba_kernels.draw(which, *work), range(shares)))
    return Composited(drawn, opacity, depth, torch.zeros(0))
