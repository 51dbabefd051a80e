"""A first solid of a whole head, from the tracked face and the head's outline in some frames: what a signed distance starts as.

The face is the tracked mesh with its mouth open, so that a grid of tetrahedra keeps the lips apart: they can close, for vertices move,
but what was never cut cannot open. Beside the mesh the head's surface goes backwards from the rim as far as the outline allows
(hair, ears), behind the lips there is a hollow, and the back, which no camera saw, is flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from vivavoce.face.points import SLOPE, depth
from vivavoce.face.pose import project
from vivavoce.render.mesh import carry, covered, paint, rasterize
from vivavoce.types import Camera, InputError

MARGIN = 0.012  # metres between the head and the box
CLEAR = 0.008  # metres between the solid and the box
BEHIND = 0.05  # metres from the rim of the face to the flat back
AGREE = 0.6  # share of the frames in whose outline a voxel must lie
HOLLOW, DOOR = 0.014, 0.005  # metres: depth of the hollow behind the lips, and of its narrow part between them
WIDER = 0.003  # metres by which the hollow is wider than the lips' opening


@dataclass
class Solid:
    """Signed distance of a head, metres, negative inside."""

    low: Tensor  # [3] of the box, metres
    high: Tensor  # [3]
    distance: Tensor  # [X,Y,Z] at the middles of voxels that fill the box

    def at(self, points: Tensor) -> Tensor:  # [N,3] -> [N]
        """The distance at any points; outside of the box that of its border."""
        place = (points - self.low) / (self.high - self.low) * 2 - 1
        grid = place.flip(1)[None, None, None]  # grid_sample reads the last axis first
        return functional.grid_sample(self.distance[None, None], grid, padding_mode="border", align_corners=False).flatten()


def head_solid(mesh: Tensor, triangles: Tensor, hole: Tensor, camera: Camera, head: Tensor, fine: int) -> Solid:
    """From what was tracked.

    Args:
        mesh: [V,3] metres, the face with its mouth open. triangles: [F,3]. hole: [F] bool, those that close the mouth.
        camera: T rows of frames with the mouth open, or nearly. head: [T,H,W] bool, the head's pixels in them.
        fine: voxels along the longest side.
    Raises:
        InputError: the outline and the face do not meet.
    """
    low, high = _box(mesh, camera, head)
    step = float((high - low).max()) / fine
    count = [int(n) for n in ((high - low) / step).ceil()]
    high = low + step * torch.tensor(count)
    axes = [low[k] + step * (torch.arange(count[k]) + 0.5) for k in range(3)]
    front, lips = _front(mesh, triangles, hole, low, step, count)
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    z = axes[2][None, None]
    within = ((voxels > low + CLEAR) & (voxels < high - CLEAR)).all(3)  # what the outlines leave open ends before the box does
    filled = _seen(voxels, camera, head) & (z <= front[..., None]) & within
    away = front[..., None] - z  # metres behind the surface
    reach = max(1, round(WIDER / step))
    wide = torch.from_numpy(ndimage.binary_dilation(lips.numpy(), iterations=reach))
    hollow = (lips[..., None] & (away < HOLLOW)) | (wide[..., None] & (away > DOOR) & (away < HOLLOW))
    part, _ = ndimage.label((filled & ~hollow).numpy())
    if part.max() == 0:
        raise InputError("tracking", "the tracked face lies outside the head's pixels", "run: vivavoce prepare FOLDER --only tracking")
    full = part == np.bincount(part.ravel())[1:].argmax() + 1
    inner, outer = ndimage.distance_transform_edt(full), ndimage.distance_transform_edt(~full)
    distance = ndimage.gaussian_filter((outer - inner - np.where(full, -0.5, 0.5)).astype(np.float32), 0.8) * step
    return Solid(low, high, torch.from_numpy(distance))


def _box(mesh: Tensor, camera: Camera, head: Tensor) -> tuple[Tensor, Tensor]:
    """Around the outlines, seen in the depth of the face's middle, and from behind the face's rim to its tip."""
    away = depth(mesh.mean(0, keepdim=True), camera)[:, 0]
    corners = []
    for row in range(len(head)):
        lines, columns = head[row].any(1).nonzero()[:, 0], head[row].any(0).nonzero()[:, 0]
        if not len(lines):
            continue
        x, y = torch.stack([columns[0], columns[-1] + 1]).float(), torch.stack([lines[0], lines[-1] + 1]).float()
        at = (torch.cartesian_prod(x, y) - camera.center[row]) / camera.focal[row]
        ray = torch.cat([at, torch.ones(4, 1)], 1) * away[row]
        corners.append(ray @ camera.pose[row, :3, :3].t() + camera.pose[row, :3, 3])
    around = torch.cat([*corners, mesh])
    low, high = around.amin(0) - MARGIN, around.amax(0) + MARGIN
    low[2], high[2] = mesh[:, 2].amin() - BEHIND - MARGIN, mesh[:, 2].amax() + MARGIN
    return low, high


def _front(mesh: Tensor, triangles: Tensor, hole: Tensor, low: Tensor, step: float, count: list[int]) -> tuple[Tensor, Tensor]:
    """Height z of the head's front over the x-y plane [X,Y], metres, and where the lips are open [X,Y] bool."""
    top = float(mesh[:, 2].amax()) + 1.0
    flat = torch.cat([(mesh[:, [1, 0]] - low[[1, 0]]) / step, top - mesh[:, 2:]], 1)[None]  # y to the right, x down: [X,Y] pictures
    seen = rasterize(flat, triangles, (count[0], count[1]))
    if not bool((seen >= 0).any()):
        raise InputError("tracking", "the tracked face has no extent", "run: vivavoce prepare FOLDER --only tracking")
    pixels = covered(flat, triangles, seen)
    height = paint(carry(mesh[:, 2:], pixels), pixels, 1)[0, 0].numpy()
    beside = (seen[0] < 0).numpy()
    far, nearest = ndimage.distance_transform_edt(beside, return_indices=True)
    front = height[tuple(nearest)] - SLOPE * step * far
    soft = np.where(beside, ndimage.gaussian_filter(front, 2.0), front)
    lips = (seen[0] >= 0) & hole[seen[0].clamp(min=0)]
    return torch.from_numpy(soft).float(), lips


def _seen(voxels: Tensor, camera: Camera, head: Tensor) -> Tensor:  # [X,Y,Z,3] -> [X,Y,Z] bool
    """Voxels that lie in the outline of enough frames."""
    votes = torch.zeros(voxels.shape[:3])
    size = head.new_tensor([head.shape[2], head.shape[1]], dtype=torch.float32)
    for row in range(len(head)):
        at = project(camera[[row]], voxels.reshape(-1, 3))[0] / size * 2 - 1
        found = functional.grid_sample(head[row, None, None].float(), at[None, None], padding_mode="zeros", align_corners=False)
        votes += found.reshape(votes.shape)
    return votes / len(head) > AGREE
