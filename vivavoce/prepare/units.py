"""Facial action units, `au.csv`, in the form that OpenFace writes and the AD-NeRF lineage reads.

Intensities 0 to 5 from the 52 blendshapes, but for the parting of the lips, which the mesh shows better: the scores of a mouth that
smiles while it speaks stay near 0. As OpenFace does, each is measured from the person's own resting face (its 20th percentile over
the video). Names have OpenFace's leading space; ` AU45_r` (blink) is given a second time as `AU45_r`, since EGSTalker's loader asks
for it without the space. A frame without a face has success 0 and no movement.
"""

from __future__ import annotations

import numpy as np
import torch

from vivavoce.face import regions
from vivavoce.face.blendshapes import curve
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.rows import opened, reader
from vivavoce.types import FPS, InputError

REST = 20  # percentile
FULL = 5.0  # intensity of a blendshape of 1
PARTED = 1 / 3  # gap of the lips, of the distance of the outer corners of the eyes, of intensity 5: about 3 cm; speech reaches 0.06 to 0.2
PIECE = 500  # frames whose landmarks are held at once

# action unit (Ekman and Friesen's numbers) -> blendshapes whose mean it is
UNITS: dict[int, tuple[str, ...]] = {
    1: ("browInnerUp",),
    2: ("browOuterUpLeft", "browOuterUpRight"),
    4: ("browDownLeft", "browDownRight"),
    5: ("eyeWideLeft", "eyeWideRight"),
    6: ("cheekSquintLeft", "cheekSquintRight"),
    7: ("eyeSquintLeft", "eyeSquintRight"),
    9: ("noseSneerLeft", "noseSneerRight"),
    10: ("mouthUpperUpLeft", "mouthUpperUpRight"),
    12: ("mouthSmileLeft", "mouthSmileRight"),
    14: ("mouthDimpleLeft", "mouthDimpleRight"),
    15: ("mouthFrownLeft", "mouthFrownRight"),
    17: ("mouthShrugLower",),
    20: ("mouthStretchLeft", "mouthStretchRight"),
    23: ("mouthPressLeft", "mouthPressRight"),
    25: (),  # from the mesh
    26: ("jawOpen",),
    45: ("eyeBlinkLeft", "eyeBlinkRight"),
}


def parted(points: np.ndarray) -> np.ndarray:  # [T,478,3] px -> [T]; NaN without a face
    """Gap between the inner lips over the distance of the outer corners of the eyes, in space, so that a turned head changes neither."""
    upper, lower = (points[:, list(lip)] for lip in regions.LIPS_MIDDLE)
    eyes = np.linalg.norm(points[:, regions.CORNERS_RIGHT[0]] - points[:, regions.CORNERS_LEFT[0]], axis=1)
    gap: np.ndarray = np.linalg.norm(upper - lower, axis=2).mean(1) / np.maximum(eyes, 1e-6)
    return gap


def intensities(blendshapes: np.ndarray, gap: np.ndarray) -> np.ndarray:  # [T,52], [T] of `parted` -> [T,17]
    """Action units of every frame, 0 to 5; rows of NaN become 0."""
    columns = {u: blendshapes[:, [regions.BLENDSHAPES.index(n) for n in names]].mean(1) for u, names in UNITS.items() if names}
    # the net leaves cheekSquint near 0: a raised cheek is a smile that reaches the eyes
    columns[6] = np.maximum(columns[6], np.minimum(columns[7], columns[12]))
    # the scores of a falling jaw crowd near 0 as well; their root goes with the movement
    columns[26] = curve(torch.from_numpy(np.asarray(columns[26], np.float64))).numpy()
    columns[25] = gap / PARTED
    raw = np.stack([columns[u] for u in UNITS], 1)
    rest = np.nanpercentile(raw, REST, axis=0)
    moved: np.ndarray = FULL * np.clip((raw - rest) / np.maximum(1 - rest, 0.05), 0, 1)
    moved[np.isnan(moved)] = 0
    return moved


def run(folder: Folder, progress: Progress) -> None:
    """Write the table."""
    faces = folder.faces
    points = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    gap = np.concatenate([parted(points(np.arange(k, min(k + PIECE, folder.frames)))) for k in range(0, folder.frames, PIECE)])
    values = intensities(np.load(folder.file("blendshapes.npy"), allow_pickle=False), gap)
    names = [f"AU{u:02d}_r" for u in UNITS]
    with folder.whole("au.csv") as part, open(part, "w", encoding="ascii", newline="") as file:
        file.write(", ".join(["frame", "face_id", "timestamp", "confidence", "success", *names]) + ",AU45_r\n")
        for k, row in enumerate(values):
            texts = [f"{v:.3f}" for v in row]
            found = int(faces[k])
            file.write(", ".join([f"{k + 1}", "0", f"{k / FPS:.3f}", f"{found:.2f}", f"{found}", *texts]) + f",{texts[-1]}\n")
    progress(1, 1)


def verify(folder: Folder) -> None:
    """A row of numbers for every frame."""
    path, remedy = folder.file("au.csv"), f"run: vivavoce prepare {folder.path} --only units"
    opened(folder.file("blendshapes.npy"), remedy)
    try:
        names = [n.strip() for n in path.open(encoding="ascii").readline().split(",")]
        table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except (OSError, ValueError) as e:
        raise InputError(path, "missing or no table of numbers", remedy) from e
    if "AU45_r" not in names or table.shape != (folder.frames, len(names)) or not np.isfinite(table).all():
        raise InputError(path, f"not {folder.frames} rows of action units", remedy)


STEP = Step("units", 0, 2, ("landmarks",), ("au.csv",), run, verify)
