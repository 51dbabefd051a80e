"""Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce.losses import ssim_parts
from vivavoce.metrics.checked import checked_pictures
from vivavoce.metrics.ssim import ssim
from vivavoce.types import InputError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first (table of the paper)
SMALLEST = (11 - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # px: a window fits into the coarsest scale


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:  # [T,C,H,W] x2 -> [T]
    """Contrast and structure at five scales, luminance at the coarsest, each to the power of its weight; halved by the mean of
    2 x 2 px. Negative values count as 0, per channel; channels are averaged. Raises InputError for pictures under 161 px."""
    if min(images.shape[-2:]) < SMALLEST:
        raise InputError("MS-SSIM", f"pictures of {images.shape[-1]} x {images.shape[-2]} px", f"it needs {SMALLEST} px on each side")
    return with_ssim(images.double(), targets.double())[1]


def with_ssim(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # [T,C,H,W] x2 -> [T], [T]
    """SSIM, which is the finest scale, and MS-SSIM for the cost of the second; NaN there for pictures under 161 px.

    Computed in the precision of the pictures: in float32, at less than two thirds of the time, 1e-5 from float64.
    """
    checked_pictures("MS-SSIM", images, targets)
    a, b = images, targets
    if min(a.shape[-2:]) < SMALLEST:
        single = ssim(a, b)
        return single, torch.full_like(single, float("nan"))
    product = torch.ones(a.shape[:2], dtype=a.dtype, device=a.device)
    for scale, weight in enumerate(WEIGHTS):
        luminance, contrast = ssim_parts(a, b)
        if scale == 0:
            single = (luminance * contrast).flatten(1).mean(1)
        part = contrast * luminance if scale == len(WEIGHTS) - 1 else contrast
        product = product * part.flatten(2).mean(2).clamp(min=0) ** weight
        pad = (a.shape[-1] % 2, a.shape[-2] % 2)
        a, b = (functional.avg_pool2d(x, 2, padding=(pad[1], pad[0])) for x in (a, b))
    return single, product.mean(1)
