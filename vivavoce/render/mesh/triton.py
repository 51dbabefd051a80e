"""The CUDA back end of `render.mesh`: the autograd side of the Triton kernels. float32 tensors on one CUDA device.

Rasterising is a z-buffer of 64-bit words that the triangles' programs lower. A program is one warp and goes through the boxes of a few
triangles, 32 pixels at a time. A word is depth, then number: the smallest is the nearest triangle and, of equal depths, the first.
Who comes first does not matter, so pictures are the same each time. Nothing here makes the
host wait.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from vivavoce.render.mesh import EDGE, triton_light, triton_outlines, triton_pixels
from vivavoce.render.mesh.outlines import HOPS, Links
from vivavoce.render.mesh.triton_raster import lower

EACH = 4  # triangles a program
BLOCK = 128  # pixels a program of the other kernels
EMPTY = torch.iinfo(torch.int64).max


def _plain(part: Tensor) -> Tensor:
    return part.detach().float().contiguous()


def rasterize(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:  # [B,V,3] f32, [F,3], (H, W) -> [B,H,W] int64
    """See the package."""
    words = torch.full((len(target), *size), EMPTY, dtype=torch.int64, device=target.device)
    if words.numel() and len(triangles):
        corners = target[:, triangles].contiguous()  # [B,F,3,3]: one load of nine numbers a triangle
        total = len(target) * len(triangles)
        with torch.cuda.device_of(target):
            lower[(triton.cdiv(total, EACH),)](corners, words, total, len(triangles), *size, EDGE, EACH=EACH, BLOCK=32, num_warps=1)
    return torch.where(words == EMPTY, -1, words & 0xFFFFFFFF)


def shares(target: Tensor, corners: Tensor, place: Tensor, width: int) -> Tensor:
    """As `pixels.shares`, with first derivatives only."""
    with torch.cuda.device_of(target):
        found: Tensor = _Shares.apply(target, corners, place, width)
    return found


def carry(values: Tensor, corners: Tensor, share: Tensor) -> Tensor:
    """As `pixels.carry`, with first derivatives only."""
    with torch.cuda.device_of(values):
        found: Tensor = _Carry.apply(values, corners, share)
    return found


def crossed(target: Tensor, triangles: Tensor, linked: Links, seen: Tensor) -> Tensor:
    """As `outlines.crossed`."""
    found = torch.empty((2, *seen.shape), dtype=torch.int64, device=seen.device)
    count = seen.numel()
    if count:
        whole = (part.contiguous() for part in (triangles, linked.triangle, linked.corner, seen))
        with torch.cuda.device_of(target):
            triton_outlines.crossed[(triton.cdiv(count, BLOCK), 2)](
                _plain(target), *whole, found, count, seen.shape[1], seen.shape[2], target.shape[1], HOPS=HOPS, BLOCK=BLOCK
            )
    return found


def antialias(image: Tensor, target: Tensor, triangles: Tensor, linked: Links, seen: Tensor) -> Tensor:
    """See the package."""
    edge = crossed(target, triangles, linked, seen)
    with torch.cuda.device_of(target):
        found: Tensor = _Blend.apply(image.float(), target, triangles, edge)
    return found


def lit(looks: Tensor, normal: Tensor, place: Tensor, row: Tensor, lens: Tensor, light: Tensor, bump: float, shine: float) -> Tensor:
    """See the package."""
    out, count = torch.empty(len(looks), 6, device=looks.device), len(looks)
    if count:
        parts = (*map(_plain, (looks, normal, place)), row.contiguous(), _plain(lens), _plain(light))
        with torch.cuda.device_of(looks):
            triton_light.lit[(triton.cdiv(count, BLOCK),)](*parts, out, count, bump, shine, BLOCK=BLOCK)
    return out


class _Shares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, corners: Tensor, place: Tensor, width: int) -> Tensor:
        share = torch.empty(len(place), 3, device=target.device)
        grid = (triton.cdiv(len(place), BLOCK),)
        if len(place):
            triton_pixels.shares[grid](_plain(target), corners.contiguous(), place.contiguous(), share, len(place), width, BLOCK=BLOCK)
        ctx.save_for_backward(target, corners, place)
        ctx.width = width
        return share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, None, None, None]:
        target, corners, place = ctx.saved_tensors
        out, count = torch.zeros(target.shape, device=target.device), len(place)
        if count:
            with torch.cuda.device_of(target):
                triton_pixels.shares_back[(triton.cdiv(count, BLOCK),)](
                    _plain(target), corners.contiguous(), place.contiguous(), _plain(pull), out, count, ctx.width, BLOCK=BLOCK
                )
        return out, None, None, None


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, corners: Tensor, share: Tensor) -> Tensor:
        count, channels = len(corners), values.shape[1]
        out = torch.empty(count, channels, device=values.device)
        ctx.shape = {"BLOCK": BLOCK, "WIDE": max(2, triton.next_power_of_2(channels))}
        if out.numel():
            triton_pixels.carry[(triton.cdiv(count, BLOCK),)](
                _plain(values), corners.contiguous(), _plain(share), out, count, channels, **ctx.shape
            )
        ctx.save_for_backward(values, corners, share)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, corners, share = ctx.saved_tensors
        to_values, _, to_share = ctx.needs_input_grad
        out = torch.zeros(values.shape if to_values else (0,), device=values.device)
        parts = torch.zeros(share.shape if to_share else (0,), device=values.device)
        if len(corners) and values.shape[1]:
            with torch.cuda.device_of(values):
                triton_pixels.carry_back[(triton.cdiv(len(corners), BLOCK),)](
                    _plain(values), corners.contiguous(), _plain(share), _plain(pull), out, parts, len(corners), values.shape[1],
                    VALUES=to_values, SHARE=to_share, **ctx.shape,
                )  # fmt: skip
        return out if to_values else None, None, parts if to_share else None


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, triangles: Tensor, edge: Tensor) -> Tensor:
        parts = _plain(image), _plain(target), triangles.contiguous(), edge
        out, ctx.shape = torch.empty_like(parts[0]), (edge[0].numel(), *image.shape[1:], target.shape[1])
        if out.numel():
            triton_outlines.blend[(triton.cdiv(ctx.shape[0], BLOCK),)](*parts, out, *ctx.shape, BLOCK=BLOCK)
        ctx.save_for_backward(*parts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, Tensor, None, None]:
        parts = ctx.saved_tensors
        to_image, to_target = torch.empty_like(parts[0]), torch.zeros_like(parts[1])
        if to_image.numel():
            with torch.cuda.device_of(to_image):
                triton_outlines.blend_back[(triton.cdiv(ctx.shape[0], BLOCK),)](
                    *parts, _plain(pull), to_image, to_target, *ctx.shape, BLOCK=BLOCK
                )
        return to_image, to_target, None, None
