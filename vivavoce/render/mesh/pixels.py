"""What a pixel takes of the corners of the triangle that it sees: plain torch on any device, the oracle of the kernels."""

from __future__ import annotations

from torch import Tensor


def areas(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:  # [...,3,3], [...], [...] -> [...,3]
    """Twice the area of the triangle that a pixel's centre makes with the two other corners, over the corner's depth: what is linear
    in the picture is 1 / depth."""
    away_x, away_y = corners[..., 0] - x[..., None], corners[..., 1] - y[..., None]
    first, second = (1, 2, 0), (2, 0, 1)
    area = away_x[..., first] * away_y[..., second] - away_x[..., second] * away_y[..., first]
    return area / corners[..., 2]


def shares(target: Tensor, corners: Tensor, place: Tensor, width: int) -> Tensor:
    """Share of each corner of the triangles that pixels see, perspective-correct.

    Args:
        target: [N,3] px, px, depth, of all pictures. corners: [P,3] int64, rows of it. place: [P] int64, line * width + column.
    Returns:
        [P,3]; differentiable in the places.
    """
    share = areas(_rows(target, corners), place % width + 0.5, place // width + 0.5)
    return share / share.sum(-1, keepdim=True)


def carry(values: Tensor, corners: Tensor, share: Tensor) -> Tensor:  # [N,C], [P,3] int64, [P,3] -> [P,C]
    """Values of the corners at the pixels; differentiable in the values and in the shares."""
    return (_rows(values, corners) * share[..., None]).sum(1)


def _rows(values: Tensor, index: Tensor) -> Tensor:  # [N,C], [P,3] -> [P,3,C]
    """As `values[index]`; its gradient is added up without sorting, an order of magnitude faster."""
    return values.index_select(0, index.flatten()).unflatten(0, (-1, 3))
