"""A made-up person whose pose, mouth, masks and speech are known exactly: for contract and method tests without any download."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vivavoce.face import pose
from vivavoce.types import HOP, Camera, Clip, InputError, Motion, Rows

FEATURES = 8  # D of the made-up speech features
SPACES = {"blendshapes": 52, "landmarks": 204, "bfm": 70, "keypoints": 63}  # motion space -> numbers of an expression


class LoudnessEncoder:
    """A speech encoder with known answers: dimension k of a step is the loudness of its 320 samples to the power 1 + k / 8."""

    name, dim, lookahead = "whisper", FEATURES, 20

    def start(self) -> Tensor:
        return torch.zeros(0)

    def push(self, samples: Tensor, state: Tensor, last: bool = False) -> tuple[Tensor, Tensor]:
        kept = torch.cat([state, samples])
        if last:
            kept = torch.nn.functional.pad(kept, (0, -len(kept) % HOP))
        whole = len(kept) // 320
        loud = kept[: whole * 320].reshape(whole, 320).square().mean(1, keepdim=True).sqrt()
        return loud ** (1 + torch.arange(FEATURES) / 8), kept[whole * 320 :]


def expression(space: str, opening: Tensor) -> Tensor:  # [T] -> [T,E]
    """An open mouth in a motion space: jawOpen; the lower lip and the jaw down, in cm; one coefficient."""
    code = torch.zeros(len(opening), SPACES.get(space, 52))
    if space == "landmarks":
        down = [3 * point + 1 for point in (5, 6, 7, 8, 9, 10, 11, *range(55, 60), 65, 66, 67)]  # y of jaw and lower lip
        code[:, down] = -opening[:, None]
    else:
        code[:, 0 if space == "bfm" else 25] = opening
    return code


class SyntheticPerson:
    """A Source like data/person.py's, of `count` frames: an ellipsoid head that turns, blinks and opens its mouth with the sound.

    World: metres, OpenGL axes (x right, y up, z toward the viewer); the head is an ellipsoid of 0.075 x 0.10 x 0.08 at 0.
    """

    def __init__(
        self, size: int = 48, count: int = 24, window: tuple[int, int] = (8, 8), dim: int = FEATURES, space: str = "blendshapes"
    ) -> None:
        self.size, self.count, self.window, self.dim, self.space = (size, size), count, window, dim, space
        self.rows = torch.arange(count)
        t = torch.arange(count) / 25
        self.opening = 0.5 - 0.5 * torch.cos(2 * math.pi * 2.5 * t)  # [T] mouth, 0 shut to 1 open
        self.yaw = 0.15 * torch.sin(2 * math.pi * 0.7 * t)  # [T] rad, of the camera about the head: the head's own yaw is its negative
        self.mesh = self._mesh()
        ramp = torch.linspace(0.55, 0.8, size)
        self.background = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), torch.full((size, size), 0.6)])
        self.camera = self._camera()

    def __len__(self) -> int:
        return self.count

    def audio(self) -> Tensor:  # [T*640]
        loud = self.opening.repeat_interleave(HOP)
        return loud * torch.sin(2 * math.pi * 220 * torch.arange(len(loud)) / 16000)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        index = self.rows[rows] if not isinstance(rows, list | range) else self.rows[list(rows)]
        every = self._fields(index)
        wanted = set(every) if needs is None else set(needs)
        if unknown := wanted - set(every):
            raise InputError("synthetic person", f"does not hold {sorted(unknown)}")
        return Clip(**{k: v for k, v in every.items() if k in wanted or k == "index"})

    def _mesh(self) -> Tensor:  # [468,3]
        k = torch.arange(468) + 0.5  # a golden spiral over the front half
        y, angle = 1 - 2 * k / 468, math.pi * (1 + math.sqrt(5)) * k
        ring = (1 - y * y).sqrt()
        return torch.stack([0.075 * ring * angle.cos(), 0.10 * y, 0.08 * (ring * angle.sin()).abs()], 1)

    def _camera(self) -> Camera:
        pose = torch.eye(4).repeat(self.count, 1, 1)
        cos, sin, distance = self.yaw.cos(), self.yaw.sin(), 0.7
        pose[:, :3, 0] = torch.stack([cos, torch.zeros_like(cos), -sin], 1)  # camera x
        pose[:, :3, 1] = torch.tensor([0.0, -1.0, 0.0])  # camera y points down
        pose[:, :3, 2] = torch.stack([-sin, torch.zeros_like(cos), -cos], 1)  # camera z points at the head
        pose[:, :3, 3] = -distance * pose[:, :3, 2]
        size = self.size[0]
        return Camera(pose, torch.full((self.count, 2), 2.2 * size), torch.full((self.count, 2), size / 2.0))

    def _project(self, points: Tensor, index: Tensor) -> Tensor:  # [T,P,3] or [P,3] -> [T,P,2] px
        camera = self.camera[index]
        turned = (points - camera.pose[:, None, :3, 3]) @ camera.pose[:, :3, :3]
        return turned[..., :2] / turned[..., 2:] * camera.focal[:, None] + camera.center[:, None]

    def _fields(self, index: Tensor) -> dict[str, object]:
        size, count = self.size[0], len(index)
        grid = torch.arange(size) + 0.5
        y, x = torch.meshgrid(grid, grid, indexing="ij")
        middle = self._project(torch.tensor([[0.0, 0.0, 0.0]]), index)[:, 0]
        lips = self._project(torch.tensor([[0.0, -0.045, 0.066]]), index)[:, 0]
        px = 2.2 * size / 0.7  # px a metre at the head
        head = (((x - middle[:, :1, None]) / (0.075 * px)) ** 2 + ((y - middle[:, 1:, None]) / (0.10 * px)) ** 2) < 1
        torso = (y > size * 0.78).expand(count, size, size) & ((x - size / 2).abs() < size * 0.36)
        high = (0.004 + 0.014 * self.opening[index]) * px
        inner = (((x - lips[:, :1, None]) / (0.02 * px)) ** 2 + ((y - lips[:, 1:, None]) / high[:, None, None]) ** 2) < 1
        frames = self.background.repeat(count, 1, 1, 1)
        for mask, colour in ((torso, (0.2, 0.25, 0.45)), (head, (0.85, 0.65, 0.55)), (inner & head, (0.3, 0.08, 0.1))):
            frames = torch.where(mask[:, None], torch.tensor(colour)[:, None, None], frames)
        labels = torch.zeros(count, size, size, dtype=torch.uint8)
        labels[torso], labels[head] = 3, 1
        plate = torch.cat([torch.tensor((0.2, 0.25, 0.45))[:, None, None].expand(count, 3, size, size), torso[:, None].float()], 1)
        half = torch.cat([torch.full((count, 1), 0.028 * px), high[:, None] + 0.008 * px], 1)
        points = self._project(self.mesh, index)
        dense = torch.cat([points, points[:, :10]], 1)
        return {
            "index": index,
            "frames": frames,
            "labels": labels,
            "torso": plate * torso[:, None],
            "background": self.background.expand(count, -1, -1, -1),
            "body": torch.eye(2, 3).repeat(count, 1, 1),  # its torso does not move
            "camera": self.camera[index],
            "speech": self._speech(index),
            "audio": self.audio().reshape(-1, HOP)[index],
            "eyes": torch.ones(count, 2),
            "units": torch.nn.functional.one_hot(torch.full((count,), 25), 52) * self.opening[index, None],
            "motion": self._motion(index),
            "points": torch.cat([dense, torch.zeros(count, 478, 1)], 2),
            "landmarks": self._landmarks(index, lips, high, px),
            "mouth": torch.cat([lips - half, lips + half], 1).clamp(0, size),
        }

    def _motion(self, index: Tensor) -> Motion:
        seen = pose.motion_from_camera(self.camera[index])
        return Motion(seen.rotation, seen.translation, seen.scale, expression(self.space, self.opening[index]), self.space)

    def _landmarks(self, index: Tensor, lips: Tensor, high: Tensor, px: float) -> Tensor:  # [T,68,2]
        angle = torch.linspace(math.pi, -math.pi, 21)[:20]
        ring = torch.stack([0.022 * px * angle.cos().expand(len(index), -1), -high[:, None] * angle.sin()], 2)
        rest = self._project(self.mesh[:48], index)
        return torch.cat([rest, lips[:, None] + ring], 1)

    def _speech(self, index: Tensor) -> Tensor:  # [T,W,D]
        loud = (self.opening / math.sqrt(2)).repeat_interleave(2)
        places = 2 * index[:, None] - self.window[0] + torch.arange(sum(self.window))
        inside = (places >= 0) & (places < len(loud))
        power = 1 + torch.arange(self.dim) / 8
        return (loud[places.clamp(0, len(loud) - 1)] * inside)[..., None] ** power
