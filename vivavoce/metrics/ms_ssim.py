"""Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce.losses import ssim_parts
from vivavoce.metrics.checked import checked
from vivavoce.types import InputError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first (table of the paper)
SMALLEST = (11 - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # px: a window fits into the coarsest scale


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:  # [T,C,H,W] x2 -> [T]
    """Contrast and structure at five scales, luminance at the coarsest, each to the power of its weight; halved by the mean of
    2 x 2 px. Negative values count as 0, per channel; channels are averaged. Raises InputError for pictures under 161 px."""
    checked("MS-SSIM", images, targets)
    if min(images.shape[-2:]) < SMALLEST:
        raise InputError("MS-SSIM", f"pictures of {images.shape[-1]} x {images.shape[-2]} px", f"it needs {SMALLEST} px on each side")
    a, b = images.double(), targets.double()
    product = torch.ones(a.shape[:2], dtype=a.dtype, device=a.device)
    for scale, weight in enumerate(WEIGHTS):
        luminance, contrast = ssim_parts(a, b)
        part = contrast * luminance if scale == len(WEIGHTS) - 1 else contrast
        product = product * part.flatten(2).mean(2).clamp(min=0) ** weight
        pad = (a.shape[-1] % 2, a.shape[-2] % 2)
        a, b = (functional.avg_pool2d(x, 2, padding=(pad[1], pad[0])) for x in (a, b))
    return product.mean(1)
