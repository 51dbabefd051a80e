"""Task 8: the head's shape, its pose in every frame and the focal length, `track_params.pt`.

A dictionary of tensors in the lineage's layout and units, read without running code (`weights_only=True`): `id` [1,100],
`exp` [T,79], `euler` [T,3] rad, `trans` [T,3] decimetres, `focal` [1] px. The mesh tracker has no 3DMM: `id` is zero and
`exp` holds its own expression coefficients, padded with zeros. `vertices` [1,468,3] decimetres is the mean head mesh, where
GaussianTalker and EGSTalker write a mesh a frame and read its mean. Of our own: `basis` [K,468,3] metres a coefficient,
`blendshapes` [T,52], `error` [T] px (root mean square), `found` [T] bool. The figures are kept in clip.json as `tracking`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vivavoce.face import pose
from vivavoce.face.track import Track, track
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.rows import reader
from vivavoce.types import InputError

IDENTITIES, EXPRESSIONS = 100, 79  # widths of the lineage's BFM-2009 coefficients
WORST = 0.03  # of the picture's height: a larger median error means that the mesh is not on the face
LEAST = 0.5  # share of frames with a face
TRACKERS = ("mesh",)


def jitter(found: Track) -> float:
    """Median size of the second difference of the nose bridge's place in the picture, px: 0 on a still head."""
    seen = pose.project(found.camera, found.vertices[[168]])[:, 0]
    if len(seen) < 3:
        return 0.0
    return float((seen[2:] - 2 * seen[1:-1] + seen[:-2]).norm(dim=1).median())


def parameters(found: Track, blendshapes: Tensor) -> dict[str, Tensor]:
    """The file's content."""
    count = len(found.rotation)
    euler, trans = pose.lineage_from_camera(found.camera)
    expression = torch.zeros(count, EXPRESSIONS)
    expression[:, : found.expression.shape[1]] = found.expression[:, :EXPRESSIONS]
    return {
        "id": torch.zeros(1, IDENTITIES),
        "exp": expression,
        "euler": euler,
        "trans": trans,
        "focal": torch.tensor([found.focal]),
        "vertices": found.vertices[None] * pose.LINEAGE,
        "basis": found.basis,
        "blendshapes": blendshapes,
        "error": found.error,
        "found": found.found,
    }


def run(folder: Folder, progress: Progress) -> None:
    """Track, write, and note the figures."""
    if folder.options.tracker not in TRACKERS:
        raise InputError(f"--tracker {folder.options.tracker}", "no such tracker", f"choose from: {', '.join(TRACKERS)}")
    read = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    blendshapes = torch.from_numpy(np.load(folder.file("blendshapes.npy"), allow_pickle=False))
    found = track(lambda rows: torch.from_numpy(read(rows.numpy())), torch.from_numpy(folder.kept), folder.size, progress=progress)
    with folder.whole("track_params.pt") as part:
        torch.save({k: v.contiguous().clone() for k, v in parameters(found, blendshapes).items()}, part)
    error = float(found.error[found.found].median())
    folder.update(tracking={"focal": round(found.focal, 1), "error": round(error, 3), "jitter": round(jitter(found), 4)})


def verify(folder: Folder) -> None:
    """A row of finite numbers for every frame, the mesh on the face."""
    path, remedy = folder.file("track_params.pt"), f"run: vivavoce prepare {folder.path} --only tracking"
    if not path.is_file():
        raise InputError(path, "is not there", remedy)
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
        rows = {k: table[k] for k in ("exp", "euler", "trans")}
        focal = float(table["focal"])
    except Exception as error:  # torch raises a dozen kinds for a damaged or hostile file
        raise InputError(path, f"cannot be read ({type(error).__name__})", remedy) from error
    if any(len(v) != folder.frames or not bool(torch.isfinite(v).all()) for v in rows.values()) or not focal > 0:
        raise InputError(path, f"does not hold {folder.frames} rows of finite numbers", remedy)
    if "error" in table:
        seen = table["error"][table["found"]]
        better = "use a video with a larger, sharper, frontal face"
        if float(seen.median()) > WORST * folder.size[0]:
            raise InputError(path, f"the mesh lies {float(seen.median()):.1f} px off the face", better)
        if float(table["found"][torch.from_numpy(folder.used)].float().mean()) < LEAST:
            raise InputError(path, "more than half of the frames show no face", better)


STEP = Step("tracking", 8, 2, ("landmarks", "shots"), ("track_params.pt",), run, verify, ("tracker",))
