"""Feature grids on a CPU: the autograd side of the numba kernels. float32 tensors on the CPU only."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from vivavoce.render.backends import floats
from vivavoce.render.threads import kernels

from . import numba_kernels
from .plan import PRIMES, Plan


@lru_cache(maxsize=64)
def _arrays(plan: Plan) -> tuple[NDArray[Any], ...]:
    """Starts, scales, what vertex numbers along y and z are multiplied by, hashed, masks: one row a level."""
    levels = plan.levels
    times = [(PRIMES if level.hashed else (*level.strides, 0))[1:3] for level in levels]
    return (
        np.array([level.start for level in levels], np.uint64),
        np.array([level.scale for level in levels], np.float32),
        np.array(times, np.uint32),
        np.array([level.hashed for level in levels], np.bool_),
        np.array([level.mask for level in levels], np.uint32),
    )


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
        places, entries = floats(points), floats(table).reshape(-1)
        words = entries.view(np.int64) if plan.features % 2 == 0 else np.empty(0, np.int64)
        settings = (*_arrays(plan), np.array(opened, np.float32), plan.smooth, (0,) * plan.dims, (0,) * plan.features)
        out = torch.empty(len(points), len(plan.levels) * plan.features)
        if len(points):
            with kernels():
                numba_kernels.read(places, entries, words, *settings, out.numpy())
        ctx.settings, ctx.features = settings, plan.features
        ctx.save_for_backward(points, table)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table = ctx.saved_tensors
        pull = floats(grad.unflatten(1, (-1, ctx.features)).transpose(0, 1))  # [L,N,F]: each level reads its own in order
        to_points, to_table = None, None
        with kernels():  # of no points, too: an empty loop and zeros
            if ctx.needs_input_grad[1]:
                to_table = torch.zeros_like(table, memory_format=torch.contiguous_format)
                numba_kernels.table_grad(floats(points), pull, *ctx.settings, to_table.numpy().reshape(-1))
            if ctx.needs_input_grad[0]:
                to_points = torch.zeros(points.shape)
                numba_kernels.points_grad(floats(points), floats(table).reshape(-1), pull, *ctx.settings, to_points.numpy())
        return to_points, to_table, None, None


def read(points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
    """As `torch.read`, with first derivatives only."""
    found: Tensor = _Read.apply(points, table, plan, opened)
    return found
