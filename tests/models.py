"""Small face models in the formats of the Basel Face Model and of ICT-FaceKit, and videos of heads made with them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.heads import bumps
from vivavoce.catalogue import CATALOGUE
from vivavoce.face import mesh, pose
from vivavoce.face.fit_colour import harmonics
from vivavoce.face.morphable import Morphable, contours, normals
from vivavoce.face.regions import LANDMARKS_68
from vivavoce.render import mesh as draw
from vivavoce.types import Camera

PEOPLE, MOVES, SKINS = 8, 10, 6
MICROMETRE, CENTIMETRE = 1e6, 100.0


def surface() -> tuple[Tensor, Tensor]:  # -> [V,3] metres, [F,3]
    """The canonical face with every edge halved: its first 468 vertices are the canonical ones."""
    vertices, triangles = torch.from_numpy(mesh.vertices()), torch.from_numpy(mesh.triangles())
    edges = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).sort(1).values
    pairs, number = edges.unique(dim=0, return_inverse=True)
    ab, bc, ca = (number + len(vertices)).split(len(triangles))
    a, b, c = triangles.unbind(1)
    finer = torch.cat([torch.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return torch.cat([vertices, vertices[pairs].mean(1)]), finer


def shapes(places: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:  # [V,3] -> identity [PEOPLE,V,3], expression [MOVES,V,3], metres
    """Smooth bumps for people; a jaw, lips and brows first among the expressions, then bumps around the mouth."""
    g = torch.Generator().manual_seed(seed)
    identity = torch.stack([bumps(places, 4, 0.002, g) for _ in range(PEOPLE)])
    jaw = torch.sigmoid((-0.045 - places[:, 1]) / 0.008)[:, None] * torch.tensor([0.0, -0.010, -0.002])
    round_mouth = torch.exp(-((places - places[13]) / 0.02).square().sum(1))[:, None]
    brows = torch.sigmoid((places[:, 1] - places[105, 1] + 0.01) / 0.004)[:, None] * torch.exp(
        -(((places[:, 1:2] - places[105, 1]) / 0.02) ** 2)
    )
    pout, lift = round_mouth * torch.tensor([0.0, 0.0, 0.005]), brows * torch.tensor([0.0, 0.004, 0.0])
    wide = round_mouth * torch.sign(places[:, :1]) * torch.tensor([0.004, 0.0, 0.0])
    rest = [round_mouth * bumps(places, 3, 0.002, g) for _ in range(MOVES - 4)]
    return identity, torch.stack([jaw, pout, lift, wide, *rest])


def write_bfm(folder: Path, seed: int = 0) -> None:
    """`01_MorphableModel.mat` and the lineage's three .npy files, of a face among vertices that the topology leaves out."""
    from scipy.io import savemat

    g = torch.Generator().manual_seed(seed + 1)
    mean, triangles = surface()
    identity, expression = shapes(mean, seed)
    count = len(mean)
    kept = torch.randperm(count + 50, generator=g)[:count].sort().values
    shade = 0.04 * torch.sin(mean @ torch.tensor([[140.0], [90.0], [60.0]]))
    colour = torch.tensor([0.72, 0.52, 0.45]) + shade
    texture = torch.stack([(400 * bumps(mean, 6, 0.001, g)).clamp(-0.2, 0.2) for _ in range(SKINS)]) * 0.3
    sigma = torch.rand(PEOPLE, generator=g) + 0.5

    def scan(table: Tensor, unit: float) -> np.ndarray:  # [K,V,3] -> [3(V+50),K] as in the .mat
        whole = torch.randn(len(table), count + 50, 3, generator=g)
        whole[:, kept] = table * unit
        return whole.flatten(1).T.numpy()

    held = {
        "shapeMU": scan((mean + 0.03)[None], MICROMETRE),
        "shapePC": scan(identity / sigma[:, None, None], MICROMETRE),
        "shapeEV": sigma[:, None].numpy(),
        "texMU": scan(colour[None], 255),
        "texPC": scan(texture, 255),
        "texEV": np.ones((SKINS, 1)),
    }
    savemat(folder / "01_MorphableModel.mat", held)
    landmarks = torch.tensor(LANDMARKS_68)
    left, right = contours(mean, landmarks, 0.006, 0.02, 6)
    flat = expression.flatten(1).numpy() * MICROMETRE
    save_table(folder / "exp_info.npy", {"mu_exp": np.zeros(3 * count), "base_exp": flat / 2, "sig_exp": np.full(MOVES, 2.0)})
    save_table(folder / "topology_info.npy", {"sub_inds": kept.numpy(), "tris": triangles.numpy()})
    keys = {"keyinds": landmarks, "left_contour": left, "right_contour": right}
    save_table(folder / "keys_info.npy", {k: v.numpy() for k, v in keys.items()})


def save_table(file: Path, table: dict[str, Any]) -> None:
    """A dictionary as `np.save` writes it: a pickle in a .npy file."""
    np.save(file, np.array(table, dtype=object), allow_pickle=True)


def write_ict(file: Path, seed: int = 0) -> None:
    """A packed model: quads where two triangles make one, centimetres, half precision, some vertices below the throat."""
    mean, triangles = surface()
    identity, expression = shapes(mean, seed)
    low = torch.tensor([[0.0, -0.2, 0.0], [0.01, -0.2, 0.0], [0.0, -0.21, 0.0]])
    neck = torch.tensor([[0, 1, 2]]) + len(mean)
    extra = torch.zeros(1, 3, 3)
    quads = torch.cat([torch.cat([triangles, neck]), torch.full((len(triangles) + 1, 1), -1)], 1)
    np.savez(
        file,
        neutral=(torch.cat([mean, low]) * CENTIMETRE).numpy(),
        identity_delta=(torch.cat([identity, extra.expand(PEOPLE, -1, -1)], 1) * CENTIMETRE).half().numpy(),
        expression_delta=(torch.cat([expression, extra.expand(MOVES, -1, -1)], 1) * CENTIMETRE).half().numpy(),
        expression_names=np.array([f"move{k}" for k in range(MOVES)]),
        faces_quad=quads.int().numpy(),
        vertex_indices_json=np.array(json.dumps({"idx_to_landmark_verts": list(LANDMARKS_68)})),
    )


def take(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the catalogue find small files of these names in the folder, and nothing elsewhere."""
    monkeypatch.setenv("VIVAVOCE_ASSETS", str(folder))
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    for name in ("bfm_2009", "bfm_expressions", "bfm_converted", "bfm_topology", "bfm_keys"):
        monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], size=0, sha256=""))


@dataclass
class Shot:
    """`points` are what a landmark network would give; the rest is the truth behind them."""

    points: Tensor  # [T,478,3] px
    clean: Tensor  # [T,468,2] px
    camera: Camera
    rotation: Tensor  # [T,3] rad
    expression: Tensor  # [T,E]
    vertices: Tensor  # [T,V,3] metres
    size: tuple[int, int]


def film(
    model: Morphable,
    frames: int = 60,
    noise: float = 0.5,
    turning: float = 1.0,
    side: int = 512,
    focal: float = 0.0,
    distance: float = 0.9,
    seed: int = 0,
) -> Shot:
    """A head of this model that turns and speaks; the model's first 468 vertices are the landmarks. `focal`: px, 0 = 2.34 `side`."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(frames) / 25
    rotation = turning * torch.stack([0.12 * torch.sin(2.1 * t), 0.30 * torch.sin(1.7 * t + 0.5), 0.06 * torch.sin(0.9 * t)], 1)
    sway = torch.stack([torch.sin(0.8 * t), torch.sin(1.1 * t), torch.sin(t)], 1)
    translation = torch.tensor([0.0, 0.0, -distance]) + turning * 0.02 * sway
    phase = 6 * torch.rand(len(model.expression), generator=g)
    wave = torch.sin(2 * np.pi * t[:, None] * (0.5 + torch.rand(len(model.expression), generator=g)) + phase)
    expression = (0.35 + 0.35 * wave) if model.bounded else 0.9 * wave
    identity = 0.8 * torch.randn(len(model.identity), generator=g)
    vertices = model.shape(identity, expression)
    length, center = torch.tensor([focal or 2.34 * side]), torch.tensor([side / 2, side / 2])
    camera = pose.camera_from_pose(pose.matrix_from_euler(rotation), translation, length, center)
    clean = pose.project(camera, vertices[:, :468])
    seen = clean + noise * torch.randn(clean.shape, generator=g)
    near = -(vertices[:, :468] @ pose.matrix_from_euler(rotation).transpose(1, 2))[..., 2:] * length / distance
    points = torch.cat([seen, near - near.mean(1, keepdim=True) + 3 * torch.randn(near.shape, generator=g)], 2)
    return Shot(torch.cat([points, points[:, :10]], 1), clean, camera, rotation, expression, vertices, (side, side))


def pictures(model: Morphable, shot: Shot, rows: Tensor, skin: Tensor | None = None) -> Tensor:  # [N] -> [N,3,H,W]
    """The frames: the model's skin (`skin` [X] standard deviations) in a light that moves a little, on grey."""
    assert model.colour is not None and model.texture is not None
    albedo = model.colour if skin is None else model.colour + torch.einsum("x,xvc->vc", skin, model.texture)
    camera, triangles = shot.camera[rows], model.triangles
    placed = (shot.vertices[rows] - camera.pose[:, None, :3, 3]) @ camera.pose[:, :3, :3]
    target = torch.cat([pose.project(camera, shot.vertices[rows]), placed[..., 2:]], -1)
    light = torch.zeros(9, 3)
    light[0], light[1], light[2], light[3] = 0.8, 0.1, 0.15, torch.tensor([0.3, 0.28, 0.25])
    normal = normals(placed * placed.new_tensor([1.0, -1.0, -1.0]), triangles)
    lit = (harmonics(normal) @ light) * albedo
    seen = draw.rasterize(target, triangles, shot.size)
    share = draw.weights(target, triangles, seen)
    image = torch.where((seen >= 0)[..., None], draw.interpolate(lit, triangles, seen, share), torch.tensor(0.5))
    return image.movedim(-1, 1)
