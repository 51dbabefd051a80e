"""Splats on CUDA by the gsplat package, which compiles its kernels when first used. float32.

Its contract differs from ours in three switches: alpha is clamped to 0.999, a pixel stops *before* the splat that would take its
transmittance to 1e-4 or less, and a splat reaches no further than 3.33 standard deviations. Images differ by about 3e-3 where
splats are nearly opaque.
"""

from __future__ import annotations

import torch
from gsplat.cuda._wrapper import fully_fused_projection, isect_offset_encode, isect_tiles, rasterize_to_pixels
from torch import Tensor

from .contract import DILATION, NEAR, Projected

TILE = 16  # px


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
    """As `torch.project`; extents are whole pixels."""
    height, width = size
    intrinsics = torch.zeros(len(view), 3, 3, device=means.device)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal.unbind(-1)
    intrinsics[:, :2, 2], intrinsics[:, 2, 2] = center, 1.0
    radii, means2d, depths, conics, _ = fully_fused_projection(
        means.contiguous(), None, quaternions.contiguous(), scales.contiguous(), view[:, None].contiguous(), intrinsics[:, None],
        width, height, eps2d=DILATION, near_plane=NEAR, packed=False, opacities=opacities.detach().contiguous(),
    )  # fmt: skip
    radii, means2d, depths, conics = (part[:, 0] for part in (radii, means2d, depths, conics))  # of one camera a row
    return Projected(means2d, conics, depths, radii.to(means.dtype))


def lists(projected: Projected, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Offsets [B,tiles down,tiles across] into the rows [M] of splats, tile by tile in depth order."""
    height, width = size
    across, down = -(-width // TILE), -(-height // TILE)
    means2d, _, depths, extents = (part.detach().contiguous() for part in projected)
    _, keys, ids = isect_tiles(means2d, extents.to(torch.int32), depths, TILE, across, down)
    return isect_offset_encode(keys, len(means2d), across, down), ids


def draw(
    projected: Projected, opacities: Tensor, features: Tensor, found: tuple[Tensor, Tensor], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:  # [B,H,W,F], [B,H,W,1]
    """Composites the `lists`."""
    height, width = size
    means2d, conics = projected.means2d.contiguous(), projected.conics.contiguous()
    return rasterize_to_pixels(means2d, conics, features.contiguous(), opacities.contiguous(), width, height, TILE, *found)


def composite(
    projected: Projected,
    opacities: Tensor,  # [B,N]
    features: Tensor,  # [B,N,F]
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:  # [B,F,H,W], [B,H,W]
    """As `torch.composite`."""
    image, alpha = draw(projected, opacities, features, lists(projected, size), size)
    return image.permute(0, 3, 1, 2), alpha[..., 0]
