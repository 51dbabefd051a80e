"""Speech features on disk: our own form, and those of the AD-NeRF lineage.

| file | shape | |
|---|---|---|
| `aud_<encoder>.npy` | [T,2,D] float16 | ours: the two steps of 20 ms of each frame |
| `aud_ds.npy`, `aud_eo.npy` | [T,16,29], [T,16,44] | DeepSpeech, Esperanto: row t has steps 2t - 8 to 2t + 7; T may be one short |
| `aud_hu.npy` | [T,2,1024] | HuBERT |
| any of these names | [T,D] | one row a frame |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivavoce.types import STEPS, InputError

PAST = FUTURE = 8  # steps of a window of the lineage around a frame's first


@dataclass(frozen=True)
class Form:
    """How the lineage stores an encoder's features: float32 [T,rows,dim]."""

    file: str
    rows: int
    dim: int


LINEAGE = {
    "deepspeech": Form("aud_ds.npy", PAST + FUTURE, 29),
    "esperanto": Form("aud_eo.npy", PAST + FUTURE, 44),
    "hubert": Form("aud_hu.npy", STEPS, 1024),
}


def find(folder: Path, encoder: str) -> Path:
    """The file with that encoder's features: our own, else the lineage's (AD-NeRF's is just `aud.npy`, told by its width).

    The path of our own when there is none.
    """
    own, theirs = folder / f"aud_{encoder}.npy", LINEAGE.get(encoder)
    if own.is_file() or theirs is None:
        return own
    if (folder / theirs.file).is_file():
        return folder / theirs.file
    plain = folder / "aud.npy"
    return plain if plain.is_file() and read(plain).shape[-1:] == (theirs.dim,) else own


def read(path: Path, remedy: str = "") -> NDArray[np.floating]:
    """A file of features as it is, memory-mapped. Raises InputError when it is missing or something else."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, "missing or no NumPy file", remedy) from error
    if table.dtype.kind != "f" or not (table.ndim == 2 or (table.ndim == 3 and table.shape[1] in (STEPS, PAST + FUTURE))):
        raise InputError(path, f"{table.dtype} {list(table.shape)} is not [T,2,D], [T,16,D] or [T,D] speech features", remedy)
    return table


def steps(table: NDArray[np.floating]) -> NDArray[np.floating]:  # [T,2,D], [T,16,D] or [T,D] -> [S,D]
    """The features step by step, 50 a second; our own form is not copied."""
    if table.ndim == 2:
        return np.repeat(table, STEPS, 0)
    if table.shape[1] == STEPS or not len(table):
        return table.reshape(-1, table.shape[-1])
    # Each row's middle, and what follows the last one: a row that the lineage left out is in there.
    return np.concatenate([table[:, PAST : PAST + STEPS].reshape(-1, table.shape[-1]), table[-1, PAST + STEPS :]])
