"""Draws triangle meshes: which triangle every pixel sees, and values of the corners carried to the pixels.

    rasterize    which triangle is nearest in each pixel (z-buffer); three back ends that agree (tested), no gradient
    weights      how the corners share a pixel, perspective-correct; differentiable in the corners' places
    interpolate  values of the corners at the pixels; differentiable in the values and through `weights` in the places
    visible      which vertices nothing hides
    covered      the pixels that see anything as a list, with their shares: work for these alone
    carry        as `interpolate`, for the list;  paint: values of the list put back into pictures
    antialias    outlines that cover pixels in part (`outlines.py`): what makes the place of an outline differentiable
    links        which triangles hang together, for `antialias`
    lit          colours of the list's pixels under a light (nn/skin.py), where a kernel can do it and no gradient is wanted
    texture      values of a picture laid on the mesh, read at the right coarseness (`textures.py`)

Coordinates are pixels with centres at +0.5 and depth in front of the camera, growing away from it; what has depth <= 0 is not
drawn. Pictures have any size. Visibility itself has no gradient: an outline that moves is felt through the values inside it and, after
`antialias`, through the pixels that it covers in part. The kernels (numba on a CPU, Triton on CUDA) take float32; what is of another
type, such as gradients checked in float64, is done by the plain back end.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

# Not torch itself: the back end of that name is an attribute of this package.
from torch import Tensor, arange, inf, is_grad_enabled, stack, where, zeros_like

from vivavoce.render.backends import choose, load
from vivavoce.render.mesh.outlines import Links, links
from vivavoce.render.mesh.pixels import areas
from vivavoce.render.mesh.textures import texture

__all__ = [
    "EDGE", "Links", "Pixels", "antialias", "carry", "covered", "interpolate", "links", "lit", "paint", "rasterize", "slopes", "texture",
    "visible", "weights",
]  # fmt: skip

BACKENDS = ("torch", "numba", "triton")
EDGE = 1e-9  # px^2: a triangle of less area than this draws nothing


class Pixels(NamedTuple):
    """Those of B pictures that see a triangle, one row each."""

    row: Tensor  # [P] int64, which picture
    place: Tensor  # [P] int64, line * W + column
    triangle: Tensor  # [P] int64
    corners: Tensor  # [P,3] int64, its vertices
    flat: Tensor  # [P,3] int64, the same in all pictures' vertices one after another: row * V + corners
    share: Tensor  # [P,3] of each corner
    size: tuple[int, int]  # H, W


def _backend(name: str, like: Tensor) -> ModuleType:
    best = choose(like.device, like.dtype)
    module = load(__name__, BACKENDS, name, best)
    if name == "numba" and best != "numba":  # it would make float32 of anything
        raise TypeError(f"the numba back end takes float32 on the CPU, not {like.dtype} on {like.device}")
    return module


def rasterize(
    target: Tensor,  # [B,V,3] px, px, depth
    triangles: Tensor,  # [F,3] int64
    size: tuple[int, int],  # H, W
    backend: str = "auto",
) -> Tensor:  # [B,H,W] int64, -1 where there is nothing
    """The nearest triangle of each pixel, from both sides; of equal depths the first wins."""
    places = target.detach().float()
    seen: Tensor = _backend(backend, places).rasterize(places, triangles, size)
    return seen


def weights(target: Tensor, triangles: Tensor, seen: Tensor) -> Tensor:  # [B,V,3], [F,3], [B,H,W] -> [B,H,W,3]
    """Share of each corner of the triangle that a pixel sees, 0 where it sees none."""
    height, width = seen.shape[1:]
    corners = _gather(target, triangles[seen.clamp(min=0)])  # [B,H,W,3,3]
    x = arange(width, device=target.device) + 0.5
    y = (arange(height, device=target.device) + 0.5)[:, None]
    share = areas(corners, x, y)
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


def covered(target: Tensor, triangles: Tensor, seen: Tensor, backend: str = "auto") -> Pixels:  # [B,V,3], [F,3], [B,H,W]
    """The pixels that see anything, picture by picture; their shares are differentiable in the corners' places."""
    size = (int(seen.shape[1]), int(seen.shape[2]))
    at = (seen.flatten() >= 0).nonzero()[:, 0]
    row, place, triangle = at // (size[0] * size[1]), at % (size[0] * size[1]), seen.flatten()[at]
    corners = triangles.index_select(0, triangle)
    flat = corners + (row * target.shape[1])[:, None]
    share: Tensor = _backend(backend, target).shares(target.reshape(-1, 3), flat, place, size[1])
    return Pixels(row, place, triangle, corners, flat, share, size)


def slopes(target: Tensor, pixels: Pixels) -> Tensor:  # [B,V,3] -> [P,3,2]
    """Change of the shares a pixel to the right and a pixel down. For a value v of the corners, its change is `v^T slopes`."""
    corners = target.reshape(-1, 3)[pixels.flat]
    area = areas(corners, pixels.place % pixels.size[1] + 0.5, pixels.place // pixels.size[1] + 0.5)
    first, second = corners[:, (1, 2, 0)], corners[:, (2, 0, 1)]
    change = stack([first[..., 1] - second[..., 1], second[..., 0] - first[..., 0]], -1) / corners[..., 2:]
    return (change - pixels.share[..., None] * change.sum(1, keepdim=True)) / area.sum(1)[:, None, None]


def carry(values: Tensor, pixels: Pixels, backend: str = "auto") -> Tensor:  # [B,V,C], or [V,C] for all pictures -> [P,C]
    """Values of the corners at the pixels of the list; differentiable in the values and in the shares."""
    index = pixels.corners if values.ndim == 2 else pixels.flat
    out: Tensor = _backend(backend, values).carry(values.reshape(-1, values.shape[-1]), index, pixels.share)
    return out


def paint(values: Tensor, pixels: Pixels, rows: int) -> Tensor:  # [P,C] -> [B,C,H,W]
    """The list put back into its pictures, 0 where there is nothing."""
    height, width = pixels.size
    out = values.new_zeros(rows * height * width, values.shape[1])
    out = out.index_copy(0, pixels.row * (height * width) + pixels.place, values)
    return out.reshape(rows, height, width, -1).permute(0, 3, 1, 2)


def antialias(image: Tensor, target: Tensor, triangles: Tensor, linked: Links, seen: Tensor, backend: str = "auto") -> Tensor:
    """The picture with its outlines' pixels blended by how much of them is covered.

    Args:
        image: [B,C,H,W], drawn at the pixels' centres. target: [B,V,3] px, px, depth. triangles: [F,3]. linked: `links` of them.
            seen: [B,H,W] of `rasterize`.
    Returns:
        [B,C,H,W]; differentiable in the image and in the outline's places.
    """
    if not len(triangles):
        return image
    out: Tensor = _backend(backend, target).antialias(image, target, triangles, linked, seen)
    return out


def lit(looks: Tensor, normal: Tensor, place: Tensor, row: Tensor, lens: Tensor, light: Tensor, bump: float, shine: float) -> Tensor | None:
    """What pixels see of a lit surface, all at once: `nn.skin.Skin.seen`, which is its oracle and is used where this gives None.

    Args:
        looks: [P,9] of a network: colour, material (both before a sigmoid), bump (before a tangent). normal: [P,3].
        place: [P,2] px. row: [P] int64. lens: [T,13] the camera's turn [3,3], its centre and focal length, px.
        light: [16,3] in spherical harmonics. bump: longest change of a normal. shine: reflectance of what is no metal.
    Returns:
        [P,6], the light that is seen and the material 0..1; None where gradients are wanted or no kernel is at hand.
    """
    back = _backend("auto", looks)
    if is_grad_enabled() or not hasattr(back, "lit"):
        return None
    out: Tensor = back.lit(looks, normal, place, row, lens, light, bump, shine)
    return out


def _gather(values: Tensor, corners: Tensor) -> Tensor:  # [B,V,C], [B,...] int64 -> [B,...,C]
    rows = arange(len(values), device=values.device).reshape(-1, *[1] * (corners.ndim - 1))
    return values[rows, corners]
