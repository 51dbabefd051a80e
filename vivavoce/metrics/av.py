"""Sound against picture in time: drift over a clip, and how fast a clip is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivavoce.prepare import sync
from vivavoce.types import FPS, InputError

SHORTEST = 10 * FPS  # frames of a half


def drift(bands: NDArray[np.float64], lips: NDArray[np.float64]) -> float:  # [T,24], [T] -> ms a minute
    """By how much the sound falls behind the lips: offset of the second half less that of the first, over the time between them.

    `bands` and `lips` as of `prepare.sync.offset`. NaN for clips under 20 s and where the offset of a half is not sure.
    Raises InputError when they are of different lengths.
    """
    if len(bands) != len(lips):
        raise InputError("A/V drift", f"{len(bands)} and {len(lips)} rows do not match", "cut both to the frames that they share")
    half = len(lips) // 2
    if half < SHORTEST:
        return float("nan")
    found = [sync.offset(bands[part], lips[part]) for part in (slice(0, half), slice(half, None))]
    if any(f is None or f.confidence < sync.SURE for f in found):
        return float("nan")
    first, second = (f.offset for f in found if f is not None)
    return 1000 * (second - first) / (half / FPS / 60)


def real_time(frames: int, seconds: float) -> float:
    """Real-time factor: seconds of film made in a second of work; from 1 on a stream can be kept up. Raises InputError for no work."""
    if frames < 1 or not seconds > 0:
        raise InputError("real-time factor", f"{frames} frames in {seconds} s", "give frames and the time that they took")
    return frames / FPS / seconds
