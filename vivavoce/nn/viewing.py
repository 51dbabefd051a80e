"""How a person was seen: size and focal length of the training pictures, and the head's pose as small numbers with known statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.nn.avatar import pose_code
from vivavoce.types import Camera


def seen(points: Tensor, camera: Camera) -> Tensor:  # [T,V,3] metres -> [T,V,3] px, px, metres before the camera
    """Where points of the head are seen, as the rasteriser wants them."""
    turned = (points - camera.pose[:, None, :3, 3]) @ camera.pose[:, :3, :3]
    return torch.cat([turned[..., :2] / turned[..., 2:] * camera.focal[:, None] + camera.center[:, None], turned[..., 2:]], 2)


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
        u, _, v = torch.linalg.svd(camera.pose[:, :3, :3].mean(0))
        self.middle.copy_(u @ v)
        self.focal.copy_(camera.focal[0, 0])
        raw = pose_code(camera, self.middle)
        self.mean.copy_(raw.mean(0))
        self.deviation.copy_(raw.std(0).clamp_min(1e-3))

    def code(self, camera: Camera) -> Tensor:  # T rows -> [T,6]
        """The head's pose in standard deviations of the training rows, no farther than three; blurred while training."""
        code = ((pose_code(camera, self.middle) - self.mean) / self.deviation).clamp(-3, 3)
        return code + self.noise * torch.randn_like(code) if self.training else code

    def canvas(self, camera: Camera) -> tuple[int, int]:
        """H, W of the frames that such cameras see: twice the focal length of training gives twice its height and width."""
        zoom, (x, y) = float(camera.focal[0, 0]) / float(self.focal), camera.center[0].tolist()
        height, width = self.size.tolist()
        near = zip((height * zoom, width * zoom), (2 * y, 2 * x), strict=True)  # a centred camera knows the last pixel too
        rows, columns = (round(middle if abs(middle - scaled) < 2 else scaled) for scaled, middle in near)
        return rows, columns
