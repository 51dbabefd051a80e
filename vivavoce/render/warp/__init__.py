"""Mesh warp of a picture, soft polygons and lines, resampling: what 2-D face animation is drawn with.

    warp     triangles of a source picture drawn at new places, nearest surface first
    polygon  soft mask of a polygon that fades inwards, so that a polygon of no area is empty
    stroke   soft line
    affine   a picture moved by one 2x3 matrix a row

Each has two back ends that agree (tested): "numba" (CPU, parallel over rows and bands of lines) and "torch" (any device,
vectorised over rows, triangles and pixels). "auto" takes numba for CPU tensors when it is installed.

Coordinates are pixels with centres at +0.5; depth grows away from the viewer. A picture is read bilinearly and continues
its edge pixels outside.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from torch import Tensor, as_tensor  # not torch itself: the back end of that name is an attribute of this package

from vivavoce.render.backends import installed, load

BACKENDS = ("torch", "numba")


class Warped(NamedTuple):
    """A warped picture."""

    image: Tensor  # [B,C,H,W] `under` where no triangle lies
    alpha: Tensor  # [B,1,H,W] 1 where a triangle was drawn, else 0


def _backend(name: str, like: Tensor) -> ModuleType:
    best = "numba" if like.device.type == "cpu" and installed("numba") else "torch"  # of any type: numba makes float32 of it
    return load(__name__, BACKENDS, name, best)


def warp(
    picture: Tensor,  # [C,h,w], or [B,C,h,w]: one a row
    source: Tensor,  # [V,2] px, where each vertex lies in the picture, or [B,V,2]: it slides
    target: Tensor,  # [B,V,3] px and depth, where it goes
    triangles: Tensor,  # [F,3] int64
    size: tuple[int, int],  # H, W
    backend: str = "auto",
    under: Tensor | None = None,  # [C,H,W], by default 0
) -> Warped:
    """Draws the picture's triangles at `target`. Degenerate triangles draw nothing; of equal depths the first wins.

    The picture is differentiable on the torch back end; positions are not.
    """
    return Warped(*_backend(backend, picture).warp(picture, source, target, triangles, size, under))


def polygon(
    points: Tensor,  # [B,P,2] px, either direction
    size: tuple[int, int],  # H, W
    soft: float | Tensor = 1.5,  # px, or [B]: over this length the mask rises from 0 at the outline to 1 inside
    backend: str = "auto",
) -> Tensor:  # [B,1,H,W]
    """Soft mask of a polygon (even-odd). It rises inwards only, so a shut mouth has an empty mask and opens smoothly."""
    lengths = as_tensor(soft, device=points.device).to(points).expand(len(points))
    mask: Tensor = _backend(backend, points).polygon(points, size, lengths)
    return mask


def stroke(
    points: Tensor,  # [B,P,2] px, an open line
    size: tuple[int, int],  # H, W
    width: float,  # px from the middle to 1/e
    backend: str = "auto",
) -> Tensor:  # [B,1,H,W]
    """A soft line through the points: 1 on it, falling off like a Gaussian."""
    mask: Tensor = _backend(backend, points).stroke(points, size, width)
    return mask


def affine(
    picture: Tensor,  # [C,h,w]
    matrix: Tensor,  # [B,2,3] source px from target px
    size: tuple[int, int],  # H, W
    backend: str = "auto",
) -> Tensor:  # [B,C,H,W]
    """The picture moved by one affine map a row."""
    moved: Tensor = _backend(backend, picture).affine(picture, matrix, size)
    return moved


def sample(pictures: Tensor, places: Tensor) -> Tensor:  # [B,C,h,w], [B,H,W,2] px -> [B,C,H,W]
    """Bilinear reading at any places, in torch; differentiable in both."""
    from vivavoce.render.warp.torch import sample as read

    return read(pictures, places)
