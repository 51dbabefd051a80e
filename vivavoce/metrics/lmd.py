"""Landmark distances: do the lips have the right shape? 68-point set; always mean-centred, so place does not count.

`lmd` is what the radiance-field family prints (Chen et al., ECCV 2018; ER-NeRF's normaliser): px at the evaluated size, mean over
points and frames. M-LMD and F-LMD of the portrait family (EAT's evaluation) are the same with the mouth and with all 68 points, on
aligned crops of 256 px: `lmd(..., part=MOUTH)` and `lmd(..., part=FACE)` on such crops. LVD is the same of velocities.
"""

from __future__ import annotations

from torch import Tensor

from vivavoce.metrics.checked import checked

MOUTH = slice(48, 68)  # of the 68-point set
EYES = slice(36, 48)
FACE = slice(0, 68)


def lmd(landmarks: Tensor, targets: Tensor, part: slice = MOUTH) -> Tensor:  # [T,68,2] px x2 -> [T] px
    """Mean distance of a part's points, each set minus its own mean: shape alone counts, not place."""
    checked("LMD", landmarks, targets)
    return (_centred(landmarks[:, part]) - _centred(targets[:, part])).norm(dim=-1).mean(1)


def lvd(landmarks: Tensor, targets: Tensor, part: slice = FACE) -> Tensor:  # [T,68,2] px x2 -> [T-1] px a frame
    """Landmark velocity difference: the same of the way the points go from one frame to the next."""
    checked("LVD", landmarks, targets, least=2)
    return (_centred(landmarks[:, part]).diff(dim=0) - _centred(targets[:, part]).diff(dim=0)).norm(dim=-1).mean(1)


def _centred(points: Tensor) -> Tensor:  # [T,P,2]
    return points - points.mean(1, keepdim=True)
