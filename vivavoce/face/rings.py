"""The face mesh carried on to the border of the picture, and what moves with what on it.

A face mesh ends at the oval from forehead to chin. `surround` adds rings of vertices around it, out to the picture's border:
hair and ears turn with the head, neck and shoulders follow less and less, the border does not move at all, so that a warped
crop is pasted back without a seam. `harmonic` spreads the movement of a few vertices smoothly over their surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vivavoce.face import mesh, regions
from vivavoce.face.blendshapes import LIP_PAIRS

RINGS = 14
NEAR = 1.5  # rings stand denser near the oval: distance grows with this power
# How far the rigid head goes beyond the oval, in heights of the oval: above, beside and below it; where it has faded out.
RIGID = (0.38, 0.22, 0.02)
FADE = (1.0, 0.9, 0.85)
SKIN = (0.12, 0.12, 0.55)  # how far the skin's movement reaches
SLOPE = 0.8  # the skull goes back this much for each length away from the oval ...
DEEP = 0.45  # ... down to this many oval heights


@dataclass
class Surround:
    """Rings around one face: row r * 36 + j of the ring vertices continues `regions.OVAL[j]`."""

    points: Tensor  # [R*36,3] px, depth as that of the mesh
    triangles: Tensor  # [F,3] int64, numbered after the 468 of the mesh
    rigid: Tensor  # [R*36] 0..1 share of the head's rigid movement
    skin: Tensor  # [R*36] 0..1 share of the oval vertex's own movement
    anchor: Tensor  # [R*36] int64, the oval vertex


def surround(points: Tensor, size: tuple[int, int]) -> Surround:  # [478 or 468,3] px, (H, W)
    """Rings from the oval of `points` straight outwards to the border of an H x W picture."""
    oval = torch.tensor(regions.OVAL, device=points.device)
    edge = points[oval]
    height = (points[10, :2] - points[152, :2]).norm()
    up = (points[10, :2] - points[152, :2]) / height
    outward = torch.nn.functional.normalize(edge[:, :2] - edge[:, :2].mean(0), dim=1)  # [36,2]
    limit = points.new_tensor([size[1], size[0]])
    room = torch.where(outward > 0, limit - edge[:, :2], edge[:, :2]) / outward.abs().clamp(min=1e-6)
    reach = room.amin(1).clamp(min=1.0)  # [36] px to the border
    step = (torch.arange(1, RINGS + 1, device=points.device) / RINGS) ** NEAR
    far = step[:, None] * reach  # [R,36] px
    flat = edge[:, :2] + far[..., None] * outward
    depth = edge[:, 2] + (SLOPE * far).clamp(max=DEEP * float(height))
    lean = outward @ up  # 1 above, 0 beside, -1 below
    start, end, soft = (_direction(lean, values) * height for values in (RIGID, FADE, SKIN))
    end = torch.minimum(start + end, reach)
    start = torch.minimum(start, 0.4 * end)
    rigid = 1 - _rise((far - start) / (end - start))
    skin = 1 - _rise(far / torch.minimum(soft, reach))
    number = torch.arange(RINGS * len(oval), device=points.device).reshape(RINGS, -1) + regions.MESH
    loops = torch.cat([oval[None], number])
    a, b = loops[:-1], loops[1:]
    faces = torch.stack([torch.stack([a, b, a.roll(-1, 1)], -1), torch.stack([a.roll(-1, 1), b, b.roll(-1, 1)], -1)])
    return Surround(
        torch.cat([flat, depth[..., None]], -1).reshape(-1, 3),
        faces.reshape(-1, 3),
        rigid.reshape(-1),
        skin.reshape(-1),
        oval.repeat(RINGS),
    )


def _direction(lean: Tensor, values: tuple[float, float, float]) -> Tensor:
    """A quantity given above, beside and below, for directions between."""
    above, beside, below = values
    return beside + (above - beside) * lean.clamp(min=0) ** 2 + (below - beside) * (-lean).clamp(min=0) ** 2


def _rise(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * t * (t * (6 * t - 15) + 10)


def holes() -> Tensor:  # [898] bool
    """Which triangles of the mesh close the mouth and the eyes."""
    loops = (regions.LIPS_INNER, regions.EYE_RIGHT, regions.EYE_LEFT)
    return torch.stack([torch.from_numpy(np.isin(mesh.triangles(), loop).all(1)) for loop in loops]).any(0)


def harmonic(moved: Tensor, still: Tensor) -> Tensor:  # [K] int64, [N] int64 -> [468,K] 0..1
    """Share of each vertex in the movement of the `moved` vertices, when the `still` ones stay: the mesh as a membrane with
    open mouth and eyes. Rows sum to at most 1."""
    faces = torch.from_numpy(mesh.triangles())[~holes()]
    links = torch.zeros(regions.MESH, regions.MESH, dtype=torch.float64)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        links[faces[:, i], faces[:, j]] = links[faces[:, j], faces[:, i]] = 1
    laplace = torch.diag(links.sum(1)) - links
    free = torch.ones(regions.MESH, dtype=torch.bool)
    free[still] = free[moved] = False
    share = torch.zeros(regions.MESH, len(moved), dtype=torch.float64)
    share[moved, torch.arange(len(moved))] = 1
    within = laplace[free][:, free] + 1e-9 * torch.eye(int(free.sum()), dtype=torch.float64)
    share[free] = torch.linalg.solve(within, links[free][:, moved])
    return share.float()


def lid_pairs(loop: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Upper and lower points of an eye's loop, each upper one over its lower one, without the corners."""
    half = len(loop) // 2
    return list(loop[1:half]), list(loop[:half:-1])


@lru_cache(maxsize=1)
def lip_shares() -> Tensor:  # [468,18]
    """Share of each vertex in the movement of the upper and lower inner lips (LIP_PAIRS); the nose stays."""
    vertices = torch.from_numpy(mesh.vertices())
    centre = vertices[[13, 14]].mean(0)
    away = ((vertices - centre) / torch.tensor([0.045, 0.04, 1e3])).norm(dim=1) > 1
    above = vertices[:, 1] > vertices[2, 1] - 0.001  # the nose stays
    upper, lower = (list(side) for side in zip(*LIP_PAIRS, strict=True))
    return harmonic(torch.tensor(upper + lower), (away | above).nonzero()[:, 0])


@lru_cache(maxsize=2)
def lid_shares(loop: tuple[int, ...]) -> Tensor:  # [468,14]
    """Share of each vertex in the movement of an eye's upper and lower lid (lid_pairs): falls off towards the brow."""
    vertices = torch.from_numpy(mesh.vertices())
    upper, lower = lid_pairs(loop)
    centre, reach = vertices[list(loop)].mean(0), float(vertices[loop[0], 0] - vertices[loop[8], 0])
    away = ((vertices - centre) / torch.tensor([0.95 * reach, 0.75 * reach, 1e3])).norm(dim=1) > 1
    away[[loop[0], loop[8]]] = True
    return harmonic(torch.tensor(upper + lower), away.nonzero()[:, 0]) ** 1.5
