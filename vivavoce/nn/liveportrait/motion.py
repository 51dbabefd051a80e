"""M: a picture -> canonical key points, head pose, expression (a ConvNeXt V2 tiny with seven linear heads).

ConvNeXt V2: Woo et al., CVPR 2023. Attributes bear the names of the published state dict.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

BINS = 66  # of 3 degrees each, per angle


class LayerNorm(nn.Module):
    """Over the channels of each place, whichever axis they are."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(self.axis, -1)
        return functional.layer_norm(last, self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, self.axis)


class ResponseNorm(nn.Module):
    """GRN: each channel weighed by its length over the picture, relative to the mean length of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:  # [T,H,W,C]
        length = x.square().sum((1, 2), keepdim=True).clamp_min(1e-20).sqrt()  # the root of 0 has no gradient
        return self.gamma * (x * (length / (length.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class Block(nn.Module):
    """Depthwise 7x7, layer norm, four times as wide and back, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = LayerNorm(channels, -1)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = ResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # [T,C,H,W]
        inner = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        inner = self.pwconv2(self.grn(functional.gelu(self.pwconv1(inner))))
        return x + inner.permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """The published file's `detector`."""

    def __init__(self, points: int, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), LayerNorm(widths[0], 1))
        downs = [nn.Sequential(LayerNorm(a, 1), nn.Conv2d(a, b, 2, stride=2)) for a, b in pairwise(widths)]
        self.downsample_layers = nn.ModuleList([stem, *downs])
        self.stages = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(d))) for d, w in zip(depths, widths))
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        for name, count in (
            ("kp", 3 * points),
            ("scale", 1),
            ("pitch", BINS),
            ("yaw", BINS),
            ("roll", BINS),
            ("t", 3),
            ("exp", 3 * points),
        ):
            self.add_module(f"fc_{name}", nn.Linear(widths[-1], count))

    def forward(self, x: Tensor) -> Tensor:  # [T,3,H,W] -> [T,C]
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.norm(x.mean((-2, -1)))


class MotionExtractor(nn.Module):
    """28,118,728 parameters at the published widths."""

    def __init__(self, points: int = 21, depths: tuple[int, ...] = (3, 3, 9, 3), widths: tuple[int, ...] = (96, 192, 384, 768)) -> None:
        super().__init__()
        self.detector = Backbone(points, depths, widths)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[T,3,H,W] in 0..1 -> the seven heads: kp and exp [T,3K], scale [T,1], t [T,3]; pitch, yaw and roll [T,66] scores of bins."""
        x, net = self.detector(images), self.detector
        names = ("pitch", "yaw", "roll", "t", "exp", "scale", "kp")
        return {name: net.get_submodule(f"fc_{name}")(x) for name in names}
