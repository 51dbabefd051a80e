"""Draws triangle meshes: which triangle every pixel sees, and values of the corners carried to the pixels.

    rasterize    which triangle is nearest in each pixel (z-buffer); two back ends that agree (tested), no gradient
    weights      how the corners share a pixel, perspective-correct; differentiable in the corners' places
    interpolate  values of the corners at the pixels; differentiable in the values and through `weights` in the places
    visible      which vertices nothing hides

Coordinates are pixels with centres at +0.5 and depth in front of the camera, growing away from it; what has depth <= 0 is not
drawn. Visibility itself has no gradient: an outline that moves is felt through the values inside it alone.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from torch import Tensor, arange, inf, where, zeros_like  # not torch itself: the back end of that name is an attribute of this package

EDGE = 1e-9  # px^2: a triangle of less area than this draws nothing


def _backend(name: str, like: Tensor) -> ModuleType:
    """The back end's module; raises ValueError for an unknown name or one that cannot run here."""
    if name not in ("auto", "numba", "torch"):
        raise ValueError(f"no back end {name!r}: auto, numba or torch")
    here = like.device.type == "cpu" and importlib.util.find_spec("numba") is not None
    if name == "numba" and not here:
        raise ValueError("the numba back end needs CPU tensors and numba installed; use backend='torch'")
    return importlib.import_module(f"{__name__}.{'numba' if here and name != 'torch' else 'torch'}")


def rasterize(
    target: Tensor,  # [B,V,3] px, px, depth
    triangles: Tensor,  # [F,3] int64
    size: tuple[int, int],  # H, W
    backend: str = "auto",
) -> Tensor:  # [B,H,W] int64, -1 where there is nothing
    """The nearest triangle of each pixel, from both sides; of equal depths the first wins."""
    seen: Tensor = _backend(backend, target).rasterize(target.detach().float(), triangles, size)
    return seen


def weights(target: Tensor, triangles: Tensor, seen: Tensor) -> Tensor:  # [B,V,3], [F,3], [B,H,W] -> [B,H,W,3]
    """Share of each corner of the triangle that a pixel sees, 0 where it sees none."""
    height, width = seen.shape[1:]
    corners = _gather(target, triangles[seen.clamp(min=0)])  # [B,H,W,3,3]
    x = arange(width, device=target.device) + 0.5
    y = (arange(height, device=target.device) + 0.5)[:, None]
    away_x, away_y = corners[..., 0] - x[..., None], corners[..., 1] - y[..., None]
    first, second = (1, 2, 0), (2, 0, 1)
    area = away_x[..., first] * away_y[..., second] - away_x[..., second] * away_y[..., first]
    share = area / corners[..., 2]  # 1 / depth is what is linear in the picture
    share = share / share.sum(-1, keepdim=True)
    return where((seen >= 0)[..., None], share, zeros_like(share))


def interpolate(values: Tensor, triangles: Tensor, seen: Tensor, share: Tensor) -> Tensor:
    """Values of the corners at the pixels.

    Args:
        values: [B,V,C]. triangles: [F,3]. seen: [B,H,W] of `rasterize`. share: [B,H,W,3] of `weights`.
    Returns:
        [B,H,W,C], 0 where there is nothing.
    """
    return (_gather(values, triangles[seen.clamp(min=0)]) * share[..., None]).sum(-2)


def visible(target: Tensor, triangles: Tensor, size: tuple[int, int], slack: float, backend: str = "auto") -> Tensor:
    """Which vertices lie in the picture with nothing more than `slack` (in depth's unit) nearer in their pixel: [B,V] bool.

    `slack` has to be what a surface gains in depth within a pixel at the slant that is still wanted.
    """
    height, width = size
    seen = rasterize(target, triangles, size, backend)
    depth = interpolate(target[..., 2:], triangles, seen, weights(target, triangles, seen))[..., 0]
    depth = where(seen >= 0, depth, inf).flatten(1)
    column, line = target[..., 0].floor().long(), target[..., 1].floor().long()
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height) & (target[..., 2] > 0)
    at = (line.clamp(0, height - 1) * width + column.clamp(0, width - 1)).clamp(0, height * width - 1)
    return inside & (target[..., 2] <= depth.gather(1, at) + slack)


def _gather(values: Tensor, corners: Tensor) -> Tensor:  # [B,V,C], [B,...] int64 -> [B,...,C]
    rows = arange(len(values), device=values.device).reshape(-1, *[1] * (corners.ndim - 1))
    return values[rows, corners]
