"""Learned perceptual distance (Zhang et al., CVPR 2018), version 0.1, equal to the package `lpips` 0.1.4."""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.metrics.checked import checked_pictures
from vivavoce.nn.perceptual import Perceptual


@torch.no_grad()
def lpips(images: Tensor, targets: Tensor, net: Perceptual) -> Tensor:  # [T,3,H,W] in 0..1 x2 -> [T]
    """Of each row, 0 for equal pictures. `net`: `Perceptual.pretrained("alexnet")`, which the field reports, or "vgg16"."""
    checked_pictures("LPIPS", images, targets)
    return net(images, targets)
