"""Which cells of a box hold anything: learned from a density while it trains, read by marching to leave out the empty ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from vivavoce.types import InputError

from .contract import BLOCK, Cells
from .torch import occupied

CHUNK = 2**18  # points given to a density at once
EMPTY = -1.0  # density of a cell that never holds anything; it stays so


class Occupancy(nn.Module):
    """A running maximum of a density on a grid, and the bit field of the cells above a threshold (Mueller et al., instant-NGP).

    Everything is occupied until the first `update`. It is part of a model's state.

    Args:
        low, high: the box; outside it nothing is occupied.
        resolution: cells along each side, a multiple of 8.
        threshold: density above which a cell is occupied, or the mean of the grid where that is less.
        decay: what an update leaves of the old density of a cell it looks at, before the maximum with the new one.

    Raises InputError for a box without volume or a resolution that does not fit.
    """

    low: Tensor
    high: Tensor
    density: Tensor
    bits: Tensor
    blocks: Tensor

    def __init__(
        self,
        low: tuple[float, float, float] = (-1.0, -1.0, -1.0),
        high: tuple[float, float, float] = (1.0, 1.0, 1.0),
        resolution: int = 128,
        threshold: float = 10.0,
        decay: float = 0.95,
    ) -> None:
        super().__init__()
        if resolution < BLOCK or resolution % BLOCK:
            raise InputError("occupancy grid", f"has a resolution of {resolution}", f"use a multiple of {BLOCK}")
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise InputError("occupancy grid", f"lies in the box {low} to {high}", "the low end of each axis must be below the high end")
        self.resolution, self.threshold, self.decay = resolution, threshold, decay
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.register_buffer("density", torch.zeros(resolution**3))  # z fastest
        self.register_buffer("bits", torch.full((resolution**3 // 8,), 255, dtype=torch.uint8))
        self.register_buffer("blocks", torch.ones((resolution // BLOCK) ** 3, dtype=torch.bool))

    @property
    def cells(self) -> Cells:
        return Cells(self.low, self.high, self.bits, self.blocks, self.resolution)

    @property
    def share(self) -> float:
        """Fraction of the cells that are occupied."""
        return float(self._flags().float().mean())

    def occupied(self, points: Tensor) -> Tensor:  # [...,3] -> [...] bool
        return occupied(points, self.cells)

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], share: float = 1.0, generator: Generator | None = None) -> None:
        """Look at `share` of the cells: all of them, or half of the share anywhere and half among the occupied ones.

        Args:
            density: world points [N,3] -> [N], at least 0. It is asked at a random point of each cell; a moving thing is
                learned by giving another moment at each call.
            generator: of the random numbers, on the grid's device.
        """
        total, device = self.resolution**3, self.density.device
        if share >= 1:
            chosen = torch.arange(total, device=device)
        else:
            half = max(int(total * share) // 2, 1)
            full = self._flags().nonzero()[:, 0]
            chosen = torch.randint(total, (half,), device=device, generator=generator)
            if len(full):
                chosen = torch.cat((chosen, full[torch.randint(len(full), (half,), device=device, generator=generator)]))
            chosen = chosen.unique()
        for part in chosen.split(CHUNK):
            found = density(self._points(part, torch.rand(len(part), 3, device=device, generator=generator))).to(self.density)
            old = self.density[part]
            self.density[part] = torch.where(old < 0, old, torch.maximum(old * self.decay, found.nan_to_num(0)))
        self._pack()

    def _points(self, index: Tensor, inside: Tensor | float) -> Tensor:  # [N], [N,3] in 0..1 -> [N,3]
        side = self.resolution
        cell = torch.stack((index // (side * side), index // side % side, index % side), -1)
        return self.low + (cell + inside) * ((self.high - self.low) / side)

    def _flags(self) -> Tensor:  # [resolution^3] bool
        return (self.bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=self.bits.device) & 1).bool().flatten()

    @staticmethod
    def _bytes(flags: Tensor) -> Tensor:  # [N,8] bool -> [N] uint8
        return (flags.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=flags.device)).sum(1, dtype=torch.uint8)

    def _pack(self) -> None:
        level = min(float(self.density.clamp(min=0).mean()), self.threshold)
        self.bits.copy_(self._bytes((self.density > level).view(-1, 8)))
        self._pack_blocks()

    def _pack_blocks(self) -> None:
        side = self.resolution // BLOCK
        self.blocks.copy_(self._flags().view(side, BLOCK, side, BLOCK, side, BLOCK).any(5).any(3).any(1).flatten())
