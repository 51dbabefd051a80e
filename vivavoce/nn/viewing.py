"""How a person was seen: the head's pose as small numbers with known statistics, and how large the frames are that a camera sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.types import Camera


def seen(points: Tensor, camera: Camera) -> Tensor:  # [T,V,3] metres -> [T,V,3] px, px, metres before the camera
    """Where points of the head are seen, as the rasteriser wants them."""
    turned = (points - camera.pose[:, None, :3, 3]) @ camera.pose[:, :3, :3]
    return torch.cat([turned[..., :2] / turned[..., 2:] * camera.focal[:, None] + camera.center[:, None], turned[..., 2:]], 2)


def pose_code(camera: Camera, center: Tensor) -> Tensor:  # T rows, [3,3] -> [T,6]
    """Small turn of the head away from `center` (axis times sine, rad) and its place before the camera (metres)."""
    turn = camera.pose[:, :3, :3] @ center.t()
    axis = torch.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1) / 2
    place = -(camera.pose[:, :3, :3].transpose(1, 2) @ camera.pose[:, :3, 3:])[..., 0]
    return torch.cat([axis, place], 1)


def pose_statistics(camera: Camera) -> tuple[Tensor, Tensor, Tensor]:  # T rows -> [3,3], [6], [6]
    """The mean turn of the cameras, and mean and standard deviation of their pose codes about it."""
    u, _, v = torch.linalg.svd(camera.pose[:, :3, :3].mean(0))
    code = pose_code(camera, u @ v)
    return u @ v, code.mean(0), code.std(0).clamp_min(1e-3)


def standard_pose(camera: Camera, center: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:  # T rows -> [T,6]
    """Pose codes in standard deviations of the training rows, no farther than three: nobody trained beyond."""
    return ((pose_code(camera, center) - mean) / deviation).clamp(-3, 3)


def canvas(camera: Camera, size: Tensor, focal: Tensor) -> tuple[int, int]:  # size [2], focal [] of the training pictures, px
    """H, W of the frames that such cameras see: twice the focal length of training gives twice its height and width."""
    told = [camera.focal[0, :1], camera.center[0], focal[None], size]
    now, x, y, trained, height, width = torch.cat([part.to(focal) for part in told]).tolist()  # one wait for the device
    zoom = now / trained
    near = zip((height * zoom, width * zoom), (2 * y, 2 * x), strict=True)  # a centred camera knows the last pixel too
    rows, columns = (round(middle if abs(middle - scaled) < 2 else scaled) for scaled, middle in near)
    return rows, columns


class Viewing(nn.Module):
    """Args:
    size: H, W of the training pictures.
    noise: standard deviations added to the pose code (not to the camera) while training: a pose known exactly is the number of
        its frame, and the frame is learned by heart.
    """

    size: Tensor
    focal: Tensor
    mean: Tensor
    deviation: Tensor
    middle: Tensor

    def __init__(self, size: tuple[int, int], noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("size", torch.tensor(size))
        self.register_buffer("focal", torch.tensor(float(size[0])))  # px, of the training pictures
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("deviation", torch.ones(6))
        self.register_buffer("middle", torch.eye(3))  # the mean turn of the cameras

    @torch.no_grad()
    def start(self, camera: Camera) -> None:
        """Statistics of the training rows."""
        self.focal.copy_(camera.focal[0, 0])
        for kept, value in zip((self.middle, self.mean, self.deviation), pose_statistics(camera), strict=True):
            kept.copy_(value)

    def code(self, camera: Camera) -> Tensor:  # T rows -> [T,6]
        """As `standard_pose`, blurred while training."""
        code = standard_pose(camera, self.middle, self.mean, self.deviation)
        return code + self.noise * torch.randn_like(code) if self.training else code

    def canvas(self, camera: Camera) -> tuple[int, int]:
        """As `canvas` above."""
        return canvas(camera, self.size, self.focal)
