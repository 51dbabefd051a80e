"""What is behind the head: one canonical picture of the torso, over the background plate. It lies where the body was found in the
frame (an affine map and a spline before it, see prepare/body.py); a smooth flow that the head's pose decides bends the neck after it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.render import backdrop
from vivavoce.render.layers import premultiply

BENT = 64  # cells along each side in which a spline is read as linear


def inverse(body: Tensor) -> Tensor:  # [T,2,3+] -> [T,2,3]
    """Affine maps the other way, in closed form: no row depends on how many there are."""
    (a, b, x), (c, d, y) = body[:, 0, :3].unbind(1), body[:, 1, :3].unbind(1)
    back = torch.stack([d, -b, b * y - d * x, -c, a, c * x - a * y], 1) / (a * d - b * c)[:, None]
    return back.unflatten(1, (2, 3))


def spline(places: Tensor, cells: int) -> Tensor:  # [N] in -1..1 -> [N,cells+3]
    """Weights of the nodes of a uniform cubic B-spline at those places."""
    gap = ((places[:, None] + 1) * (cells / 2) + 1 - torch.arange(cells + 3, device=places.device)).abs()
    near, far = 2 / 3 - gap**2 + gap**3 / 2, (2 - gap).clamp_min(0) ** 3 / 6
    return torch.where(gap < 1, near, far)


def bent(body: Tensor) -> Tensor | None:  # [T,2,3+n*n] -> [T,2,65,65]
    """How far points of the canonical picture are moved before the affine map, -1 to 1 along both axes; None without a spline."""
    side = math.isqrt(body.shape[2] - 3)
    if side < 4:
        return None
    weights = spline(torch.linspace(-1, 1, BENT + 1, device=body.device, dtype=body.dtype), side - 3)
    return torch.einsum("yi,tcij,xj->tcyx", weights, body[:, :, 3:].unflatten(2, (side, side)), weights)


class Torso(nn.Module):
    """Args:
    size: height and width of the canonical picture; frames of any size are read from it.
    code: numbers that describe the pose.
    cells: of the flow along each side.
    limit: largest displacement, as a share of the half picture.
    """

    def __init__(self, size: tuple[int, int], code: int = 6, cells: int = 12, hidden: int = 32, limit: float = 0.3) -> None:
        super().__init__()
        self.cells, self.limit = cells, limit
        self.picture = nn.Parameter(torch.zeros(4, *size))  # premultiplied colour, alpha
        self.plate = nn.Parameter(torch.zeros(3, *size))  # background
        last = nn.Linear(hidden, 2 * cells * cells)
        nn.init.normal_(last.weight, std=1e-3)  # starts nearly still
        nn.init.zeros_(last.bias)
        self.flow = nn.Sequential(nn.Linear(code, hidden), nn.Tanh(), last)
        self._kept: tuple[Any, list[Tensor], tuple[Tensor, Tensor]] | None = None  # what `_pages` made last, and of what

    @torch.no_grad()
    def start(self, torso: Tensor, body: Tensor, plate: Tensor) -> None:  # [T,4,H,W] straight alpha, [T,2,3+], [3,H,W]
        """The mean of some torso pictures brought back by where the body lies in them, and the plate. Where nobody knows how
        bodies lie (they all lie the same) it is the first picture alone: a mean would be blurred, and no flow makes it sharp."""
        premultiplied = premultiply(torso)  # so that holes do not darken it
        if torch.allclose(body, body[:1]):
            premultiplied, body = premultiplied[:1], body[:1]
        at = functional.affine_grid(body.new_tensor([[[1, 0, 0], [0, 1, 0]]]), [1, 4, *premultiplied.shape[2:]], align_corners=False)
        if (field := bent(body)) is not None:
            at = at + functional.interpolate(field, at.shape[1:3], mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
        grid = at @ body[:, None, :, :2].transpose(2, 3) + body[:, None, None, :, 2]
        self.picture.copy_(functional.grid_sample(premultiplied, grid, padding_mode="border", align_corners=False).mean(0))
        self.plate.copy_(plate)

    def displacement(self, code: Tensor) -> Tensor:  # [T,code] -> [T,2,cells,cells], in half pictures
        return torch.tanh(self.flow(code)).unflatten(1, (2, self.cells, self.cells)) * self.limit

    def forward(self, code: Tensor, body: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The torso over the background for each row, and the flow it took.

        Args:
            code: [T,code] the head's pose. body: [T,2,3+n*n] canonical picture -> frame, as in body.npy. size: H, W.
        Returns:
            [T,3,H,W] and [T,2,cells,cells].
        """
        flow = self.displacement(code)
        fine = functional.interpolate(flow, scale_factor=4, mode="bicubic", align_corners=True)
        picture, plate = self._pages(size)
        field = bent(body)  # smooth and small: its inverse is itself the other way
        return backdrop.draw(picture, plate, fine, inverse(body), field, size), flow

    def _pages(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:  # -> [4,h,w], [3,H,W]
        """The picture, and the plate as large as the frames. A CPU that only draws keeps them as it reads them best (the plate resized,
        the four numbers of the picture's pixels together) for as long as neither changes."""
        learns = torch.is_grad_enabled() and self.picture.requires_grad
        if learns or self.picture.device.type != "cpu":
            return self.picture, _resized(self.plate, size)
        now = [part.detach() for part in (self.picture, self.plate)]  # held, so that no other tensor gets their place in memory
        key = (size, *((part.data_ptr(), part._version) for part in now))
        if self._kept is None or self._kept[0] != key:
            ready = now[0].movedim(0, -1).contiguous().movedim(-1, 0), _resized(now[1], size)
            self._kept = key, now, ready
        return self._kept[2]


def _resized(plate: Tensor, size: tuple[int, int]) -> Tensor:  # [3,h,w] -> [3,H,W]
    if plate.shape[-2:] == size:
        return plate
    return functional.interpolate(plate[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
