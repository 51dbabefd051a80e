"""The CUDA back end of `render.mesh`: a z-buffer of 64-bit words that the triangles' programs lower.

A program is one warp and goes through the boxes of a few triangles, 32 pixels at a time. A word is depth, then number: the smallest is
the nearest triangle and, of equal depths, the first. Who comes first does not matter, so pictures are the same each time.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from vivavoce.render.mesh import EDGE
from vivavoce.render.mesh.triton_raster import lower

EACH = 4  # triangles a program
EMPTY = torch.iinfo(torch.int64).max


def rasterize(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:  # [B,V,3] f32, [F,3], (H, W) -> [B,H,W] int64
    """See the package."""
    words = torch.full((len(target), *size), EMPTY, dtype=torch.int64, device=target.device)
    if words.numel() and len(triangles):
        corners = target[:, triangles].contiguous()  # [B,F,3,3]: one load of nine numbers a triangle
        total = len(target) * len(triangles)
        lower[(triton.cdiv(total, EACH),)](corners, words, total, len(triangles), *size, EDGE, EACH=EACH, BLOCK=32, num_warps=1)
    return torch.where(words == EMPTY, -1, words & 0xFFFFFFFF)

