"""Feature grids in plain torch: the oracle of the other back ends. Any float dtype and device, differentiated by autograd."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from .plan import PRIMES, Level, Plan


def read(points: Tensor, table: Tensor, plan: Plan, opened: tuple[float, ...]) -> Tensor:
    """Features of points [N,dims] from a table [entries,F], each level times its share of `opened`: [N,levels*F]."""
    lost = points.isnan().any(-1, keepdim=True)
    inside = torch.where(lost, 0.0, points).clamp(0, 1)
    parts = [
        _level(inside, table, level, plan.smooth) * share if share > 0 else inside.new_zeros(len(inside), plan.features)
        for level, share in zip(plan.levels, opened, strict=True)
    ]
    return torch.where(lost, torch.nan, torch.cat(parts, -1))


def _level(points: Tensor, table: Tensor, level: Level, smooth: bool) -> Tensor:  # [N,D] -> [N,F]
    place = points * level.scale + 0.5
    corner = place.detach().floor()
    share = place - corner
    if smooth:
        share = share * share * (3 - 2 * share)
    corner = corner.long()
    total = points.new_zeros(len(points), table.shape[1])
    for step in product((0, 1), repeat=points.shape[1]):
        weight, index = torch.ones_like(share[:, 0]), torch.zeros_like(corner[:, 0])
        for d, up in enumerate(step):
            weight = weight * (share[:, d] if up else 1 - share[:, d])
            along = corner[:, d] + up
            index = index ^ (along * PRIMES[d]) if level.hashed else index + along * level.strides[d]
        total = total + weight[:, None] * table[level.start + (index & level.mask)]
    return total
