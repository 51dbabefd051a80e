"""Outlines that cover pixels in part, and through that a gradient for where they lie (Laine et al., "Modular primitives for
high-performance differentiable rendering", SIGGRAPH Asia 2020, section 3.4).

Of two neighbouring pixels that see different triangles, the nearer triangle ends between their centres if one of its outline's
edges crosses the line from centre to centre. That place, 0..1 of the way, says how much of the one pixel the other's colour
covers. Edges that are rather steep count between pixels side by side, the others between pixels one above the other: counted in both
directions, a slanting edge would be felt twice. Unlike the paper's, the search goes on over edges that are no outline into the
next triangles, which no pixel's centre may see.

Two parts. `crossed` finds which edge lies between which pixels: a search, with no gradient. `blend` puts the edge's place between the
centres and mixes the colours, and is differentiable. Here both are plain torch on any device: the oracle of the kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

HOPS = 6  # triangles looked at between two centres: near an outline they are seen from the side and narrower than a pixel


class Links(NamedTuple):
    """What lies across the edge opposite to each corner; -1 where there is nothing, or more than one triangle."""

    triangle: Tensor  # [F,3] int64
    corner: Tensor  # [F,3] int64, that triangle's vertex away from the edge


def links(triangles: Tensor) -> Links:  # [F,3] int64
    """Which triangles hang together; once a mesh."""
    count = int(triangles.max()) + 1 if len(triangles) else 1
    a, b = triangles[:, (1, 2, 0)].flatten(), triangles[:, (2, 0, 1)].flatten()
    key, order = torch.sort(torch.minimum(a, b) * count + torch.maximum(a, b), stable=True)
    alike = key[1:] == key[:-1]  # an edge with its next
    no = alike.new_zeros(1)
    pair = alike & ~torch.cat([no, alike[:-1]])[: len(alike)] & ~torch.cat([alike[1:], no])[: len(alike)]
    here, there = order[:-1][pair], order[1:][pair]
    across = torch.full_like(a, -1)
    across[here], across[there] = there, here
    corner = torch.where(across >= 0, triangles.flatten()[across.clamp(min=0)], -1)
    return Links(torch.where(across >= 0, across // 3, -1).reshape(-1, 3), corner.reshape(-1, 3))


def _cross(a: Tensor, b: Tensor) -> Tensor:  # [...,2], [...,2] -> [...]
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def outline(target: Tensor, triangles: Tensor, corner: Tensor) -> Tensor:  # [B,V,3], [F,3], [F,3] of Links -> [B,F,3] bool
    """Edges (opposite to each corner) beyond which the mesh does not go on in the picture: its border, and where it folds back."""
    flat = target[..., :2]
    corners = flat[:, triangles]  # [B,F,3,2]
    start, end = corners[:, :, (1, 2, 0)], corners[:, :, (2, 0, 1)]
    across = flat[:, corner.clamp(min=0)]
    same = _cross(end - start, corners - start) * _cross(end - start, across - start) > 0
    return same | (corner < 0)


def antialias(image: Tensor, target: Tensor, triangles: Tensor, linked: Links, seen: Tensor) -> Tensor:
    """See the package."""
    return blend(image, target, triangles, crossed(target, triangles, linked, seen))


def blend(image: Tensor, target: Tensor, triangles: Tensor, edge: Tensor) -> Tensor:
    """The picture with its outlines' pixels mixed.

    Args:
        image: [B,C,H,W]. target: [B,V,3]. triangles: [F,3].
        edge: [2,B,H,W] of `crossed`.
    Returns:
        [B,C,H,W]; differentiable in the image and in the places of the edges' ends.
    """
    _, channels, height, width = image.shape
    at, count = (edge.flatten() >= 0).nonzero()[:, 0], edge[0].numel()
    code, down, first = edge.flatten()[at], at >= count, at % count
    corner = torch.stack([(code + 1) % 3, (code + 2) % 3], 1)
    ends = triangles[code // 3].gather(1, corner) + (first // (height * width) * target.shape[1])[:, None]
    places = target.reshape(-1, 3).index_select(0, ends.flatten()).unflatten(0, (-1, 2))  # [D,2,3]
    place = first % (height * width)
    centre = torch.stack([place % width, place // width], 1).to(target) + 0.5
    way, other = down.long()[:, None], 1 - down.long()[:, None]  # the axis from centre to centre, and across it
    along, across = (places.gather(2, k[..., None].expand(-1, 2, -1))[..., 0] for k in (way, other))  # [D,2] of start and end
    here, level = centre.gather(1, way)[:, 0], centre.gather(1, other)[:, 0]
    share = (level - across[:, 0]) / (across[:, 1] - across[:, 0])
    where = along[:, 0] + share * (along[:, 1] - along[:, 0]) - here  # of the way from the first pixel's centre to the second's
    flat = image.permute(0, 2, 3, 1).reshape(-1, channels)
    second = first + torch.where(down, width, 1)
    change = (where - 0.5)[:, None] * (flat.index_select(0, first) - flat.index_select(0, second))
    # the first's surface reaches into the second pixel, else the second's shows in the first
    flat = flat.index_add(0, torch.where(where >= 0.5, second, first), change)
    return flat.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


@torch.no_grad()
def crossed(target: Tensor, triangles: Tensor, linked: Links, seen: Tensor) -> Tensor:  # [B,V,3], [F,3], [B,H,W] -> [2,B,H,W] int64
    """The outline's edge between each pixel and its right (first) and lower (second) neighbour: three times its triangle plus
    the corner opposite to it; -1 where there is none. Of the two pixels' triangles the search begins in the nearer."""
    height, width = seen.shape[1:]
    found = torch.full((2, *seen.shape), -1, device=seen.device)
    edges = outline(target, triangles, linked.corner)
    close = edges.any(2)
    for _ in range(HOPS - 1):  # triangles from which an outline can be reached
        close = close | (close[:, linked.triangle.clamp(min=0)] & (linked.triangle >= 0)).any(2)
    close = torch.cat([close, close.new_zeros(len(close), 1)], 1)  # a last one for what sees nothing
    near_edge = close.gather(1, torch.where(seen >= 0, seen, len(triangles)).flatten(1)).reshape(seen.shape)
    for axis, (step, gap) in enumerate(((1, (0, 1)), (width, (1, 0)))):
        a, b = seen[:, : height - gap[0], : width - gap[1]], seen[:, gap[0] :, gap[1] :]
        near = near_edge[:, : height - gap[0], : width - gap[1]] | near_edge[:, gap[0] :, gap[1] :]
        row, line, column = ((a != b) & near).nonzero().unbind(1)
        first = (row * height + line) * width + column
        pairs = torch.stack([first, first + step], 1)
        turn = _depth(target, triangles, seen, pairs).argmin(1, keepdim=True) == 1
        code = _walk(target, triangles, linked, edges, seen, torch.where(turn, pairs.flip(1), pairs))  # nearer first
        found[axis].view(-1)[first] = code
    return found


def _depth(target: Tensor, triangles: Tensor, seen: Tensor, pairs: Tensor) -> Tensor:  # -> [D,2]
    """Depth of what the pixels see, infinite where that is nothing."""
    number = seen.flatten()[pairs]
    row, centre = _centre(target, seen, pairs)
    corners = _places(target, triangles, row, number.clamp(min=0))  # [D,2,3,3]
    away = corners[..., :2] - centre[..., None, :]
    share = torch.stack([_cross(away[..., a, :], away[..., b, :]) for a, b in ((1, 2), (2, 0), (0, 1))], -1)
    near = (share / corners[..., 2]).sum(-1) / share.sum(-1)
    return torch.where(number >= 0, 1 / near, torch.inf)


def _centre(target: Tensor, seen: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Of pixels [...]: which picture [...] and where in it [...,2]."""
    height, width = seen.shape[1:]
    place = pixels % (height * width)
    return pixels // (height * width), torch.stack([place % width, place // width], -1).to(target) + 0.5


def _places(target: Tensor, triangles: Tensor, row: Tensor, number: Tensor) -> Tensor:  # [...], [...] -> [...,3,3]
    """Of triangles in pictures: where their corners lie."""
    corners = triangles[number] + (row * target.shape[1])[..., None]
    return target.reshape(-1, 3).index_select(0, corners.flatten()).reshape(*corners.shape, 3)


def _walk(target: Tensor, triangles: Tensor, linked: Links, edges: Tensor, seen: Tensor, pairs: Tensor) -> Tensor:  # -> [D] int64
    """The outline's edge on the way from the first pixel's centre to the second's, -1 for none: from the triangle that the first sees
    across at most HOPS edges."""
    row, centre = _centre(target, seen, pairs[:, 0])
    way = _centre(target, seen, pairs[:, 1])[1] - centre
    number = seen.flatten()[pairs[:, 0]]
    code = torch.full_like(number, -1)
    left, number = (number >= 0).nonzero()[:, 0], number[number >= 0]  # pairs whose way goes on, and the triangle it is in
    came = torch.full_like(number, -1)  # the triangle before
    for _ in range(HOPS):
        inside, out, edge = _leave(_places(target, triangles, row[left], number), centre[left], way[left], linked, number, came)
        ends = inside & edges[row[left], number].gather(1, out)[:, 0]
        steep = (edge[..., 1].abs() >= edge[..., 0].abs()).gather(1, out)[:, 0]
        hit = ends & (steep == (way[left, 0] != 0))
        code[left[hit]] = (number * 3 + out[:, 0])[hit]
        after = linked.triangle[number].gather(1, out)[:, 0]
        on = inside & ~ends & (after >= 0)
        left, came, number = left[on], number[on], after[on]
        if not len(left):
            break
    return code


def _leave(corners: Tensor, centre: Tensor, way: Tensor, linked: Links, number: Tensor, came: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a way from `centre` [D,2] along `way` [D,2] leaves its triangle [D,3,3]: whether it does [D], over which edge [D,1], the
    edges [D,3,2]."""
    start, end = corners[:, (1, 2, 0), :2], corners[:, (2, 0, 1), :2]  # [D,3,2]
    edge, ahead = end - start, way[:, None].expand_as(start)
    side = _cross(edge, ahead)
    safe = torch.where(side.abs() > 1e-9, side, torch.ones_like(side))
    where = -_cross(edge, centre[:, None] - start) / safe  # of the way
    on = _cross(ahead, start - centre[:, None]) / safe  # of the edge
    good = (side.abs() > 1e-9) & (where >= 0) & (where <= 1) & (on >= 0) & (on <= 1)
    good = good & ((linked.triangle[number] != came[:, None]) | (came < 0)[:, None])
    return good.any(1), torch.where(good, where, torch.inf).argmin(1, keepdim=True), edge
