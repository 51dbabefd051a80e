"""Coefficients of a face model, frame by frame, from files of other tools and from a person folder: the motion space "bfm".

A row holds 70 numbers: 64 expressions, 3 angles (rad), 3 of the head's place, as Deep3DFaceRecon gives them and SadTalker and DynTet
read them. Files: `.npy` and MATLAB's `.mat` (`coeff_3dmm`, or the only table in it) of

    257 a row   Deep3DFaceRecon: 80 of identity, 64 expressions at 80, 80 of texture, 3 angles at 224, 27 of light, 3 of place at 254
    73 a row    SadTalker's: the 70 and 3 of the crop, which are left out
    70, 64      the 70, or expressions alone
    27 x 70     windows of a PIRenderer lineage file, [T,70,27] or [T,27,70]: the middle row is the frame's

A person folder gives what its tracker found: `face_recon3dmm.npy` (DynTet's own step) where there is one, else the expressions of
`track_params.pt`: with `--tracker bfm` or an older repository's those of the Basel Face Model (the first 64 of 79), with the default
`mesh` tracker the coefficients of that person's own basis, 20 numbers of deviation 1 and zeros. What numbers mean is the tracker's
affair: `retarget` carries them from one person's basis to another's where both are known, and else shifts their mean (as DynTet does).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import io, ndimage

from vivavoce.types import InputError

EXPRESSIONS, WIDTH, WINDOW = 64, 70, 27
DEEP3D = (np.r_[80:144, 224:227, 254:257], 257)  # of the 70 in the vector, and its length
FORMS = "rows of 257, 73, 70 or 64 numbers, or windows of 27 of them"
FOLDER_FILE = "face_recon3dmm.npy"


def read(path: str | Path) -> Any:  # -> float32 [T,70]
    """The rows of a `.npy` or `.mat` file. Raises InputError for other files and other forms."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "give a .npy or .mat file of coefficients")
    try:
        table = _mat(path) if path.suffix.lower() == ".mat" else np.load(path, allow_pickle=False)
        rows = np.asarray(table, np.float32)
    except (OSError, ValueError, TypeError, EOFError, NotImplementedError, io.matlab.MatReadError) as error:
        raise InputError(path, f"not a table of coefficients ({error})", f"a .npy or .mat file with {FORMS} is wanted") from error
    return rows70(rows, path)


def _mat(path: Path) -> Any:
    """SadTalker's `coeff_3dmm`, else the only table of numbers in the file."""
    tables = {k: v for k, v in io.loadmat(path).items() if isinstance(v, np.ndarray) and v.ndim >= 2 and v.dtype.kind in "fiu" and v.size}
    if "coeff_3dmm" in tables:
        return tables["coeff_3dmm"]
    if len(tables) != 1:
        raise ValueError(f"it holds {sorted(tables) or 'no table'}, none called coeff_3dmm")
    return next(iter(tables.values()))


def rows70(rows: Any, name: object) -> Any:  # [T,257], [T,73], [T,70], [T,64], [T,27,70], [T,70,27] ... -> float32 [T,70]
    """A table in any of the known forms. Raises InputError for other forms, no rows and numbers that are not finite."""
    if rows.ndim == 3 and rows.shape[0] == 1 and rows.shape[2] != WINDOW:
        rows = rows[0]  # MATLAB and networks leave a batch of one
    if rows.ndim == 3 and rows.shape[2] == WINDOW and rows.shape[1] != WINDOW:
        rows = rows.transpose(0, 2, 1)
    if rows.ndim == 3 and rows.shape[1] == WINDOW:
        rows = rows[:, WINDOW // 2]
    width = rows.shape[1] if rows.ndim == 2 else 0
    if not len(rows) or width not in (DEEP3D[1], 73, WIDTH, EXPRESSIONS):
        raise InputError(name, f"its table is {' x '.join(map(str, rows.shape))}", f"{FORMS} are wanted")
    if not np.isfinite(rows).all():
        raise InputError(name, "holds numbers that are not finite", "extract the coefficients again")
    if width == DEEP3D[1]:
        rows = rows[:, DEEP3D[0]]
    out = np.zeros((len(rows), WIDTH), np.float32)
    out[:, : min(width, WIDTH)] = rows[:, :WIDTH]
    return out


def of_folder(folder: Path) -> Any:  # -> float32 [T,70]
    """The coefficients of a person folder. Raises InputError where no tracker left any."""
    if (folder / FOLDER_FILE).is_file():
        return read(folder / FOLDER_FILE)
    track = _track(folder)
    out = np.zeros((len(track["exp"]), WIDTH), np.float32)
    expression = track["exp"][:, :EXPRESSIONS].numpy()
    out[:, : expression.shape[1]] = expression
    out[:, EXPRESSIONS:67], out[:, 67:] = track["euler"].numpy(), track["trans"].numpy()
    return out


def _track(folder: Path) -> dict[str, torch.Tensor]:
    path, remedy = folder / "track_params.pt", f"run: vivavoce prepare {folder} --only tracking"
    if not path.is_file():
        raise InputError(path, "is not there", remedy)
    try:
        track: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return {k: v.float() for k, v in track.items()} | {k: track[k].float() for k in ("exp", "euler", "trans")}
    except Exception as error:  # torch raises a dozen kinds for a damaged or hostile file
        raise InputError(path, f"cannot be read ({type(error).__name__})", remedy) from error


def _basis(folder: Path | None) -> Any:  # -> float64 [K,V*3] metres, or None
    """The movements that a folder's expressions are numbers of, where its tracker left them and they fit into a row."""
    if folder is None or not (folder / "track_params.pt").is_file():
        return None
    found = _track(folder).get("basis")
    return found.flatten(1).double().numpy() if found is not None and len(found) <= EXPRESSIONS else None


def smoothed(rows: Any, deviation: float) -> Any:  # [T,E], frames -> [T,E]
    """A Gaussian over time; DynTet smooths the pose of foreign files with 5 frames, and 0 changes nothing."""
    if deviation <= 0:
        return rows
    return np.asarray(ndimage.gaussian_filter1d(rows, deviation, axis=0, mode="nearest"), np.float32)


def retarget(rows: Any, source: Path | None, target: Path) -> Any:  # [T,70], folder they come from, folder they are for -> [T,70]
    """Coefficients of one person as another's.

    Where both folders hold a basis of movements (`basis` of the `mesh` tracker, [K,468,3] metres), the movement of the face is found
    again in the target's basis (least squares, held near zero); else the numbers are taken to mean the same. Either way their mean
    becomes the target's, so that the person keeps the resting face that was learned.
    """
    home = of_folder(target)[:, :EXPRESSIONS]
    code = rows[:, :EXPRESSIONS] - rows[:, :EXPRESSIONS].mean(0)
    theirs, ours = (_basis(folder) for folder in (source, target))
    foreign = source is not None and source.resolve() != target.resolve()
    if foreign and theirs is not None and ours is not None and theirs.shape[1] == ours.shape[1]:
        gram = ours @ ours.T
        carried = np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), ours @ theirs.T)  # [K,K']
        code = np.pad(code[:, : len(theirs)] @ carried.T, ((0, 0), (0, EXPRESSIONS - len(ours))))
    out = rows.copy()
    out[:, :EXPRESSIONS] = code + home.mean(0)
    return out.astype(np.float32)
