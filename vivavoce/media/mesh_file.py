"""Meshes as files: Wavefront OBJ for one frame, glTF 2.0 (`.glb`) for a film that plays in a browser.

A film of T frames with V vertices is stored as a mean, a few shapes that are mixed (morph targets, the principal components of the
movement) and their weights a frame: two dozen shapes keep a talking head to a fraction of a millimetre in a film of any length, and every
viewer of glTF plays them. The head's turn and place are an animated node. Written here: the libraries for glTF hold a document's
records, of which this needs a dozen, and none makes shapes from frames.
"""

from __future__ import annotations

import json
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vivavoce.files import written
from vivavoce.types import FPS

FLOAT, UINT, VEC = 5126, 5125, {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
ARRAY, ELEMENT = 34962, 34963  # what a buffer is for
MAGIC, JSON_PART, BINARY_PART = b"glTF", b"JSON", b"BIN\0"


def write_obj(path: str | Path, vertices: Tensor, faces: Tensor, flat: Tensor | None = None, picture: str = "") -> None:
    """One frame.

    Args:
        vertices: [V,3]. faces: [F,3], counter-clockwise seen from outside. flat: [V,2] place in the texture, right and down, 0..1.
        picture: name of the texture's file beside this one; a `.mtl` file that names it is written too.
    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*v) for v in vertices.tolist()]
    if flat is not None:
        lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in flat.tolist()]  # OBJ counts upwards
        lines += ["f {0}/{0} {1}/{1} {2}/{2}".format(*f) for f in (faces + 1).tolist()]
    else:
        lines += ["f {} {} {}".format(*f) for f in (faces + 1).tolist()]
    if flat is not None and picture:
        with written(path.with_suffix(".mtl")) as part:
            part.write_bytes(f"newmtl skin\nKd 1 1 1\nKs 0 0 0\nmap_Kd {picture}\n".encode())
        lines = [f"mtllib {path.with_suffix('.mtl').name}", "usemtl skin", *lines]
    with written(path) as part:
        part.write_bytes(("\n".join(lines) + "\n").encode())


def shapes(frames: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:  # [T,V,3] -> [V,3], [K,V,3], [T,K]
    """Mean, principal shapes and their weights: frames = mean + weights @ shapes, as near as `most` of them come."""
    mean = frames.mean(0)
    flat = (frames - mean).flatten(1).double()
    values, turns = torch.linalg.eigh(flat @ flat.t())  # as many as frames, not as numbers of a frame
    order = values.argsort(descending=True)[: min(most, max(len(frames) - 1, 1))]
    size = values[order].clamp(min=0).sqrt()
    weights = turns[:, order] * len(frames) ** 0.5
    parts = (turns[:, order].t() @ flat) / len(frames) ** 0.5
    kept = size > 1e-7 * size.amax().clamp_min(1e-12)
    return mean, parts[kept].float().unflatten(1, frames.shape[1:]), weights[:, kept].float()


class _Buffer:
    """Binary data, and the records that say what lies where."""

    def __init__(self) -> None:
        self.data, self.views, self.accessors = bytearray(), [], []  # type: bytearray, list[dict[str, Any]], list[dict[str, Any]]

    def view(self, data: bytes, **more: Any) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data), **more})
        self.data += data
        return len(self.views) - 1

    def add(self, rows: Tensor, target: int | None = None) -> int:  # [N], [N,C]
        """Floats, or whole numbers as uint32."""
        whole = not rows.is_floating_point()
        table = np.ascontiguousarray(rows.cpu().numpy().astype(np.uint32 if whole else np.float32))
        view = self.view(table.tobytes(), **({"target": target} if target is not None else {}))
        limits = {"min": table.reshape(len(table), -1).min(0).tolist(), "max": table.reshape(len(table), -1).max(0).tolist()}
        kind = VEC[1 if table.ndim == 1 else table.shape[1]]
        self.accessors.append({"bufferView": view, "componentType": UINT if whole else FLOAT, "count": len(table), "type": kind, **limits})
        return len(self.accessors) - 1


def quaternions(rotation: Tensor) -> Tensor:  # [T,3,3] -> [T,4] x y z w, neighbours on one side
    """Turns as glTF wants them."""
    found = torch.linalg.eigh(_symmetric(rotation.double())).eigenvectors[..., -1]
    sign = torch.ones(len(found), dtype=found.dtype)
    sign[1:] = torch.where((found[1:] * found[:-1]).sum(1) < 0, -1.0, 1.0).to(sign)
    return (found * sign.cumprod(0)[:, None]).float()


def _symmetric(r: Tensor) -> Tensor:  # [T,3,3] -> [T,4,4] whose largest eigenvector is the quaternion (Bar-Itzhack, 2000)
    k = torch.zeros(len(r), 4, 4, dtype=r.dtype)
    for i in range(3):
        j, m = (i + 1) % 3, (i + 2) % 3
        k[:, i, i] = r[:, i, i] - r[:, j, j] - r[:, m, m]
        k[:, i, j] = k[:, j, i] = r[:, i, j] + r[:, j, i]
        k[:, i, 3] = k[:, 3, i] = r[:, m, j] - r[:, j, m]
    k[:, 3, 3] = r.diagonal(dim1=1, dim2=2).sum(1)
    return k / 3


def _painted(store: _Buffer, document: dict[str, Any], picture: Tensor) -> None:  # [3,h,w]
    """The mesh shows a picture as it is, whatever the light."""
    image = BytesIO()
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(image, "PNG")
    document |= {"images": [{"bufferView": store.view(image.getvalue()), "mimeType": "image/png"}], "textures": [{"source": 0}]}
    look = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    document["materials"] = [{"pbrMetallicRoughness": look, "extensions": {"KHR_materials_unlit": {}}}]
    document["meshes"][0]["primitives"][0]["material"] = 0


def write_glb(
    path: str | Path,
    frames: Tensor,
    faces: Tensor,
    flat: Tensor | None = None,
    picture: Tensor | None = None,
    pose: tuple[Tensor, Tensor] | None = None,
    most: int = 24,
    rate: float = FPS,
) -> float:
    """A film of a mesh.

    Args:
        frames: [T,V,3] metres, x right, y up, z toward the viewer. faces: [F,3]. flat: [V,2] place in the texture, right and down.
        picture: [3,h,w] in 0..1, shown as it is, without light. pose: [T,3,3] and [T,3], turn and place of the mesh in each frame.
        most: shapes at most. rate: frames a second.
    Returns:
        the largest distance of a vertex from where it should be in any frame, metres.
    Raises:
        InputError: it cannot be written.
    """
    mean, parts, weights = shapes(frames, most)
    store = _Buffer()
    primitive: dict[str, Any] = {"attributes": {"POSITION": store.add(mean, ARRAY)}, "indices": store.add(faces.flatten(), ELEMENT)}
    if flat is not None:
        primitive["attributes"]["TEXCOORD_0"] = store.add(flat, ARRAY)
    mesh: dict[str, Any] = {"primitives": [primitive]}
    if len(parts):
        primitive["targets"] = [{"POSITION": store.add(part, ARRAY)} for part in parts]
        mesh["weights"] = weights[0].tolist()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "vivavoce"}, "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": "head"}], "meshes": [mesh],
    }  # fmt: skip
    if picture is not None:
        _painted(store, document, picture)
    tracks = {"weights": weights.flatten()} if len(parts) else {}
    if pose is not None:
        tracks |= {"rotation": quaternions(pose[0]), "translation": pose[1]}
    if tracks:
        times = store.add(torch.arange(len(frames)) / rate)
        samplers = [{"input": times, "output": store.add(rows), "interpolation": "LINEAR"} for rows in tracks.values()]
        channels = [{"sampler": k, "target": {"node": 0, "path": name}} for k, name in enumerate(tracks)]
        document["animations"] = [{"name": "speech", "samplers": samplers, "channels": channels}]
    document |= {"bufferViews": store.views, "accessors": store.accessors, "buffers": [{"byteLength": len(store.data)}]}
    with written(Path(path)) as part:
        part.write_bytes(_packed(document, bytes(store.data)))
    made = mean + torch.einsum("tk,kvc->tvc", weights, parts)
    return float((made - frames).norm(dim=2).max())


def _packed(document: dict[str, Any], data: bytes) -> bytes:
    """The two parts of a .glb file behind its head."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text, data = text + b" " * (-len(text) % 4), data + b"\0" * (-len(data) % 4)
    parts = [(JSON_PART, text), (BINARY_PART, data)]
    body = b"".join(struct.pack("<I", len(part)) + kind + part for kind, part in parts)
    return MAGIC + struct.pack("<II", 2, 12 + len(body)) + body
