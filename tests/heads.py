"""Synthetic talking heads: landmarks whose pose, focal length, shape and expression are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from vivavoce.face import mesh, pose
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.face.regions import LIPS_INNER, LIPS_OUTER
from vivavoce.types import Camera, Motion


@dataclass
class Head:
    """`points` are what a landmark network would give; everything else is the truth behind them."""

    points: Tensor  # [T,478,3] px
    clean: Tensor  # [T,468,2] px, without noise
    camera: Camera
    rotation: Tensor  # [T,3] rad
    shape: Tensor  # [468,3] metres
    size: tuple[int, int]


def bumps(shape: Tensor, count: int, amount: float, generator: torch.Generator) -> Tensor:  # -> [468,3] metres
    """A smooth, left-right symmetric change of the face: another person."""
    flip = torch.tensor([-1.0, 1.0, 1.0])
    change = torch.zeros_like(shape)
    for _ in range(count):
        middle = shape[int(torch.randint(len(shape), (1,), generator=generator))]
        push = torch.randn(3, generator=generator) * amount
        for side in (torch.ones(3), flip):
            change += torch.exp(-((shape - middle * side).norm(dim=1, keepdim=True) / 0.04).square()) * push * side
    return change


def talking_head(
    frames: int = 200,
    focal: float = 1200.0,
    distance: float = 0.9,
    noise: float = 0.6,
    size: int = 512,
    turning: float = 1.0,
    seed: int = 0,
) -> Head:
    """A head that nods, turns (with a quick turn in the middle) and speaks."""
    g = torch.Generator().manual_seed(seed)
    canonical = torch.from_numpy(mesh.vertices())
    shape = canonical + bumps(canonical, 5, 0.0025, g)
    t = torch.arange(frames) / 25
    quick = 0.25 * torch.sigmoid((t - t.mean()) / 0.06)  # most of the way in 8 frames
    rotation = torch.stack(
        [0.10 * torch.sin(2.1 * t) + 0.02 * torch.sin(9 * t), 0.18 * torch.sin(1.3 * t) + quick, 0.06 * torch.sin(0.9 * t)], 1
    )
    rotation = rotation * turning
    drift = torch.stack([0.02 * torch.sin(0.8 * t), 0.01 * torch.sin(1.1 * t), 0.015 * torch.sin(0.5 * t)], 1) * turning
    motion = Motion(rotation, drift + torch.tensor([0, 0, -distance]), torch.ones(frames, 1), torch.zeros(frames, 0))
    opening = (0.5 - 0.5 * torch.cos(2 * np.pi * 3.1 * t)) * (0.5 + 0.5 * torch.sin(1.7 * t))
    jaw = torch.sigmoid((-0.045 - canonical[:, 1]) / 0.008)[:, None] * torch.tensor([0.0, -0.018, -0.004])
    lips = torch.zeros(468, 3)
    lips[[*LIPS_OUTER, *LIPS_INNER], 2] = 0.004
    rounding = torch.sin(5.3 * t)
    mesh_now = shape + opening[:, None, None] * jaw + rounding[:, None, None] * lips
    camera = pose.camera_from_motion(motion, torch.tensor([focal]), torch.tensor([size / 2, size / 2]))
    clean = pose.project(camera, mesh_now)
    turned = mesh_now @ pose.matrix_from_euler(rotation).transpose(1, 2)
    deep = -(turned[..., 2] - turned[..., 2].mean(1, keepdim=True)) * focal / distance
    seen = torch.cat(
        [clean + noise * torch.randn(clean.shape, generator=g), (deep + 3 * torch.randn(deep.shape, generator=g))[..., None]], 2
    )
    return Head(torch.cat([seen, seen[:, :10]], 1), clean, camera, rotation, shape, (size, size))


@lru_cache(maxsize=1)
def recorded(video: Path, frames: int = 75) -> Tensor:  # -> [T,478,3] px
    """What our landmarks are on the first frames of a recording, each of which shows a face."""
    landmarker, previous, rows = Landmarker(), None, []
    with av.open(str(video)) as file:
        for frame in islice(file.decode(video=0), frames):
            previous = landmarker.follow(frame.to_ndarray(format="rgb24"), previous)
            assert isinstance(previous, Face)
            rows.append(torch.from_numpy(previous.points))
    return torch.stack(rows)


def turn_errors(found: Tensor, truth: Tensor) -> tuple[Tensor, float]:  # [T,3] rad each -> [T] degrees, degrees
    """Error of each rotation, after the one constant turn between the two head spaces, and that turn."""
    a, b = pose.matrix_from_euler(found), pose.matrix_from_euler(truth)
    left, _, right = torch.linalg.svd((b.transpose(1, 2) @ a).mean(0))
    gauge = left @ right
    away = pose.axis_from_matrix(a @ (b @ gauge).transpose(1, 2)).norm(dim=1)
    return away.rad2deg(), float(pose.axis_from_matrix(gauge).norm().rad2deg())
