"""Steady trajectories without lag: the smoother of tracked poses.

A value measured each frame is x = s + noise. The path s minimises

    sum_t w_t (x_t - s_t)^2 / noise^2  +  sum_t huber((s_t-1 - 2 s_t + s_t+1) / pace)

The noise is read off the fourth differences (motion slower than about 5 Hz leaves next to nothing there), the pace, a typical
acceleration, off what second differences hold beyond noise. Huber's tail lets the head start, turn and stop: strong
accelerations are kept, so a turn neither lags nor overshoots. Each step is one banded solve, linear in the number of frames.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from torch import Tensor

from vivavoce.face import pose

Rows = NDArray[np.float64]

MAD = 1.4826  # standard deviation of a Gaussian from its median absolute value
STIFF = 120.0  # most that (noise / pace)^2 may be: slower than one swing in 20 frames is always kept
SPANS = (1, 2, 4)  # frames between the samples of a second difference
STEPS = 12  # reweightings
WHITE = 1.3  # second differences over two frames, as a share (squared) of those over one: 1 for noise alone, 16 for slow motion


def noise_of(values: Rows, usable: NDArray[np.bool_]) -> float:  # [T], [T] -> standard deviation
    """Frame-to-frame noise of one channel, from fourth differences within runs of usable frames."""
    whole = np.lib.stride_tricks.sliding_window_view(usable, 5).all(1) if len(values) >= 5 else np.zeros(0, bool)
    if not whole.any():
        return 0.0
    return float(MAD * np.median(np.abs(np.diff(values, 4)[whole])) / np.sqrt(70.0))  # 70 = 1 + 16 + 36 + 16 + 1


def pace_of(values: Rows, usable: NDArray[np.bool_], noise: float) -> float:  # [T], [T] -> per frame^2
    """Typical acceleration of one channel beyond its noise: from second differences over 1, 2 and 4 frames, the largest. A step of
    k frames sees k^2 times the acceleration under the same noise, but only swings longer than about 3 k frames."""
    found = noise**2 / STIFF
    for step in SPANS:
        if len(values) <= 4 * step:
            break
        whole = usable[: -2 * step] & usable[step:-step] & usable[2 * step :]
        if whole.any():
            bend = values[: -2 * step] - 2 * values[step:-step] + values[2 * step :]
            spread = MAD * np.median(np.abs(bend[whole]))
            found = max(found, (spread**2 - 6 * noise**2) / step**4)  # 6 = 1 + 4 + 1
    return float(np.sqrt(found))


def shaken(values: Rows, usable: NDArray[np.bool_]) -> bool:  # [T], [T]
    """Whether a channel holds nothing but noise from one frame to the next: no motion shows when one looks over two frames."""
    squares = []
    for step in (1, 2):
        whole = usable[: -2 * step] & usable[step:-step] & usable[2 * step :]
        bend = values[: -2 * step] - 2 * values[step:-step] + values[2 * step :]
        if not whole.any():
            return False
        squares.append(float(np.median(np.abs(bend[whole]))) ** 2)
    return squares[1] < WHITE * squares[0]


def steady(values: Rows, found: NDArray[np.bool_], cuts: NDArray[np.bool_] | None = None, noise: Rows | None = None) -> Rows:
    """Smooth each channel of a trajectory.

    Args:
        values: [T,C], finite everywhere; rows that were not measured hold any number.
        found: [T], False = not measured: those rows follow from their neighbours.
        cuts: [T], True where a new shot begins: nothing is smoothed across.
        noise: [C], standard deviations where they are known; default: from the values themselves, which takes what is quicker than
            5 Hz for noise. A channel that holds nothing but noise from frame to frame is judged by itself all the same.
    Returns:
        [T,C].
    """
    count = len(values)
    shots = np.flatnonzero(cuts) if cuts is not None else np.zeros(0, int)
    edges = [0, *[int(k) for k in shots if 0 < k < count], count]
    out = np.array(values, dtype=np.float64)
    for first, last in pairwise(edges):
        part = slice(first, last)
        if not found[part].any():
            continue  # nothing was seen in this shot
        for channel in range(values.shape[1]):
            known = None if noise is None else float(noise[channel])
            row = _filled(out[part, channel], found[part])
            if known is not None and shaken(row, found[part]):
                known = max(known, noise_of(row, found[part]))
            out[part, channel] = _path(row, found[part], known)
    return out


def steady_rows(values: Tensor, found: Tensor, cuts: Tensor, noise: Tensor | None = None) -> Tensor:
    """`steady` for what was measured in some frames alone: rows found [N,C], [T] bool with N True, [T] bool, [C] -> [T,C] float32."""
    whole = np.zeros((len(found), values.shape[1]))
    whole[found.numpy()] = values.double().numpy()
    return torch.from_numpy(steady(whole, found.numpy(), cuts.numpy(), None if noise is None else noise.double().numpy())).float()


def tremor(still: Tensor, found: Tensor) -> float:  # [T,S,2] px, [T] bool -> px
    """Noise of the landmarks from frame to frame: median over points that the expression does not move, and both coordinates."""
    channels = still.double().flatten(1).T.numpy()
    return float(np.median([noise_of(channel, found.numpy()) for channel in channels]))


def heading(rotation: Tensor, translation: Tensor, found: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Steady direction and distance of a head.

    Args:
        rotation: [N,3,3], translation: [N,3] metres, of the frames found. found, cuts: [T] bool.
    Returns:
        [T,3,3], and the distance along the line of sight [T,1] metres.
    """
    middle = rotation[len(rotation) // 2]
    turn, depth = pose.axis_from_matrix(rotation @ middle.T), translation[:, 2:].clamp(max=-1e-3).neg().log()
    path = steady_rows(torch.cat([turn, depth], 1), found, cuts)
    return pose.matrix_from_axis(path[:, :3]) @ middle, path[:, 3:].exp()


def _filled(values: Rows, found: NDArray[np.bool_]) -> Rows:
    """Rows not measured by straight lines between those that were, held at the ends."""
    places = np.arange(len(values))
    return np.interp(places, places[found], values[found])


def _path(values: Rows, found: NDArray[np.bool_], known: float | None) -> Rows:
    """The robust solve for one channel of one shot."""
    count = len(values)
    noise = noise_of(values, found) if known is None else known
    if count < 5 or noise <= 0:
        return values
    pace = pace_of(values, found, noise)
    data = np.where(found, 1.0, 1e-3)  # a filled row pulls weakly: the path there is a soft spline
    bend = np.ones(count - 2)
    path = values
    for _ in range(STEPS):
        path = _banded(values, data, bend * (noise / pace) ** 2)
        bend = 1 / np.maximum(np.abs(np.diff(path, 2)) / (2 * pace), 1)
        data = np.where(found, 1 / np.maximum(np.abs(values - path) / (3 * noise), 1), 1e-3)
    return path


def _banded(values: Rows, data: Rows, bend: Rows) -> Rows:
    """Minimum of sum data (values - s)^2 + sum bend (second difference of s)^2: five diagonals."""
    bands = np.zeros((3, len(values)))
    bands[0] = data
    bands[0, :-2] += bend
    bands[0, 1:-1] += 4 * bend
    bands[0, 2:] += bend
    bands[1, :-2] -= 2 * bend
    bands[1, 1:-1] -= 2 * bend
    bands[2, :-2] = bend
    path: Rows = solveh_banded(bands, data * values, lower=True, check_finite=False)
    return path
