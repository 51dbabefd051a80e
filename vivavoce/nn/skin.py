"""The look of a surface: colour, material and bumps from a hash grid in canonical space and what tells the frame, under a learned light
(DynTet, CVPR 2024, section 3.3: texture, k_d, k_s, normal)."""

from __future__ import annotations

from typing import Any

import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nn.grid import Grid
from vivavoce.nn.shading import DIELECTRIC, Environment, shade
from vivavoce.render.layers import grow
from vivavoce.render.mesh import carry, covered, lit, paint, rasterize
from vivavoce.types import Camera

LOUD = 8.0  # the grid's features times this: its table starts near zero, and a colour is a sharp thing
BUMP = 0.3  # how far a normal can be turned, as a tangent
ALIKE = 4096  # points a step of the warm-up, and of those that no picture teaches
AROUND = 0.03  # of the head's longest side: from how far away such a point takes its looks


def first_colours(target: Tensor, shown: Tensor, head: Tensor, frames: Tensor) -> Tensor:
    """What some frames show of a surface's vertices; of one that none shows, what they show of the nearest in the picture.

    Args:
        target: [T,V,2 or more] px. shown: [T,V] bool, nothing hides them. head: [T,H,W] bool, pixels of the head. frames: [T,3,H,W].
    Returns:
        [V,3].
    """
    height, width = head.shape[1:]
    column, line = target[..., 0].floor().long().clamp(0, width - 1), target[..., 1].floor().long().clamp(0, height - 1)
    at = line * width + column
    within = grow(head.float(), -max(1, width // 64)) > 0  # pixels of the outline show the background too
    good = (shown & within.flatten(1).gather(1, at)).to(frames)
    total = (frames.flatten(2).gather(2, at[:, None].expand(-1, 3, -1)) * good[:, None]).sum(0).t()
    number = good.sum(0)
    known = (number > 0).nonzero()[:, 0]
    if not len(known):
        return torch.full_like(total, 0.5)
    nearest = cKDTree(target[0, known, :2].numpy()).query(target[0, :, :2].numpy())[1]
    return (total / number.clamp(min=1)[:, None])[known[torch.from_numpy(nearest)]]


class Skin(nn.Module):
    """Args:
    condition: width of what tells the frame. hidden: of the network. levels, finest, table: of the hash grid (nn/grid).
    """

    def __init__(self, condition: int, hidden: int = 64, levels: int = 14, finest: int = 1024, table: int = 18) -> None:
        super().__init__()
        self.grid = Grid(3, levels, 2, 16, finest, table)
        self.spot, self.told = nn.Linear(self.grid.width, hidden), nn.Linear(condition, hidden)
        last = nn.Linear(hidden, 9)
        self.texture = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), last)
        self.light = Environment()
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.weight[3:] *= 0.1
            last.bias[3:6] = torch.tensor([-4.0, 0.0, -4.0])  # no shadow, half rough, no metal

    def _told(self, frame: Tensor) -> Tensor:  # [T,condition] -> [T,hidden]
        return self.told(frame) + self.spot.bias

    def _numbers(self, place: Tensor, told: Tensor) -> Tensor:  # [P,3] in 0..1, [P or 1,hidden] of `_told` -> [P,9]
        return self.texture(torch.addmm(told, self.grid(place), self.spot.weight.t(), alpha=LOUD))

    def _look(self, place: Tensor, told: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # as `_numbers`
        """Colour 0..1, material 0..1 and bump (-BUMP to BUMP) of points of the surface: three of [P,3]."""
        return _parts(self._numbers(place, told))

    def seen(self, place: Tensor, frame: Tensor, row: Tensor, normal: Tensor, at: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        """What pixels see of the surface, and its material: [P,3] and [P,3].

        Args:
            place: [P,3] in 0..1. frame: [T,condition]. row: [P] int64, frame of each pixel. normal: [P,3] in the head's axes.
            at: [P,2] px. camera: T rows; the light stands still with it.
        """
        looks = self._numbers(place, self._told(frame).index_select(0, row))
        lens = torch.cat([camera.pose[:, :3, :3].flatten(1), camera.center, camera.focal], 1)  # [T,13]
        drawn = lit(looks, normal, at, row, lens, self.light.coefficients, BUMP, DIELECTRIC)
        if drawn is not None:
            return drawn[:, :3], drawn[:, 3:]
        colour, material, bump = _parts(looks)
        normal = functional.normalize(functional.normalize(normal, dim=1, eps=1e-8) + bump, dim=1, eps=1e-8)
        told = lens.index_select(0, row)
        turned = (told[:, :9].unflatten(1, (3, 3)) * normal[:, :, None]).sum(1)
        ray = functional.pad((at - told[:, 9:11]) / told[:, 11:], (0, 1), value=1.0)
        return shade(self.light, turned, -functional.normalize(ray, dim=1), colour, material), material

    def within(self, colour: Tensor, own: Tensor, place: Tensor, frame: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [P,3] of pixels of which only `own` [P] bool are to be taught by the picture, and how the others shall learn.

        The others (place [P,3] in 0..1, frame [T,condition], row [P]) take the looks of what lies around them on the surface: what
        nothing teaches would be of any colour on the day on which it is seen. The second result is a loss, mean |difference|.
        """
        colour = torch.where(own[:, None], colour, colour.detach())
        others = (~own).nonzero()[:, 0]
        if not len(others):
            return colour, colour.new_zeros(())
        some = others[torch.randint(len(others), (min(ALIKE, len(others)),), device=place.device)]
        here, told = place[some].detach(), self._told(frame).index_select(0, row[some])
        with torch.no_grad():
            beside = self._numbers((here + AROUND * torch.randn_like(here)).clamp(0, 1), told)
        return colour, (self._numbers(here, told) - beside).abs().mean()

    @torch.enable_grad()
    def warm(self, place: Tensor, colour: Tensor, frame: Tensor, steps: int, rate: float) -> None:  # [N,3] in 0..1, [N,3], [condition]
        """First colours: what some frames show at points of the surface. Seconds that spare thousands of pictures' worth."""
        networks = [*self.spot.parameters(), *self.texture.parameters()]
        groups: list[dict[str, Any]] = [{"params": [self.grid.table], "lr": 5 * rate}, {"params": networks}]
        optimizer = torch.optim.Adam(groups, rate)
        for _ in range(steps):
            some = torch.randint(len(place), (min(ALIKE, len(place)),))
            optimizer.zero_grad()
            (self._look(place[some], self._told(frame[None]))[0] - colour[some]).abs().mean().backward()
            optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def bake(self, place: Tensor, normal: Tensor, flat: Tensor, faces: Tensor, frame: Tensor, size: int) -> Tensor:  # -> [3,size,size]
        """A picture of the whole surface under the light as it falls on the head held straight, for tools that know no hash grid.

        Args:
            place: [W,3] in 0..1. normal: [W,3] in the camera's axes. flat: [W,2] where each vertex lies in the picture, 0..1 (an
                atlas). faces: [F,3]. frame: [condition].
        """
        target = torch.cat([flat * size, torch.ones_like(flat[:, :1])], 1)[None]
        pixels = covered(target, faces, rasterize(target, faces, (size, size)))
        colour, material, bump = self._look(carry(place, pixels), self._told(frame[None]))
        turned = functional.normalize(carry(normal, pixels) + bump, dim=1, eps=1e-8)
        matt = colour * (1 - material[:, :1]) * self.light.irradiance(turned).clamp(min=0)
        picture = paint(torch.cat([matt, torch.ones_like(matt[:, :1])], 1), pixels, 1)[0].cpu()
        _, nearest = ndimage.distance_transform_edt(picture[3].numpy() == 0, return_indices=True)
        return picture[:3, torch.from_numpy(nearest[0]), torch.from_numpy(nearest[1])].clamp(0, 1)  # gutters take the nearest colour


def _parts(looks: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [P,9] -> three of [P,3]
    colour, material, bump = looks.split(3, 1)
    return torch.sigmoid(colour), torch.sigmoid(material), BUMP * torch.tanh(bump)
