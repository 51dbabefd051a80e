"""What is behind the head: one canonical picture of the torso, over the background plate. It lies where the body was found in the
frame (an affine map and a spline before it, see prepare/body.py); a smooth flow that the head's pose decides bends the neck after it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        fine = functional.interpolate(fine, size=size, mode="bilinear", align_corners=True)
        still = functional.affine_grid(inverse(body), [len(code), 4, *size], align_corners=False)
        if (field := bent(body)) is not None:  # smooth and small: its inverse is itself the other way
            still = still - functional.grid_sample(field, still, padding_mode="border", align_corners=True).permute(0, 2, 3, 1)
        picture = self.picture.expand(len(code), -1, -1, -1)
        grid = still + fine.permute(0, 2, 3, 1)
        moved = functional.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
        plate = self.plate[None]
        if plate.shape[-2:] != size:
            plate = functional.interpolate(plate, size=size, mode="bilinear", align_corners=False, antialias=True)
        return moved[:, :3] + (1 - moved[:, 3:].clamp(0, 1)) * plate, flow
