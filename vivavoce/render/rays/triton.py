"""Rays on CUDA: the autograd side of the Triton kernels. float32 tensors on one CUDA device."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from vivavoce.render.backends import plain

from . import triton_kernels
from .contract import LATTICE, Cells
from .torch import Found

WARP = 32
BLOCK = 256  # samples a program that writes them


def march(
    rays: tuple[Tensor, Tensor, Tensor, Tensor],  # origins [R,3], directions [R,3], near [R], far [R]
    cells: Cells | None,
    step: float,
    most: int,
    jitter: Tensor | None,  # [R]
    cap: int | None,
    first: Tensor | None = None,  # [R] int32
) -> tuple[Found, Tensor]:
    """As `torch.march`. The host waits once, for the number of samples."""
    origins, directions, near, far = (plain(part) for part in rays)
    count, most = len(near), min(most, LATTICE)
    slots, after = (torch.empty(shape, dtype=torch.int32, device=near.device) for shape in ((count, most), (count,)))
    counts, starts = near.new_empty(count, dtype=torch.int64), near.new_zeros(count + 1, dtype=torch.int64)
    shift = near if jitter is None else plain(jitter)
    low, per, bits, blocks, side = near, near, slots, slots, 0
    if cells is not None:
        low, per, side = plain(cells.low), plain(cells.resolution / (cells.high - cells.low)), cells.resolution
        bits, blocks = cells.bits, cells.blocks.view(torch.uint8)
    with torch.cuda.device_of(near):
        if count:
            triton_kernels.find[(triton.cdiv(count, WARP),)](
                origins, directions, near, far, after if first is None else first, shift, low, per, bits, blocks, step, slots, counts,
                after,
                count, most, RESUME=first is not None, SHIFT=jitter is not None, RESOLUTION=side, WIDE=WARP, num_warps=1,
            )  # fmt: skip
            torch.cumsum(counts, 0, out=starts[1:])
        found = int(starts[-1])
        total = found if cap is None else min(found, cap)
        ray = torch.repeat_interleave(torch.arange(count, device=near.device), counts, output_size=found)[:total]
        starts = starts if cap is None else starts.clamp(max=cap)
        t, dt, positions = near.new_empty(total), near.new_empty(total), near.new_empty(total, 3)
        if total:
            triton_kernels.write[(triton.cdiv(total, BLOCK),)](
                origins, directions, near, far, shift, step, slots, starts, ray, t, dt, positions, total, most,
                SHIFT=jitter is not None, WIDE=BLOCK,
            )  # fmt: skip
    return (ray, t, dt, positions, starts, found), after


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sigma: Tensor, features: Tensor, t: Tensor, dt: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        rays, channels = len(starts) - 1, features.shape[1]
        parts = (plain(sigma), plain(features), plain(t), plain(dt), starts)
        drawn, opacity, depth = sigma.new_empty(rays, channels), sigma.new_empty(rays), sigma.new_empty(rays)
        weights, wide = torch.empty_like(parts[0]), triton.next_power_of_2(channels)
        if rays:
            triton_kernels.composite[(rays,)](
                *parts, drawn, opacity, depth, weights, starts, channels, ADD=False, WIDE=wide, N=WARP, num_warps=1
            )  # fmt: skip
        ctx.save_for_backward(*parts, drawn, opacity, depth)
        ctx.mark_non_differentiable(weights)
        return drawn, opacity, depth, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        sigma, features, *_ = ctx.saved_tensors
        rays, channels = pulls[0].shape
        to_sigma, to_features = torch.empty_like(sigma), torch.empty_like(features)
        if rays:
            with torch.cuda.device_of(sigma):
                triton_kernels.composite_grad[(rays,)](
                    *ctx.saved_tensors, *(plain(pull) for pull in pulls[:3]), to_sigma, to_features, channels,
                    WIDE=triton.next_power_of_2(channels), N=WARP, num_warps=1,
                )  # fmt: skip
        return to_sigma, to_features, None, None, None


def composite(
    sigma: Tensor, features: Tensor, ray: Tensor, t: Tensor, dt: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [R,C], [R], [R], [M]
    """As `torch.composite`."""
    with torch.cuda.device_of(sigma):
        drawn, opacity, depth, weights = _Composite.apply(sigma, features, t, dt, starts)
    return drawn, opacity, depth, weights


def accumulate(
    sums: tuple[Tensor, Tensor, Tensor, Tensor], alive: Tensor, sigma: Tensor, features: Tensor, t: Tensor, dt: Tensor, starts: Tensor
) -> None:
    """As `torch.accumulate`."""
    channels = features.shape[1]
    if len(alive):
        with torch.cuda.device_of(sigma):
            triton_kernels.composite[(len(alive),)](
                plain(sigma), plain(features), plain(t), plain(dt), starts, *sums, alive, channels,
                ADD=True, WIDE=triton.next_power_of_2(channels), N=WARP, num_warps=1,
            )  # fmt: skip
