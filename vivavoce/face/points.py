"""Points over a whole head to start a 3-D model from: the tracked face mesh, the hair and ears around it, the mouth behind the lips.

The mesh covers the face alone. What else of the head the reference frame shows is put on a shell that leaves the rim of the
mesh backwards, so that it turns with the head almost as it should from the first step on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor

from vivavoce.face.pose import project
from vivavoce.types import Camera, InputError

SLOPE = 0.8  # metres backwards a metre away from the rim of the mesh: a head is about as deep as it is wide
MOUTH_DEPTH = (0.003, 0.018)  # metres behind the lips: teeth to tongue


@dataclass
class HeadPoints:
    """Points in canonical head space, metres."""

    means: Tensor  # [N,3]
    spacing: Tensor  # [N] metres between neighbours
    part: Tensor  # [N] int64: 0 face, 1 shell, 2 inside the mouth


def depth(points: Tensor, camera: Camera) -> Tensor:  # [N,3], T rows -> [T,N] metres before the camera
    return ((points - camera.pose[:, None, :3, 3]) * camera.pose[:, None, :3, 2]).sum(2)


def head_points(
    mesh: Tensor,  # [V,3]
    triangles: Tensor,  # [F,3] int64
    lips: Tensor,  # [L] int64, vertices of the inner lips' outline
    camera: Camera,  # one row
    head: Tensor,  # [H,W] bool, pixels of the head in that row
    count: int,
    shares: tuple[float, float, float] = (0.5, 0.42, 0.08),
) -> HeadPoints:
    """`count` random points: shares on the face, on the shell and in the mouth. Uses torch's global random numbers.

    Raises InputError when the mesh and the head mask do not meet (the tracking belongs to other frames).
    """
    wanted = [int(count * s) for s in shares[1:]]
    lip = mesh[lips].mean(0)
    face, face_spacing = _on_triangles(mesh, triangles, count - sum(wanted), lip)
    dense, _ = _on_triangles(mesh, triangles, 60_000, lip)
    shell, shell_spacing = _shell(dense, camera, head, wanted[0])
    mouth, mouth_spacing = mouth_points(mesh[lips], wanted[1])
    sizes = [len(face), len(shell), len(mouth)]
    part = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    return HeadPoints(torch.cat([face, shell, mouth]), torch.cat([face_spacing, shell_spacing, mouth_spacing]), part)


def _on_triangles(mesh: Tensor, triangles: Tensor, count: int, lip: Tensor) -> tuple[Tensor, Tensor]:
    """Random points of the surface, up to four times denser around the mouth."""
    corners = mesh[triangles]  # [F,3,3]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1) / 2
    near = 1 + 3 * torch.exp(-((corners.mean(1) - lip).norm(dim=1) / 0.03).square())
    which = torch.multinomial(area * near, count, replacement=True)
    a, b = torch.rand(count, 1), torch.rand(count, 1)
    a, b = torch.where(a + b > 1, 1 - a, a), torch.where(a + b > 1, 1 - b, b)
    first, second, third = corners[which].unbind(1)
    points = first + a * (second - first) + b * (third - first)
    density = count * near[which] / (area * near).sum()
    return points, density.rsqrt()


def _shell(dense: Tensor, camera: Camera, head: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Points for the head's pixels beside the mesh, behind the nearest pixel of the mesh by SLOPE times the way to it."""
    height, width = head.shape
    pixels, metres = project(camera, dense), depth(dense, camera)[0]
    column, row = pixels[0].floor().long().unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    nearest = torch.full((height * width,), float("inf"))
    nearest.scatter_reduce_(0, (row * width + column)[inside], metres[inside], "amin")
    nearest = nearest.reshape(height, width)
    covered = ndimage.binary_closing(nearest.isfinite().numpy(), iterations=2)
    beside = head & ~torch.from_numpy(covered)
    if not (head & nearest.isfinite()).any():
        raise InputError("tracking", "the tracked face lies outside the head's pixels", "run: vivavoce prepare FOLDER --only tracking")
    if not beside.any():
        return dense[:0], dense[:0, 0]
    away, (rows, columns) = ndimage.distance_transform_edt(~nearest.isfinite().numpy(), return_indices=True)
    rim = nearest[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
    focal = camera.focal[0]
    z = rim * (1 + SLOPE * torch.from_numpy(away).float() / focal.mean())
    places = beside.nonzero()
    chosen = places[torch.randint(len(places), (count,))]
    at = chosen.flip(1) + torch.rand(count, 2)  # x, y px
    far = z[chosen[:, 0], chosen[:, 1]]
    rays = torch.cat([(at - camera.center[0]) / focal, torch.ones(count, 1)], 1) * far[:, None]
    points = rays @ camera.pose[0, :3, :3].t() + camera.pose[0, :3, 3]
    spacing = (len(places) / count) ** 0.5 * far / focal.mean()
    return points, spacing


def mouth_points(lips: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Random points in a box behind the lips: as wide as the mouth, high enough for an open one."""
    low, high = lips.amin(0), lips.amax(0)
    wide = high[0] - low[0]
    box = torch.stack([wide * 0.9, wide * 0.5, torch.tensor(MOUTH_DEPTH[1] - MOUTH_DEPTH[0])])
    corner = torch.stack([low[0] + wide * 0.05, (low[1] + high[1]) / 2 - wide * 0.3, low[2] - MOUTH_DEPTH[1]])
    points = corner + torch.rand(count, 3) * box
    return points, (box[0] * box[1] / max(count, 1)).sqrt().expand(count) * 1.3


def colours_of(points: Tensor, camera: Camera, frames: Tensor) -> Tensor:  # [N,3], T rows, [T,3,H,W] -> [N,3]
    """Mean colour of each point's pixel over some frames."""
    pixels = project(camera, points)
    size = torch.tensor([frames.shape[-1], frames.shape[-2]])
    grid = (pixels / size * 2 - 1)[:, None]  # [T,1,N,2]
    read = torch.nn.functional.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return read[:, :, 0].mean(0).t()


def mouth_shapes(landmarks: Tensor) -> Tensor:  # [T,68,2] px -> [T,40]
    """The 20 lip points upright, around their own mean, in eye distances: the shape without place, size and roll of the head."""
    right, left = landmarks[:, 36:42].mean(1), landmarks[:, 42:48].mean(1)
    across = left - right
    lips = landmarks[:, 48:68] - landmarks[:, 48:68].mean(1, keepdim=True)
    down = torch.stack([-across[:, 1], across[:, 0]], 1)
    turned = torch.stack([(lips * across[:, None]).sum(2), (lips * down[:, None]).sum(2)], 2)
    return (turned / across.square().sum(1).clamp_min(1e-6)[:, None, None]).flatten(1)
