"""Trilinear sampling of volumes, also where a back end has none of its own (Apple's MPS, ONNX before opset 20).

Coordinates are those of `torch.nn.functional.grid_sample` with `align_corners=False`: (x, y, z) in -1..1, -1 and 1 being the outer
faces of the first and the last cell; outside lies zero. `gathered` is written in operations that every back end has.

`shifted` samples along a grid that is only scaled and moved, axis by axis. Trilinear weights are a product over the axes, so such a
sampling is three small matrix products: no gather, no five-dimensional grid, and the same numbers up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NATIVE = frozenset({"cpu", "cuda"})  # devices on which torch itself samples volumes


def grid_sample3d(volume: Tensor, grid: Tensor) -> Tensor:  # [B,C,D,H,W], [B,d,h,w,3] -> [B,C,d,h,w]
    """Values of the volume at the grid's places, in the volume's dtype; with gradients in both."""
    if volume.device.type in NATIVE:
        # half precision has a place wrong by up to a 64th of a cell: the grid's precision decides
        return functional.grid_sample(volume.to(grid.dtype), grid, align_corners=False).to(volume.dtype)
    return gathered(volume, grid)


def gathered(volume: Tensor, grid: Tensor) -> Tensor:  # [B,C,D,H,W], [B,d,h,w,3] -> [B,C,d,h,w]
    """`grid_sample3d` by eight gathers."""
    batch, channels, depth, height, width = volume.shape
    size = grid.new_tensor([width, height, depth])
    place = ((grid + 1) * size - 1) / 2  # [B,d,h,w,3] cells
    low = place.floor()
    share = place - low
    flat = volume.reshape(batch, channels, depth * height * width)
    out: Tensor | None = None
    for corner in range(8):
        step = grid.new_tensor([corner & 1, corner >> 1 & 1, corner >> 2])
        cell = low + step
        weight = (step * share + (1 - step) * (1 - share)).prod(-1)  # [B,d,h,w]
        weight = weight * ((cell >= 0) & (cell < size)).all(-1)
        x, y, z = torch.minimum(cell.clamp(min=0), size - 1).long().unbind(-1)
        index = ((z * height + y) * width + x).reshape(batch, 1, -1).expand(-1, channels, -1)
        value = flat.gather(2, index) * weight.reshape(batch, 1, -1).to(volume.dtype)
        out = value if out is None else out + value
    assert out is not None
    return out.reshape(batch, channels, *grid.shape[1:4])


def weights(places: Tensor, cells: int) -> Tensor:  # [...,n] in -1..1 -> [...,n,cells]
    """Share of each cell in the linear interpolation at each place; rows outside sum to less than one."""
    at = ((places + 1) * cells - 1) / 2
    return (1 - (at[..., None] - torch.arange(cells, device=places.device)).abs()).clamp(min=0)


def shifted(volume: Tensor, axes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A volume sampled along several axis-parallel grids.

    Args:
        volume: [B,C,D,H,W].
        axes: places along x [B,S,w], y [B,S,h] and z [B,S,d], in -1..1: the grid of slot s is their product.
    Returns:
        [B,S,C,d,h,w].
    """
    batch, channels, depth, height, width = volume.shape
    x, y, z = (weights(places, cells).to(volume.dtype) for places, cells in zip(axes, (width, height, depth), strict=True))
    slots = x.shape[1]
    along = volume.reshape(batch, -1, width) @ x.flatten(1, 2).transpose(1, 2)  # [B,C*D*H,S*w]: the volume is not repeated
    along = along.reshape(batch, channels, depth, height, slots, -1).permute(0, 4, 3, 1, 2, 5)  # [B,S,H,C,D,w]
    across = y @ along.reshape(batch, slots, height, -1)  # [B,S,h,C*D*w]
    across = across.reshape(batch, slots, y.shape[2], channels, depth, -1).permute(0, 1, 4, 3, 2, 5)  # [B,S,D,C,h,w]
    deep = z @ across.reshape(batch, slots, depth, -1)  # [B,S,d,C*h*w]
    return deep.reshape(batch, slots, z.shape[2], channels, y.shape[2], -1).transpose(2, 3)
