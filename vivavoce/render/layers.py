"""Layers of a picture: head over torso over background, and the soft masks that join them.

RGBA is either *straight* (colour as painted; files, `Clip.torso`) or *premultiplied* (colour times alpha; what renderers
add up). Each function says which it takes. All are differentiable.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def over(top: Tensor, under: Tensor, premultiplied: bool = False) -> Tensor:  # [T,4,H,W], [T,3 or 4,H,W] -> as under
    """`top` laid over `under` (Porter and Duff 1984); `premultiplied` says how `top`'s colour is stored.

    An `under` of 4 channels is no ground yet: it and the result are premultiplied, as `top` must be. Either may have one row for all
    rows of the other. Raises ValueError when the channels do not fit.
    """
    channels = under.shape[-3]
    if top.shape[-3] != 4 or channels not in ((3, 4) if premultiplied else (3,)):
        wanted = "[T,4,H,W] and [T,3,H,W], or premultiplied also [T,4,H,W]"
        raise ValueError(f"over takes {wanted}, not {tuple(top.shape)} and {tuple(under.shape)}")
    colour, alpha = top[..., :channels, :, :], top[..., 3:, :, :]
    return (colour if premultiplied else colour * alpha) + (1 - alpha) * under


def premultiply(straight: Tensor) -> Tensor:  # [T,4,H,W] -> [T,4,H,W]
    """Straight RGBA to premultiplied."""
    colour, alpha = straight[..., :3, :, :], straight[..., 3:, :, :]
    return torch.cat((colour * alpha, alpha), -3)


def soften(mask: Tensor, radius: float) -> Tensor:  # [T,H,W] in 0..1 -> [T,H,W]
    """Gaussian blur, `radius` px being two standard deviations; the edge of the picture is repeated. 0 changes nothing."""
    reach = round(1.5 * radius)
    if reach < 1:
        return mask
    x = torch.arange(-reach, reach + 1, dtype=mask.dtype, device=mask.device)
    kernel = torch.exp(-0.5 * (2 * x / radius) ** 2)
    kernel = kernel / kernel.sum()
    wide = F.pad(mask[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def grow(mask: Tensor, pixels: int) -> Tensor:  # [T,H,W] -> [T,H,W]
    """The mask made larger by a square of `pixels` px on every side; smaller if negative. Beyond the picture counts as empty or full."""
    if pixels == 0:
        return mask
    sign = 1 if pixels > 0 else -1
    return sign * F.max_pool2d(sign * mask[:, None], 2 * abs(pixels) + 1, stride=1, padding=abs(pixels))[:, 0]


def feather(mask: Tensor, width: float) -> Tensor:  # [T,H,W] in 0..1 -> [T,H,W]
    """A soft edge of about `width` px inside the mask: 0 stays 0 outside it, so that nothing beyond the mask is touched."""
    return soften(grow(mask, -max(round(width / 2), 0)), width / 2) * mask
