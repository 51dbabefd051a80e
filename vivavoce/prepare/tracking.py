"""Task 8: the head's shape, its pose in every frame and the focal length, `track_params.pt`.

A dictionary of tensors in the lineage's layout and units, read without running code (`weights_only=True`): `id` [1,100],
`exp` [T,79], `euler` [T,3] rad, `trans` [T,3] decimetres, `focal` [1] px. With `--tracker bfm` these are the lineage's own
coefficients (standard deviations of the Basel Face Model), with `ict` those of ICT-FaceKit, whose 57 expressions run from 0 to 1.
The default `mesh` has no face model: `id` is zero and `exp` holds coefficients of `basis`. What is narrower is padded with zeros.
`vertices` [1,468,3] decimetres is the mean head mesh, where GaussianTalker and EGSTalker write a mesh a frame and read its mean. Of
our own: `basis` [K,468,3] metres a coefficient, `blendshapes` [T,52], `error` [T] px (root mean square) between landmarks and the
mesh laid on them, `found` [T] bool. The figures are kept in clip.json as `tracking`. The poses of every tracker are then corrected by the
pictures (`headpose.py`), which are right where the landmarks are not: `followed` is the number of frames that told a correction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vivavoce.face import morphable_bfm, morphable_ict, pose
from vivavoce.face.fit_video import fit_video
from vivavoce.face.morphable import Morphable
from vivavoce.face.track import Reader, Track, track
from vivavoce.media.image import read_image
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.choices import require
from vivavoce.prepare.headpose import refined
from vivavoce.prepare.parallel import cores
from vivavoce.prepare.rows import reader
from vivavoce.types import InputError

IDENTITIES, EXPRESSIONS = 100, 79  # widths of the lineage's BFM-2009 coefficients
WORST = 0.03  # of the picture's height: a larger median error means that the mesh is not on the face
LEAST = 0.5  # share of frames with a face
MOST = 8  # threads that follow the head
MODELS: dict[str, Callable[[], Morphable]] = {"bfm": morphable_bfm.load, "ict": morphable_ict.load}


def jitter(found: Track) -> float:
    """Median size of the second difference of the nose bridge's place in the picture, px: 0 on a still head."""
    seen = pose.project(found.camera, found.vertices[[168]])[:, 0]
    if len(seen) < 3:
        return 0.0
    return float((seen[2:] - 2 * seen[1:-1] + seen[:-2]).norm(dim=1).median())


def parameters(found: Track, blendshapes: Tensor, identity: Tensor) -> dict[str, Tensor]:
    """The file's content; `identity`: [I], none for the mesh tracker."""
    count = len(found.rotation)
    person = torch.zeros(1, IDENTITIES)
    person[0, : len(identity)] = identity[:IDENTITIES]
    euler, trans = pose.lineage_from_camera(found.camera)
    expression = torch.zeros(count, EXPRESSIONS)
    expression[:, : found.expression.shape[1]] = found.expression[:, :EXPRESSIONS]
    return {
        "id": person,
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
    tracker = folder.options.tracker
    require(tracker)
    stored = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    blendshapes = torch.from_numpy(np.load(folder.file("blendshapes.npy"), allow_pickle=False))
    kept, identity = torch.from_numpy(folder.kept), torch.zeros(0)

    def read(rows: Tensor) -> Tensor:
        return torch.from_numpy(stored(rows.numpy()))

    def half(done: int, total: int) -> None:
        progress(done, 2 * total)

    if tracker in MODELS:
        model = MODELS[tracker]().to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        found, identity = fit_video(model, read, kept, folder.size, pictures=pictures(folder), progress=half)
    else:
        found = track(read, kept, folder.size, progress=half, threads=min(cores(), MOST))
    error = float(found.error[found.found].median())
    found, followed = refined(folder, found, lambda done, total: progress(total + done, 2 * total))
    with folder.whole("track_params.pt") as part:
        torch.save({k: v.contiguous().clone() for k, v in parameters(found, blendshapes, identity).items()}, part)
    figures = {"focal": round(found.focal, 1), "error": round(error, 3), "jitter": round(jitter(found), 4), "followed": followed}
    folder.update(tracking={"tracker": tracker, **figures})


def pictures(folder: Folder) -> Reader:
    """A function that reads frames: numbers [N] -> [N,3,H,W] in 0..1."""
    return lambda rows: torch.stack([torch.from_numpy(read_image(folder.image(int(k)))).permute(2, 0, 1) for k in rows]).float() / 255


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


STEP = Step("tracking", 8, 6, ("frames", "landmarks", "parsing", "shots"), ("track_params.pt",), run, verify, ("tracker",))
