"""Feature grids on CUDA: the autograd side of the Triton kernels. float32 tensors on one CUDA device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import triton_kernels
from .plan import PRIMES, Plan

BLOCK = 128  # points a program


def _word(number: int) -> int:
    """The signed 32-bit number of the same bits."""
    return (number + 2**31) % 2**32 - 2**31


@lru_cache(maxsize=256)
def _arrays(plan: Plan, opened: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Starts [L], multipliers of y and z, hashed, mask [L,4], scale and share [L,2] on the device."""
    rows = []
    for level in plan.levels:
        times = (PRIMES if level.hashed else (*level.strides, 0))[1:3]
        rows.append([*map(_word, times), int(level.hashed), _word(level.mask)])
    return (
        torch.tensor([level.start for level in plan.levels], device=device),
        torch.tensor(rows, dtype=torch.int32, device=device),
        torch.tensor([[level.scale, share] for level, share in zip(plan.levels, opened, strict=True)], device=device),
    )


def _plain(part: Tensor) -> Tensor:
    if part.dtype != torch.float32:
        raise TypeError(f"the triton back end takes float32, not {part.dtype}")
    return part.detach().contiguous()


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
        levels, places = len(plan.levels), _plain(points)
        ctx.arrays = _arrays(plan, opened, points.device)
        wide = triton.next_power_of_2(plan.features)
        ctx.shape = {"DIMS": plan.dims, "FEATURES": plan.features, "WIDE": wide, "SMOOTH": plan.smooth, "BLOCK": BLOCK}
        out = places.new_empty(len(points), levels * plan.features)
        if len(points):
            grid = (levels, triton.cdiv(len(points), BLOCK))
            triton_kernels.read[grid](places, _plain(table), *ctx.arrays, out, out, len(points), levels, PULL=False, **ctx.shape)
        ctx.save_for_backward(points, table)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table = (_plain(part) for part in ctx.saved_tensors)
        count, levels, pull = len(points), len(ctx.arrays[0]), _plain(grad)
        to_points = torch.zeros_like(points) if ctx.needs_input_grad[0] else None
        to_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        blocks = triton.cdiv(count, BLOCK)
        with torch.cuda.device_of(points):
            if to_table is not None and count:
                triton_kernels.read[(levels, blocks)](points, table, *ctx.arrays, pull, to_table, count, levels, PULL=True, **ctx.shape)
            if to_points is not None and count:
                triton_kernels.points_grad[(blocks,)](points, table, *ctx.arrays, pull, to_points, count, LEVELS=levels, **ctx.shape)
        return to_points, to_table, None, None


def read(points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
    """As `torch.read`, with first derivatives only."""
    with torch.cuda.device_of(points):
        found: Tensor = _Read.apply(points, table, plan, opened)
    return found
