"""What is behind the head: one canonical picture of the torso, moved by a smooth flow that the head's pose decides, over the
background plate. A pose says where the shoulders probably are; what it cannot say (a breath, a shrug) stays still."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    def start(self, torso: Tensor, plate: Tensor) -> None:  # [T,4,H,W] straight alpha, [3,H,W]
        """The mean of some torso pictures (premultiplied, so that holes do not darken it), and the plate."""
        premultiplied = torch.cat([torso[:, :3] * torso[:, 3:], torso[:, 3:]], 1)
        self.picture.copy_(premultiplied.mean(0))
        self.plate.copy_(plate)

    def displacement(self, code: Tensor) -> Tensor:  # [T,code] -> [T,2,cells,cells], in half pictures
        return torch.tanh(self.flow(code)).unflatten(1, (2, self.cells, self.cells)) * self.limit

    def forward(self, code: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:  # [T,code] -> [T,3,H,W], [T,2,c,c]
        """The torso over the background for each row, and the flow it took."""
        flow = self.displacement(code)
        fine = functional.interpolate(flow, scale_factor=4, mode="bicubic", align_corners=True)
        fine = functional.interpolate(fine, size=size, mode="bilinear", align_corners=True)
        y = (torch.arange(size[0], device=code.device) + 0.5) / size[0] * 2 - 1
        x = (torch.arange(size[1], device=code.device) + 0.5) / size[1] * 2 - 1
        still = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=0)  # [2,H,W]
        picture = self.picture.expand(len(code), -1, -1, -1)
        grid = (still + fine).permute(0, 2, 3, 1)
        moved = functional.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
        plate = self.plate[None]
        if plate.shape[-2:] != size:
            plate = functional.interpolate(plate, size=size, mode="bilinear", align_corners=False, antialias=True)
        return moved[:, :3] + (1 - moved[:, 3:].clamp(0, 1)) * plate, flow
