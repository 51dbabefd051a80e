"""The inside of a mouth that a portrait does not show: cavity, tongue and two rows of teeth, and the portrait's own teeth.

Everything is drawn once, in source pixels, on pages that are then only moved: cavity, upper teeth and what the portrait
itself shows between its lips move with the skull, tongue and lower teeth with the jaw. So the lips slide over the teeth and
never stretch them. Colours come from the picture: a statue has stone teeth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from vivavoce.render.layers import over
from vivavoce.render.warp import affine, polygon, stroke

# Metres, in a face whose lips just touch at v = 0: u along the mouth, v up.
TEETH = (0.0085, 0.0066, 0.006, 0.005, 0.004, 0.003)  # widths seen from the front, from the middle outwards
UPPER_EDGE, LOWER_EDGE = -0.0012, -0.0006  # incisal edges; the lower one goes with the jaw
HEIGHT = 0.0095  # of a tooth
ARCH = 3.0  # 1/m, how the row curves up (upper) seen from the front
LINE, FADED = 0.8, 4.0  # width of the line between shut lips, in widths of the soft edge; widths after which a line has faded
OPEN = 0.0025  # metres between the lips above which what shows between them is teeth or tongue worth keeping


class Layer(NamedTuple):
    """What is laid over a picture, where it lies."""

    origin: tuple[int, int]  # x, y of its window in the picture
    colour: Tensor  # [T,3,h,w]
    mask: Tensor  # [T,1,h,w]


@dataclass
class Mouth:
    """Pages [4,h,w] are premultiplied RGBA; page pixel + origin = source pixel."""

    origin: tuple[int, int]  # x, y of the window in the picture
    size: tuple[int, int]  # h, w of the window
    cavity: Tensor  # [3,h,w]
    upper: Tensor  # [4,h,w]
    lower: Tensor  # [4,h,w]
    own: Tensor  # [4,h,w]
    seam: Tensor  # [3] colour of the line between shut lips
    opening: float  # metres, the portrait's own gap of the lips

    @property
    def shows(self) -> bool:
        """Whether the portrait's mouth is open: its own teeth stay; else what shows of its slit fades as the mouth opens."""
        return self.opening > OPEN


def draw(
    picture: Tensor,  # [3,H,W]
    lips: Tensor,  # [P,2] px, inner outline
    anchor: Tensor,  # [2] px, where the lips would touch at the middle
    axes: Tensor,  # [2,2] px a metre: columns are u (along the mouth) and v (up) in the picture
    tones: tuple[Tensor, Tensor, Tensor],  # [3] each: teeth, lips, skin
    opening: float,  # metres, largest gap of the lips in the picture
) -> Mouth:
    """Pages for one portrait."""
    (left, top, width, height) = _window(lips, axes, picture.shape[-2:])
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([xs + left + 0.5, ys + top + 0.5], -1).to(picture)
    u, v = ((place - anchor) @ torch.linalg.inv(axes).T).unbind(-1)
    soft = float(1 / axes[:, 1].norm())  # metres a pixel
    inner = lips - lips.new_tensor([left, top])
    inside = polygon(inner[None], (height, width), soft=0.5)[0, 0] > 0
    cut = picture[:, top : top + height, left : left + width]
    own = extend(cut, inside, fade=2.0)
    teeth, lip, skin = tones
    upper = _teeth(u, v - UPPER_EDGE - ARCH * u**2, soft, teeth, lip)
    lower = _teeth(u * 1.25, LOWER_EDGE - v - 0.5 * ARCH * u**2, soft, teeth * 0.7, lip)
    if opening > OPEN:
        upper = torch.zeros_like(upper)  # its own are on top, rigid
    lower = over(lower, _tongue(u, v, lip), True)
    return Mouth((left, top), (height, width), _cavity(u, v, lip, skin), upper, lower, own, 0.4 * lip, opening)


def _window(lips: Tensor, axes: Tensor, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, width, height of what the open mouth can cover."""
    middle = lips.mean(0)
    across, down = float(axes.norm(dim=0).mean()) * 0.058, float(axes.norm(dim=0).mean()) * 0.075
    x0, x1 = max(0, int(middle[0] - across)), min(size[1], int(middle[0] + across) + 1)
    y0, y1 = max(0, int(middle[1] - 0.6 * down)), min(size[0], int(middle[1] + down) + 1)
    return x0, y0, max(2, x1 - x0), max(2, y1 - y0)


def extend(cut: Tensor, inside: Tensor, fade: float) -> Tensor:  # [3,h,w], [h,w] -> [4,h,w]
    """The picture inside a mask, carried on outwards by its nearest pixel, alpha fading over `fade` pixels."""
    if not bool(inside.any()):
        return torch.zeros(4, *inside.shape, dtype=cut.dtype, device=cut.device)
    distance, nearest = ndimage.distance_transform_edt(~inside.cpu().numpy(), return_indices=True)
    index = torch.from_numpy(nearest).to(cut.device)
    alpha = torch.from_numpy(np.clip(1 - distance / fade, 0, 1)).to(cut)
    return torch.cat([cut[:, index[0], index[1]] * alpha, alpha[None]])


def local(matrix: Tensor, origin: tuple[int, int], page: tuple[int, int]) -> Tensor:  # [T,2,3] -> [T,2,3]
    """A map of the picture, source from target, as one of a window of the target and a page of the source, with their origins."""
    moved = matrix[..., 2] + matrix[..., :2] @ matrix.new_tensor(origin) - matrix.new_tensor(page)
    return torch.cat([matrix[..., :2], moved[..., None]], -1)


def window(
    outline: Tensor,  # [T,P,2] px
    room: float,  # px around it
    origin: tuple[int, int],  # x, y
    size: tuple[int, int],  # h, w
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Origin and size of the part of a window in which the outline lies in any row; on a GPU, which would be waited for, all of it."""
    if outline.device.type != "cpu":
        return origin, size
    low, high = outline.detach().flatten(0, 1).aminmax(dim=0)
    (left, top), (right, bottom) = (low - room).floor().int().tolist(), (high + room).ceil().int().tolist()
    x = min(max(left, origin[0]), origin[0] + size[1] - 1)
    y = min(max(top, origin[1]), origin[1] + size[0] - 1)
    return (x, y), (max(1, min(bottom, origin[1] + size[0]) - y), max(1, min(right, origin[0] + size[1]) - x))


def _step(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _teeth(u: Tensor, v: Tensor, soft: float, teeth: Tensor, lip: Tensor) -> Tensor:  # -> [4,h,w]
    """A row of teeth; v is the height above the incisal edge, growing towards the gum."""
    side = u.abs()
    borders = torch.tensor([0.0, *np.cumsum(TEETH)]).to(u)
    which = (torch.bucketize(side, borders) - 1).clamp(0, len(TEETH) - 1)
    width = u.new_tensor(TEETH)[which]
    within = (2 * (side - borders[which]) / width - 1).clamp(-1, 1)  # -1..1 across a tooth
    edge = v - 0.0009 * within.abs() ** 3 - 0.0007 * (which == 1)
    alpha = _step(edge / max(soft, 3e-4) + 0.5) * (1 - _step((side - 0.8 * borders[-1]) / (0.2 * borders[-1])))
    alpha = alpha * (1 - _step((v - 1.35 * HEIGHT) / 0.004))
    gum = _step((v - HEIGHT * (1 - 0.12 * (1 - within**2))) / 0.0012)
    shade = 0.5 + 0.5 * (1 - (side / borders[-1]) ** 2).clamp(min=0)
    shade = shade * (1 - 0.16 * _step((within.abs() - 0.7) / 0.3)) * (1 - 0.18 * _step(v / HEIGHT))
    colour = torch.lerp((teeth[:, None, None] * shade).expand(3, *u.shape), lip[:, None, None] * 0.7 * shade, gum)
    return torch.cat([colour.clamp(0, 1) * alpha, alpha[None]])


def _tongue(u: Tensor, v: Tensor, lip: Tensor) -> Tensor:  # -> [4,h,w]
    """A dim tongue behind the lower teeth."""
    radius = ((u / 0.019) ** 2 + ((v + 0.004) / 0.009) ** 2).sqrt()
    alpha = 0.9 * (1 - _step((radius - 0.65) / 0.5))
    shade = (0.75 - 0.25 * radius.clamp(max=1.2)) * (1 - 0.25 * torch.exp(-((u / 0.0015) ** 2)))
    return torch.cat([(lip**1.6)[:, None, None] * shade * alpha, alpha[None]])


def _cavity(u: Tensor, v: Tensor, lip: Tensor, skin: Tensor) -> Tensor:  # -> [3,h,w]
    """Dark, a little lighter and redder towards the front of the floor."""
    dark = 0.34 * lip**3 + 0.02 * skin  # cubed: deeper in colour than the lips
    light = _step((-v - 0.004) / 0.025) * (1 - _step((u.abs() - 0.012) / 0.02))
    return (dark[:, None, None] * (0.55 + 0.7 * light)).expand(3, *u.shape).clamp(0, 1).contiguous()


def compose(
    mouth: Mouth,
    skull: Tensor,  # [T,2,3] source px from target px, picture coordinates
    jaw: Tensor,  # [T,2,3]
    lips: Tensor,  # [T,P,2] px, inner outline in the target
    gap: Tensor,  # [T] metres, largest gap of the lips
    shut: Tensor,  # [T] 0..1, how far lips that are open in the picture are closed
    soft: float,  # px
    backend: str = "auto",
) -> Layer:
    """What is seen between the lips."""
    origin, size = window(lips, FADED * LINE * soft, mouth.origin, mouth.size)
    inner = lips - lips.new_tensor(origin)
    skull, jaw = local(skull, origin, mouth.origin), local(jaw, origin, mouth.origin)
    mask = polygon(inner, size, soft * (1 - 0.7 * shut), backend)
    shadow = polygon(inner, size, 5 * soft, backend)
    light = (0.72 + 0.28 * _step(gap / 0.010))[:, None, None, None] * (0.6 + 0.4 * shadow)
    drawn = affine(mouth.cavity, skull, size, backend)
    drawn = over(affine(mouth.lower, jaw, size, backend), drawn, True)
    drawn = over(affine(mouth.upper, skull, size, backend), drawn, True) * light
    own = affine(mouth.own, skull, size, backend)
    if mouth.shows:  # the lips' shadow as they close
        stays = _step(gap / (0.4 * mouth.opening))
        own = torch.cat([own[:, :3] * (0.6 + 0.4 * _step(gap / mouth.opening))[:, None, None, None], own[:, 3:]], 1)
    else:
        stays = 1 - _step((gap - mouth.opening) / OPEN)
    seen = over(own * stays[:, None, None, None], drawn, True)
    half = inner.shape[1] // 2  # the line between shut lips, from corner to corner
    middle = (inner[:, : half + 1] + torch.cat([inner[:, :1], inner[:, half:].flip(1)], 1)) / 2
    line = stroke(middle, size, LINE * soft, backend) * (0.65 * _step(2 * shut - 1))[:, None, None, None]
    colour = torch.lerp(seen, mouth.seam[:, None, None].expand_as(seen), line / (mask + line).clamp(min=1e-6))
    return Layer(origin, colour, (mask + line).clamp(max=1))
