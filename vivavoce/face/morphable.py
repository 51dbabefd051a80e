"""A linear face model: vertices = mean + identity x coefficients + expression x coefficients, and where the landmarks lie on it.

Two loaders make one, `morphable_bfm` and `morphable_ict`; `fit` finds its coefficients in a video. Head space is that of
`face/pose.py`: x right, y up, z toward the viewer, metres. Coefficients are in standard deviations of the model (the scale of the
lineage's `track_params.pt`), except expressions that are `bounded`: those are shares from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivavoce.face import mesh
from vivavoce.face.regions import LANDMARKS_68
from vivavoce.types import InputError

FACING = 0.006  # metres that a turn of the normal by a radian counts: a point of the upper lip does not go to the lower one
BEND = 0.03  # metres: over this length a landmark drags its surroundings along when the canonical face is laid on the model


@dataclass(frozen=True)
class Morphable:
    """A linear face model of V vertices, I identities, E expressions."""

    name: str
    mean: Tensor  # [V,3] metres
    identity: Tensor  # [I,V,3] metres a standard deviation
    expression: Tensor  # [E,V,3] metres a unit of expression
    bounded: bool  # expressions run from 0 to 1; else they are Gaussian with standard deviation 1
    triangles: Tensor  # [F,3] int64, counter-clockwise seen from outside
    landmarks: Tensor  # [68] int64, vertices of the 68 points
    left: Tensor  # [8,C] int64, candidates for the contour points 0-7 (left side of the picture): the one farthest left is seen
    right: Tensor  # [8,C] int64, the same for the points 9-16: the one farthest right is seen
    names: tuple[str, ...] = ()  # of the expressions, where they have any
    colour: Tensor | None = None  # [V,3] mean albedo, 0..1
    texture: Tensor | None = None  # [X,V,3] albedo a standard deviation

    def __post_init__(self) -> None:
        """Raises InputError when the parts do not fit each other."""
        count = len(self.mean)
        tables = {"identity": self.identity, "expression": self.expression, "texture": self.texture}
        for name, table in tables.items():
            if table is not None and (table.ndim != 3 or table.shape[1:] != (count, 3) or not bool(table.isfinite().all())):
                raise InputError(self.name, f"its {name} table does not have a finite row of {count} x 3 for each shape")
        for name, index in {"triangle": self.triangles, "landmark": self.landmarks, "left contour": self.left}.items():
            if index.numel() == 0 or int(index.min()) < 0 or int(index.max()) >= count:
                raise InputError(self.name, f"its {name} list names vertices that are not among its {count}")
        if self.landmarks.shape != (68,) or self.left.shape != self.right.shape or len(self.left) != 8 or int(self.right.max()) >= count:
            raise InputError(self.name, "it does not have 68 landmarks and 8 rows of contour vertices a side")

    def shape(self, identity: Tensor, expression: Tensor | None = None) -> Tensor:  # [I], [T,E] -> [V,3] or [T,V,3]
        """The vertices of a person, at rest or with expressions."""
        rest = self.mean + torch.einsum("i,ivc->vc", identity, self.identity)
        return rest if expression is None else rest + torch.einsum("te,evc->tvc", expression, self.expression)

    def at(self, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [P] -> [P,3], [I,P,3], [E,P,3]
        """Mean, identity and expression of some vertices."""
        return self.mean[vertices], self.identity[:, vertices], self.expression[:, vertices]

    def to(self, device: torch.device) -> Morphable:
        """The same model on another device."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Morphable(**moved)


def normals(vertices: Tensor, triangles: Tensor) -> Tensor:  # [...,V,3], [F,3] -> [...,V,3] unit length
    """Normals of the vertices, those of their triangles added up by area."""
    a, b, c = (vertices.index_select(-2, triangles[:, k]) for k in range(3))
    face = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total.index_add_(-2, triangles[:, k], face)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def similarity(points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:  # [P,3], [P,3] -> s R [3,3], shift [3]
    """The scaled rotation and shift that lay points on a target (least squares)."""
    middle, heart = points.mean(0), target.mean(0)
    a, b = points - middle, target - heart
    left, spread, right = torch.linalg.svd(b.T @ a)
    sign = torch.ones(3).to(points)
    sign[2] = torch.sign(torch.linalg.det(left @ right))
    turn = left * sign @ right * ((spread * sign).sum() / a.square().sum())
    return turn, heart - turn @ middle


def dense(model: Morphable) -> Tensor:  # -> [468] int64
    """The model's vertex for each vertex of the canonical face.

    The canonical face is laid on the mean head by its 68 landmarks (similarity, then a smooth warp through them), and each of
    its vertices takes the nearest one of the model that faces the same way.
    """
    face = torch.from_numpy(mesh.vertices()).to(model.mean)
    triangles = torch.from_numpy(mesh.triangles()).to(model.mean.device)
    target = model.mean[model.landmarks]
    turn, shift = similarity(face[list(LANDMARKS_68)], target)
    placed = face @ turn.T + shift
    marks = placed[list(LANDMARKS_68)]
    near = torch.exp(-torch.cdist(placed, marks) / BEND)
    gram = torch.exp(-torch.cdist(marks, marks) / BEND) + 0.05 * torch.eye(68).to(marks)
    placed = placed + near @ torch.linalg.solve(gram, target - marks)
    ours = torch.cat([placed, FACING * normals(placed, triangles)], 1)
    theirs = torch.cat([model.mean, FACING * normals(model.mean, model.triangles)], 1)
    found = torch.cat([torch.cdist(rows, theirs).argmin(1) for rows in ours.split(64)])
    found[list(LANDMARKS_68[17:])] = model.landmarks[17:]  # the contour of the canonical face is not the outline of the head
    return found


def contours(mean: Tensor, landmarks: Tensor, band: float, reach: float, count: int) -> tuple[Tensor, Tensor]:
    """Candidates for the outline, for a model that comes without: vertices as high as the landmark, within reach of it.

    Args:
        mean: [V,3] metres. landmarks: [68]. band: metres above and below. reach: metres around. count: C.
    Returns:
        [8,C] left, [8,C] right; rows with fewer candidates repeat their landmark.
    """
    sides = []
    for points in (landmarks[:8], landmarks[9:17]):
        rows = []
        for point in points.tolist():
            away = mean - mean[point]
            near = (away[:, 1].abs() < band) & (away.norm(dim=1) < reach) & (mean[:, 0] * mean[point, 0] >= 0)
            order = away.norm(dim=1).masked_fill(~near, torch.inf).argsort()[: int(near.sum())]
            spread = order[torch.from_numpy(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64))]
            rows.append(torch.cat([spread, torch.full((count - len(spread),), point)]))
        sides.append(torch.stack(rows))
    return sides[0], sides[1]
