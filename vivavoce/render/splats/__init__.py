"""Anisotropic 3-D Gaussians drawn and differentiated: one contract, four back ends.

| back end | device | for | alpha clamped to |
|---|---|---|---|
| torch | any, any float dtype | the oracle of the others | 0.99 |
| numba | CPU, float32 | CPU | 0.99 |
| triton | CUDA, float32 | CUDA | 0.99 |
| gsplat | CUDA, float32 | CUDA, where that package is installed | 0.999, and its own early stop |

The world is the canonical head; cameras have OpenCV axes. Gradients reach means, quaternions, scales, opacities and colours;
the camera is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch as pytorch  # importing the back end of that name binds `torch` in this package
from torch import Tensor

from vivavoce.render.backends import installed, load
from vivavoce.types import Camera

from .contract import Projected, bounded

__all__ = ["BACKENDS", "Projected", "Splatted", "bounded", "choose", "render"]

BACKENDS = ("torch", "numba", "triton", "gsplat")


@dataclass
class Splatted:
    """What `render` drew; without the leading B when nothing that went in had one."""

    image: Tensor  # [B,C,H,W] premultiplied by alpha
    alpha: Tensor  # [B,H,W]
    depth: Tensor  # [B,H,W] sum of weight times camera z: divide by alpha for the mean depth; [B,0,0] where nobody wants it
    means2d: Tensor  # [B,N,2] px, always with its B: after a backward pass its `.grad` is d loss / d px
    radii: Tensor  # [B,N] px, float: half the longer side of the box a splat can change; 0 = not drawn


def choose(device: pytorch.device, dtype: pytorch.dtype = pytorch.float32) -> str:
    """The fastest back end there is for tensors of this device and dtype."""
    if dtype != pytorch.float32:
        return "torch"
    if device.type == "cuda":
        return next((name for name in ("triton", "gsplat") if installed(name)), "torch")
    return "numba" if device.type == "cpu" and installed("numba") else "torch"


def _rows(part: Tensor, dims: int, batch: int, name: str) -> Tensor:
    """`part` with a leading batch dimension of `batch` rows; a part that has none is shared by all."""
    if part.dim() == dims:
        part = part[None]
    if part.dim() != dims + 1 or len(part) not in (1, batch):
        raise ValueError(f"{name} has shape {tuple(part.shape)}: {dims} dimensions wanted, or {dims + 1} with {batch} rows")
    return part.expand(batch, *part.shape[1:])


def render(
    means: Tensor,  # [N,3] or [B,N,3], world
    quaternions: Tensor,  # [N,4] or [B,N,4] wxyz, any length but 0
    scales: Tensor,  # [N,3] or [B,N,3], positive: standard deviations along the axes
    opacities: Tensor,  # [N] or [B,N] in 0..1
    colours: Tensor,  # [N,C] or [B,N,C], any C
    camera: Camera,  # one row, or B rows
    size: tuple[int, int],  # height, width
    backend: str = "auto",
    deep: bool = True,  # False: nobody wants the depth, which spares a CPU a sixth of the time
) -> Splatted:
    """Splats seen by cameras: `image` premultiplied [C,H,W], alpha and depth [H,W], each with a leading B if any input has one
    or the camera has several rows; parts without B are shared by all rows.

    Differentiable in all tensors but the camera's. Raises InputError for a back end that is not there, ValueError for shapes
    that do not fit.
    """
    parts = {
        "means": (means, 2), "quaternions": (quaternions, 2), "scales": (scales, 2), "opacities": (opacities, 1), "colours": (colours, 2),
    }  # fmt: skip
    single = len(camera) == 1 and all(part.dim() == dims for part, dims in parts.values())
    batch = max(len(camera), *(len(part) if part.dim() > dims else 1 for part, dims in parts.values()))
    points, turns, spreads, opaque, paint = (_rows(part, dims, batch, name) for name, (part, dims) in parts.items())
    module = load(__name__, BACKENDS, backend, choose(means.device, means.dtype))
    views = tuple(_rows(part, dims, batch, "camera") for part, dims in ((camera.pose, 2), (camera.focal, 1), (camera.center, 1)))
    seen = tuple(part.detach().to(means) for part in views)
    drawn = Splatted(*getattr(module, "splat", partial(_splat, module, deep))((points, turns, spreads, opaque, paint), seen, size))
    if not single:
        return drawn
    return Splatted(drawn.image[0], drawn.alpha[0], drawn.depth[0], drawn.means2d, drawn.radii[0])


def _splat(
    module: ModuleType, deep: bool, parts: tuple[Tensor, ...], camera: tuple[Tensor, ...], size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Image, alpha, depth, means2d, radii by a back end that projects and composites apart."""
    points, turns, spreads, opaque, paint = parts
    pose, focal, center = camera
    projected = module.project(points, turns, spreads, opaque, _rigid_inverse(pose), focal, center, size)
    if projected.means2d.requires_grad:
        projected.means2d.retain_grad()
    features = pytorch.cat((paint, projected.depths[..., None]), -1) if deep else paint
    image, alpha = module.composite(projected, opaque, features, size)
    image, depth = (image[:, :-1], image[:, -1]) if deep else (image, image.new_empty(len(image), 0, 0))
    return image, alpha, depth, projected.means2d, projected.extents.amax(-1)


def _rigid_inverse(pose: Tensor) -> Tensor:  # [B,4,4] -> [B,4,4]
    inverse = pose.clone()
    inverse[:, :3, :3] = pose[:, :3, :3].mT
    inverse[:, :3, 3] = -(pose[:, :3, :3].mT @ pose[:, :3, 3:])[..., 0]
    return inverse
