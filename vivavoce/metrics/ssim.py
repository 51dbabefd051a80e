"""Structural similarity (Wang et al., 2004)."""

from __future__ import annotations

from torch import Tensor

from vivavoce.losses import ssim_map


def ssim(images: Tensor, targets: Tensor) -> Tensor:  # [T,C,H,W] x2 -> [T]
    """Mean SSIM of each row: Gaussian window of 11 px and sigma 1.5, range 1, windows inside the image alone, channels
    averaged. Equals scikit-image's `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`."""
    return ssim_map(images.double(), targets.double()).flatten(1).mean(1)
