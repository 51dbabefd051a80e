"""Losses used by two methods or more: functions of tensors, no state. Images are [T,C,H,W] in [0, 1]."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def l1(image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:  # [T,C,H,W] x2, [T,1,H,W] -> scalar
    """Mean absolute difference; with weights, their weighted mean (zero where all weights are zero)."""
    difference = (image - target).abs()
    if weight is None:
        return difference.mean()
    return (difference * weight).sum() / (weight.sum() * image.shape[1]).clamp_min(1e-8)


def boxes(regions: Tensor, size: tuple[int, int], margin: float = 0.0) -> Tensor:  # [T,4] px x0 y0 x1 y1 -> [T,1,H,W]
    """1 inside each row's box grown by `margin` times its sides, 0 outside; the edge pixel counts by its covered part."""
    grow = (regions[:, 2:] - regions[:, :2]) * margin
    low, high = regions[:, :2] - grow, regions[:, 2:] + grow
    x = torch.arange(size[1], device=regions.device) + 0.5
    y = torch.arange(size[0], device=regions.device) + 0.5
    across = (torch.minimum(x - low[:, :1], high[:, :1] - x) + 0.5).clamp(0, 1)  # [T,W]
    down = (torch.minimum(y - low[:, 1:], high[:, 1:] - y) + 0.5).clamp(0, 1)
    return (down[:, :, None] * across[:, None, :])[:, None]


def crops(images: Tensor, regions: Tensor, size: tuple[int, int], margin: float = 0.0) -> Tensor:  # [T,C,H,W], [T,4] -> [T,C,h,w]
    """Each row's box, resampled bilinearly to one size; differentiable in the images."""
    height, width = images.shape[-2:]
    grow = (regions[:, 2:] - regions[:, :2]) * margin
    low, high = (regions[:, :2] - grow).to(images), (regions[:, 2:] + grow).to(images)
    x = (torch.arange(size[1], device=images.device, dtype=images.dtype) + 0.5) / size[1]
    y = (torch.arange(size[0], device=images.device, dtype=images.dtype) + 0.5) / size[0]
    across = (low[:, :1] + (high - low)[:, :1] * x) / width * 2 - 1  # [T,w]
    down = (low[:, 1:] + (high - low)[:, 1:] * y) / height * 2 - 1
    grid = torch.stack([across[:, None, :].expand(-1, size[0], -1), down[:, :, None].expand(-1, -1, size[1])], -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@lru_cache(maxsize=8)
def _kernel(window: int, sigma: float) -> tuple[float, ...]:
    weights = [math.exp(-((i - window // 2) ** 2) / (2 * sigma**2)) for i in range(window)]
    return tuple(w / sum(weights) for w in weights)


def _blur(images: Tensor, window: int, sigma: float, stride: int) -> Tensor:  # [T,C,H,W] -> [T,C,h,w]
    """Gaussian average over the places where the whole window lies inside the image, every `stride` px."""
    if sigma == 0:
        return functional.avg_pool2d(images, window, stride)
    kernel = images.new_tensor(_kernel(window, sigma))
    flat = images.flatten(0, 1)[:, None]
    down = functional.conv2d(flat, kernel[None, None, :, None], stride=(stride, 1))
    blurred = functional.conv2d(down, kernel[None, None, None], stride=(1, stride))
    return blurred[:, 0].unflatten(0, images.shape[:2])


def ssim_map(image: Tensor, target: Tensor, window: int = 11, sigma: float = 1.5, stride: int = 1) -> Tensor:  # -> [T,C,h,w]
    """Structural similarity at each pixel whose window lies inside (Wang et al., 2004, eq. 13, K = 0.01 and 0.03, range 1).

    `sigma` 0 takes a flat window; `stride` every so many pixels alone: a loss with window 8 and stride 4 costs a twentieth
    on a CPU and still sees every pixel four times.
    """
    luminance, contrast = ssim_parts(image, target, window, sigma, stride)
    return luminance * contrast


def ssim_parts(
    image: Tensor, target: Tensor, window: int = 11, sigma: float = 1.5, stride: int = 1
) -> tuple[Tensor, Tensor]:  # -> [T,C,h,w] each
    """The two factors of `ssim_map`: luminance, and contrast with structure."""
    stack = torch.cat([image, target, image * image, target * target, image * target], dim=1)
    a, b, aa, bb, ab = _blur(stack, window, sigma, stride).chunk(5, dim=1)
    first, second = 0.01**2, 0.03**2
    luminance = (2 * a * b + first) / (a * a + b * b + first)
    return luminance, (2 * (ab - a * b) + second) / (aa - a * a + bb - b * b + second)


def dssim(image: Tensor, target: Tensor, window: int = 11, sigma: float = 1.5, stride: int = 1) -> Tensor:  # [T,C,H,W] x2 -> scalar
    """(1 - mean SSIM) / 2: 0 for equal images."""
    return (1 - ssim_map(image, target, window, sigma, stride).mean()) / 2


def edge(image: Tensor, target: Tensor) -> Tensor:  # [T,C,H,W] x2 -> scalar
    """L1 between the horizontal and between the vertical differences of neighbouring pixels."""
    return total_variation(image - target)


def total_variation(field: Tensor) -> Tensor:  # [...,H,W] -> scalar
    """Mean absolute difference of neighbours along both axes."""
    return field.diff(dim=-1).abs().mean() + field.diff(dim=-2).abs().mean()


def bending(field: Tensor) -> Tensor:  # [...,H,W] -> scalar
    """Mean squared second difference along both axes: zero for every affine field."""
    return field.diff(n=2, dim=-1).square().mean() + field.diff(n=2, dim=-2).square().mean()
