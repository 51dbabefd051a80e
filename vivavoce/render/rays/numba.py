"""Rays on a CPU: the autograd side of the numba kernels. float32 tensors on the CPU only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vivavoce.render.backends import floats
from vivavoce.render.threads import kernels

from . import numba_kernels
from .contract import LATTICE, Cells
from .torch import Found


def cells_of(cells: Cells | None) -> tuple[Any, ...]:
    """Low corner, cells a length, side, bits in words of 32: side 0 where everything is occupied."""
    if cells is None:
        return np.zeros(3, np.float32), np.zeros(3, np.float32), 0, np.zeros(1, np.uint32)
    per = cells.resolution / (cells.high - cells.low)
    return floats(cells.low), floats(per), cells.resolution, cells.bits.numpy().view(np.uint32)


def march(
    rays: tuple[Tensor, Tensor, Tensor, Tensor],  # origins [R,3], directions [R,3], near [R], far [R]
    cells: Cells | None,
    step: float,
    most: int,
    jitter: Tensor | None,  # [R]
    cap: int | None,
    first: Tensor | None = None,  # [R] int32
) -> tuple[Found, Tensor]:
    """As `torch.march`."""
    count = len(rays[2])
    origins, directions, near, far = (floats(part) for part in rays)
    begin = np.zeros(count, np.int32) if first is None else first.numpy()
    inside = np.full(count, 0.5, np.float32) if jitter is None else floats(jitter)
    most = min(most, LATTICE)
    slots, counts = np.empty((count, most), np.int32), np.empty(count, np.int64)  # pages of slots that no ray fills cost nothing
    after, starts, stride = torch.empty(count, dtype=torch.int32), torch.zeros(count + 1, dtype=torch.int64), np.float32(step)
    if count:
        with kernels():
            numba_kernels.find(
                origins, directions, near, far, begin, inside, *cells_of(cells), stride, most, slots, counts, after.numpy()
            )  # fmt: skip
        torch.cumsum(torch.from_numpy(counts), 0, out=starts[1:])
    found = int(starts[-1])
    starts = starts if cap is None else starts.clamp(max=cap)
    total = int(starts[-1])
    ray, positions = torch.empty(total, dtype=torch.int64), torch.empty(total, 3)
    t, dt = torch.empty(total), torch.empty(total)
    if total:
        with kernels():
            numba_kernels.write(
                origins, directions, near, far, inside, stride, slots, starts.numpy(), ray.numpy(), t.numpy(), dt.numpy(), positions.numpy()
            )
    return (ray, t, dt, positions, starts, found), after


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sigma: Tensor, features: Tensor, t: Tensor, dt: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        rays, channels = len(starts) - 1, features.shape[1]
        drawn, opacity, depth = torch.empty(rays, channels), torch.empty(rays), torch.empty(rays)
        weights, through = torch.empty(len(t)), torch.empty(len(t))
        if rays:
            with kernels():
                numba_kernels.composite(
                    floats(sigma), floats(features), floats(t), floats(dt), starts.numpy(),
                    drawn.numpy(), opacity.numpy(), depth.numpy(), weights.numpy(), through.numpy(),
                )  # fmt: skip
        ctx.save_for_backward(sigma, features, t, dt, starts, weights, through)
        ctx.mark_non_differentiable(weights)
        return drawn, opacity, depth, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        sigma, features, t, dt, starts, weights, through = ctx.saved_tensors
        to_sigma, to_features = torch.empty(sigma.shape), torch.empty(features.shape)
        with kernels():
            numba_kernels.composite_grad(
                floats(sigma), floats(features), floats(t), floats(dt), starts.numpy(), weights.numpy(), through.numpy(),
                *(floats(pull) for pull in pulls[:3]), to_sigma.numpy(), to_features.numpy(),
            )  # fmt: skip
        return to_sigma, to_features, None, None, None


def composite(
    sigma: Tensor, features: Tensor, ray: Tensor, t: Tensor, dt: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [R,C], [R], [R], [M]
    """As `torch.composite`."""
    drawn, opacity, depth, weights = _Composite.apply(sigma, features, t, dt, starts)
    return drawn, opacity, depth, weights


def accumulate(
    sums: tuple[Tensor, Tensor, Tensor, Tensor], alive: Tensor, sigma: Tensor, features: Tensor, t: Tensor, dt: Tensor, starts: Tensor
) -> None:
    """As `torch.accumulate`."""
    if len(alive):
        with kernels():
            numba_kernels.accumulate(
                *(part.numpy() for part in sums), alive.numpy(),
                floats(sigma), floats(features), floats(t), floats(dt), starts.numpy(),
            )  # fmt: skip
