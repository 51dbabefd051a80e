"""Landmark distance: do the lips have the right shape? (Chen et al., ECCV 2018; computed as the radiance-field family does.)"""

from __future__ import annotations

from torch import Tensor

MOUTH = slice(48, 68)  # of the 68-point set
EYES = slice(36, 48)


def lmd(landmarks: Tensor, targets: Tensor, part: slice = MOUTH) -> Tensor:  # [T,68,2] px x2 -> [T] px
    """Mean distance of a part's points, each set minus its own mean: shape alone counts, not place."""
    a, b = landmarks[:, part], targets[:, part]
    difference = (a - a.mean(1, keepdim=True)) - (b - b.mean(1, keepdim=True))
    return difference.norm(dim=-1).mean(1)
