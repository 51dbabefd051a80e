"""Implicit key points: what M measures, how pose and expression make them, and how motion passes from one face to another.

A face's points are x = s (x_c R + d) + t (LivePortrait, eq. 2): canonical points x_c [K,3], rotation R of row vectors, expression d
[K,3], scale s, shift t of which only x and y count. Axes are the picture's: x right, y down, z away from the viewer, -1..1 over the
crop. In a `Motion` of the space "keypoints"

    rotation     rad, in the one convention of face/pose.py (converted here and nowhere else)
    translation  t, in halves of the crop's side
    scale        s
    expression   d, flattened [T,3K]

Motion that drives a face is relative (`relative`): its rotation is what follows the face's own, its scale multiplies, translation and
expression are added; a Motion of zeros and scale one is the face as it is. So a generator need not know whom it drives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vivavoce.face.pose import euler_from_matrix, matrix_from_euler
from vivavoce.types import Motion

SPACE = "keypoints"
POINTS = 21
BIN, ZERO = 3.0, 97.5  # degrees a bin, and the angle of bin 0 below none
LIPS = (6, 12, 14, 17, 19, 20)  # points that the mouth moves
EYES = (11, 13, 15, 16, 18)
# Coordinates that carry expression between faces: what remains holds identity, and flickers when it is replaced.
CARRIED = {**dict.fromkeys((1, 2, 6, *range(11, 21)), "xyz"), 3: "y", 4: "y", 5: "z", 8: "z", 9: "yz"}
REGIONS = ("all", "expression", "pose", "lips", "eyes")


def mask(region: str = "carried") -> Tensor:  # -> [63] of 0 and 1
    """Expression values of a region: "carried", "lips", "eyes"; "all" and "expression": every one; "pose": none."""
    chosen = torch.zeros(POINTS, 3)
    if region in ("all", "expression"):
        chosen[:] = 1
    elif region in ("lips", "eyes"):
        chosen[list(LIPS if region == "lips" else EYES)] = 1
    elif region == "carried":
        for point, axes in CARRIED.items():
            chosen[point, ["xyz".index(a) for a in axes]] = 1
    return chosen.flatten()


def angle(scores: Tensor) -> Tensor:  # [T,66] -> [T] rad
    """The mean angle of the bins."""
    bins = torch.arange(scores.shape[1], device=scores.device, dtype=torch.float32)
    return torch.deg2rad((scores.float().softmax(1) * bins).sum(1) * BIN - ZERO)


def turning(rotation: Tensor) -> Tensor:  # [T,3] rad, face/pose.py -> [T,3,3]
    """R for row vectors in the picture's axes. Differentiable."""
    return matrix_from_euler(_flipped(rotation)).transpose(-1, -2)


def angles(turn: Tensor) -> Tensor:  # [T,3,3] -> [T,3] rad, face/pose.py
    """Inverse of `turning`."""
    return _flipped(euler_from_matrix(turn.transpose(-1, -2)))


def _flipped(rotation: Tensor) -> Tensor:  # [T,3] rad -> [T,3] rad
    """Angles about axes of which y and z point the other way (no constant is fetched from the CPU: a CUDA graph could not)."""
    pitch, yaw, roll = rotation.unbind(-1)
    return torch.stack([pitch, -yaw, -roll], -1)


def authors_turning(degrees: Tensor) -> Tensor:  # [T,3] pitch, yaw, roll in the authors' order -> [T,3,3]
    """R of the published code: the transpose of Rz(roll) Ry(yaw) Rx(pitch) in the picture's axes."""
    (cx, cy, cz), (sx, sy, sz) = (f(torch.deg2rad(degrees)).unbind(-1) for f in (torch.cos, torch.sin))
    columns = [
        torch.stack([cy * cz, cy * sz, -sy], -1),
        torch.stack([sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy], -1),
        torch.stack([cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy], -1),
    ]
    return torch.stack(columns, -2)


def authors_degrees(turn: Tensor) -> Tensor:  # [T,3,3] -> [T,3] pitch, yaw, roll
    """Inverse of `authors_turning`: the angles that M's bins, JoyVASA and Ditto speak of."""
    pitch, yaw = torch.atan2(turn[..., 1, 2], turn[..., 2, 2]), torch.asin(-turn[..., 0, 2].clamp(-1, 1))
    return torch.rad2deg(torch.stack([pitch, yaw, torch.atan2(turn[..., 0, 1], turn[..., 0, 0])], -1))


def measured(heads: Mapping[str, Tensor]) -> tuple[Tensor, Motion]:
    """M's heads -> canonical points [T,K,3] and the Motion."""
    degrees = torch.rad2deg(torch.stack([angle(heads[name]) for name in ("pitch", "yaw", "roll")], -1))
    turn = authors_turning(degrees)
    points = heads["kp"].float().unflatten(1, (-1, 3))
    return points, Motion(angles(turn), heads["t"].float(), heads["scale"].float(), heads["exp"].float(), SPACE)


def compose(points: Tensor, motion: Motion) -> Tensor:  # [T,K,3] -> [T,K,3]
    """x = s (x_c R + d) + t, without t's depth."""
    shift = torch.cat([motion.translation[:, :2], torch.zeros_like(motion.translation[:, :1])], 1)
    moved = points @ turning(motion.rotation) + motion.expression.unflatten(1, (-1, 3))
    return motion.scale[:, None] * moved + shift[:, None]


def relative(driving: Motion, first: Motion, region: str = "all") -> Motion:
    """What changed since `first` (one row, or as many as driving). Scale changes for "all" alone, the head for "all" and "pose"."""
    rotation = angles(turning(driving.rotation) @ turning(first.rotation).transpose(-1, -2))
    shift, scale = driving.translation - first.translation, driving.scale / first.scale
    change = (driving.expression - first.expression) * mask(region).to(driving.expression)
    if region not in ("all", "pose"):
        rotation, shift = torch.zeros_like(rotation), torch.zeros_like(shift)
    return Motion(rotation, shift, scale if region == "all" else torch.ones_like(scale), change, SPACE)


def follow(source: Motion, change: Motion) -> Motion:
    """The source (one row) after a relative motion."""
    rotation = angles(turning(change.rotation) @ turning(source.rotation))
    return Motion(
        rotation, source.translation + change.translation, source.scale * change.scale, source.expression + change.expression, SPACE
    )


def replaced(source: Motion, driving: Motion, region: str = "all") -> Motion:
    """The source (one row) with the driving face's absolute head and expression; identity stays: its scale, and expression not CARRIED."""
    rows = len(driving)
    taken = mask(region).to(driving.expression)
    if region in ("all", "expression"):
        taken = mask("carried").to(taken)
    head = driving if region in ("all", "pose") else source
    return Motion(
        head.rotation.expand(rows, -1),
        head.translation.expand(rows, -1),
        source.scale.expand(rows, -1),
        torch.lerp(source.expression, driving.expression, taken),
        SPACE,
    )


def volume(points: Tensor) -> float:  # [K,3]
    """Of the points' convex hull: the measure of a face's size that the published code takes."""
    from scipy.spatial import ConvexHull

    return float(ConvexHull(points.detach().cpu().numpy()).volume)


def milder(source: Tensor, first: Tensor, driven: Tensor) -> Tensor:  # [1,K,3] twice, [T,K,3] -> [T,K,3]
    """Movement scaled by the faces' sizes ("expression-friendly"): the root of the ratio of their hulls' volumes."""
    return source + (driven - first) * math.sqrt(volume(source[0]) / max(volume(first[0]), 1e-12))
