"""Feature grids on CUDA: the autograd side of the Triton kernels. float32 tensors on one CUDA device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from vivavoce.render.backends import plain

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


def _shape(plan: Plan, axes: tuple[int, ...], row: int) -> dict[str, Any]:
    """What a kernel is compiled for: the plan, and the columns of points [N,row] that it reads."""
    x, y, z = (*axes, axes[-1])[:3]
    wide = triton.next_power_of_2(plan.features)
    shape = {"DIMS": plan.dims, "FEATURES": plan.features, "WIDE": wide, "SMOOTH": plan.smooth, "BLOCK": BLOCK}
    return shape | {"ROW": row, "X": x, "Y": y, "Z": z}


class _Read(torch.autograd.Function):
    """From one table, with gradients in table and points."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
        places = plain(points)
        ctx.arrays, ctx.plan = _arrays(plan, opened, points.device), plan
        out = places.new_empty(len(points), len(plan.levels) * plan.features)
        _fill(places, plain(table), ctx.arrays, plan, tuple(range(plan.dims)), out)
        ctx.save_for_backward(points, table)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table = (plain(part) for part in ctx.saved_tensors)
        count, levels, pull, plan = len(points), len(ctx.arrays[0]), plain(grad), ctx.plan
        to_points = torch.zeros_like(points) if ctx.needs_input_grad[0] else None
        to_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        with torch.cuda.device_of(points):
            if to_table is not None:
                _fill(points, table, ctx.arrays, plan, tuple(range(plan.dims)), pull, to_table)
            if to_points is not None and count:
                shape = _shape(plan, tuple(range(plan.dims)), plan.dims)
                shape = {name: shape[name] for name in ("DIMS", "FEATURES", "WIDE", "SMOOTH", "BLOCK")}
                blocks = triton.cdiv(count, BLOCK)
                triton_kernels.points_grad[(blocks,)](points, table, *ctx.arrays, pull, to_points, count, LEVELS=levels, **shape)
        return to_points, to_table, None, None


def _fill(
    points: Tensor, table: Tensor, arrays: tuple[Tensor, ...], plan: Plan, axes: tuple[int, ...], out: Tensor, grad: Tensor | None = None
) -> None:
    """Features into `out` [N,levels*F], which may be columns of something wider; or, with `grad`, what pulls at `out` into that."""
    if len(points):
        size = (len(arrays[0]), triton.cdiv(len(points), BLOCK))
        triton_kernels.read[size](
            points, table, *arrays, out, out if grad is None else grad, len(points), out.stride(0), PULL=grad is not None,
            **_shape(plan, axes, points.shape[1]),
        )  # fmt: skip


class _Several(torch.autograd.Function):
    """From several tables, side by side, with gradients in the tables."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        plan: Plan,
        opened: tuple[float, ...],
        axes: tuple[tuple[int, ...], ...],
        dtype: torch.dtype,
        *tables: Tensor,
    ) -> Tensor:
        places, each = plain(points), len(plan.levels) * plan.features
        ctx.arrays, ctx.plan, ctx.axes = _arrays(plan, opened, points.device), plan, axes
        out = places.new_empty(len(points), each * len(tables), dtype=dtype)
        for k, table in enumerate(tables):
            _fill(places, plain(table), ctx.arrays, plan, axes[k], out[:, k * each : (k + 1) * each])
        ctx.save_for_backward(points, *tables)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        points, *tables = (plain(part) for part in ctx.saved_tensors)
        pull, found = grad.contiguous(), [torch.zeros_like(table) for table in tables]
        each = pull.shape[1] // len(tables)
        with torch.cuda.device_of(points):
            for k, table in enumerate(tables):
                _fill(points, table, ctx.arrays, ctx.plan, ctx.axes[k], pull[:, k * each : (k + 1) * each], found[k])
        return None, None, None, None, None, *found


def read(points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
    """As `torch.read`, with first derivatives only."""
    with torch.cuda.device_of(points):
        found: Tensor = _Read.apply(points, table, plan, opened)
    return found


def several(
    points: Tensor, tables: list[Tensor], plan: Plan, opened: tuple[float, ...], axes: tuple[tuple[int, ...], ...], dtype: torch.dtype
) -> Tensor:  # [N,D] -> [N,tables*levels*F]
    """Features from tables of one plan side by side, of these columns of the points; no gradient in the points."""
    with torch.cuda.device_of(points):
        found: Tensor = _Several.apply(points, plan, opened, axes, dtype, *tables)
    return found
