"""Splats on CUDA: the autograd side of the Triton kernels. float32 tensors on one CUDA device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import torch as oracle
from . import triton_compositing as kernels
from . import triton_serial as serial
from .contract import Projected

BLOCK = 64  # splats a program of the small kernels
LOG2E = 1.4426950408889634
SCALE = (-0.5 * LOG2E, -LOG2E, -0.5 * LOG2E)  # from a conic to the factors of dx^2, dx dy, dy^2 in the exponent of 2
FAST = not triton.knobs.runtime.interpret  # the interpreter knows no inline assembly


@dataclass(frozen=True)
class Plan:
    """How the compositing kernels are laid out; changes speed, not results."""

    wide: int = 16  # px of a tile
    high: int = 16
    draw: str = "serial"  # serial: splats one by one, unrolled; scan: K splats at once
    draw_splats: int = 8
    draw_warps: int = 1
    draw_bands: int = 1  # programs a tile (serial)
    gather: str = "rows"  # rows, serial: one by one; tf32x3, tf32, add: K splats at once, how their sums over pixels are made
    gather_splats: int = 8
    gather_warps: int = 1
    gather_bands: int = 1
    store: str = "scratch"  # scratch, atomic


PLAN = Plan(8, 8, gather="add", store="atomic")  # the fastest of those measured on an H200


@dataclass
class Lists:
    """Which splats each tile draws, nearest first."""

    table: Tensor  # [B*N,8]: u, v, conic times SCALE, opacity, half box x, y
    order: Tensor  # [B*N] rows of the table by depth, image by image
    ends: Tensor  # [B*N] running number of (splat, tile) pairs in that order
    starts: Tensor  # [B*tiles+1]
    ids: Tensor  # [M] row of the table of each pair, tile by tile in depth order
    slots: Tensor  # [M] number of the pair, splat by splat in depth order
    across: int
    down: int


def lists(projected: Projected, opacities: Tensor, size: tuple[int, int], plan: Plan = PLAN) -> Lists:
    """Depth sort of the splats, then a stable sort of their tiles: 16-bit keys where they suffice. Waits once, for the number of pairs."""
    means2d, conics, depths, extents = (part.detach() for part in projected)
    batch, each = depths.shape
    height, width = size
    across, down = -(-width // plan.wide), -(-height // plan.high)
    scaled = conics * conics.new_tensor(SCALE)
    table = torch.cat((means2d, scaled, opacities.detach()[..., None], extents), -1).flatten(0, 1).contiguous()
    order = torch.sort(depths, dim=-1, stable=True).indices
    if batch > 1:
        order = order + each * torch.arange(batch, device=order.device)[:, None]
    order = order.flatten()
    counts = torch.empty(batch * each, dtype=torch.int32, device=table.device)
    grid = (-(-batch * each // BLOCK),)
    shape = {"WIDE": plan.wide, "HIGH_": plan.high, "BLOCK": BLOCK, "num_warps": 2}
    kernels.count[grid](table, order, counts, batch * each, across, down, **shape)
    ends = counts.cumsum(0)
    pairs = int(ends[-1]) if len(ends) else 0
    tiles = batch * across * down
    keys = torch.empty(pairs, dtype=torch.int16 if tiles < 2**15 else torch.int32, device=table.device)
    owners = torch.empty(pairs, dtype=torch.int32, device=table.device)
    if pairs:
        kernels.fill[grid](table, order, ends, keys, owners, batch * each, each, across, down, **shape)
    ranked, slots = torch.sort(keys, stable=True)
    starts = torch.searchsorted(ranked, torch.arange(tiles + 1, dtype=keys.dtype, device=keys.device), out_int32=True)
    return Lists(table, order, ends, starts, owners[slots], slots, across, down)


def draw(found: Lists, features: Tensor, size: tuple[int, int], plan: Plan = PLAN) -> tuple[Tensor, Tensor]:
    """Features [B,N,F], F a multiple of 4 -> image [B,F,H,W], transmittance [B,H,W]."""
    batch, _, length = features.shape
    height, width = size
    image = features.new_empty(batch, length, height, width)
    through = features.new_empty(batch, height, width)
    tiles = found.across * found.down
    tail = (found.ids, found.starts, image, through, height, width, found.across, tiles, length)
    shape = {"K": plan.draw_splats, "WIDE": plan.wide, "HIGH_": plan.high, "num_warps": plan.draw_warps}
    if plan.draw == "serial":
        grid = (batch * tiles * plan.draw_bands, length // 4)
        serial.draw[grid](_words(found.table), _words(features), *tail, BANDS=plan.draw_bands, FAST=FAST, **shape)
    else:
        kernels.draw[(batch * tiles, length // 4)](found.table, features, *tail, **shape)
    return image, through


def _words(floats: Tensor) -> Tensor:
    return floats.view(torch.int64)


def gather(
    found: Lists,
    features: Tensor,  # [B,N,F], F a multiple of 4
    picture: tuple[Tensor, Tensor],
    pull: tuple[Tensor, Tensor],
    plan: Plan = PLAN,
) -> Tensor:  # [groups of four features,B,N,10]: six moments, four features
    """Sums over pixels of the pull on each splat's exponent times 1, dx, dy, dx^2, dx dy, dy^2, and of that on its features."""
    batch, each, length = features.shape
    height, width = picture[1].shape[1:]
    groups, splats = length // 4, batch * each
    banded = {"serial": serial.gather, "rows": serial.gather_rows}
    bands = plan.gather_bands if plan.gather in banded else 1
    scratch = plan.store == "scratch"
    rows = len(found.ids) * bands if scratch else splats
    target = features.new_zeros(groups, rows, 10)
    tiles = found.across * found.down
    grid = (batch * tiles * bands, groups)
    tail = (found.ids, found.slots, found.starts, *picture, *pull, target, height, width, found.across, tiles, length, rows)
    shape = {"K": plan.gather_splats, "WIDE": plan.wide, "HIGH_": plan.high, "STORE": plan.store, "num_warps": plan.gather_warps}
    if plan.gather in banded:
        banded[plan.gather][grid](_words(found.table), _words(features), *tail, BANDS=bands, FAST=FAST, **shape)
    else:
        kernels.gather[grid](found.table, features, *tail, SUM=plan.gather, **shape)
    if not scratch:
        return target.view(groups, batch, each, 10)
    out = features.new_empty(groups, batch, each, 10)
    kernels.total[(-(-splats // 16), groups)](target, found.order, found.ends, out, splats, bands, rows, splats, BLOCK=16, num_warps=4)
    return out


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Any) -> tuple[Tensor, Tensor]:
        means2d, conics, opacities, features, depths, extents, size, plan = parts
        found = lists(Projected(means2d, conics, depths, extents), opacities, size, plan)
        ctx.length = features.shape[-1]
        features = torch.nn.functional.pad(features.detach(), (0, -ctx.length % 4)).contiguous()
        image, through = draw(found, features, size, plan)
        if any(ctx.needs_input_grad):
            ctx.found, ctx.plan = found, plan
            ctx.save_for_backward(features, image, through)
        return image[:, : ctx.length], through

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        features, image, through = ctx.saved_tensors
        batch, each, _ = features.shape
        to_image = torch.nn.functional.pad(pulls[0], (0, 0, 0, 0, 0, -ctx.length % 4)).contiguous()
        sums = gather(ctx.found, features, (image, through), (to_image, pulls[1].contiguous()), ctx.plan)
        moments = sums[..., :6].sum(0)
        one, mx, my, mxx, mxy, myy = moments.unbind(-1)
        xx, xy, yy = (ctx.found.table[:, 2:5] / features.new_tensor(SCALE)).view(batch, each, 3).unbind(-1)
        opacity = ctx.found.table[:, 5].view(batch, each)
        to_means = torch.stack((xx * mx + xy * my, xy * mx + yy * my), -1)
        to_conics = torch.stack((-0.5 * mxx, -mxy, -0.5 * myy), -1)
        to_opacity = one / opacity.clamp(min=1e-12)
        to_features = sums[..., 6:].permute(1, 2, 0, 3).flatten(2)[..., : ctx.length]
        return to_means, to_conics, to_opacity, to_features, None, None, None, None


def project(
    means: Tensor,  # [B,N,3]
    quaternions: Tensor,  # [B,N,4]
    scales: Tensor,  # [B,N,3]
    opacities: Tensor,  # [B,N]
    view: Tensor,  # [B,4,4] camera from world
    focal: Tensor,  # [B,2] px
    center: Tensor,  # [B,2] px
    size: tuple[int, int],
) -> Projected:
    """As `torch.project`."""
    return oracle.project(means, quaternions, scales, opacities, view, focal, center, size)


def composite(
    projected: Projected,
    opacities: Tensor,  # [B,N]
    features: Tensor,  # [B,N,F]
    size: tuple[int, int],
    plan: Plan = PLAN,
) -> tuple[Tensor, Tensor]:  # [B,F,H,W], [B,H,W]
    """As `torch.composite`."""
    means2d, conics, depths, extents = projected
    image, through = _Composite.apply(means2d, conics, opacities, features, depths.detach(), extents, size, plan)
    return image, 1 - through
