"""The canonical face: 468 vertices, 898 triangles, texture coordinates, and how much each vertex tells of the rigid pose.

Read from the geometry metadata inside MediaPipe's face_landmarker.task (Apache-2.0; an asset, fetched when first needed). Lengths
are metres; axes are OpenGL's: x right, y up, z toward the viewer, as seen by who looks at the face. The origin lies inside the
head, behind the bridge of the nose.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vivavoce import assets
from vivavoce.face.regions import MESH
from vivavoce.protobuf import fields, floats, integers, message
from vivavoce.types import InputError

ASSET, MEMBER = "face_landmarker", "geometry_pipeline_metadata_landmarks.binarypb"
CENTIMETRE = 0.01  # the metadata is in centimetres

# Field numbers of MediaPipe's messages.
CANONICAL_MESH, PROCRUSTES = 1, 2  # GeometryPipelineMetadata: Mesh3d, repeated WeightedLandmarkRef
VERTICES, INDICES = 3, 4  # Mesh3d: x y z u v of each vertex, corners of each triangle
LANDMARK, WEIGHT = 1, 2  # WeightedLandmarkRef


class Canonical:
    """The parts of the canonical face.

    Attributes:
        vertices: [468,3] float32, metres.
        triangles: [898,3] int64, counter-clockwise seen from the front.
        texture: [468,2] float32, u v in 0..1, v down: 0 is above the forehead.
        weights: [468] float32, weight of each vertex when a rigid pose is fitted; 0 for most.
    """

    def __init__(self, data: bytes) -> None:
        """Raises ValueError when the bytes are not the metadata of a 468-vertex face."""
        numbers: list[NDArray[np.float32]] = []
        corners: list[int] = []
        self.weights: NDArray[np.float32] = np.zeros(MESH, np.float32)
        try:
            for field, value in fields(data):
                if field == CANONICAL_MESH:
                    for part, inner in fields(message(value)):
                        if part == VERTICES:
                            numbers.append(floats(inner))
                        elif part == INDICES:
                            corners += integers(inner)
                elif field == PROCRUSTES:
                    reference = dict(fields(message(value)))
                    self.weights[integers(reference.get(LANDMARK, 0))[0]] = floats(reference[WEIGHT])[0]
        except (IndexError, KeyError) as error:
            raise ValueError(f"not geometry metadata: {error}") from error
        if sum(map(len, numbers)) != MESH * 5 or not corners or len(corners) % 3 or max(corners) >= MESH:
            raise ValueError(f"not the metadata of a {MESH}-vertex face")
        table = np.concatenate(numbers).reshape(MESH, 5)
        self.vertices: NDArray[np.float32] = table[:, :3] * np.float32(CENTIMETRE)
        self.texture: NDArray[np.float32] = np.ascontiguousarray(table[:, 3:])
        self.triangles: NDArray[np.int64] = np.array(corners, np.int64).reshape(-1, 3)


@lru_cache(maxsize=1)
def canonical() -> Canonical:
    """The canonical face; read once. Treat it as read-only. Raises InputError when the task file cannot be had or is damaged."""
    file = assets.path(ASSET)
    try:
        with zipfile.ZipFile(file) as task:
            return Canonical(task.read(MEMBER))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(file, f"no canonical face in it ({error})", f"run: vivavoce assets fetch {ASSET}") from error


def vertices() -> NDArray[np.float32]:  # [468,3] metres
    """A copy of the canonical vertices."""
    return canonical().vertices.copy()


def triangles() -> NDArray[np.int64]:  # [898,3]
    """A copy of the triangles, vertex numbers of the mesh."""
    return canonical().triangles.copy()
