"""Cumulative probability of blur detection: sharpness without a reference (Narvekar and Karam, IEEE TIP 2011), 0 to 1, higher is sharper.

Where the paper leaves the detectors open this follows the authors' MATLAB program: Canny's (scikit-image) finds the blocks that hold
edges, Sobel's upright edges are measured. Agrees with the package `cpbd` 1.0.7 to 5e-4 on a photograph at four blurs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from vivavoce.metrics.checked import checked
from vivavoce.types import InputError

BLOCK = 64  # px
EDGES = 0.002  # share of a block's pixels on edges from which it counts
BETA = 3.6  # eq. 2
CONTRAST = 51  # grey levels from which a just noticeable edge is 3 px wide; below it 5
SHARP = 63  # per cent: probability at which blur is just noticeable (eq. 3)
LUMA = (0.299, 0.587, 0.114)


def cpbd(frames: Tensor) -> Tensor:  # [T,3,H,W] in 0..1 -> [T]
    """Of each frame; 0 where it has no edge. Raises InputError without scikit-image, and for pictures smaller than a block."""
    checked("CPBD", frames)
    if min(frames.shape[-2:]) < BLOCK:
        raise InputError("CPBD", f"pictures of {frames.shape[-1]} x {frames.shape[-2]} px", f"it needs {BLOCK} px on each side")
    grey = (frames * 255 * torch.tensor(LUMA).to(frames)[:, None, None]).sum(1).double().cpu().numpy()
    return torch.tensor([_sharpness(picture) for picture in grey])


def _sharpness(picture: NDArray[np.float64]) -> float:
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise InputError("CPBD", f"scikit-image is not installed ({error})", "run: pip install 'vivavoce[metrics]'") from error
    edges, widths = canny(picture), edge_widths(picture)
    counts = np.zeros(101)
    height, width = picture.shape
    for y in range(0, height - BLOCK + 1, BLOCK):
        for x in range(0, width - BLOCK + 1, BLOCK):
            part = np.s_[y : y + BLOCK, x : x + BLOCK]
            if edges[part].mean() <= EDGES:
                continue
            found = widths[part][widths[part] > 0]
            noticeable = 3 if np.ptp(picture[part]) >= CONTRAST else 5
            blur = 1 - np.exp(-((found / noticeable) ** BETA))
            counts += np.bincount(np.round(100 * blur).astype(int), minlength=101)
    return float(counts[: SHARP + 1].sum() / counts.sum()) if counts.sum() else 0.0


def edge_widths(picture: NDArray[np.float64]) -> NDArray[Any]:  # [H,W] grey levels -> [H,W] px, 0 off the edges
    """At each pixel of an upright edge, how far the intensity goes on rising or falling to both sides (Marziliano et al., 2002)."""
    strength = np.square(ndimage.sobel(picture, 1) / 8)
    strength[strength <= 2 * np.sqrt(strength.mean())] = 0  # squared against not squared: so do MATLAB's and Octave's detectors
    wide = np.pad(strength, 1)
    peak = (strength > wide[1:-1, :-2]) & (strength > wide[1:-1, 2:]) | (strength > wide[:-2, 1:-1]) & (strength > wide[2:, 1:-1])
    gradient_y, gradient_x = np.gradient(picture)
    level = np.abs(gradient_y) < np.tan(np.pi / 8) * np.abs(gradient_x)  # the slope runs along the row
    on = peak & level
    on[[0, -1]] = on[:, [0, -1]] = False
    step = np.sign(np.diff(picture, axis=1))
    widths = np.zeros(picture.shape, np.int64)
    for sign in (1, -1):
        run = step == sign
        left, right = _runs(run), _runs(run[:, ::-1])[:, ::-1]
        here = on & (np.sign(gradient_x) == sign)
        reach = np.full(picture.shape, 2)  # the pixels beside the edge belong to it
        reach[:, 2:] += left[:, :-1]
        reach[:, :-2] += right[:, 1:]
        widths[here] = reach[here]
    return widths


def _runs(flags: NDArray[np.bool_]) -> NDArray[np.int64]:  # [H,W] -> [H,W]
    """Number of true values in a row that end at each place."""
    count = np.zeros(flags.shape, np.int64)
    count[:, 0] = flags[:, 0]
    for x in range(1, flags.shape[1]):
        count[:, x] = (count[:, x - 1] + 1) * flags[:, x]
    return count
