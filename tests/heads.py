"""Synthetic talking heads: landmarks whose pose, focal length, shape and expression are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vivavoce.face import mesh, pose, regions
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.face.regions import LIPS_INNER, LIPS_OUTER
from vivavoce.render import mesh as draw
from vivavoce.types import Camera, Motion

PARTS = {"head": regions.HEAD, "neck": regions.NECK, "cloth": regions.CLOTH, "hair": regions.HAIR, "mouth": regions.INNER_MOUTH}
COLOURS = {"head": (210, 170, 140), "neck": (140, 130, 125), "cloth": (50, 60, 120), "hair": (75, 55, 45), "mouth": (80, 20, 25)}
SKULL = torch.tensor([[0.0, 0.015, -0.05], [0.088, 0.112, 0.115]])  # metres: middle and half axes of the ellipsoid that hair lies on
MARKS = torch.tensor([[1.1, 0.6, 0], [0.5, -1.3, 0], [0, 2.1, 0.8], [1.7, 0, -1], [3.1, 1.2, -0.7], [-1.9, 2.7, 0]])  # rad a cm
HAIRLINE = 0.0  # metres: hair hangs so low
FINER = 2  # pixels drawn along each side of one


@dataclass
class Head:
    """`points` are what a landmark network would give; everything else is the truth behind them."""

    points: Tensor  # [T,478,3] px
    clean: Tensor  # [T,468,2] px, without noise
    camera: Camera
    rotation: Tensor  # [T,3] rad
    shape: Tensor  # [468,3] metres
    speaking: Tensor  # [T,468,3] metres, the shape with its expressions
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
    return Head(torch.cat([seen, seen[:, :10]], 1), clean, camera, rotation, shape, mesh_now, (size, size))


def shaded(part: str, points: Tensor) -> Tensor:  # [N,3] metres, of the head at rest -> [N,3] 0..255
    """The colour of a part with marks that belong to its places: in the mean as strong as light and features leave on a face."""
    marks = ((100 * points) @ MARKS.T + torch.arange(len(MARKS))).sin().sum(1, keepdim=True)
    return (torch.tensor(COLOURS[part]) * (1 + 0.1 * marks)).clamp(0, 255)


def scalp(camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor]:  # one camera -> [N] places in the picture, [N,3] metres
    """Where the pixels' rays meet the skull, as far down as hair hangs."""
    place = torch.arange(size[0] * size[1])
    at = torch.stack([place % size[1], place // size[1]], 1) + 0.5
    ways = torch.cat([(at - camera.center[0]) / camera.focal[0], torch.ones(len(at), 1)], 1) @ camera.pose[0, :3, :3].T / SKULL[1]
    start = (camera.pose[0, :3, 3] - SKULL[0]) / SKULL[1]
    a, b, c = ways.square().sum(1), ways @ start, start.square().sum() - 1
    inside = b.square() - a * c
    points = (start + ways * ((-b - inside.clamp(min=0).sqrt()) / a)[:, None]) * SKULL[1] + SKULL[0]
    hair = (inside > 0) & (points[:, 1] > HAIRLINE)
    return place[hair], points[hair]


def painted(head: Head, plate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [H,W,3] -> uint8 [T,H,W,3], uint8 [T,H,W]
    """Pictures of a head before a plate, and their labels: hair on a skull that turns with the face, marks in hair and skin."""
    height, width = head.size
    finer = (FINER * height, FINER * width)
    camera = Camera(head.camera.pose, FINER * head.camera.focal, FINER * head.camera.center)
    outline = FINER * head.clean
    turned = head.speaking - camera.pose[:, None, :3, 3]
    target = torch.cat([outline, (turned * camera.pose[:, None, :3, 2]).sum(2, keepdim=True)], 2)
    faces = torch.from_numpy(mesh.triangles()).long()
    seen = draw.covered(target, faces, draw.rasterize(target, faces, finer))
    skin = shaded("head", draw.carry(head.shape, seen)).round().byte()
    each = torch.bincount(seen.row, minlength=len(outline)).tolist()
    frames, labels = [], []
    for k, (place, colour) in enumerate(zip(seen.place.split(each), skin.split(each), strict=True)):
        frame, label = body(outline[k], plate)
        image, parts = torch.from_numpy(frame).reshape(-1, 3), torch.from_numpy(label).reshape(-1)
        where, points = scalp(camera[k : k + 1], finer)
        image[where], parts[where] = shaded("hair", points).round().byte(), PARTS["hair"]
        image[place], parts[place] = colour, PARTS["head"]
        inside = Image.new("1", finer[::-1])
        ImageDraw.Draw(inside).polygon([tuple(p) for p in outline[k, list(LIPS_INNER)].tolist()], fill=1, outline=1)
        frame[np.asarray(inside)], label[np.asarray(inside)] = COLOURS["mouth"], PARTS["mouth"]
        frames.append(np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX)))
        labels.append(label[FINER // 2 :: FINER, FINER // 2 :: FINER])
    return np.stack(frames), np.stack(labels)


def body(outline: Tensor, plate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [468,2] px, [H,W,3] -> as many finer pixels
    """Neck and shoulders before the plate, and their labels."""
    height, width = (FINER * side for side in plate.shape[:2])
    frame, labels = Image.fromarray(plate).resize((width, height), Image.Resampling.NEAREST), Image.new("L", (width, height))
    low, high = outline[list(regions.OVAL)].amin(0).tolist(), outline[list(regions.OVAL)].amax(0).tolist()
    middle, half = (low[0] + high[0]) / 2, (high[0] - low[0]) / 4
    for image, fill in ((frame, COLOURS), (labels, PARTS)):
        pen = ImageDraw.Draw(image)
        pen.rectangle([middle - half, (low[1] + high[1]) / 2, middle + half, 0.95 * height], fill=fill["neck"])
        shoulders = [(0.1, 1.0), (0.3, 0.86), (0.7, 0.86), (0.9, 1.0)]
        pen.polygon([(x * width, y * height) for x, y in shoulders], fill=fill["cloth"])
    return np.array(frame), np.array(labels)


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
