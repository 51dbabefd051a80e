"""Cut a turned square (or any rectangle) out of pictures and put it back softly: torch, any size, with gradients.

Coordinates are pixels with pixel centres at +0.5, so that a crop to another size does not shift. Both directions average
before they shrink, so neither aliases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vivavoce.types import InputError

EYES = (33, 133, 362, 263)  # corners of the eyes among the 478 points: right, right, left, left
EYES_68 = (36, 39, 42, 45)


@dataclass(frozen=True)
class Crop:
    """Where the crop of each picture lies: a similarity (scale, turn, shift) from picture to crop pixels."""

    matrix: Tensor  # [T,2,3] crop = matrix @ (x, y, 1)
    size: tuple[int, int]  # height, width of the crop

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice | Tensor) -> Crop:
        return Crop(self.matrix[rows], self.size)

    @property
    def scale(self) -> Tensor:  # [T]
        """Crop pixels a picture pixel."""
        length: Tensor = torch.linalg.vector_norm(self.matrix[:, :, 0], dim=1)
        return length

    @property
    def inverse(self) -> Tensor:  # [T,2,3]
        """From crop to picture pixels."""
        turn = torch.linalg.inv(self.matrix[:, :, :2])
        return torch.cat([turn, -turn @ self.matrix[:, :, 2:]], 2)

    def inside(self, points: Tensor) -> Tensor:  # [T,P,2] picture px -> [T,P,2] crop px
        """Points of the picture in the crop."""
        return points @ self.matrix[:, :, :2].transpose(1, 2) + self.matrix[:, None, :, 2]

    def outside(self, points: Tensor) -> Tensor:  # [T,P,2] crop px -> [T,P,2] picture px
        """Points of the crop in the picture."""
        back = self.inverse
        return points @ back[:, :, :2].transpose(1, 2) + back[:, None, :, 2]


def around(
    points: Tensor,  # [T,P,2 or 3] px; P = 478 or 68 when level
    size: tuple[int, int],
    margin: float = 1.5,
    shift: tuple[float, float] = (0.0, 0.0),
    level: bool = True,
) -> Crop:
    """A crop around each row's points.

    Args:
        points: landmarks of each picture.
        size: height, width of the crop.
        margin: the crop's shorter side over the longer side of the points' box.
        shift: of the crop's middle from the box's, in sides of that box: right, down.
        level: turn so that the eyes lie level; otherwise the crop is upright.

    Raises InputError when there are no points, or they all lie on one place.
    """
    flat = points[..., :2].detach().to(torch.float32)
    if flat.ndim != 3 or 0 in flat.shape[:2]:
        raise InputError("crop", f"points of shape {list(points.shape)}", "give [pictures, points, 2]")
    cos, sin = _level(flat) if level else (flat.new_ones(len(flat)), flat.new_zeros(len(flat)))
    turn = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)  # picture -> level
    turned = flat @ turn.transpose(1, 2)
    low, high = turned.amin(1), turned.amax(1)
    side = (high - low).amax(1)
    if not torch.isfinite(side).all() or (side < 1e-3).any():
        raise InputError("crop", "the points lie on one place or are not numbers", "find the face again")
    middle = (low + high) / 2 + torch.tensor(shift).to(flat) * side[:, None]
    scale = min(size) / (side * margin)
    place = torch.tensor([size[1] / 2, size[0] / 2]).to(flat) - scale[:, None] * middle
    return Crop(torch.cat([scale[:, None, None] * turn, place[:, :, None]], 2), size)


def _level(points: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the line from the right eye to the left, [T] each."""
    count = points.shape[1]
    if count not in (68, 468, 478):
        raise InputError("crop", f"{count} points have no known eyes", "give 478 or 68 points, or level=False")
    a, b, c, d = EYES_68 if count == 68 else EYES
    across = points[:, [c, d]].mean(1) - points[:, [a, b]].mean(1)
    across = across / across.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return across[:, 0], across[:, 1]


def steady(crop: Crop) -> Crop:
    """One crop for a whole video, as long rows as given: the mean place, the scale that still holds the nearest face."""
    mean = crop.matrix.mean(0, keepdim=True)
    mean = mean * (crop.scale.min() / mean[:, :, 0].norm())
    middle = torch.tensor([[crop.size[1] / 2, crop.size[0] / 2]]).to(crop.matrix)
    seen = crop.outside(middle.expand(len(crop), 1, 2)).mean((0, 1))  # picture point to keep in the middle
    place = middle[0] - mean[0, :, :2] @ seen
    return Crop(torch.cat([mean[:, :, :2], place[None, :, None]], 2).expand(len(crop), -1, -1), crop.size)


@dataclass(frozen=True)
class _Sampling:
    """Pictures resampled: output pixel p reads the input at matrix @ p; averaged first where many input pixels make one."""

    shrink: int
    grid: Tensor  # [T,h,w,2]

    @classmethod
    def of(cls, matrix: Tensor, like: Tensor, size: tuple[int, int]) -> Self:  # [T,2,3], inputs such as [T,C,H,W]
        shrink = int(torch.linalg.vector_norm(matrix[:, :, 0], dim=1).max().clamp(1, min(like.shape[-2:])))
        high, wide = (-(-side // shrink) for side in like.shape[-2:])
        whole = torch.tensor([wide, high]).to(matrix) * shrink  # px the input covers
        half = torch.tensor([size[1] / 2, size[0] / 2]).to(matrix)
        turn = matrix[:, :, :2] * half * 2 / whole[:, None]
        place = (matrix[:, :, :2] @ half + matrix[:, :, 2]) * 2 / whole - 1
        theta = torch.cat([turn, place[:, :, None]], 2).to(like.dtype)
        return cls(shrink, F.affine_grid(theta, [len(theta), 1, *size], align_corners=False))

    def __call__(self, images: Tensor, outside: str) -> Tensor:  # [T,C,H,W] -> [T,C,h,w]; one place serves any number of pictures
        if self.shrink > 1:
            images = F.avg_pool2d(images, self.shrink, ceil_mode=True, count_include_pad=False)
        return F.grid_sample(images, self.grid.expand(len(images), -1, -1, -1), padding_mode=outside, align_corners=False)


def _warp(images: Tensor, matrix: Tensor, size: tuple[int, int], outside: str) -> Tensor:  # [T,C,H,W], [T,2,3] -> [T,C,h,w]
    return _Sampling.of(matrix, images, size)(images, outside)


def crop(frames: Tensor, where: Crop) -> Tensor:  # [T,C,H,W] -> [T,C,h,w]
    """The crop of each picture; the picture's edge goes on outside it. Differentiable in the frames."""
    return _warp(frames, where.inverse.to(frames.device), where.size, "border")


def soft_mask(size: tuple[int, int], feather: float = 0.1, oval: bool = False) -> Tensor:  # -> [1,1,h,w]
    """1 inside, falling smoothly to 0 at the border over `feather` of the shorter side; with `oval` along an ellipse."""
    y = (torch.arange(size[0]) + 0.5) / size[0] * 2 - 1
    x = (torch.arange(size[1]) + 0.5) / size[1] * 2 - 1
    if oval:
        away = (1 - (y[:, None].square() + x.square()).sqrt()) * min(size) / 2
    else:
        away = torch.minimum((1 - y.abs())[:, None] * size[0] / 2, (1 - x.abs()) * size[1] / 2)
    t = (away / max(feather * min(size), 1e-6)).clamp(0, 1)
    return (t * t * (3 - 2 * t))[None, None]


def paste(full: Tensor, frames: Tensor, where: Crop, mask: Tensor | None = None) -> Tensor:
    """Crops put back into their pictures.

    Args:
        full: [T,C,H,W] the pictures.
        frames: [T,C,h,w] the crops, of `where.size`.
        where: the crops' places.
        mask: [1 or T,1,h,w] how much of the crop is taken, 0..1; default: `soft_mask(where.size)`.

    Returns [T,C,H,W]. Differentiable in `full`, `frames` and `mask`; only the box around the crops is computed.
    """
    taken = soft_mask(where.size) if mask is None else mask
    return Pasting(full, where, taken.to(frames))(full, frames)


class Pasting:
    """`paste` at a place that stays: what does not depend on the crops' colours is computed once.

    Args:
        like: [...,H,W] pictures such as those pasted into. where: one place for all pictures, or one for each.
        mask: [1 or T,1,h,w] how much of the crop is taken; on the device and of the kind of the crops.
    """

    def __init__(self, like: Tensor, where: Crop, mask: Tensor) -> None:
        height, width = like.shape[-2:]
        high, wide = where.size
        corners = torch.tensor([[0.0, 0.0], [wide, 0.0], [wide, high], [0.0, high]]).to(where.matrix)
        seen = where.outside(corners.expand(len(where), 4, 2)).flatten(0, 1)
        low = [int(v) for v in seen.amin(0).floor()]
        top = [int(v) for v in seen.amax(0).ceil()]
        x0, y0, x1, y1 = max(0, low[0]), max(0, low[1]), min(width, top[0]), min(height, top[1])
        self.away = x0 >= x1 or y0 >= y1
        if self.away:
            return
        self.box = (..., slice(y0, y1), slice(x0, x1))
        self.inner = (..., slice(y0 - low[1], y1 - low[1]), slice(x0 - low[0], x1 - low[0]))
        self.sampling: _Sampling | None = None
        taken = mask.expand(len(where), -1, -1, -1)
        if _copies(where):  # pixel upon pixel: nothing to resample
            self.alpha = taken[self.inner]
            return
        matrix = where.matrix.to(mask.device).clone()
        matrix[:, :, 2] += matrix[:, :, :2] @ torch.tensor([float(x0), float(y0)]).to(matrix)
        self.sampling = _Sampling.of(matrix, mask, (y1 - y0, x1 - x0))
        self.alpha = self.sampling(taken, "zeros")

    def __call__(self, full: Tensor, frames: Tensor) -> Tensor:  # [T,C,H,W], [T,C,h,w] -> [T,C,H,W]
        """The pictures with the crops in them."""
        out = full.clone()
        if self.away:
            return out
        placed = frames[self.inner] if self.sampling is None else self.sampling(frames, "border")
        under = out[self.box]
        under.copy_(torch.lerp(under, placed, self.alpha.expand_as(under)))
        return out


def _copies(where: Crop) -> bool:
    """Whether every crop is the same whole pixels of its picture, as they are."""
    first = where.matrix[:1]
    shift = first[0, :, 2]
    return bool((where.matrix == first).all() & (first[0, :, :2] == torch.eye(2).to(first)).all() & (shift == shift.round()).all())
