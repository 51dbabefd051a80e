"""Splats on a CPU: the autograd side of the numba kernels. float32 tensors on the CPU only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vivavoce.render.backends import floats
from vivavoce.render.threads import kernels

from . import numba_compositing, numba_projection
from .contract import Projected

MOMENTS = numba_compositing.MOMENTS


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        means, quaternions, scales, opacities, view, focal, center, size = parts
        batch, count = means.shape[:2]
        out = tuple(torch.empty(batch, count, *shape) for shape in ((2,), (3,), (), (2,)))
        flat = tuple(floats(part).reshape(batch * count, *part.shape[2:]) for part in (means, quaternions, scales, opacities))
        camera = tuple(floats(part) for part in (view, focal, center))
        if count:
            with kernels():
                numba_projection.project(flat, *camera, size, tuple(part.numpy().reshape(batch * count, *part.shape[2:]) for part in out))
        ctx.flat, ctx.camera, ctx.size = flat[:3], camera, size
        ctx.save_for_backward(out[1])
        ctx.mark_non_differentiable(out[3])
        return out  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        (conics,) = ctx.saved_tensors
        batch, count = conics.shape[:2]
        out = tuple(torch.empty(batch, count, length) for length in (3, 4, 3))
        pull = tuple(floats(part).reshape(batch * count, *part.shape[2:]) for part in pulls[:3])
        if count:
            with kernels():
                numba_projection.project_grad(
                    ctx.flat, conics.numpy().reshape(-1, 3), *ctx.camera, ctx.size, pull,
                    tuple(part.numpy().reshape(batch * count, -1) for part in out),
                )  # fmt: skip
        return *out, None, None, None, None, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Any) -> tuple[Tensor, Tensor]:
        means2d, conics, opacities, features, depths, extents, (height, width) = parts
        batch, channels = len(means2d), (0,) * features.shape[-1]
        image, through = torch.empty(batch, len(channels), height, width), torch.empty(batch, height, width)
        splats = floats(torch.cat((means2d, conics, opacities[..., None], extents[..., 1:]), -1))
        paint, near, half = floats(features), floats(depths), floats(extents)
        lists = []
        for b in range(batch):
            order = numba_compositing.depth_order(near[b], half[b])
            starts, ids, boxes, offsets = numba_compositing.tile_lists(splats[b], half[b], order, height, width)
            with kernels():
                numba_compositing.draw(splats[b], paint[b], starts, ids, image[b].numpy(), through[b].numpy(), channels)
            lists.append((starts, ids, boxes, offsets))
        if any(ctx.needs_input_grad):
            ctx.lists, ctx.splats, ctx.paint = lists, splats, paint
            ctx.save_for_backward(image, through)
        return image, through

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        image, through = ctx.saved_tensors
        to_image, to_through = floats(pulls[0]), floats(pulls[1])
        channels = (0,) * image.shape[1]
        grad = torch.empty(*ctx.splats.shape[:2], MOMENTS + len(channels))
        for b in range(len(image)):
            with kernels():
                numba_compositing.gather(
                    ctx.splats[b], ctx.paint[b], *ctx.lists[b], (image[b].numpy(), through[b].numpy()),
                    (to_image[b], to_through[b]), grad[b].numpy(), channels,
                )  # fmt: skip
        means2d, conics, opacities, features = grad.split((2, 3, 1, len(channels)), -1)
        return means2d, conics, opacities[..., 0], features, None, None, None


def project(
    means: Tensor,  # [B,N,3]
    quaternions: Tensor,  # [B,N,4]
    scales: Tensor,  # [B,N,3]
    opacities: Tensor,  # [B,N]
    view: Tensor,  # [B,4,4] camera from world
    focal: Tensor,  # [B,2] px
    center: Tensor,  # [B,2] px
    size: tuple[int, int],
) -> Projected:
    """As `torch.project`, opacities without a gradient (they only say how far a splat reaches)."""
    return Projected(*_Project.apply(means, quaternions, scales, opacities.detach(), view, focal, center, size))


def composite(
    projected: Projected,
    opacities: Tensor,  # [B,N]
    features: Tensor,  # [B,N,F], at most 64 features
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:  # [B,F,H,W], [B,H,W]
    """As `torch.composite`."""
    if features.shape[-1] > numba_compositing.FEATURES:
        raise ValueError(f"{features.shape[-1]} features a splat: the numba back end holds {numba_compositing.FEATURES} on its stack")
    means2d, conics, depths, extents = projected
    image, through = _Composite.apply(means2d, conics, opacities, features, depths.detach(), extents, size)
    return image, 1 - through
