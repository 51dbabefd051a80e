"""How a tracked face moves with a person's expression code, whatever the space of the code, and how the space around it follows.

The landmarks' places in the picture, less those of a rigid head, are what the expression did; a linear regression on the code gives
each point's movement a unit of each number. A network that moves a head begins from that, where the field makes it learn the
movement of a face model by a loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.face.points import depth
from vivavoce.face.pose import project
from vivavoce.types import Camera

RIDGE = 0.02  # of the regression, in shares of the rows: a number of the code that never changes moves nothing
STILL = 1e-3  # standard deviation below which a number of the code is taken as constant, in shares of the largest
NEAREST = 6  # places of the face that a point in space follows
SOFT = 0.003  # metres: within this distance all of them count alike
FAR = 0.03  # metres over which the movement fades with the distance from the face
WIDE = 0.03  # share of the rows with the widest open mouth


@dataclass
class FaceMotion:
    """vertices + (code - mean) / deviation @ basis, for codes [T,E]."""

    mean: Tensor  # [E]
    deviation: Tensor  # [E], 1 where the code does not change
    vertices: Tensor  # [V,3] metres, with the mean code
    basis: Tensor  # [E,V,3] metres a standard deviation

    def moved(self, code: Tensor) -> Tensor:  # [T,E] -> [T,V,3]
        """The face with these expressions."""
        return self.vertices + torch.einsum("te,evc->tvc", (code - self.mean) / self.deviation, self.basis)


def face_motion(code: Tensor, mesh: Tensor, camera: Camera, points: Tensor | None) -> FaceMotion:
    """Learn it from frames.

    Args:
        code: [T,E]. mesh: [V,3] metres, the rigid head. camera: T rows. points: [T,V or more,2 or more] px; None where they were
            not measured: then the face does not move.
    """
    mean, deviation = code.mean(0), code.std(0)
    constant = deviation <= STILL * deviation.amax()
    deviation = torch.where(constant, 1.0, deviation).clamp_min(1e-8)
    basis = torch.zeros(code.shape[1], *mesh.shape)
    if points is None:
        return FaceMotion(mean, deviation, mesh, basis)
    off = (points[:, : len(mesh), :2] - project(camera, mesh)) * (depth(mesh, camera) / camera.focal[:, :1])[..., None]
    moved = torch.einsum("tvk,tck->tvc", off, camera.pose[:, :3, :2]).flatten(1)  # x and y of the camera in the head's axes
    row = torch.cat([torch.ones(len(code), 1), torch.where(constant, 0.0, (code - mean) / deviation)], 1)
    hold = RIDGE * len(code) * torch.eye(row.shape[1])
    hold[0, 0] = 0
    found = torch.linalg.solve((row.t() @ row + hold).double(), (row.t() @ moved).double()).float()
    return FaceMotion(mean, deviation, mesh + found[0].unflatten(0, mesh.shape), found[1:].unflatten(1, mesh.shape))


def widest(code: Tensor, landmarks: Tensor) -> Tensor:  # [T,E], [T,68,2] px -> [E]
    """The mean code of the frames in which the mouth is widest open."""
    opening = (landmarks[:, 61:64] - landmarks[:, [67, 66, 65]]).norm(dim=2).sum(1)
    eyes = (landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1)).norm(dim=1).clamp_min(1e-6)
    return code[(opening / eyes).topk(max(1, round(WIDE * len(code)))).indices].mean(0)


def follow(points: Tensor, face: Tensor, triangles: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Which triangles of the face each point in space moves with, and how much.

    Args:
        points: [N,3] metres. face: [V,3] metres. triangles: [F,3]. hole: [F] bool, triangles that are no skin: those that close the mouth.
    Returns:
        [N,K] int64, rows of `middles(face, triangles)`, and their weights [N,K], which sum to 1 on the face and to 0 far from it.
    """
    places = face[triangles].mean(1)
    near, index, sure = [], [], (~hole).nonzero()[:, 0]
    for part in points.split(16384):
        found = torch.cdist(part, places[sure]).topk(min(NEAREST, len(sure)), dim=1, largest=False)
        near.append(found.values)
        index.append(sure[found.indices])
    away = torch.cat(near)
    weight = 1 / (away.square() + SOFT**2)
    fade = torch.exp(-(away[:, :1] / FAR).square())
    return torch.cat(index), weight / weight.sum(1, keepdim=True) * fade


def middles(values: Tensor, triangles: Tensor) -> Tensor:  # [...,V,C], [F,3] -> [...,F,C]
    """The mean of each triangle's corners."""
    return values.index_select(-2, triangles.flatten()).unflatten(-2, (-1, 3)).mean(-2)
