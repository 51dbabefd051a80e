"""Convolution blocks of two or three axes that LivePortrait's networks are built from.

Attributes bear the names of the published state dicts. Batch norms that follow a convolution can be folded into it (`fold`).
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


class SameBlock(nn.Module):
    """Convolution 3x3, batch norm, ReLU (leaky by `slope`)."""

    def __init__(self, entering: int, leaving: int, slope: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(leaving)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:  # [B,C,H,W]
        return functional.leaky_relu(self.norm(self.conv(x)), self.slope)


class DownBlock(nn.Module):
    """Convolution, batch norm, ReLU, average over 2x2; a volume keeps its depth."""

    def __init__(self, entering: int, leaving: int, axes: int = 2) -> None:
        super().__init__()
        self.axes = axes
        self.conv: nn.Module = (nn.Conv2d if axes == 2 else nn.Conv3d)(entering, leaving, 3, padding=1)
        self.norm: nn.Module = (nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d)(leaving)

    def forward(self, x: Tensor) -> Tensor:  # [B,C,(D,)H,W]
        x = functional.relu(self.norm(self.conv(x)))
        return functional.avg_pool2d(x, 2) if self.axes == 2 else functional.avg_pool3d(x, (1, 2, 2))


class UpBlock3d(nn.Module):
    """Height and width doubled (nearest), convolution, batch norm, ReLU."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(entering, leaving, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm3d(leaving)

    def forward(self, x: Tensor) -> Tensor:  # [B,C,D,H,W]
        x = functional.interpolate(x, scale_factor=(1.0, 2.0, 2.0))
        return functional.relu(self.norm(self.conv(x)))


class ResBlock3d(nn.Module):
    """Pre-activation residual block: twice batch norm, ReLU, convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:  # [B,C,D,H,W]
        inner = self.conv1(functional.relu(self.norm1(x)))
        return x + self.conv2(functional.relu(self.norm2(inner)))


def fold(module: M) -> M:
    """A copy for inference in which every batch norm named `norm` is part of the convolution `conv` before it."""
    out = copy.deepcopy(module).eval()
    for part in out.modules():
        conv, norm = getattr(part, "conv", None), getattr(part, "norm", None)
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d) and isinstance(conv, nn.Conv2d | nn.Conv3d):
            part.conv, part.norm = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return out
