"""ICT-FaceKit (Li et al. 2020, MIT): 100 identity and 57 expression shapes, as the linear model of `face/morphable.py`.

Read from `ict_facekit.npz` (packed, in a folder of $VIVAVOCE_ASSETS or the cache) or from the project's own OBJ files, in a folder
or in the archive that the catalogue fetches; those are packed once into the cache. Only the face is kept: no teeth, eyeballs,
mouth socket, neck, back of the head.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vivavoce import assets
from vivavoce.face.morphable import Morphable, contours
from vivavoce.types import InputError

ASSET, PACKED = "ict_facekit", "ict_facekit.npz"
FACE = 9409  # vertices of the face; after them come head, sockets, gums, teeth, eyes
CENTIMETRE = 0.01
THROAT = -0.095  # metres: below this the skin is the neck's and does not move with the head
NEUTRAL, INDICES = "generic_neutral_mesh.obj", "vertex_indices.json"
BAND, REACH, CANDIDATES = 0.004, 0.028, 20  # of the outline: metres, metres, number


def load() -> Morphable:
    """The model. Raises InputError when it can neither be found nor fetched, or is damaged."""
    for folder in [*assets.folders(), assets.cache()]:
        if (file := folder / PACKED).is_file():
            return read(file)
        if (folder / "FaceXModel" / NEUTRAL).is_file():
            return from_objects(folder / "FaceXModel")
    packed = assets.cache() / PACKED
    pack(assets.path(ASSET), packed)
    return read(packed)


def read(file: Path) -> Morphable:
    """The model of a packed file. Raises InputError when it is not one."""
    try:
        with np.load(file, allow_pickle=False) as held:
            parts = {k: held[k] for k in ("neutral", "identity_delta", "expression_delta", "faces_quad", "expression_names")}
            marks = json.loads(str(held["vertex_indices_json"]))["idx_to_landmark_verts"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        cause = f"cannot be read as ICT-FaceKit ({type(error).__name__}: {error})"
        raise InputError(file, cause, f"remove it and run: vivavoce assets fetch {ASSET} --again") from error
    return build(parts, marks, str(file))


def build(parts: dict[str, NDArray[np.generic]], marks: list[int], name: str) -> Morphable:
    """The model from its arrays: `neutral` [N,3] cm, `identity_delta` [I,N,3], `expression_delta` [E,N,3], `faces_quad` [Q,4] (-1 at
    the end = a triangle), `expression_names` [E]; `marks`: vertices of the 68 landmarks."""
    neutral = torch.from_numpy(parts["neutral"].astype(np.float32)) * CENTIMETRE
    kept = torch.arange(len(neutral)) < FACE
    kept &= neutral[:, 1] > THROAT
    number = kept.cumsum(0) - 1
    points = torch.tensor(marks)
    if points.shape != (68,) or int(points.max()) >= len(neutral) or not bool(kept[points].all()):
        raise InputError(name, "its 68 landmarks do not lie on its face", f"remove it and run: vivavoce assets fetch {ASSET} --again")
    quads = torch.from_numpy(parts["faces_quad"].astype(np.int64))
    second = quads[:, [0, 2, 3]][quads[:, 3] >= 0]
    triangles = torch.cat([quads[:, :3], second])
    triangles = number[triangles[kept[triangles].all(1)]]

    def moved(key: str) -> torch.Tensor:
        return torch.from_numpy(parts[key].astype(np.float32))[:, kept] * CENTIMETRE

    mean, landmarks = neutral[kept], number[points]
    left, right = contours(mean, landmarks, BAND, REACH, CANDIDATES)
    names = tuple(str(n) for n in parts["expression_names"])
    identity, expression = moved("identity_delta"), moved("expression_delta")
    return Morphable(name, mean, identity, expression, True, triangles, landmarks, left, right, names)


def from_objects(folder: Path) -> Morphable:
    """The model of a folder of OBJ files (`FaceXModel` of the project)."""
    try:
        return build(*_parts(lambda n: (folder / n).read_bytes(), sorted(p.name for p in folder.iterdir())), str(folder))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(folder, f"is no folder of ICT-FaceKit ({error})", f"run: vivavoce assets fetch {ASSET}") from error


def pack(archive: Path, target: Path) -> None:
    """Archive of the project -> packed file. Raises InputError when the archive is not the project's."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            inside = {Path(n).name: n for n in bundle.namelist() if Path(n).parent.name == "FaceXModel"}
            parts, marks = _parts(lambda n: bundle.read(inside[n]), sorted(inside))
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        cause = f"is not the archive of ICT-FaceKit ({type(error).__name__}: {error})"
        raise InputError(archive, cause, f"run: vivavoce assets fetch {ASSET} --again") from error
    held = io.BytesIO()
    text = json.dumps({"idx_to_landmark_verts": marks})
    np.savez_compressed(held, **parts, vertex_indices_json=np.array(text))  # type: ignore[arg-type]
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_bytes(held.getvalue())
    os.replace(part, target)


def _parts(read: Callable[[str], bytes], names: list[str]) -> tuple[dict[str, NDArray[np.generic]], list[int]]:
    """Arrays and landmarks of the project's files: the neutral head, `identity*.obj`, and one OBJ for each expression."""
    marks = [int(k) for k in json.loads(read(INDICES))["idx_to_landmark_verts"]]
    neutral, quads = _object(read(NEUTRAL))
    objects = [n for n in names if n.endswith(".obj") and n != NEUTRAL]
    people = [n for n in objects if n.startswith("identity")]
    faces = [n for n in objects if not n.startswith(("identity", "generic"))]
    if not people or not faces:
        raise ValueError("no identity or no expression among its OBJ files")

    def deltas(chosen: list[str]) -> NDArray[np.float32]:
        return np.stack([_object(read(n), False)[0] - neutral for n in chosen]).astype(np.float32)

    parts: dict[str, NDArray[np.generic]] = {
        "neutral": neutral,
        "faces_quad": quads,
        "identity_delta": deltas(people),
        "expression_delta": deltas(faces),
        "expression_names": np.array([Path(n).stem for n in faces]),
    }
    return parts, marks


def _object(data: bytes, faces: bool = True) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices [N,3] and faces [Q,4] (-1 at the end of a triangle) of an OBJ file."""
    rows = [line.split() for line in data.decode("ascii", "replace").splitlines() if line.startswith(("v ", "f "))]
    vertices = np.array([r[1:4] for r in rows if r[0] == "v"], np.float32)
    corners = [[int(c.split("/")[0]) - 1 for c in r[1:]] for r in rows if faces and r[0] == "f"]
    return vertices, np.array([c + [-1] * (4 - len(c)) for c in corners], np.int32).reshape(-1, 4)
