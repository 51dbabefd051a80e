"""A grid of tetrahedra, and the surface that a signed distance on its vertices cuts out of them (marching tetrahedra).

The grid is body-centred: the corners and the middles of cubic cells, four tetrahedra around each line between the middles of two
neighbouring cells. In cubic cells all tetrahedra are alike, and rounder than those that cubes are usually cut into (Labelle and Shewchuk,
"Isosurface stuffing", SIGGRAPH 2007). A cell has two vertices and twelve tetrahedra; the outermost half cell is left open.
The surface hangs on the edges that change sign: with the sign kept, its triangles stay while its vertices move (Shen et al.,
"Deep marching tetrahedra", NeurIPS 2021; Zhang et al., DynTet, CVPR 2024, for a head that speaks).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor


class Surface(NamedTuple):
    """Triangles whose vertices lie on the grid's edges."""

    edges: Tensor  # [E,2] int64, vertices of the grid: one inside, one outside
    faces: Tensor  # [F,3] int64, rows of `edges`; counter-clockwise seen from outside


def grid(
    low: Tensor, high: Tensor, resolution: int, focus: Tensor | None = None, reach: float = 0.03, finer: float = 3.0
) -> tuple[Tensor, Tensor]:  # [3], [3] -> [V,3], [N,4] int64
    """A grid that covers the box with cells, `resolution` along its longest side.

    With `focus` [3], a place in the box, cells near it are narrower along each axis, `finer` times as narrow as far from it, falling off
    over `reach`; there are as many of them. Without, all are cubes.
    """
    step = float((high - low).max()) / resolution
    count = [max(2, int(np.ceil(float(s) / step - 1e-6))) + 1 for s in high - low]  # and half a cell more on each side
    middle = (low + high) / 2
    axes = [middle[k] + step * (torch.arange(n + 1) - n / 2) for k, n in enumerate(count)]
    if focus is not None:
        axes = [_drawn(axis, float(focus[k]), reach, finer) for k, axis in enumerate(axes)]
    corners = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    middles = torch.stack(torch.meshgrid(*[(a[:-1] + a[1:]) / 2 for a in axes], indexing="ij"), -1)
    corner = torch.arange(corners[..., 0].numel()).reshape(corners.shape[:3])
    inner = torch.arange(middles[..., 0].numel()).reshape(middles.shape[:3]) + corner.numel()
    out = []
    for axis in range(3):
        a, b = inner.narrow(axis, 0, count[axis] - 1), inner.narrow(axis, 1, count[axis] - 1)
        face = corner.narrow(axis, 1, count[axis] - 1)  # the corners of the square between two cells
        first, second = (k for k in range(3) if k != axis)
        ring = [face.narrow(first, i, count[first]).narrow(second, j, count[second]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        out += [torch.stack([a, b, ring[k], ring[(k + 1) % 4]], -1).reshape(-1, 4) for k in range(4)]
    return torch.cat([corners.reshape(-1, 3), middles.reshape(-1, 3)]), torch.cat(out)


def _drawn(axis: Tensor, centre: float, reach: float, finer: float) -> Tensor:  # [n] -> [n]
    """As many places between the same ends, closer together around a centre."""
    fine = torch.linspace(float(axis[0]), float(axis[-1]), 2001, dtype=torch.float64)
    density = 1 + (finer - 1) * torch.exp(-((fine - centre) / reach).square())
    rank = torch.cat([torch.zeros(1).double(), ((density[1:] + density[:-1]) / 2).cumsum(0)])
    wanted = torch.linspace(0, float(rank[-1]), len(axis), dtype=torch.float64)
    k = torch.searchsorted(rank, wanted).clamp(1, len(rank) - 1)
    part = (wanted - rank[k - 1]) / (rank[k] - rank[k - 1])
    return (fine[k - 1] + part * (fine[k] - fine[k - 1])).to(axis)


def march(points: Tensor, distance: Tensor, tets: Tensor) -> Surface:  # [V,3], [V] negative inside, [N,4]
    """The surface where the distance is zero. Nothing of it is differentiable; its vertices are (`place`)."""
    inside = distance.detach() < 0
    held = inside[tets]
    number = held.sum(1)
    cut = ((number > 0) & (number < 4)).nonzero()[:, 0]
    number = number[cut]
    order = torch.argsort(held[cut].to(torch.int8), dim=1, descending=True, stable=True)
    ranked = tets[cut].gather(1, order)  # those inside first
    out = []
    for count, corners in (
        (1, ((0, 1), (0, 2), (0, 3))),
        (3, ((0, 3), (1, 3), (2, 3))),
        (2, ((0, 2), (0, 3), (1, 3))),
        (2, ((0, 2), (1, 3), (1, 2))),
    ):
        rows = ranked[number == count]
        out.append(_outward(points, rows, torch.stack([rows[:, list(pair)] for pair in corners], 1), count))
    joined = torch.cat(out)  # [F,3,2]
    keys = joined.amin(2) * len(points) + joined.amax(2)
    unique, faces = torch.unique(keys, return_inverse=True)
    edges = torch.stack([unique // len(points), unique % len(points)], 1)
    swap = inside[edges[:, 1]]
    return Surface(torch.where(swap[:, None], edges.flip(1), edges), faces)


def _outward(points: Tensor, rows: Tensor, corners: Tensor, count: int) -> Tensor:  # [M,4], [M,3,2] -> [M,3,2]
    """Triangles turned so that they are counter-clockwise seen from the tetrahedron's outer vertices."""
    at = points[corners].mean(2)  # [M,3,3]
    normal = torch.linalg.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0])
    away = points[rows[:, count:]].mean(1) - points[rows[:, :count]].mean(1)
    back = (normal * away).sum(1) < 0
    return torch.where(back[:, None, None], corners.flip(1), corners)


def share(distance: Tensor, edges: Tensor) -> Tensor:  # [V], [E,2] -> [E] 0..1
    """How far from its inner end each edge is cut; differentiable in the distance."""
    inner, outer = distance[edges[:, 0]], distance[edges[:, 1]]
    return (inner / (inner - outer).clamp(max=-1e-9)).clamp(0.02, 0.98)  # a vertex at an edge's very end gives triangles of no area


def place(points: Tensor, part: Tensor, edges: Tensor) -> Tensor:  # [...,V,C], [E], [E,2] -> [...,E,C]
    """Values of the grid's vertices at the surface's."""
    inner = points.index_select(-2, edges[:, 0])
    return inner + part[:, None] * (points.index_select(-2, edges[:, 1]) - inner)


def largest(surface: Surface) -> Surface:
    """The part of the surface with the most triangles, all of whose vertices hang together; edges that it does not use are dropped."""
    faces = surface.faces.cpu().numpy()
    count = len(surface.edges)
    links = coo_matrix((np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), shape=(count, count))
    _, part = connected_components(links, directed=False)
    kept = part[faces[:, 0]] == np.bincount(part[faces[:, 0]]).argmax()
    used, renamed = np.unique(faces[kept], return_inverse=True)
    device = surface.faces.device
    return Surface(surface.edges[torch.from_numpy(used).to(device)], torch.from_numpy(renamed.reshape(-1, 3)).to(device))


def narrow(surface: Surface) -> tuple[Surface, Tensor]:  # -> and [A] int64
    """The surface over the vertices of the grid that it uses alone, and which these are."""
    used, renamed = torch.unique(surface.edges, return_inverse=True)
    return Surface(renamed, surface.faces), used


def laplacian(values: Tensor, faces: Tensor) -> Tensor:  # [...,V,C], [F,3] -> [...,V,C]
    """The mean of each vertex's neighbours less its own value."""
    here, there = faces[:, [0, 1, 1, 2, 2, 0]].flatten(), faces[:, [1, 0, 2, 1, 0, 2]].flatten()
    total = torch.zeros_like(values).index_add(-2, here, values.index_select(-2, there))
    number = values.new_zeros(values.shape[-2]).index_add(0, here, values.new_ones(len(here)))
    return total / number.clamp(min=1)[:, None] - values
