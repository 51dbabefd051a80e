"""What older person folders lack, worked out from what they have.

AD-NeRF, DFRF and GeneFace composite into `com_imgs`, RAD-NeRF and what follows from it into `gt_imgs`. None of them holds a
mesh of 468 points: it is laid onto their landmarks with their own cameras. Blinks come from OpenFace's `au.csv` (ER-NeRF,
TalkingGaussian), from SyncTalk's `bs.npy`, or, where there is neither, from the landmarks of the eyes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivavoce.face import mesh as canonical
from vivavoce.face import regions
from vivavoce.face.pose import LINEAGE, axis_from_matrix, cross_matrix, matrix_from_axis
from vivavoce.types import Camera

COMPOSITED = ("gt_imgs", "com_imgs")  # where frames over the plate lie, the first that is there
FITTED = 200  # frames that the mesh is laid onto
LARGER = 0.15  # of the canonical head: standard deviation of the log of a person's size
APART = 0.03  # metres: standard deviation of the place of the lineage's origin in ours; it lies in the head's middle
TURNED, AWAY = 0.6, 0.15  # rad, metres: no tracker's head is turned or moved so far against the canonical one
OPEN = 95  # percentile of the eye's height that counts as open
SHUT = 0.35  # of that height: landmarks of a shut eye still lie apart


def true_numbers(folder: Path) -> dict[int, int]:  # img_id as it is written -> the frame meant
    """RAD-NeRF's tracker passes over frames without landmarks and counts on, so that each later pose has the number of an earlier frame.

    Known by numbers that run from 0 to one less than there are landmark files, while frames between lack theirs. Else empty.
    """
    names = [p.name for p in (folder / "ori_imgs").iterdir()] if (folder / "ori_imgs").is_dir() else []
    found = sorted(int(n[:-4]) for n in names if n.endswith(".lms") and n[:-4].isdecimal())
    if found == list(range(len(found))):
        return {}
    numbers: list[int] = []
    for name in ("transforms_train.json", "transforms_val.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # told by who needs the file
            numbers += [int(f["img_id"]) for f in json.loads((folder / name).read_text())["frames"]]
    return dict(enumerate(found)) if sorted(numbers) == list(range(len(found))) else {}


def openness(landmarks: Tensor) -> Tensor:  # [T,68,2] px, a whole clip -> [T,2] left, right; 0 shut to 1 open
    """Height over width of each eye against what is usual for this person with open eyes."""
    out = []
    for first in (42, 36):  # the person's left eye, then the right
        p = landmarks[:, first : first + 6]
        height = (p[:, 1] - p[:, 5]).norm(dim=1) + (p[:, 2] - p[:, 4]).norm(dim=1)
        ratio = height / (p[:, 0] - p[:, 3]).norm(dim=1).clamp_min(1e-6)
        share = ratio / torch.quantile(ratio, OPEN / 100).clamp_min(1e-6)
        out.append(((share - SHUT) / (1 - SHUT)).clamp(0, 1))
    return torch.stack(out, 1)


def blendshapes(path: Path) -> Any:  # -> float32 [T,52]
    """SyncTalk's `bs.npy`: MediaPipe's scores without the neutral one, a zero at the end. Raises ValueError for another form."""
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != len(regions.BLENDSHAPES):
        raise ValueError(f"its shape is {list(rows.shape)}")
    return np.roll(rows, 1, axis=1).astype(np.float32)


def vertices(table: dict[str, Any]) -> Tensor | None:  # track_params.pt -> [V,3] metres, or None
    """Mean head of `track_params.pt`: [T,V,3] decimetres as the lineage writes it, or [V,3] metres as we did."""
    found = table.get("vertices")
    if not isinstance(found, Tensor) or found.shape[-1] != 3:
        return None
    return found.float().mean(0) / LINEAGE if found.ndim == 3 else found.float() if found.ndim == 2 else None


def laid_on(landmarks: Tensor, camera: Camera) -> tuple[Tensor, float] | None:
    """The canonical face, moved, turned and scaled until its 68 points lie on the landmarks: one mesh for all frames.

    A head that hardly turns does not show how far its parts lie from its origin, so size and origin are held near those of a
    standard head. Gauss-Newton over seven numbers.

    Args:
        landmarks: [T,68,2] px. camera: T rows, of any tracker whose lengths are metres and whose origin lies in the head.
    Returns:
        [468,3] metres in head space, and the root mean square distance left, px; None when what fits best is no head: upside
        down, far from the origin, or of a child's or a giant's size.
    """
    rows = torch.linspace(0, len(camera) - 1, min(len(camera), FITTED)).long()
    seen, view = landmarks[rows].double(), camera[rows].to(torch.float64)
    whole = torch.from_numpy(canonical.vertices()).double()
    points = whole[list(regions.LANDMARKS_68)]
    trusted = torch.ones(68, dtype=torch.float64)
    trusted[:17] = 0.2  # the jaw's points slide along the cheek as the head turns
    trusted[48:] = 0.5  # lips move
    turn, place, size = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0.0
    for _ in range(20):
        turned = float(np.exp(size)) * points @ turn.t()
        error, slope = _residuals(turned + place, seen, view)
        spread = error.norm(dim=2).median().clamp_min(1e-3)
        weight = trusted / (1 + (error.norm(dim=2) / (3 * spread)).square())  # [T,68]
        ways = torch.cat([-cross_matrix(turned), torch.eye(3).double().expand(68, 3, 3), turned[..., None]], 2)  # [68,3,7]
        jacobian = slope @ ways  # [T,68,2,7]
        held = torch.tensor([0.0, 0, 0, *[1 / APART**2] * 3, 1 / LARGER**2], dtype=torch.float64) * spread.square()
        now = torch.cat([torch.zeros(3).double(), place, torch.tensor([size]).double()])
        count = 1.0 / len(rows)  # the priors weigh as much as one frame's landmarks
        hessian = count * torch.einsum("tp,tpai,tpaj->ij", weight, jacobian, jacobian) + torch.diag(held + 1e-9)
        step = torch.linalg.solve(hessian, count * torch.einsum("tp,tpai,tpa->i", weight, jacobian, error) - held * now)
        turn, place, size = matrix_from_axis(step[:3]) @ turn, place + step[3:6], size + float(step[6])
        if float(step.abs().max()) < 1e-8:
            break
    if float(axis_from_matrix(turn[None]).norm()) > TURNED or float(place.norm()) > AWAY or abs(size) > 4 * LARGER:
        return None
    left = _residuals(float(np.exp(size)) * points @ turn.t() + place, seen, view)[0]
    return (float(np.exp(size)) * whole @ turn.t() + place).float(), float(left.square().sum(2).mean().sqrt())


def _residuals(points: Tensor, seen: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:  # -> [T,P,2] px, [T,P,2,3] px a metre
    """How far the landmarks lie from the points, and how their pixels follow the points."""
    place = (points - camera.pose[:, None, :3, 3]) @ camera.pose[:, :3, :3]  # OpenCV axes
    depth = place[..., 2:].clamp_min(1e-3)
    pixels = place[..., :2] / depth * camera.focal[:, None] + camera.center[:, None]
    zoom = camera.focal[:, None] / depth  # [T,P,2]
    slope = torch.zeros(*place.shape[:2], 2, 3).to(place)
    slope[..., 0, 0], slope[..., 1, 1] = zoom[..., 0], zoom[..., 1]
    slope[..., 2] = -zoom * place[..., :2] / depth
    return seen - pixels, slope @ camera.pose[:, None, :3, :3].transpose(-1, -2)
