"""Rays in plain torch: the oracle of the other back ends. Any float dtype and device; compositing is differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import LATTICE, STOP, Cells

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]  # ray, t, dt, positions, starts, found


def occupied(points: Tensor, cells: Cells) -> Tensor:  # [...,3] -> [...] bool; nothing is occupied outside the box
    place = ((points - cells.low) * (cells.resolution / (cells.high - cells.low))).floor()
    inside = ((place >= 0) & (place < cells.resolution)).all(-1)
    x, y, z = torch.where(inside[..., None], place, 0).long().unbind(-1)
    index = (x * cells.resolution + y) * cells.resolution + z
    return inside & ((cells.bits[index >> 3] >> (index & 7).to(torch.uint8)) & 1).bool()


def march(
    rays: tuple[Tensor, Tensor, Tensor, Tensor],  # origins [R,3], directions [R,3], near [R], far [R]
    cells: Cells | None,
    step: float,
    most: int,
    jitter: Tensor | None,  # [R]
    cap: int | None,
    first: Tensor | None = None,  # [R] int32: the interval to begin with
) -> tuple[Found, Tensor]:
    """Samples, and the interval [R] int32 to go on from (-1: the ray is at its end)."""
    origins, directions, near, far = rays
    least = torch.zeros_like(near, dtype=torch.long) if first is None else first.long()
    length = (far - near)[least >= 0]
    longest = float(length.nan_to_num(0).max()) if len(length) else 0.0
    number = torch.arange(int(min(max(longest / step + 2, 0), LATTICE)), device=near.device)
    start = near[:, None] + number * step  # [R,K]
    dt = torch.minimum(start + step, far[:, None]) - start
    t = start + (0.5 if jitter is None else jitter[:, None]) * dt
    keep = (start < far[:, None]) & (dt > 0)
    if cells is not None:
        keep &= occupied(origins[:, None] + t[..., None] * directions[:, None], cells)
    keep &= (number >= least[:, None]) & (least >= 0)[:, None]
    rank = keep.cumsum(1)
    after = torch.where(keep & (rank == most), number + 1, 0).amax(1) if len(number) else least
    keep &= rank <= most
    starts = torch.cat((least.new_zeros(1), keep.sum(1).cumsum(0)))
    found = int(starts[-1])
    ray, column = keep.nonzero().unbind(1)
    if cap is not None:
        ray, column, starts = ray[:cap], column[:cap], starts.clamp(max=cap)
    t, dt = t[ray, column], dt[ray, column]
    positions = origins[ray] + t[:, None] * directions[ray]
    return (ray, t, dt, positions, starts, found), torch.where(after > 0, after, -1).int()


def composite(
    sigma: Tensor,  # [M]
    features: Tensor,  # [M,C]
    ray: Tensor,  # [M]
    t: Tensor,  # [M]
    dt: Tensor,  # [M]
    starts: Tensor,  # [R+1]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [R,C], [R], [R], [M]
    """Features, opacity, depth, weights."""
    count = len(starts) - 1
    place = torch.arange(len(t), device=t.device) - starts[ray]
    longest = int((starts[1:] - starts[:-1]).max()) if count else 0
    thick = sigma.new_zeros(count, longest).index_put((ray, place), sigma * dt)  # optical thickness; empty places are clear
    before = torch.cat((thick.new_zeros(count, 1), thick.cumsum(1)), 1)[:, :-1][ray, place]
    alive = (-before.detach()).exp() >= STOP  # a switch: what follows the first stop stays out
    weights = torch.where(alive, (-before).exp() * -torch.expm1(-thick[ray, place]), 0.0)
    drawn = features.new_zeros(count, features.shape[1]).index_add(0, ray, weights[:, None] * features)
    opacity = weights.new_zeros(count).index_add(0, ray, weights)
    depth = weights.new_zeros(count).index_add(0, ray, weights * t)
    return drawn, opacity, depth, weights.detach()


def accumulate(
    sums: tuple[Tensor, Tensor, Tensor, Tensor],  # features [R,C], opacity [R], depth [R], thickness [R]: added to in place
    alive: Tensor,  # [A] int64, the rays that `starts` counts
    sigma: Tensor,  # [M]
    features: Tensor,  # [M,C]
    t: Tensor,  # [M]
    dt: Tensor,  # [M]
    starts: Tensor,  # [A+1]
) -> None:
    """The next samples of some rays, behind what is in `sums` already."""
    drawn, opacity, depth, thickness = sums
    ray = torch.repeat_interleave(torch.arange(len(alive), device=t.device), starts.diff())
    place = torch.arange(len(t), device=t.device) - starts[ray]
    longest = int(starts.diff().max()) if len(alive) else 0
    thick = sigma.new_zeros(len(alive), longest).index_put((ray, place), sigma * dt)
    along = torch.cat((thickness[alive][:, None], thick), 1).cumsum(1)
    before = along[ray, place]
    weights = torch.where((-before).exp() >= STOP, (-before).exp() * -torch.expm1(-thick[ray, place]), 0.0)
    drawn.index_add_(0, alive[ray], weights[:, None] * features)
    opacity.index_add_(0, alive[ray], weights)
    depth.index_add_(0, alive[ray], weights * t)
    thickness[alive] = along[:, -1]
