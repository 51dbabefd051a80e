"""Readers of a person folder as each older repository reads it, written from descriptions of their formats alone.

They share nothing with this package: NumPy, Pillow and the lineage's own conventions. A reader asserts whatever its repository
takes for granted; its `project` says where that repository would draw a point of the head.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.lineage_folders import lineage_rotation


@dataclass
class Scene:
    """What a repository has after loading."""

    ids: list[int]  # img_id of each row
    seen: np.ndarray  # [T,V,2] px: the tracked mesh as this repository projects it
    pictures: np.ndarray  # [T,H,W,3] uint8 RGB
    landmarks: np.ndarray  # [T,68,2] px
    extras: dict[str, Any] = field(default_factory=dict)


def pixels(path: Path, mode: str = "RGB") -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == mode, f"{path.name} is {image.mode}"
        return np.asarray(image)


def transforms(folder: Path, name: str = "transforms_{}.json") -> tuple[list[dict[str, Any]], float, float, float]:
    frames: list[dict[str, Any]] = []
    for split in ("train", "val"):
        table = json.loads((folder / name.format(split)).read_text())
        assert table["frames"]
        frames += table["frames"]
    assert all(type(f["img_id"]) is int and type(f["aud_id"]) is int for f in frames)
    return frames, table["focal_len"], table["cx"], table["cy"]


def column(folder: Path, name: str) -> np.ndarray:
    """A column of au.csv by its exact name, as a library that strips nothing finds it."""
    head, *rows = (folder / "au.csv").read_text().splitlines()
    at = head.split(",").index(name)
    return np.array([float(row.split(",")[at]) for row in rows])


def mesh_of(folder: Path) -> np.ndarray:  # [V,3] decimetres
    """Mean of the meshes of all frames."""
    vertices = torch.load(folder / "track_params.pt", weights_only=True)["vertices"]
    assert vertices.ndim == 3 and vertices.dtype == torch.float32
    return vertices.mean(0).double().numpy()


def landmarks(folder: Path, ids: list[int]) -> np.ndarray:
    found = np.stack([np.loadtxt(folder / "ori_imgs" / f"{k}.lms") for k in ids])
    assert found.shape[1:] == (68, 2)
    return found


def layered(folder: Path, ids: list[int]) -> dict[str, np.ndarray]:
    """Background plate and body of RAD-NeRF and what follows from it."""
    torso = np.stack([pixels(folder / "torso_imgs" / f"{k}.png", "RGBA") for k in ids]).astype(float)
    plate = pixels(folder / "bc.jpg").astype(float)
    behind = torso[..., :3] * torso[..., 3:] / 255 + plate * (1 - torso[..., 3:] / 255)
    return {"plate": plate, "behind": behind, "torso": torso}


def in_four_colours(folder: Path, ids: list[int]) -> np.ndarray:  # [T,H,W] bool
    """The head mask: exactly blue. No other than the four colours may be there."""
    seg = np.stack([pixels(folder / "parsing" / f"{k}.png") for k in ids])
    known = sum((seg == c).all(-1) for c in ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)))
    assert known.all()
    mask: np.ndarray = (seg == (0, 0, 255)).all(-1)
    return mask


def rad_nerf(folder: Path, units: bool = True) -> Scene:
    """RAD-NeRF, ER-NeRF, R2-Talker, SyncTalk: instant-ngp's axes (y, z, x), y and z of the camera turned, lengths times 4."""
    frames, focal, cx, cy = transforms(folder)
    ids = [f["img_id"] for f in frames]
    points = 4 * (mesh_of(folder) / 10)[:, [1, 2, 0]]
    seen = []
    for f in frames:
        c2w = np.array(f["transform_matrix"])
        turned = c2w[[1, 2, 0], :3] * (1, -1, -1)
        origin = 4 * c2w[[1, 2, 0], 3]
        ray = (points - origin) @ turned  # x right, y down, z forward
        seen.append(ray[:, :2] / ray[:, 2:] * focal + (cx, cy))
    pictures = np.stack([pixels(folder / "gt_imgs" / f"{k}.jpg") for k in ids])
    assert pictures.shape[1:3] == (int(cy) * 2, int(cx) * 2)
    scene = Scene(ids, np.stack(seen), pictures, landmarks(folder, ids), layered(folder, ids))
    if units:
        scene.extras["blink"] = np.clip(column(folder, " AU45_r")[ids], 0, 2) / 2
    return scene


def windows(folder: Path, name: str, dim: int, frames: int) -> np.ndarray:
    table = np.load(folder / name)
    assert table.ndim == 3 and table.shape[1:] == (16, dim) and frames - 1 <= len(table) <= frames
    assert table.dtype == np.float32
    return table


def talking_gaussian(folder: Path) -> Scene:
    """TalkingGaussian, InsTaG: y and z columns of the matrix turned, then its inverse; field of view from the picture's size."""
    frames, focal, _, _ = transforms(folder)
    ids = [f["img_id"] for f in frames]
    pictures = np.stack([pixels(folder / "gt_imgs" / f"{k}.jpg") for k in ids])
    size = np.array(pictures.shape[2:0:-1])  # width, height
    half = size / (2 * focal)  # tangent of half the field of view
    points, seen = mesh_of(folder) / 10, []
    for f in frames:
        c2w = np.array(f["transform_matrix"])
        c2w[:3, 1:3] *= -1
        w2c = np.linalg.inv(c2w)
        place = points @ w2c[:3, :3].T + w2c[:3, 3]
        seen.append((place[:, :2] / place[:, 2:] / half + 1) * size / 2)
    seg = np.stack([pixels(folder / "parsing" / f"{k}.png") for k in ids])
    teeth = np.stack([np.load(folder / "teeth_mask" / f"{k}.npy") for k in ids])
    assert teeth.dtype == bool and teeth.shape == seg.shape[:3]
    masks = {"face": (seg == (0, 0, 255)).all(-1) ^ teeth, "hair": (seg == 0).all(-1), "mouth": (seg == 100).all(-1) | teeth}
    exp = np.stack([column(folder, f" AU{u:02d}_r")[ids] for u in (1, 4, 5, 6, 7, 45, 25)], 1)
    return Scene(ids, np.stack(seen), pictures, landmarks(folder, ids), {**layered(folder, ids), **masks, "units": exp})


def gaussian_talker(folder: Path) -> Scene:
    """GaussianTalker, EGSTalker: no matrix; euler and trans of the tracker, x turned, everything negated; decimetres."""
    frames, focal, cx, cy = transforms(folder)
    ids = [f["img_id"] for f in frames]
    table = torch.load(folder / "track_params.pt", weights_only=True)
    turn = lineage_rotation(table["euler"].double().numpy())
    points, seen = mesh_of(folder), []
    for k in ids:
        stored = -(np.diag([-1.0, 1.0, 1.0]) @ turn[k]).T
        shift = -table["trans"][k].double().numpy()
        shift[0] = -shift[0]
        place = points @ stored + shift  # the rasteriser's world-to-view is the stored matrix transposed
        seen.append(place[:, :2] / place[:, 2:] * focal + (cx, cy))
    pictures = np.stack([pixels(folder / "ori_imgs" / f"{k}.jpg") for k in ids])
    extras = {**layered(folder, ids), "head": in_four_colours(folder, ids), "blink": np.clip(column(folder, "AU45_r")[ids], 0, 2) / 2}
    extras["features"] = windows(folder, "aud_ds.npy", 29, len(table["euler"]))
    return Scene(ids, np.stack(seen), pictures, landmarks(folder, ids), extras)


def ad_nerf(folder: Path) -> Scene:
    """AD-NeRF, DFRF, GeneFace: rays with y up and z toward the viewer; pictures of the head alone; a box of the face."""
    frames, focal, cx, cy = transforms(folder)
    ids = [f["img_id"] for f in frames]
    points, seen = mesh_of(folder) / 10, []
    for f in frames:
        c2w = np.array(f["transform_matrix"])
        way = (points - c2w[:3, 3]) @ c2w[:3, :3]  # a ray of pixel (i, j) is ((i - cx) / f, -(j - cy) / f, -1)
        seen.append(np.stack([way[:, 0] / -way[:, 2] * focal + cx, -way[:, 1] / -way[:, 2] * focal + cy], 1))
    rects = np.array([f["face_rect"] for f in frames])
    assert rects.dtype.kind == "i" and rects.shape == (len(ids), 4)
    pictures = np.stack([pixels(folder / "com_imgs" / f"{k}.jpg") for k in ids])
    heads = np.stack([pixels(folder / "head_imgs" / f"{k}.jpg") for k in ids])
    far = np.array([np.linalg.norm(points - np.array(f["transform_matrix"])[:3, 3], axis=1) for f in frames])
    extras = {"rects": rects, "heads": heads, "plate": pixels(folder / "bc.jpg").astype(float), "far": far}
    return Scene(ids, np.stack(seen), pictures, landmarks(folder, ids), {**extras, "head": in_four_colours(folder, ids)})


def sync_talk(folder: Path) -> Scene:
    """SyncTalk: RAD-NeRF's, blendshapes in place of action units, the face's mask in the green channel."""
    scene = rad_nerf(folder, units=False)
    scores = np.load(folder / "bs.npy")
    assert scores.shape[1] == 52 and np.isfinite(scores).all()
    scene.extras["blink"] = scores[scene.ids][:, 8:10].mean(1)
    scene.extras["face"] = np.stack([(255 - pixels(folder / "parsing" / f"{k}_face.png")[..., 1]) / 255 for k in scene.ids])
    scene.extras["head"] = in_four_colours(folder, scene.ids)
    return scene


def dyn_tet(folder: Path) -> Scene:
    """DynTet: a model-view matrix in decimetres, the vertical field of view, x of the clip space to the right."""
    frames, focal, cx, cy = transforms(folder, "mv_transforms_{}.json")
    ids = [f["img_id"] for f in frames]
    assert all(np.shape(f["exp"]) == (1, 79) and np.shape(f["id"]) == (1, 100) for f in frames)
    slope = 1 / (focal / cy)  # tangent of half the vertical field of view
    points, seen = mesh_of(folder), []
    for f in frames:
        view = np.array(f["transform_matrix"])
        place = points @ view[:3, :3].T + view[:3, 3]
        assert (place[:, 2] < 0).all()
        clip = place[:, :2] / -place[:, 2:] / (slope * np.array([cx / cy, 1]))
        seen.append(np.stack([(clip[:, 0] + 1) * cx, (1 - clip[:, 1]) * cy], 1))
    pictures = np.stack([pixels(folder / "gt_imgs" / f"{k}.jpg") for k in ids])
    behind = np.stack([pixels(folder / "bg_torso" / f"{k}.jpg") for k in ids]).astype(float)
    return Scene(ids, np.stack(seen), pictures, landmarks(folder, ids), {"behind": behind, "head": in_four_colours(folder, ids)})
