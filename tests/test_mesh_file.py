"""Meshes in files, read back by what the formats say, and a mesh unrolled into a picture."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.test_mesh_render import sphere
from vivavoce.face.pose import matrix_from_euler
from vivavoce.media.mesh_file import quaternions, shapes, write_glb, write_obj
from vivavoce.nn import tets
from vivavoce.render import mesh as draw
from vivavoce.render.mesh.atlas import atlas
from vivavoce.types import InputError

TYPES = {5126: np.float32, 5125: np.uint32}
WIDE = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def opened(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The document of a .glb and its accessors, as glTF 2.0 lays them down."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    document, rest = json.loads(data[20 : 20 + size]), data[20 + size :]
    size, kind = struct.unpack("<I4s", rest[:8])
    assert kind == b"BIN\0" and len(rest) == 8 + size and document["buffers"][0]["byteLength"] <= size
    tables = []
    for a in document["accessors"]:
        view = document["bufferViews"][a["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        table = np.frombuffer(rest[8:], TYPES[a["componentType"]], a["count"] * WIDE[a["type"]], view["byteOffset"])
        tables.append(table.reshape(a["count"], -1))
        assert np.allclose(tables[-1].min(0), a["min"]) and np.allclose(tables[-1].max(0), a["max"])
    return document, tables


def film(count: int = 9) -> tuple[Tensor, Tensor]:  # [T,V,3], [F,3]
    """A sphere that swells and leans: two shapes."""
    points, faces = sphere(6)
    t = torch.linspace(0, 3, count)[:, None, None]
    return (points * (1 + 0.2 * t.sin()) + 0.1 * t.square() * points[:, [1]]).float(), faces


def test_a_film_is_the_same_when_read_back(tmp_path: Path) -> None:
    frames, faces = film()
    turn = matrix_from_euler(torch.linspace(-0.5, 0.5, 9)[:, None] * torch.tensor([1.0, 2.0, 0.3]))
    place = torch.rand(9, 3)
    flat = torch.rand(frames.shape[1], 2)
    assert write_glb(tmp_path / "a.glb", frames, faces, flat, torch.rand(3, 8, 8), (turn, place)) < 1e-4
    document, tables = opened(tmp_path / "a.glb")
    part = document["meshes"][0]["primitives"][0]
    assert np.array_equal(tables[part["indices"]].reshape(-1, 3), faces.numpy())
    assert np.allclose(tables[part["attributes"]["TEXCOORD_0"]], flat)
    tracks = {c["target"]["path"]: document["animations"][0]["samplers"][c["sampler"]] for c in document["animations"][0]["channels"]}
    weights = tables[tracks["weights"]["output"]].reshape(9, -1)
    assert weights.shape[1] == len(part["targets"]) == len(document["meshes"][0]["weights"]) == 2
    base = tables[part["attributes"]["POSITION"]]
    moved = base + np.einsum("tk,kvc->tvc", weights, np.stack([tables[t["POSITION"]] for t in part["targets"]]))
    assert np.allclose(moved, frames, atol=1e-4)
    assert np.allclose(tables[tracks["weights"]["input"]][:, 0], np.arange(9) / 25)
    assert np.allclose(tables[tracks["translation"]["output"]], place)
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    start = 12 + 8 + struct.unpack("<I", (tmp_path / "a.glb").read_bytes()[12:16])[0] + 8 + view["byteOffset"]
    assert (tmp_path / "a.glb").read_bytes()[start : start + 4] == b"\x89PNG"


def test_few_shapes_come_near_and_a_still_film_has_none(tmp_path: Path) -> None:
    frames = torch.randn(30, 50, 3)
    error = [
        float((m + torch.einsum("tk,kvc->tvc", w, p) - frames).square().mean()) for m, p, w in (shapes(frames, k) for k in (4, 12, 29))
    ]
    assert error[0] > error[1] > error[2] and error[2] < 1e-8
    still, faces = film(1)
    write_glb(tmp_path / "still.glb", still.expand(4, -1, -1), faces)
    assert "animations" not in opened(tmp_path / "still.glb")[0]


def test_turns_are_quaternions() -> None:
    turn = matrix_from_euler(torch.randn(20, 3))
    x, y, z, w = quaternions(turn).double().unbind(1)
    again = torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y), 2 * (y * z - w * x)], 1)
    wanted = torch.stack([turn[:, 0, 0], turn[:, 1, 0], turn[:, 2, 0], turn[:, 1, 2]], 1)
    assert torch.allclose(again[:, :3].float(), wanted[:, :3], atol=1e-5) and torch.allclose(again[:, 3].float(), wanted[:, 3], atol=1e-5)
    small = quaternions(matrix_from_euler(torch.linspace(-3, 3, 40)[:, None] * torch.tensor([0.0, 0.0, 1.0])))
    assert float((small[1:] * small[:-1]).sum(1).min()) > 0.9  # no jump to the other side


def test_a_frame_as_text(tmp_path: Path) -> None:
    frames, faces = film(1)
    flat = torch.rand(frames.shape[1], 2)
    write_obj(tmp_path / "a.obj", frames[0], faces, flat, "skin.png")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    read = {kind: [x.split()[1:] for x in lines if x.startswith(kind + " ")] for kind in ("v", "vt", "f")}
    assert np.allclose(np.array(read["v"], float), frames[0], atol=1e-6)
    assert np.allclose(np.array(read["vt"], float), np.stack([flat[:, 0], 1 - flat[:, 1]], 1), atol=1e-6)
    assert np.array_equal(np.array([[int(c.split("/")[0]) for c in f] for f in read["f"]]), faces.numpy() + 1)
    assert "map_Kd skin.png" in (tmp_path / "a.mtl").read_text() and lines[0] == "mtllib a.mtl"
    with pytest.raises(InputError, match="cannot be written"):
        write_obj(tmp_path / "a.mtl" / "a.obj", frames[0], faces)  # in what is no folder


def test_charts_cover_the_surface_once() -> None:
    """No triangle is turned over, none lies on another, all lie in the square, and lengths stay within a factor of two."""
    points, corners = tets.grid(torch.tensor([-1.0, -1, -1]), torch.tensor([1.0, 1, 1]), 12)
    distance = points.norm(dim=1) - 0.7
    surface = tets.march(points, distance, corners)
    at = tets.place(points, tets.share(distance, surface.edges), surface.edges)
    made = atlas(at, surface.faces)
    assert torch.equal(made.vertex[made.faces], surface.faces)
    assert float(made.flat.min()) >= 0 and float(made.flat.max()) <= 1
    a, b, c = made.flat[made.faces].unbind(1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    assert bool((area < 1e-9).all())  # counter-clockwise on paper is clockwise where v goes down
    size = 512
    target = torch.cat([made.flat * size, torch.ones(len(made.flat), 1)], 1)[None]
    number = draw.rasterize(target, made.faces, (size, size))
    covered = float((number >= 0).sum()) / size**2
    assert abs(covered - float(-area.sum()) / 2) < 0.02 and covered > 0.35  # nothing overlaps, and the square is well used
