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


def composite(
    projected: Projected,
    opacities: Tensor,  # [B,N]
    features: Tensor,  # [B,N,F]
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:  # [B,F,H,W], [B,H,W]
    """As `torch.composite`."""
    height, width = size
    across, down = -(-width // TILE), -(-height // TILE)
    with torch.no_grad():
        radii = projected.extents.to(torch.int32)
        _, keys, ids = isect_tiles(projected.means2d.contiguous(), radii, projected.depths.contiguous(), TILE, across, down)
        offsets = isect_offset_encode(keys, len(opacities), across, down)
    image, alpha = rasterize_to_pixels(
        projected.means2d.contiguous(), projected.conics.contiguous(), features.contiguous(), opacities.contiguous(),
        width, height, TILE, offsets, ids,
    )  # fmt: skip
    return image.permute(0, 3, 1, 2), alpha[..., 0]
