"""Peak signal-to-noise ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.metrics.checked import checked_pictures


def psnr(images: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:  # [T,C,H,W] x2, [T,1,H,W] -> [T] dB
    """PSNR of each row in dB for images in [0, 1]; with a mask, over its pixels alone. Equal images give inf."""
    checked_pictures("PSNR", images, targets)
    error = (images.double() - targets.double()).square()
    if mask is None:
        mean = error.flatten(1).mean(1)
    else:
        weight = mask.double().expand_as(error)
        mean = (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    return -10 * torch.log10(mean)
