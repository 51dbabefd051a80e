"""W: an appearance volume and two sets of key points -> warped features (dense motion after face vid2vid).

The coordinate grid has its ends on the middle of the outer cells while sampling takes -1 and 1 for their faces: so the published
weights were trained, and so it stays. Every slot's grid is only shifted, so its sampling and its Gaussian are products over the axes
(`grid_sample3d.shifted`), which saves the repeated volume and the five-dimensional sampling of all slots.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nn.grid_sample3d import grid_sample3d, shifted
from vivavoce.nn.liveportrait.blocks import DownBlock, SameBlock, UpBlock3d

VARIANCE = 0.01  # of a key point's Gaussian, in grid units squared
LEAST = -28.0  # exponent of a Gaussian along an axis: the product of three stays a normal number; denormal ones make a CPU crawl


class Warped(NamedTuple):
    """What W gives."""

    features: Tensor  # [T,C,h,w] for the decoder
    occlusion: Tensor  # [T,1,h,w] 0 hidden in the source, 1 seen
    flow: Tensor  # [T,d,h,w,3] where in the volume each place is taken from


class Encoder(nn.Module):
    """Down blocks; gives every level, the input first."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(DownBlock(a, b, 3) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [x]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels


class Decoder(nn.Module):
    """Up blocks, each joined by the encoder's level of its size."""

    def __init__(self, widths: list[int], first: int) -> None:
        super().__init__()
        leaving = [first, *widths[1:-1]]  # of the up blocks, outermost first
        blocks = [UpBlock3d(widths[-1] if i == len(leaving) - 1 else 2 * widths[i + 1], leaving[i]) for i in range(len(leaving))]
        self.up_blocks = nn.ModuleList(reversed(blocks))
        self.width = first + widths[0]
        self.conv = nn.Conv3d(self.width, self.width, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm3d(self.width)

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = levels[-1]
        for block, skip in zip(self.up_blocks, reversed(levels[:-1]), strict=True):
            x = torch.cat([block(x), skip], 1)
        return functional.relu(self.norm(self.conv(x)))


class Hourglass(nn.Module):
    """U-shaped network on volumes that keeps their depth."""

    def __init__(self, entering: int, first: int, most: int, levels: int) -> None:
        super().__init__()
        widths = [entering, *(min(most, first << (i + 1)) for i in range(levels))]
        self.encoder = Encoder(widths)
        self.decoder = Decoder(widths, first)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class DenseMotion(nn.Module):
    """Key points -> flow and occlusion."""

    def __init__(self, points: int, volume: tuple[int, int], first: int, most: int, levels: int, compressed: int) -> None:
        super().__init__()
        slots = points + 1
        self.hourglass = Hourglass(slots * (compressed + 1), first, most, levels)
        width = self.hourglass.decoder.width
        self.mask = nn.Conv3d(width, slots, 7, padding=3)
        self.compress: nn.Module = nn.Conv3d(volume[0], compressed, 1)
        self.norm: nn.Module = nn.BatchNorm3d(compressed)
        self.occlusion = nn.Conv2d(width * volume[1], 1, 7, padding=3)

    def forward(self, volume: Tensor, driving: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """[T,C,D,H,W], [T,K,3] twice -> flow [T,D,H,W,3] and occlusion [T,1,H,W]."""
        small = functional.relu(self.norm(self.compress(volume)))
        depth, height, width = volume.shape[2:]
        lines = [torch.linspace(-1, 1, n, device=driving.device, dtype=driving.dtype) for n in (width, height, depth)]
        shift = functional.pad(source - driving, (0, 0, 1, 0))  # [T,S,3]; slot 0 stays
        moved = shifted(small, tuple(line + shift[..., k, None] for k, line in enumerate(lines)))  # type: ignore[arg-type]
        heat = functional.pad(_bumps(driving, lines) - _bumps(source, lines), (0, 0, 0, 0, 0, 0, 1, 0))  # [T,S,D,H,W]
        seen = self.hourglass(torch.cat([heat[:, :, None].to(moved.dtype), moved], 2).flatten(1, 2))
        share = self.mask(seen).softmax(1)  # [T,S,D,H,W]
        # the shares of the slots sum to one: the grid plus the mean shift
        grid = torch.stack(torch.meshgrid(*reversed(lines), indexing="ij")[::-1], -1)
        flow = grid + torch.einsum("tsdhw,tsk->tdhwk", share.to(shift.dtype), shift)
        return flow, torch.sigmoid(self.occlusion(seen.flatten(1, 2)))


class WarpingNetwork(nn.Module):
    """45,529,829 parameters at the published widths.

    Args:
        points: key points.
        volume: channels and depth of the appearance volume.
        leaving: channels of the warped features.
        dense: of the hourglass: first width, most, levels; channels of the compressed volume.
    """

    def __init__(
        self,
        points: int = 21,
        volume: tuple[int, int] = (32, 16),
        leaving: int = 256,
        dense: tuple[int, int, int, int] = (32, 1024, 5, 4),
    ) -> None:
        super().__init__()
        self.dense_motion_network = DenseMotion(points, volume, *dense)
        self.third = SameBlock(volume[0] * volume[1], leaving, 0.01)
        self.fourth = nn.Conv2d(leaving, leaving, 1)
        self.sample: Callable[[Tensor, Tensor], Tensor] = grid_sample3d  # another where a target lacks torch's (onnx.py)

    def forward(self, volume: Tensor, driving: Tensor, source: Tensor) -> Warped:
        """The volume [T,C,D,H,W] moved from the source's key points [T,K,3] to the driving ones [T,K,3]."""
        flow, occlusion = self.dense_motion_network(volume, driving, source)
        moved = self.sample(volume, flow)
        features = self.fourth(self.third(moved.flatten(1, 2))) * occlusion
        return Warped(features, occlusion, flow)


def _bumps(points: Tensor, lines: list[Tensor]) -> Tensor:  # [T,K,3], three of [n] -> [T,K,D,H,W]
    """A Gaussian around each point."""
    x, y, z = (torch.exp(((line - points[..., k, None]).square() * (-0.5 / VARIANCE)).clamp(min=LEAST)) for k, line in enumerate(lines))
    return z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
