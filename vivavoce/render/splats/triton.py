"""Splats on CUDA: the autograd side of the Triton kernels. float32 tensors on one CUDA device.

A picture is: projection, depth sort, (splat, tile) pairs, a stable sort of them by tile, drawing. Its gradient is two kernels.
The host waits once a picture, for the number of pairs, while the device sorts the depths; with a bound on that number it does not.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from . import triton_compositing, triton_projection
from .contract import ROOM

WIDE, HIGH = 8, 8  # px of a tile
SPLATS = 8  # a turn of the compositing kernels; with one warp a tile the fastest of those measured on an H200
BLOCK = 64  # splats a program of the other kernels
FAST = not triton.knobs.runtime.interpret  # the interpreter knows no inline assembly
TILE: dict[str, Any] = {"WIDE": WIDE, "HIGH": HIGH}


def _plain(part: Tensor) -> Tensor:
    """Rows that lie one after another within an image; the images may be one and the same."""
    if part.dtype != torch.float32:
        raise TypeError(f"the triton back end takes float32, not {part.dtype}")
    return part if part[0].is_contiguous() else part.contiguous()


def _tiles(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[1] // WIDE), -(-size[0] // HIGH)


def project(parts: tuple[Tensor, ...], camera: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Means [B,N,3], quaternions, scales, opacities, colours seen by pose [B,4,4] (world from camera), focal, center [B,2]
    -> means2d [B,N,2], packed rows [B,N,8+F], depths [B,N] to sort by, numbers of tiles [B,N], radii [B,N].
    """
    batch, each, channels = parts[4].shape
    row = 8 + channels // 4 * 4 + 4  # the colours and the depth, in fours
    means2d, packed = parts[0].new_empty(batch, each, 2), parts[0].new_empty(batch, each, row)
    keys, radii = parts[0].new_empty(batch, each), parts[0].new_empty(batch, each)
    counts = torch.empty(batch, each, dtype=torch.int32, device=parts[0].device)
    if batch * each:
        triton_projection.project[(-(-each // BLOCK), batch)](
            *parts, *(part.stride(0) for part in parts), *camera, means2d, packed, keys, counts, radii,
            each, *size, *_tiles(size), channels, row, BLOCK=BLOCK, num_warps=2, **TILE,
        )  # fmt: skip
    return means2d, packed, keys, counts, radii


def lists(packed: Tensor, keys: Tensor, counts: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Splats of every tile, nearest first: ids [M] (rows of `packed`, all images) and starts [B*tiles+1].

    Two stable sorts: splats by depth, then their (splat, tile) pairs by tile, with 16-bit keys where they suffice.
    """
    batch, each = keys.shape
    number, total, room = counts.sum(), batch * each, ROOM.get()
    pairs = room.pairs[len(room.taken)] if room is not None and room.pairs else 0
    if room is not None:
        room.taken.append(number)
    waits = not pairs
    if waits and number.is_cuda:
        landed = torch.cuda.Event()
        number = torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)
        landed.record()
    order = torch.sort(keys.view(-1), stable=True).indices
    ends = counts.view(-1).index_select(0, order).cumsum(0)
    if waits and keys.is_cuda:
        landed.synchronize()
    pairs = int(number) if waits else pairs
    across, down = _tiles(size)
    tiles = batch * across * down
    small = torch.int16 if tiles < 2**15 else torch.int32
    places = torch.full((pairs,), tiles, dtype=small, device=keys.device)  # pairs that are not there sort behind the last tile
    owners = torch.empty(pairs, dtype=torch.int32, device=keys.device)
    if pairs:
        triton_compositing.fill[(-(-total // BLOCK),)](
            packed, order, ends, places, owners, pairs, total, each, across, down, packed.shape[-1], BLOCK=BLOCK, num_warps=2, **TILE
        )
    ranked, slots = torch.sort(places, stable=True)
    starts = torch.searchsorted(ranked, torch.arange(tiles + 1, dtype=places.dtype, device=keys.device), out_int32=True)
    return owners.index_select(0, slots), starts


def draw(packed: Tensor, found: tuple[Tensor, Tensor], channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Image [B,C,H,W], depth [B,H,W], alpha [B,H,W] from packed rows and their `lists`."""
    batch, _, row = packed.shape
    image, (across, down) = packed.new_empty(batch, channels, *size), _tiles(size)
    depth, alpha = packed.new_empty(batch, *size), packed.new_empty(batch, *size)
    triton_compositing.draw[(batch * across * down, (row - 8) // 4)](
        packed.view(torch.int64), *found, image, depth, alpha, *size, across, across * down, channels, row,
        K=SPLATS, FAST=FAST, num_warps=1, **TILE,
    )  # fmt: skip
    return image, depth, alpha


def gather(packed: Tensor, found: tuple[Tensor, Tensor], picture: tuple[Tensor, ...], pulls: tuple[Tensor, ...]) -> Tensor:
    """Gradient in the packed rows [B,N,8+F] (that of the conics before they were scaled; 0 for the half boxes)."""
    batch, _, row = packed.shape
    out = torch.zeros_like(packed)
    channels, height, width = picture[0].shape[1:]
    across, down = _tiles((height, width))
    triton_compositing.gather[(batch * across * down, (row - 8) // 4)](
        packed, *found, *picture, *pulls, out, height, width, across, across * down, channels, row, K=SPLATS, num_warps=1, **TILE
    )
    return out


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        parts, camera, ctx.size = tuple(_plain(part) for part in inputs[:5]), inputs[5:8], inputs[8]
        ctx.channels = parts[4].shape[-1]
        ctx.save_for_backward(*parts[:3], *camera)
        out = project(parts, camera, ctx.size)
        ctx.mark_non_differentiable(*out[2:])
        return out

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        *parts, pose, focal, center = ctx.saved_tensors
        to_means2d, to_packed = pulls[0], pulls[1].contiguous()
        batch, each, row = to_packed.shape
        if to_means2d.stride(2) != 1 or to_means2d.stride(0) != each * to_means2d.stride(1):
            to_means2d = to_means2d.contiguous()
        out = [to_packed.new_empty(batch, each, *shape) for shape in ((3,), (4,), (3,), (), (ctx.channels,))]
        if batch * each:
            triton_projection.project_grad[(-(-each // BLOCK), batch)](
                *parts, *(part.stride(0) for part in parts), pose, focal, center, to_means2d, to_means2d.stride(1), to_packed,
                *out, each, *ctx.size, ctx.channels, row, BLOCK=BLOCK, num_warps=2,
            )  # fmt: skip
        return *out, None, None, None, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        _, packed, keys, counts, channels, size = inputs
        found = lists(packed, keys, counts, size)
        picture = draw(packed, found, channels, size)
        ctx.save_for_backward(packed, *found, *picture)
        return picture

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        packed, ids, starts, *picture = ctx.saved_tensors
        grad = gather(packed, (ids, starts), tuple(picture), tuple(pull.contiguous() for pull in pulls))
        return grad[..., :2], grad, None, None, None, None  # u and v reach the means through means2d alone


def splat(
    parts: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],  # [B,N,3], [B,N,4], [B,N,3], [B,N], [B,N,C]
    camera: tuple[Tensor, Tensor, Tensor],  # pose [B,4,4] world from camera, focal, center [B,2]
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [B,C,H,W], [B,H,W], [B,H,W], [B,N,2], [B,N]
    """Image, alpha, depth, means2d, radii."""
    with torch.cuda.device_of(parts[0]):
        means2d, packed, keys, counts, radii = _Project.apply(*parts, *(part.contiguous() for part in camera), size)
        if means2d.requires_grad:
            means2d.retain_grad()
        image, depth, alpha = _Composite.apply(means2d, packed, keys, counts, parts[4].shape[-1], size)
    return image, alpha, depth, means2d, radii
