"""Expression codes of a person folder, one reader a motion space: READERS names the spaces that a folder can give.

"blendshapes": the 52 scores of MediaPipe (`blendshapes.npy`, or SyncTalk's `bs.npy`).
"landmarks": how far each of 68 points lies from an average face, without the head's pose, in centimetres, x y z of the first
point, then of the second: 204 numbers (`aud_idexp.npy`, which GeneFace and R2-Talker put in the place of speech features).
"bfm": 64 coefficients of the tracker's expressions, its 3 angles (rad) and 3 of place: 70 numbers (`data/coefficients.py`).
"keypoints": LivePortrait's rotation, translation, scale and expression of 21 points (`keypoints.npy`): 70 numbers, of which 63 are the
expression. Its pose is of its own crop and goes with it, so `motion` gives the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vivavoce.data import coefficients, lineage
from vivavoce.types import InputError, Motion

LAST = 3  # frames that another tool's table may lack at its end
POINTS = 68
KEYPOINTS = 70  # numbers of a row: 3 rad, 3 of place, scale, 21 points
Reader = Callable[[Path, int], Any]  # folder, number of frames -> float32 [T,E], T at least that number


def table(folder: Path, space: str, frames: int) -> Any:  # -> float32 [T,E]
    """The expression of every frame in that space. Raises InputError for a space no folder holds, and names the command that makes it."""
    if space not in READERS:
        raise InputError(folder, f"a person folder holds no motion in the space {space!r}", f"known: {', '.join(READERS)}")
    return READERS[space](folder, frames)


def whole(rows: Any, path: Path, frames: int, step: str) -> Any:
    """The rows when there is one for every frame; OpenFace and SyncTalk may end a frame or two early: the last one stays."""
    lost = frames - len(rows)
    if lost > LAST or not len(rows):
        raise InputError(path, f"{len(rows)} rows for {frames} frames", remedy(path.parent, step))
    return np.concatenate([rows, np.repeat(rows[-1:], max(lost, 0), 0)])


def remedy(folder: Path, step: str) -> str:
    """What to do where a step's file is not there."""
    return f"run: vivavoce prepare {folder} --only {step}"


def _blendshapes(folder: Path, frames: int) -> Any:  # -> float32 [T,52]
    own, theirs = folder / "blendshapes.npy", folder / "bs.npy"
    if own.is_file() or not theirs.is_file():
        if not own.is_file():
            raise InputError(own, "is not there", remedy(folder, "landmarks"))
        return np.load(own, allow_pickle=False)
    try:
        return whole(lineage.blendshapes(theirs), theirs, frames, "landmarks")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(theirs, f"not SyncTalk's table ({error})", remedy(folder, "landmarks")) from error


def _landmarks(folder: Path, frames: int) -> Any:  # -> float32 [T,204]
    """From `aud_idexp.npy`, or where an older repository left only its two parts, from those one after the other."""
    path = folder / "aud_idexp.npy"
    parts = [path] if path.is_file() else [folder / f"aud_idexp_{part}.npy" for part in ("train", "val")]
    if not all(p.is_file() for p in parts):
        raise InputError(path, "is not there", remedy(folder, "idexp"))
    try:
        rows = np.concatenate([np.load(p, allow_pickle=False).reshape(-1, 3 * POINTS) for p in parts]).astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, f"not a table of {POINTS} points a frame ({error})", remedy(folder, "idexp")) from error
    if not np.isfinite(rows).all():
        raise InputError(path, "holds numbers that are not finite", remedy(folder, "idexp"))
    return whole(rows, path, frames, "idexp")


def _bfm(folder: Path, frames: int) -> Any:  # -> float32 [T,70]
    return whole(coefficients.of_folder(folder), folder / "track_params.pt", frames, "tracking")


def _keypoints(folder: Path, frames: int) -> Any:  # -> float32 [T,70]
    path = folder / "keypoints.npy"
    try:
        rows = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        weights = "and LivePortrait's weights (vivavoce assets list)"
        raise InputError(path, "is not there", f"{remedy(folder, 'keypoints')}; it wants prepared frames {weights}") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, f"no NumPy file ({error})", remedy(folder, "keypoints")) from error
    if rows.ndim != 2 or rows.shape[1] != KEYPOINTS:
        raise InputError(path, f"its shape is {list(rows.shape)}, not [T,{KEYPOINTS}]", remedy(folder, "keypoints"))
    return whole(rows.astype(np.float32), path, frames, "keypoints")


def motion(rows: Tensor, pose: Motion, space: str) -> Motion:  # [T,E] -> T rows
    """Rows of a space's table as Motion: with the head's pose in the frame, or for "keypoints" with their own."""
    if space == "keypoints":
        return Motion(rows[:, :3], rows[:, 3:6], rows[:, 6:7], rows[:, 7:], space)
    return Motion(pose.rotation, pose.translation, pose.scale, rows, space)


READERS: dict[str, Reader] = {"blendshapes": _blendshapes, "landmarks": _landmarks, "bfm": _bfm, "keypoints": _keypoints}
