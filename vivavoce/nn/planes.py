"""Factorised 3-D feature fields: planes of dense features at several resolutions, read bilinearly.

`combine="multiply"` is K-planes (Fridovich-Keil et al., CVPR 2023, eq. 1: the product of the planes' features), "add" and
"concatenate" are the tri-plane forms (Chan et al., CVPR 2022; Li et al., ER-NeRF, ICCV 2023). Dense, not hashed: a head at
a finest resolution of 128 cells needs 50 thousand cells a level, fewer than a hash table has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PAIRS = ((0, 1), (0, 2), (1, 2))  # xy, xz, yz


class Planes(nn.Module):
    """Features of points in a box: [N,3] -> [N,width].

    Args:
        low, high: the box; points outside read the nearest border.
        resolutions: cells along each side, one number a level; the levels are concatenated.
        channels: features of a plane.
        combine: "multiply", "add" or "concatenate" the three planes of a level.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        low: tuple[float, float, float] = (-1.0, -1.0, -1.0),
        high: tuple[float, float, float] = (1.0, 1.0, 1.0),
        resolutions: tuple[int, ...] = (64, 128),
        channels: int = 16,
        combine: str = "multiply",
    ) -> None:
        super().__init__()
        if combine not in ("multiply", "add", "concatenate"):
            raise ValueError(f"combine is {combine!r}, not one of multiply, add, concatenate")
        self.combine = combine
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        # a product of three starts near 0.03 and differs between cells; sums start around zero
        self.levels = nn.ParameterList(
            nn.init.uniform_(torch.empty(3, channels, r, r), 0.1, 0.5)
            if combine == "multiply"
            else nn.init.uniform_(torch.empty(3, channels, r, r), -0.1, 0.1)
            for r in resolutions
        )
        self.width = len(resolutions) * channels * (3 if combine == "concatenate" else 1)

    def forward(self, points: Tensor) -> Tensor:  # [N,3] -> [N,width]
        where = (points - self.low) / (self.high - self.low) * 2 - 1
        pairs = torch.stack([where[:, list(pair)] for pair in PAIRS])[:, None]  # [3,1,N,2]
        levels = []
        for level in self.levels:
            read = functional.grid_sample(level, pairs, mode="bilinear", padding_mode="border", align_corners=True)[:, :, 0]
            if self.combine == "multiply":
                levels.append(read[0] * read[1] * read[2])
            elif self.combine == "add":
                levels.append(read.sum(0))
            else:
                levels.append(read.flatten(0, 1))
        return torch.cat(levels).t()

    def variation(self) -> Tensor:  # -> scalar
        """Mean squared difference of neighbouring cells: small = a smooth field."""
        terms = [p.diff(dim=2).square().mean() + p.diff(dim=3).square().mean() for p in self.levels]
        return torch.stack(terms).mean()
