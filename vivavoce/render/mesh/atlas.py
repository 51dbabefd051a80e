"""A mesh unrolled into one picture: charts of triangles that look the same way along an axis, laid flat and packed in rows.

A chart is what hangs together of triangles whose normals lie nearest to the same one of six directions; seen along it none of them is
turned over. Simple, and as it keeps lengths within a factor of 1.7 good enough to paint on; for fewer seams use a modelling tool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from vivavoce.render.mesh.outlines import links

SWEEPS = 3  # over the triangles, that lets lone ones join their neighbours' chart
LEAN = 0.35  # cosine: a triangle that joins may lean away from the chart's direction by no more


class Atlas(NamedTuple):
    """The mesh with a vertex for every chart that it lies in."""

    flat: Tensor  # [W,2] place in the picture: right, down, 0..1
    vertex: Tensor  # [W] int64, vertex of the mesh
    faces: Tensor  # [F,3] int64, rows of the two above


def atlas(vertices: Tensor, faces: Tensor, gutter: float = 0.003) -> Atlas:  # [V,3], [F,3], share of the picture's side
    """Charts of a surface whose triangles are counter-clockwise seen from outside, in a square."""
    corners = vertices[faces].double()
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-20)
    ways = torch.cat([normal, -normal], 1)  # [F,6] along +x +y +z -x -y -z
    label, across = ways.argmax(1), links(faces).triangle
    for _ in range(SWEEPS):
        votes = torch.zeros_like(ways)
        for k in range(3):
            votes.scatter_add_(1, label[across[:, k].clamp(min=0)][:, None], (across[:, k] >= 0).to(votes)[:, None])
        best = votes.argmax(1)
        join = (votes.amax(1) >= 2) & (ways.gather(1, best[:, None])[:, 0] > LEAN)
        label = torch.where(join, best, label)
    part = _parts(label, across)
    key = part[:, None] * len(vertices) + faces
    unique, renamed = torch.unique(key, return_inverse=True)
    chart, vertex = unique // len(vertices), unique % len(vertices)
    way = torch.zeros(int(part.max()) + 1, dtype=torch.long).index_copy(0, part, label)[chart]
    axis, sign = way % 3, torch.where(way < 3, 1.0, -1.0)
    at = vertices[vertex].double()
    u = at.gather(1, ((axis + 1) % 3)[:, None])[:, 0] * sign
    v = -at.gather(1, ((axis + 2) % 3)[:, None])[:, 0]
    return Atlas(_packed(torch.stack([u, v], 1), chart, gutter).to(vertices.dtype), vertex, renamed)


def _parts(label: Tensor, across: Tensor) -> Tensor:  # [F], [F,3] -> [F] number of the chart
    """What hangs together over edges between triangles of one label."""
    count = len(label)
    mine = torch.arange(count)[:, None].expand(-1, 3)
    good = (across >= 0) & (label[across.clamp(min=0)] == label[:, None])
    one, two = mine[good].numpy(), across[good].numpy()
    _, part = connected_components(coo_matrix((np.ones(len(one)), (one, two)), shape=(count, count)), directed=False)
    return torch.from_numpy(part.astype(np.int64))


def _packed(places: Tensor, chart: Tensor, gutter: float) -> Tensor:  # [W,2] lengths, [W] -> [W,2] 0..1
    """Charts side by side in rows, the highest first, as large as they all fit into the square."""
    count = int(chart.max()) + 1
    own = chart[:, None].expand(-1, 2)
    low = torch.full((count, 2), torch.inf, dtype=places.dtype).scatter_reduce(0, own, places, "amin")
    size = torch.full((count, 2), -torch.inf, dtype=places.dtype).scatter_reduce(0, own, places, "amax") - low
    order = size[:, 1].argsort(descending=True).tolist()
    boxes = size.tolist()
    small, large = 0.0, 1 / max(float(size.max()), 1e-12)
    corners = _rows(boxes, order, 0.0, gutter)
    for _ in range(24):
        scale = (small + large) / 2
        found = _rows(boxes, order, scale, gutter)
        small, large, corners = (scale, large, found) if found is not None else (small, scale, corners)
    assert corners is not None
    return torch.tensor(corners, dtype=places.dtype)[chart] + (places - low[chart]) * small


def _rows(boxes: list[list[float]], order: list[int], scale: float, gutter: float) -> list[tuple[float, float]] | None:
    """Where each box lies at that scale; None where they do not fit."""
    x = y = gutter
    high = 0.0
    corners = [(0.0, 0.0)] * len(boxes)
    for k in order:
        wide, tall = boxes[k][0] * scale, boxes[k][1] * scale
        if x + wide + gutter > 1:
            x, y, high = gutter, y + high + gutter, 0.0
        if x + wide + gutter > 1 or y + tall + gutter > 1:
            return None if scale > 0 else corners
        corners[k] = (x, y)
        x, high = x + wide + gutter, max(high, tall)
    return corners
