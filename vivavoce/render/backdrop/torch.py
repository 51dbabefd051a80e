"""The body over the plate in plain torch: any device, differentiable. Contract as in the package."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def draw(picture: Tensor, plate: Tensor, flow: Tensor, affine: Tensor, field: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Shapes as in backdrop.draw."""
    fine = functional.interpolate(flow, size=size, mode="bilinear", align_corners=True)
    still = functional.affine_grid(affine, [len(affine), 4, *size], align_corners=False)
    if field is not None:
        still = still - functional.grid_sample(field, still, padding_mode="border", align_corners=True).permute(0, 2, 3, 1)
    grid = still + fine.permute(0, 2, 3, 1)
    pages = picture.expand(len(affine), -1, -1, -1)
    moved = functional.grid_sample(pages, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved[:, :3] + (1 - moved[:, 3:].clamp(0, 1)) * plate
