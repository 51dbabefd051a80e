"""The face's shape in each frame, without its pose: `aud_idexp.npy`, and its parts that train and that are held out.

[T,68,3] float32, centimetres, x right, y up, z toward the viewer: how far each of the 68 points lies from where an average face has
it, from the person's shape and the frame's expression, as the tracker found them. It is what R2-Talker and GeneFace put in the place
of speech features (hence the name): GeneFace's `idexp_lm3d` is ten times the displacement in Deep3DFaceRecon's model, whose unit is
the decimetre. The average is MediaPipe's canonical face here and that model's mean there, so each person is shifted by a constant;
trained on one, a network does not fit the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vivavoce.data.lineage import vertices
from vivavoce.face import mesh, regions
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.rows import opened
from vivavoce.types import InputError

CENTIMETRES = 100  # in a metre
FILES = ("aud_idexp.npy", "aud_idexp_train.npy", "aud_idexp_val.npy")


def displacement(table: dict[str, Tensor]) -> Tensor:  # track_params.pt -> [T,68,3] cm
    """Of the 68 points from those of the canonical face. Raises KeyError when the tracker was not one of ours."""
    points = list(regions.LANDMARKS_68)
    rest, basis = vertices(table), table["basis"][:, points].float()
    if rest is None or len(rest) != regions.MESH:
        raise KeyError("vertices")
    person = rest[points] - torch.from_numpy(mesh.vertices())[points]
    return CENTIMETRES * (person + torch.einsum("tk,kpc->tpc", table["exp"][:, : len(basis)].float(), basis))


def run(folder: Folder, progress: Progress) -> None:
    """Write the three files."""
    path = folder.file("track_params.pt")
    try:
        rows = displacement(torch.load(path, map_location="cpu", weights_only=True)).numpy()
    except (KeyError, IndexError) as error:
        cause = "another program's tracking, which does not tell how the 68 points move"
        raise InputError(path, cause, "prepare the video anew: vivavoce prepare VIDEO --folder NEW") from error
    for name, part in zip(FILES, (rows, rows[: folder.split], rows[folder.split :]), strict=True):
        with folder.whole(name) as target, open(target, "wb") as file:
            np.save(file, part.astype(np.float32))
    progress(1, 1)


def verify(folder: Folder) -> None:
    """All frames in the first file, and in one of the others."""
    remedy = f"run: vivavoce prepare {folder.path} --only idexp"
    for name, frames in zip(FILES, (folder.frames, folder.split, folder.frames - folder.split), strict=True):
        rows = opened(folder.file(name), remedy)
        if rows.shape != (frames, 68, 3) or not np.isfinite(rows).all():
            raise InputError(folder.file(name), f"its shape is {list(rows.shape)}, not [{frames}, 68, 3] of finite numbers", remedy)


# It reads no landmarks, but where they are an older program's so is the tracking, and `prepare` leaves this step out.
STEP = Step("idexp", 0, 1, ("shots", "landmarks", "tracking"), FILES, run, verify)
