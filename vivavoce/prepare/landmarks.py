"""Task 7: where the face is in each frame, and its expression.

`ori_imgs/%d.lms` (68 lines `x y`, px), `landmarks.npy` float32 [T,478,3] (px, z in the same scale), `blendshapes.npy` float32
[T,52]. A frame without a face has no `.lms`, NaN in the arrays and 0 in clip.json's `faces`; it keeps its number. Of several
faces the main one is followed: the one that the frames were cut around.

Frames are worked on in runs of 250 that know nothing of each other, so several processes share them, a killed run goes on with
the runs that are left, and the result is the same however the work was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vivavoce.face import regions
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import read_image
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.parallel import counted, spread
from vivavoce.prepare.rows import opened, writing
from vivavoce.types import FPS, InputError

RUN = 10 * FPS  # frames of one run
MOST = 8  # processes: each holds its own nets, 110 MB with all it imports
SETTLE = 2  # times the mesh net looks again at a face just detected: its square then fits as in the frames that follow
NEAR = 1.0  # main face: within this many face heights of its usual place
ALIKE = (0.4, 2.5)  # and between these shares of its usual height
FEWEST = FPS  # frames with a face


def main_face(found: list[Face], usual: np.ndarray) -> Face | None:
    """Of several faces the one that is most like the usual box in place and size; None when none is."""
    height = usual[3] - usual[1]

    def far(face: Face) -> float:
        away = np.linalg.norm((face.box[:2] + face.box[2:] - usual[:2] - usual[2:]) / 2) / height
        ratio = (face.box[3] - face.box[1]) / height
        return float(away) if ALIKE[0] < ratio < ALIKE[1] else np.inf

    best = min(found, key=far, default=None)
    return best if best is not None and far(best) < NEAR else None


def followed(landmarker: Landmarker, image: np.ndarray, previous: Face | None, usual: np.ndarray) -> Face | None:
    """The main face in this frame."""
    if previous is not None and (face := landmarker.follow(image, previous)) is not None and main_face([face], usual):
        return face
    face = main_face(landmarker(image), usual)
    for _ in range(SETTLE if face is not None else 0):
        face = main_face([f for f in [landmarker.follow(image, face)] if f is not None], usual) or face
    return face


def track(folder: Folder, landmarker: Landmarker, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n,478,3] and blendshapes [n,52] of a run of frames; NaN without a face."""
    points = np.full((last - first, regions.POINTS, 3), np.nan, np.float32)
    blendshapes = np.full((last - first, len(regions.BLENDSHAPES)), np.nan, np.float32)
    usual, face = np.array(folder.clip["face"]), None
    for k in range(first, last):
        face = followed(landmarker, read_image(folder.image(k)), face, usual)
        if face is not None:
            points[k - first], blendshapes[k - first] = face.points, face.blendshapes
    return points, blendshapes


def follower(path: Path) -> Callable[[int], int]:
    """What follows the face through a run of frames of a folder, and keeps what it found; it gives their number."""
    folder, landmarker = Folder(path), Landmarker(threads=1)

    def follow(first: int) -> int:
        last = min(first + RUN, folder.frames)
        points, blendshapes = track(folder, landmarker, first, last)
        with folder.whole(".landmarks", f"{first}.npz") as part:
            np.savez(part, points=points, blendshapes=blendshapes)
        return last - first

    return follow


def run(folder: Folder, progress: Progress) -> None:
    """Follow the face, run by run, then join what was found."""
    total, apart = folder.frames, folder.file(".landmarks")
    left = [first for first in range(0, total, RUN) if not (apart / f"{first}.npz").exists()]
    frames = sum(min(RUN, total - first) for first in left)
    spread(partial(follower, folder.path), left, frames, counted(progress, total - frames, total), MOST)
    join(folder, [apart / f"{first}.npz" for first in range(0, total, RUN)])
    for path in apart.iterdir():
        path.unlink()
    apart.rmdir()


def join(folder: Folder, runs: list[Path]) -> None:
    """Write the artefacts from the runs; raises InputError when hardly any frame has a face."""
    total = folder.frames
    faces, at = np.zeros(total, bool), 0
    shape, width = (total, regions.POINTS, 3), len(regions.BLENDSHAPES)
    with (
        folder.whole("landmarks.npy") as one,
        folder.whole("blendshapes.npy") as two,
        writing(one, shape, np.float32) as add_points,
        writing(two, (total, width), np.float32) as add_blendshapes,
    ):
        for path in runs:
            with np.load(path) as found:
                points, blendshapes = found["points"], found["blendshapes"]
            add_points(points)
            add_blendshapes(blendshapes)
            for k, row in enumerate(points, at):
                faces[k] = bool(np.isfinite(row).all())
                if faces[k]:
                    write_lms(folder, k, regions.landmarks68(row))
            at += len(points)
        if faces.sum() < FEWEST:
            cause = f"a face in {int(faces.sum())} of {total} frames"
            raise InputError(folder.clip["video"]["file"], cause, "give a video in which one person faces the camera")
    folder.update(faces=[int(f) for f in faces])


def write_lms(folder: Folder, frame: int, points: np.ndarray) -> None:  # [68,2] px
    """One frame's 68 points as text."""
    with folder.whole("ori_imgs", f"{frame}.lms") as part:
        part.write_text("".join(f"{x:f} {y:f}\n" for x, y in points), "ascii")


def verify(folder: Folder) -> None:
    """Shapes; a `.lms` for each frame with a face and for no other."""
    remedy = f"run: vivavoce prepare {folder.path} --only landmarks"
    for name, shape in (
        ("landmarks.npy", (folder.frames, regions.POINTS, 3)),
        ("blendshapes.npy", (folder.frames, len(regions.BLENDSHAPES))),
    ):
        if opened(folder.file(name), remedy).shape != shape:
            raise InputError(folder.file(name), f"its shape is not {list(shape)}", remedy)
    rows = np.flatnonzero(folder.faces)
    if len(folder.faces) != folder.frames or folder.missing("ori_imgs/%d.lms", rows) or len(folder.outputs(STEP.outputs[:1])) != len(rows):
        raise InputError(folder.file("ori_imgs"), "the .lms files are not those of the frames with a face", remedy)


STEP = Step("landmarks", 7, 1, ("frames",), ("ori_imgs/*.lms", "landmarks.npy", "blendshapes.npy"), run, verify)
