"""The 52 expression scores as movements of the face mesh: a linear basis of vertex offsets, and how far the lips part.

The basis is ours. It was learned from 6,486 frames of 46 talking-head clips (GRID, VoxCeleb2, HDTF, news readers and clips of
strong expressions), on which MediaPipe's landmarker measured 478 points and the 52 scores: each frame's points were brought
into canonical head space by weighted Procrustes on the vertices that hardly move, each clip's mean was taken off (so a
person's own shape does not enter), and ridge regression from the scores, with the head's rotation as a nuisance, gave the
offsets. Every frame was used a second time mirrored, left and right names exchanged, so the basis is symmetric. Scores that
the clips hardly show (cheek puff, sneer, jaw forward) have no movement. To learn another one, measure clips with
`face.landmarker.Landmarker`, call `fit` and `save`.

Scores enter through `curve`: the landmarker's scores crowd near 0 (a talking mouth has jawOpen 0.03 to 0.3), and their square
root is more nearly linear in the movement (held-out share of the lip gap's variance explained: 0.95 instead of 0.92).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivavoce.face import mesh, regions
from vivavoce.files import whole
from vivavoce.types import InputError

FILE = Path(__file__).parent.parent / "weights" / "blendshapes.npz"
KNEE = 0.0025  # added under the root: bounds its slope, so that noise of a score at 0 does not move the face
# Pairs of inner lip points, upper over lower, from the person's right to left: the mouth's gap is measured between them.
LIP_PAIRS = ((191, 95), (80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318), (415, 324))
MOUTH = tuple(i for i, name in enumerate(regions.BLENDSHAPES) if name.startswith(("jaw", "mouth")))
RIDGE = 8.0  # rows' worth of pull towards no movement
LIP_RIDGE = 5.0
SHUT = 5e-4  # metres: a measured gap below this is a shut mouth

Array = NDArray[np.float64]


@dataclass
class Basis:
    """Movements of the canonical mesh (metres; x right, y up, z toward the viewer)."""

    offsets: Tensor  # [52,468,3] at score 1
    lips: Tensor  # [53,9] gap of LIP_PAIRS at score 1; the last row is added

    def move(self, scores: Tensor) -> Tensor:  # [...,52] -> [...,468,3]
        """Offsets of every vertex from the face without expression."""
        flat: Tensor = curve(scores) @ self.offsets.flatten(1)
        moved: Tensor = flat.reshape(*scores.shape[:-1], *self.offsets.shape[1:])
        return moved

    def gap(self, scores: Tensor) -> Tensor:  # [...,52] -> [...,9]
        """How far the inner lips are apart at LIP_PAIRS, metres; 0 when shut."""
        gap: Tensor = (curve(scores) @ self.lips[:-1] + self.lips[-1]).clamp(min=0)
        return gap

    def to(self, device: torch.device | str) -> Basis:
        return Basis(self.offsets.to(device), self.lips.to(device))


def curve(scores: Tensor) -> Tensor:  # [...,52] -> [...,52]
    """Scores made nearly linear in the movement: 0 stays 0, 1 stays 1."""
    low, high = KNEE**0.5, (1 + KNEE) ** 0.5
    bent: Tensor = ((scores.clamp(0, 1) + KNEE).sqrt() - low) / (high - low)
    return bent


@lru_cache(maxsize=1)
def load() -> Basis:
    """The basis that comes with vivavoce. Treat it as read-only."""
    try:
        with np.load(FILE) as stored:
            scale = stored["scale"].astype(np.float32)[:, None, None]
            offsets, lips = stored["offsets"].astype(np.float32) * scale, stored["lips"].astype(np.float32)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(FILE, str(error), "reinstall: pip install --force-reinstall vivavoce") from error
    return Basis(torch.from_numpy(offsets), torch.from_numpy(lips))


def save(basis: Basis, file: Path = FILE) -> None:
    """Writes a basis, offsets as 8-bit steps of each movement's largest: 0.5 % of it at most is lost."""
    offsets = basis.offsets.numpy()
    scale = np.abs(offsets).max((1, 2)) / 127
    steps = np.rint(offsets / np.maximum(scale, 1e-12)[:, None, None]).astype(np.int8)
    with whole(file) as part:
        np.savez_compressed(part, offsets=steps, scale=scale.astype(np.float32), lips=basis.lips.numpy().astype(np.float32))


def align(points: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Brings measured points into canonical head space by weighted Procrustes.

    Args:
        points: [N,478 or 468,3] px, y down, z away from the viewer.
        weights: [468], by default 1 on the vertices of `regions.STILL`.
    Returns:
        canonical [N,468,3] metres; rotation [N,3,3], scale [N] and shift [N,3] with
        points * (1,-1,-1) = scale * (canonical @ rotation^T) + shift.
    """
    model = torch.from_numpy(mesh.vertices()).to(points)
    if weights is None:
        weights = torch.zeros(regions.MESH, dtype=points.dtype, device=points.device)
        weights[list(regions.STILL)] = 1
    share = weights / weights.sum()
    seen = points[:, : regions.MESH] * points.new_tensor([1, -1, -1])
    middle, origin = (share[:, None] * seen).sum(1), share @ model
    rest, spread = seen - middle[:, None], model - origin
    u, s, v = torch.linalg.svd(torch.einsum("nvi,v,vj->nij", rest, share, spread))
    sign = torch.ones_like(s)
    sign[:, 2] = torch.det(u @ v).sign()
    rotation = (u * sign[:, None]) @ v  # seen from canonical
    scale = (s * sign).sum(-1) / (share * (spread**2).sum(-1)).sum()
    canonical = (rest @ rotation) / scale[:, None, None] + origin
    shift = middle - scale[:, None] * torch.einsum("nij,j->ni", rotation, origin)
    return canonical, rotation, scale, shift


def exchange() -> tuple[Tensor, Tensor]:
    """For a mirrored face: which vertex [468] and which score [52] stands in each place."""
    model = torch.from_numpy(mesh.vertices())
    vertices = torch.cdist(model * torch.tensor([-1.0, 1, 1]), model).argmin(1)
    names = list(regions.BLENDSHAPES)
    other = [n.replace("Left", "*").replace("Right", "Left").replace("*", "Right") for n in names]
    return vertices, torch.tensor([names.index(n) if n in names else i for i, n in enumerate(other)])


def fit(points: Tensor, scores: Tensor, clips: Tensor, ridge: float = RIDGE) -> Basis:
    """Learns a basis: points [N,478,3] px and scores [N,52] measured on frames, clips [N] int: which recording a row is of."""
    canonical, rotation, _, _ = align(points.double())
    vertices, swap = exchange()
    mirrored = canonical[:, vertices] * canonical.new_tensor([-1, 1, 1])
    shapes = torch.cat([canonical, mirrored]).flatten(1).numpy()
    heard = torch.cat([curve(scores.double()), curve(scores.double())[:, swap]]).numpy()
    turn = torch.stack([rotation[:, 2, 0], rotation[:, 2, 1], rotation[:, 1, 0]], 1)  # sines of yaw, pitch, roll
    turns = torch.cat([turn, turn * turn.new_tensor([-1, 1, -1])]).numpy()
    group = np.concatenate([clips.numpy(), clips.numpy() + int(clips.max()) + 1])
    known = np.concatenate([_centred(heard, group), _centred(np.concatenate([turns, turns**2], 1), group)], 1)
    pull = np.diag([ridge] * heard.shape[1] + [1e-3] * (known.shape[1] - heard.shape[1]))
    found = np.linalg.solve(known.T @ known + pull, known.T @ _centred(shapes, group))
    offsets = found[: heard.shape[1]].reshape(-1, regions.MESH, 3)
    offsets *= regional()[..., None].numpy()
    offsets[np.abs(offsets).max((1, 2)) < 2e-4] = 0  # below 0.2 mm at score 1: the clips do not show this movement
    shape = shapes.reshape(len(shapes), regions.MESH, 3)
    upper, lower = (list(side) for side in zip(*LIP_PAIRS, strict=True))
    lips = _fit_gap(heard, (shape[:, upper] - shape[:, lower])[..., 1])
    return Basis(torch.from_numpy(offsets).float(), torch.from_numpy(lips).float())


def regional() -> Tensor:  # [52,468] 0..1
    """Where each score may move the face: brows and lids above the cheekbones, jaw and mouth below the eyes.

    People raise their brows as they open their mouth, and regression cannot tell which of the two moved the nose.
    """
    height = torch.from_numpy(mesh.vertices())[:, 1]
    eyes = height[[*regions.CORNERS_LEFT, *regions.CORNERS_RIGHT]].mean()

    def rise(low: float, high: float) -> Tensor:  # metres above the eyes' corners
        t = ((height - eyes - low) / (high - low)).clamp(0, 1)
        return t * t * (3 - 2 * t)

    upper, lower = rise(-0.025, -0.005), 1 - rise(-0.015, 0.01)
    is_upper = torch.tensor([name.startswith(("brow", "eye")) for name in regions.BLENDSHAPES])
    return torch.where(is_upper[:, None], upper, lower)


def _centred(values: Array, group: NDArray[np.int64]) -> Array:
    """Values [N,D] less the mean of their group."""
    out = values.copy()
    for number in np.unique(group):
        rows = group == number
        out[rows] -= values[rows].mean(0)
    return out


def _fit_gap(heard: Array, gaps: Array) -> Array:  # [N,52], [N,9] -> [53,9]
    """Weights of gap = max(0, heard @ w + w0): least squares over the rows that are open or said to be, repeated."""
    columns = np.concatenate([heard[:, list(MOUTH)], np.ones((len(heard), 1))], 1)
    pull = np.diag([LIP_RIDGE] * len(MOUTH) + [0.01])
    out = np.zeros((heard.shape[1] + 1, gaps.shape[1]))
    rows_of = [*MOUTH, heard.shape[1]]
    for k in range(gaps.shape[1]):
        weights = np.ones(len(rows_of))
        for _ in range(30):
            active = (columns @ weights > 0) | (gaps[:, k] > SHUT)
            part = columns[active]
            weights = np.linalg.solve(part.T @ part + pull, part.T @ gaps[active, k])
        out[rows_of, k] = weights
    return out
