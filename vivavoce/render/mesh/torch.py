"""The plain back end of `render.mesh`, on any device: every pixel of every triangle's box is one element, the nearest wins. Its other
functions are those of `pixels.py` and `outlines.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.render.mesh import EDGE
from vivavoce.render.mesh.outlines import antialias as antialias
from vivavoce.render.mesh.pixels import carry as carry
from vivavoce.render.mesh.pixels import shares as shares


def rasterize(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:  # [B,V,3], [F,3], (H, W) -> [B,H,W] int64
    """See the package."""
    return torch.stack([_picture(row[triangles], size) for row in target])


def _picture(corners: Tensor, size: tuple[int, int]) -> Tensor:  # [F,3,3] -> [H,W]
    height, width = size
    x, y, depth = corners.unbind(-1)
    first_x, last_x = (x.amin(1) - 0.5).ceil().clamp(min=0), (x.amax(1) - 0.5).floor().clamp(max=width - 1)
    first_y, last_y = (y.amin(1) - 0.5).ceil().clamp(min=0), (y.amax(1) - 0.5).floor().clamp(max=height - 1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    drawn = (area.abs() > EDGE) & (depth.amin(1) > 0) & (last_x >= first_x) & (last_y >= first_y)
    number = drawn.nonzero()[:, 0]
    wide, high = (last_x - first_x + 1)[number].long(), (last_y - first_y + 1)[number].long()
    count = wide * high
    which = torch.repeat_interleave(torch.arange(len(number), device=corners.device), count)
    place = torch.arange(len(which), device=corners.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
    own = number[which]
    column, line = first_x.long()[own] + place % wide[which], first_y.long()[own] + place // wide[which]
    away_x, away_y = x[own] - (column + 0.5)[:, None], y[own] - (line + 0.5)[:, None]
    inverse = 1 / area[own]
    share = [(away_x[:, a] * away_y[:, b] - away_x[:, b] * away_y[:, a]) * inverse for a, b in ((1, 2), (2, 0), (0, 1))]
    inside = (share[0] >= 0) & (share[1] >= 0) & (share[2] >= 0)
    near = share[0] / depth[own, 0] + share[1] / depth[own, 1] + share[2] / depth[own, 2]  # 1 / depth
    # A positive float sorts as the integer of its bits: nearest first, then the triangle of the lowest number.
    key = ((1 / near).view(torch.int32).long() << 32) | own
    empty = torch.full((height * width,), torch.iinfo(torch.int64).max, device=corners.device)
    best = empty.scatter_reduce(0, (line * width + column)[inside], key[inside], "amin")
    return torch.where(best == empty, -1, best & 0xFFFFFFFF).reshape(size)
