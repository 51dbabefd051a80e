"""Basel Face Model 2009 with the expressions of AD-NeRF's preprocessing, as the linear model of `face/morphable.py`.

The user's own files, in a folder of $VIVAVOCE_ASSETS or the cache: `01_MorphableModel.mat` (registration) and `exp_info.npy`, or in
their stead the lineage's converted `3DMM_info.npy`; with them the lineage's `topology_info.npy` (which vertices, which triangles) and
`keys_info.npy` (landmarks, outline). The .npy files are pickles: they are read by an unpickler that knows arrays and nothing else.

Units of the files: shape in micrometres, coefficients in standard deviations (`sig_*`), texture RGB 0..255; rows of 3 V numbers,
x y z of each vertex in turn. The first 100 identities, 79 expressions, 100 textures are used; the mean is put at the origin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivavoce import assets
from vivavoce.face.morphable import Morphable
from vivavoce.types import InputError

SCAN, EXPRESSIONS, CONVERTED, TOPOLOGY, KEYS = "bfm_2009", "bfm_expressions", "bfm_converted", "bfm_topology", "bfm_keys"
IDENTITIES, TEXTURES = 100, 100  # of 199
MOVES = 79
METRE = 1e-6  # a micrometre
REGISTER = "register at https://faces.dmi.unibas.ch/bfm/"

Table = dict[str, NDArray[Any]]


def load() -> Morphable:
    """The model. Raises InputError when a file is missing or damaged, or when only commercial use is allowed."""
    source, expressions, topology, keys = files()
    info = convert(source, expressions, topology) if expressions is not None else dictionary(source)
    return build(info, dictionary(topology), dictionary(keys), str(source))


def files() -> tuple[Path, Path | None, Path, Path]:
    """Scan and expressions (or the converted model and None), topology, keys. Raises InputError when one cannot be had."""
    if assets.locate(CONVERTED) is not None:
        return assets.path(CONVERTED), None, assets.path(TOPOLOGY), assets.path(KEYS)
    return scan(), assets.path(EXPRESSIONS), assets.path(TOPOLOGY), assets.path(KEYS)


def scan() -> Path:
    """The user's `01_MorphableModel.mat`. Raises InputError, which says where it comes from, when there is none."""
    if assets.locate(SCAN) is None:
        name = assets.asset(SCAN).file
        raise InputError(
            name,
            "--tracker bfm needs the Basel Face Model 2009, which nobody may pass on, and it is not on this machine",
            f"{REGISTER}, put {name} into a folder named by VIVAVOCE_ASSETS and run the same command again; or take --tracker ict",
        )
    return assets.path(SCAN)


def dictionary(file: Path) -> Table:
    """A dictionary of arrays in a `.npy` file. Raises InputError when it holds anything else; no code in it is run."""
    try:
        held = assets.arrays(file)
        table = held.item() if isinstance(held, np.ndarray) and held.shape == () else held
        return {str(k): np.asarray(v) for k, v in dict(table).items()}
    except Exception as error:  # an unpickler raises what a damaged or hostile file makes it raise
        cause = f"is no dictionary of arrays ({' '.join(str(error).split())[:200]})"
        raise InputError(file, cause, "take the file from AD-NeRF's data_util/face_tracking/3DMM") from error


def convert(scan: Path, expressions: Path, topology: Path) -> Table:
    """The lineage's `3DMM_info` from the original files: the part of the scan that its topology keeps, with the expressions."""
    from scipy.io import loadmat

    kept, moves = dictionary(topology), dictionary(expressions)
    try:
        held = loadmat(str(scan))
        rows = (kept["sub_inds"][:, None] * 3 + np.arange(3)).reshape(-1)
        return {
            "mu_shape": held["shapeMU"].reshape(-1)[rows],
            "b_shape": held["shapePC"][rows].T,
            "sig_shape": held["shapeEV"].reshape(-1),
            "mu_tex": held["texMU"].reshape(-1)[rows],
            "b_tex": held["texPC"][rows].T,
            "sig_tex": held["texEV"].reshape(-1),
            "mu_exp": moves["mu_exp"],
            "b_exp": moves["base_exp"],
            "sig_exp": moves["sig_exp"],
        }
    except Exception as error:  # scipy raises a dozen kinds for a damaged file
        raise InputError(scan, f"is not the Basel Face Model 2009 ({type(error).__name__}: {error})", REGISTER) from error


def build(info: Table, topology: Table, keys: Table, name: str) -> Morphable:
    """The model of the lineage's three dictionaries. Raises InputError when they do not fit each other."""
    try:
        mean = (info["mu_shape"].reshape(-1, 3) + info["mu_exp"].reshape(-1, 3)).astype(np.float64)
        mean = mean - mean.mean(0)
        landmarks = keys["keyinds"].reshape(-1)
        return Morphable(
            name,
            _tensor(mean * METRE),
            _basis(info, "shape", IDENTITIES, METRE),
            _basis(info, "exp", MOVES, METRE),
            False,
            outward(_tensor(mean * METRE), torch.from_numpy(topology["tris"].astype(np.int64))),
            torch.from_numpy(landmarks.astype(np.int64)),
            torch.from_numpy(keys["left_contour"].astype(np.int64)),
            torch.from_numpy(keys["right_contour"].astype(np.int64)),
            colour=_tensor(info["mu_tex"].reshape(-1, 3) / 255),
            texture=_basis(info, "tex", TEXTURES, 1 / 255),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(name, f"its parts do not fit ({type(error).__name__}: {error})", f"{REGISTER} and convert it anew") from error


def _basis(info: Table, part: str, count: int, unit: float) -> Tensor:  # -> [count,V,3]
    """The first shapes of a part, for one standard deviation."""
    table = _tensor(info[f"b_{part}"][:count])
    table *= _tensor(info[f"sig_{part}"].reshape(-1)[:count])[:, None] * unit
    return table.reshape(len(table), -1, 3)


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))


def outward(mean: Tensor, triangles: Tensor) -> Tensor:  # [V,3], [F,3] -> [F,3]
    """The triangles, all turned over when most of them face inwards: light needs to know the outside."""
    a, b, c = (mean[triangles[:, k]] for k in range(3))
    away = a - mean.mean(0)
    out = (torch.linalg.cross(b - a, c - a) * away).sum(1)
    return triangles if float(out.sum()) >= 0 else triangles[:, [0, 2, 1]]
