"""Warps in plain torch: the oracle, and the back end for CUDA; vectorised over rows, triangles and pixels."""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-5  # barycentric slack of the inside test: without it rounding leaves cracks between neighbours
AT_ONCE = 4_000_000  # pixels times pieces of a line looked at together: on a GPU launches cost, not numbers


def warp(
    picture: Tensor, source: Tensor, target: Tensor, triangles: Tensor, size: tuple[int, int], under: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the package's warp -> image [B,C,H,W], alpha [B,1,H,W]."""
    chosen, weights = _rasterise(target, triangles, size)  # [B,H,W], [B,H,W,3]
    numbers = triangles[chosen.clamp(min=0)]  # [B,H,W,3]
    row = torch.arange(len(target), device=target.device)[:, None, None, None]
    corners = source.expand(len(target), *source.shape[-2:])[row, numbers]  # [B,H,W,3,2]
    places = (weights[..., None] * corners).sum(-2)  # [B,H,W,2]
    drawn = (chosen >= 0)[:, None]
    image = sample(picture.expand(len(target), *picture.shape[-3:]), places)
    return torch.where(drawn, image, 0 if under is None else under), drawn.to(picture)


def _candidates(screen: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    # screen [N,3,2] px -> for every pixel of every triangle's box: number of the triangle, x, y [K] int64
    height, width = size
    edge = screen.new_tensor([width - 1.0, height - 1.0])
    low = torch.ceil(screen.amin(1) - 0.5).clamp(min=0)
    high = torch.minimum(torch.floor(screen.amax(1) - 0.5), edge)
    extent = (high - low + 1).clamp(min=0).nan_to_num(0).long()  # [N,2]
    number = extent[:, 0] * extent[:, 1]
    which = torch.repeat_interleave(number)
    start = number.cumsum(0) - number
    step = torch.arange(len(which), device=screen.device) - start[which]
    corner, span = low.nan_to_num(0).long()[which], extent[which, 0]
    return which, corner[:, 0] + step % span, corner[:, 1] + step // span


def _barycentric(screen: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # screen [...,3,2] px, x and y [...] px -> weights [...,3], area twice, signed [...]
    (x0, y0), (x1, y1), (x2, y2) = (screen[..., i, :].unbind(-1) for i in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
    w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
    return torch.stack([w0, w1, 1 - w0 - w1], -1), area


def _rasterise(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Nearest triangle of each pixel, -1 where there is none [B,H,W], and its weights [B,H,W,3]."""
    rows, count, (height, width) = len(target), len(triangles), size
    corners = target.detach()[:, triangles].reshape(rows * count, 3, 3)
    which, x, y = _candidates(corners[..., :2], size)
    weights, area = _barycentric(corners[which][..., :2], x + 0.5, y + 0.5)
    inside = (area.abs() > 1e-9) & (weights >= -SLACK).all(-1)
    depth = (weights * corners[which][..., 2]).sum(-1).float()
    bits = depth.view(torch.int32).long()
    order = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # integers sort as the floats do
    none = torch.iinfo(torch.int64).max
    order = torch.where(inside, order * count + which % count, none)  # kept in place: picking the inside ones would wait for the GPU
    pixel = (which // count) * height * width + y * width + x
    best = torch.full((rows * height * width,), none, device=target.device).scatter_reduce(0, pixel, order, "amin")
    chosen = torch.where(best == none, -1, best % count).view(rows, height, width)
    ys, xs = (torch.arange(n, device=target.device).to(target) + 0.5 for n in size)
    row = torch.arange(rows, device=target.device)[:, None, None, None]
    found, _ = _barycentric(target.detach()[row, triangles[chosen.clamp(min=0)]][..., :2], xs, ys[:, None])
    return chosen, torch.where(chosen[..., None] >= 0, found, 0)


def sample(pictures: Tensor, places: Tensor) -> Tensor:  # [B,C,h,w], [B,H,W,2] px -> [B,C,H,W]
    """Bilinear reading; outside, the edge pixels go on."""
    height, width = pictures.shape[-2:]
    scale = places.new_tensor([2 / width, 2 / height])
    return torch.nn.functional.grid_sample(
        pictures, (places * scale - 1).to(pictures), mode="bilinear", padding_mode="border", align_corners=False
    )


def polygon(points: Tensor, size: tuple[int, int], soft: Tensor) -> Tensor:  # [B,P,2], [B] -> [B,1,H,W]
    """As the package's polygon."""
    nearest, inside = _distance(points, size, closed=True)
    return (_rise(nearest / soft[:, None, None]) * inside)[:, None]


def stroke(points: Tensor, size: tuple[int, int], width: float) -> Tensor:  # [B,P,2] -> [B,1,H,W]
    """As the package's stroke."""
    nearest, _ = _distance(points, size, closed=False)
    return torch.exp(-((nearest / width) ** 2))[:, None]


def _distance(points: Tensor, size: tuple[int, int], closed: bool) -> tuple[Tensor, Tensor]:
    """Distance of every pixel to a line [B,H,W], and whether it lies inside (even-odd, closed lines)."""
    ys = torch.arange(size[0], device=points.device).to(points)[:, None] + 0.5  # [H,1]
    xs = torch.arange(size[1], device=points.device).to(points) + 0.5  # [W]
    inside = torch.zeros(len(points), *size, dtype=torch.bool, device=points.device)
    nearest = points.new_full((len(points), *size), torch.inf)
    pieces = torch.cat([points, points.roll(-1, 1)], -1)[:, : points.shape[1] if closed else -1]  # [B,P,4]
    for some in pieces.split(max(1, AT_ONCE // nearest.numel()), 1):
        ax, ay, bx, by = some[..., None, None].unbind(2)  # [B,p,1,1] each
        dx, dy = bx - ax, by - ay
        along = (((xs - ax) * dx + (ys - ay) * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
        away = (xs - ax - along * dx) ** 2 + (ys - ay - along * dy) ** 2
        nearest = torch.minimum(nearest, away.amin(1))
        crossed = ((ay > ys) != (by > ys)) & (xs < ax + (ys - ay) * dx / torch.where(dy == 0, 1, dy))
        inside ^= crossed.sum(1) % 2 == 1
    return nearest.sqrt(), inside


def _rise(t: Tensor) -> Tensor:
    """Smooth step from 0 at t = 0 to 1 at t = 1."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def affine(picture: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:  # [C,h,w], [B,2,3] -> [B,C,H,W]
    """As the package's affine."""
    ys, xs = torch.meshgrid(*(torch.arange(n, device=matrix.device) for n in size), indexing="ij")
    grid = torch.stack([xs + 0.5, ys + 0.5, torch.ones_like(xs)], -1).to(matrix)  # [H,W,3]
    return sample(picture.expand(len(matrix), *picture.shape), torch.einsum("hwk,bik->bhwi", grid, matrix))
