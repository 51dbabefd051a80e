"""Which pixels of its frames a step of training looks at, when it does not draw them whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vivavoce.types import Clip

SHARES = ((0.25, 0.65), (0.25, 0.65), (0.15, 0.4))  # of the rays, for each stage: in the mouth's box, in the head's; the rest anywhere


class Looked(NamedTuple):
    """The pixels that a step looks at, row after row, as many in each; the last `patch` * `patch` of a row are a square."""

    column: Tensor  # [T,K] int64
    line: Tensor  # [T,K] int64
    patch: int

    def read(self, images: Tensor) -> Tensor:  # [T,C,H,W] -> [T,K,C]
        place = self.line * images.shape[3] + self.column
        return images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).transpose(1, 2)

    def square(self, values: Tensor) -> Tensor:  # [T,K,C] -> [T,C,patch,patch]
        return values[:, -(self.patch**2) :].unflatten(1, (self.patch, self.patch)).permute(0, 3, 1, 2)


def look(clip: Clip, head: Tensor, stage: int, rays: int, patch: int) -> Looked:
    """Random pixels of each row, most of them in the boxes around head and mouth; from stage 1 on a square, of every other row near
    the lips, of the rest anywhere on the head."""
    assert clip.mouth is not None
    count, height, width = head.shape
    each = max(rays // count, 4)
    lips, face = (int(each * share) for share in SHARES[stage])
    everywhere = clip.mouth.new_tensor([0, 0, width, height]).expand(count, -1)
    box = _box(head)
    parts = [(clip.mouth, lips), (box, face), (everywhere, each - lips - face)]
    bounds = torch.cat([part[:, None].expand(-1, number, -1) for part, number in parts], 1)  # [T,K,4]
    at = bounds[..., :2] + torch.rand_like(bounds[..., :2]) * (bounds[..., 2:] - bounds[..., :2])
    limit = at.new_tensor([width, height])
    patch = min(patch, height, width) if stage else 0
    if patch:
        chance = torch.rand_like(clip.mouth[:, :2])
        lips_at = (clip.mouth[:, :2] + clip.mouth[:, 2:]) / 2 + (chance - 0.5) * patch / 2
        anywhere = box[:, :2] + chance * (box[:, 2:] - box[:, :2])
        even = torch.arange(count, device=at.device)[:, None] % 2 == 0
        middle = torch.where(even, lips_at, anywhere)
        corner = torch.minimum((middle - patch / 2).clamp(min=0), limit - patch).floor()
        inside = torch.arange(patch, device=at.device) + 0.5
        grid = torch.stack(torch.meshgrid(inside, inside, indexing="xy"), -1).reshape(-1, 2)
        at = torch.cat([at, corner[:, None] + grid], 1)
    column, line = torch.minimum(at.clamp(min=0).floor(), limit - 1).long().unbind(2)
    return Looked(column, line, patch)


def _box(mask: Tensor) -> Tensor:  # [T,H,W] bool -> [T,4] float x0 y0 x1 y1, a tenth wider; the whole picture without a pixel
    ends = []
    for across in (mask.any(1), mask.any(2)):  # [T,W], [T,H]
        length = across.shape[1]
        first, last = across.float().argmax(1), length - across.flip(1).float().argmax(1)
        margin = (last - first) * 0.1
        ends.append(((first - margin).clamp(min=0), (last + margin).clamp(max=length)))
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], 1)
