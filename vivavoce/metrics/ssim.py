"""Structural similarity (Wang et al., 2004)."""

from __future__ import annotations

from torch import Tensor

from vivavoce.losses import ssim_map
from vivavoce.metrics.checked import checked_pictures
from vivavoce.types import InputError

WINDOW = 11  # px


def ssim(images: Tensor, targets: Tensor) -> Tensor:  # [T,C,H,W] x2 -> [T]
    """Mean SSIM of each row: Gaussian window of 11 px and sigma 1.5, range 1, windows inside the image alone, channels
    averaged. Equals scikit-image's `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`."""
    checked_pictures("SSIM", images, targets)
    if min(images.shape[-2:]) < WINDOW:
        raise InputError("SSIM", f"pictures of {images.shape[-1]} x {images.shape[-2]} px", f"it needs {WINDOW} px on each side")
    return ssim_map(images.double(), targets.double()).flatten(1).mean(1)
