"""Multi-resolution feature grids in 2 and 3 dimensions, and three of them as a tri-plane: one contract, three back ends.

    grid = Grid(dims=3, levels=16, features=2, base=16, finest=2048, log2_table=19, kind="hash", smooth=False, backend="auto")
    features = grid(points, open_levels=None)       # [N,3] in 0..1 -> [N,grid.width], level after level
    planes = TriPlane(levels=12, features=1, base=64, finest=512, log2_table=14)
    features = planes(points, open_levels=None)     # [N,3] in 0..1 -> [N,planes.width]: xy, then yz, then xz
    features = grid(points, dtype=torch.float16)    # for drawing: no gradients

A level that fits the table is dense, in any kind. One that does not is hashed (instant-NGP), or "tiled" (torch-ngp: the index
modulo the size of the table, without the dimensions whose stride exceeds it), or an error for "dense". Entries and their order
are torch-ngp's: `plan.py`. `grid.table` [entries,features] is the one parameter; torch-ngp calls it `embeddings`.

Points: a coordinate outside 0..1 reads the border and gets no gradient; a point with a NaN gives NaN features and touches no
entry. `open_levels` is the schedule of progressive training: levels below it are open, the level it cuts fades in with its fraction
(2.25 opens levels 0 and 1 and a quarter of level 2), the rest gives zeros; None opens all.

| back end | device, dtype | gradients (table, points) |
|---|---|---|
| torch | any float | both, of any order: the oracle |
| numba | CPU, float32 | both, once; the same bits every time: one thread owns a level |
| triton | CUDA, float32 | both, once; the table's by atomic additions, so that its last bits vary |

Mueller et al., Instant neural graphics primitives, SIGGRAPH 2022; tri-plane: Li et al., ER-NeRF, ICCV 2023.
"""

from __future__ import annotations

from types import ModuleType

import torch as pytorch  # importing the back end of that name binds `torch` in this package
from torch import Tensor, nn

from vivavoce.render.backends import choose, load
from vivavoce.render.rays.shade import Level, Read

from .plan import KINDS, PRIMES, Plan, plan

__all__ = ["BACKENDS", "KINDS", "Grid", "TriPlane", "choose", "open_at", "read"]

BACKENDS = ("torch", "numba", "triton")
PLANES = ((0, 1), (1, 2), (0, 2))  # xy, yz, xz: ER-NeRF's order
START = 1e-4  # a table starts uniform within this


def _load(backend: str, like: Tensor) -> ModuleType:
    return load(__name__, BACKENDS, backend, choose(like.device, like.dtype))


def open_at(done: float, levels: int, first: int, share: float) -> float:
    """`open_levels` when so much of a training is done, 0..1: from `first` to all of the levels while the first `share` of it goes by."""
    return min(float(levels), first + (levels - first) * done / max(share, 1e-6))


def _shares(layout: Plan, open_levels: float | None) -> tuple[float, ...]:
    count = len(layout.levels)
    return (1.0,) * count if open_levels is None else tuple(min(max(open_levels - level, 0.0), 1.0) for level in range(count))


def read(
    points: Tensor,
    table: Tensor,
    layout: Plan,
    open_levels: float | None = None,
    backend: str = "auto",
    dtype: pytorch.dtype | None = None,
) -> Tensor:
    """Features [N,levels*F] of points [N,dims] in a table [entries,F] of this layout; what `Grid` calls.

    dtype: of the features, where it is not the table's; then they have no gradients.
    Raises InputError for a back end that is not there, ValueError for shapes that do not fit.
    """
    if points.dim() != 2 or points.shape[1] != layout.dims:
        raise ValueError(f"points have shape {tuple(points.shape)}: [N,{layout.dims}] wanted")
    if dtype not in (None, table.dtype):
        return _several(points, [table], layout, (tuple(range(layout.dims)),), open_levels, backend, dtype)
    found: Tensor = _load(backend, table).read(points.to(table.dtype), table, layout, _shares(layout, open_levels))
    return found


def _several(
    points: Tensor,  # [N,D]
    tables: list[Tensor],  # of one layout
    layout: Plan,
    axes: tuple[tuple[int, ...], ...],  # of the points, for each table
    open_levels: float | None,
    backend: str,
    dtype: pytorch.dtype | None,
) -> Tensor:  # [N,tables*levels*F]
    """Features from several tables side by side."""
    module, shares, points = _load(backend, tables[0]), _shares(layout, open_levels), points.to(tables[0].dtype)
    if hasattr(module, "several") and not points.requires_grad:
        found: Tensor = module.several(points, tables, layout, shares, axes, dtype or tables[0].dtype)
        return found
    parts = [module.read(points[:, list(a)], table, layout, shares) for a, table in zip(axes, tables, strict=True)]
    return pytorch.cat(parts, -1).to(dtype or tables[0].dtype)


def _reads(look: nn.Module, tables: list[Tensor], layout: Plan, axes: tuple[tuple[int, ...], ...], open_levels: float | None) -> Read:
    """Tables of one layout as drawing kernels read them; without levels where they cannot: smooth weights, features no power of two."""
    levels = []
    for table, some in zip(tables, axes, strict=True):
        for level, share in zip(layout.levels, _shares(layout, open_levels), strict=True):
            part = table.detach()[level.start : level.start + level.size]
            times = PRIMES if level.hashed else (*level.strides, 0)
            levels.append(Level(part, level.scale, times[1], times[2], level.hashed, level.mask, share, some))
    plain = not layout.smooth and layout.features & (layout.features - 1) == 0
    return Read(lambda points, dtype: look(points, open_levels, dtype), levels if plain else None)


class Grid(nn.Module):
    """Features of points in the unit square or cube.

    Args:
        dims: 2 or 3.
        levels, features: the output is levels * features wide.
        base, finest: cells along a side of the coarsest and the finest level; between them they grow by a constant factor
            (finest may be a fraction, or less than base).
        log2_table: a level has at most 2 to this many entries; of no effect for kind "dense".
        kind: "hash", "tiled" or "dense": where a level lies that does not fit.
        smooth: weights by smoothstep, so that the gradient in the points is continuous, in place of linear ones.
        backend: "auto", or one of BACKENDS.

    Raises InputError for settings that make no grid.
    """

    def __init__(
        self,
        dims: int = 3,
        levels: int = 16,
        features: int = 2,
        base: int = 16,
        finest: float = 2048,
        log2_table: int = 19,
        kind: str = "hash",
        smooth: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.layout, self.backend = plan(dims, levels, features, base, finest, log2_table, kind, smooth), backend
        self.table = nn.Parameter(pytorch.empty(self.layout.entries, features).uniform_(-START, START))
        self.width = levels * features

    def forward(self, points: Tensor, open_levels: float | None = None, dtype: pytorch.dtype | None = None) -> Tensor:
        """[N,dims] in 0..1 -> [N,width]."""
        return read(points, self.table, self.layout, open_levels, self.backend, dtype)

    def reads(self, open_levels: float | None = None) -> Read:
        """The grid for drawing."""
        return _reads(self, [self.table], self.layout, (tuple(range(self.layout.dims)),), open_levels)


class TriPlane(nn.Module):
    """Features of points in the unit cube from three 2-D grids, on xy, yz and xz, one after the other. Arguments as of `Grid`."""

    def __init__(
        self,
        levels: int = 12,
        features: int = 1,
        base: int = 64,
        finest: float = 512,
        log2_table: int = 14,
        kind: str = "hash",
        smooth: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.planes = nn.ModuleList(Grid(2, levels, features, base, finest, log2_table, kind, smooth, backend) for _ in PLANES)
        self.width, self.backend = 3 * levels * features, backend

    def forward(self, points: Tensor, open_levels: float | None = None, dtype: pytorch.dtype | None = None) -> Tensor:
        """[N,3] in 0..1 -> [N,width]."""
        layout: Plan = self.planes[0].layout  # type: ignore[assignment]
        tables: list[Tensor] = [plane.table for plane in self.planes]  # type: ignore[misc]
        return _several(points, tables, layout, PLANES, open_levels, self.backend, dtype)

    def reads(self, open_levels: float | None = None) -> Read:
        """The planes for drawing."""
        layout: Plan = self.planes[0].layout  # type: ignore[assignment]
        return _reads(self, [plane.table for plane in self.planes], layout, PLANES, open_levels)  # type: ignore[misc]
