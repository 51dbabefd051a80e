"""Eyes that stay where they are while the lids slide over them: the portrait's own, carried on under the lids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.render.mouth import FADED, Layer, extend, local, window
from vivavoce.render.warp import affine, polygon, sample, stroke

ROOM = 0.3  # the window reaches this share of the eye's width beyond it


@dataclass
class Eye:
    """One eye's page; page pixel + origin = source pixel."""

    origin: tuple[int, int]  # x, y of the window in the picture
    size: tuple[int, int]  # h, w
    page: Tensor  # [3,h,w]
    lash: Tensor  # [3] colour of the line between shut lids


def draw(picture: Tensor, lids: Tensor) -> Eye:  # [3,H,W], [P,2] px outline of the open eye
    """What lies between the lids, continued outwards."""
    low, high = lids.amin(0), lids.amax(0)
    room = ROOM * float(high[0] - low[0])
    limit = lids.new_tensor([picture.shape[2] - 2, picture.shape[1] - 2])
    left, top = torch.minimum((low - room).clamp(min=0), limit).int().tolist()
    right, bottom = torch.minimum((high + room).clamp(min=1), limit + 2).ceil().int().tolist()
    size = (max(2, bottom - top), max(2, right - left))
    inside = polygon((lids - lids.new_tensor([left, top]))[None], size, soft=0.5)[0, 0] > 0
    page = extend(picture[:, top : top + size[0], left : left + size[1]], inside, fade=1e9)
    upper = sample(picture[None], lids[: len(lids) // 2][None, None])[0, :, 0]  # [3,P/2] along the upper lid's edge
    lash = upper[:, upper.mean(0).argsort()[: len(lids) // 6 + 1]].mean(1)
    return Eye((left, top), size, page[:3].contiguous(), lash)


def compose(
    eye: Eye,
    skull: Tensor,  # [T,2,3] source px from target px
    lids: Tensor,  # [T,P,2] px, outline in the target, from corner over the upper lid to corner and back
    shut: Tensor,  # [T] 0..1
    soft: float,  # px
    backend: str = "auto",
) -> Layer:
    """What is seen between the lids."""
    origin, size = window(lids, FADED * soft, eye.origin, eye.size)
    inner = lids - lids.new_tensor(origin)
    mask = polygon(inner, size, soft * (1 - 0.7 * shut), backend)
    seen = affine(eye.page, local(skull, origin, eye.origin), size, backend) * (1 - 0.35 * shut)[:, None, None, None]
    line = stroke(inner[:, : inner.shape[1] // 2 + 1], size, soft, backend) * ((2 * shut - 1).clamp(0, 1) * 0.85)[:, None, None, None]
    whole = (mask + line).clamp(max=1)
    return Layer(origin, torch.lerp(seen, eye.lash[:, None, None].expand_as(seen), (line / whole.clamp(min=1e-6)).clamp(max=1)), whole)
