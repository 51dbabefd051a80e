"""How far the sound lies from the lips, from the clip itself: no network, no weights.

For each lag a ridge regression explains the opening of the lips by the spectrum of the sound (24 bands on the mel scale), on one half of
the clip, and is judged by its correlation on the other, and the reverse. Louder is not always more open: the spectrum tells an "ah"
from an "s". The lag at which lips and sound agree best is the offset; how far its correlation stands out from those at lags where
nothing can agree (2 s and more away) is the confidence, in their standard deviations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from vivavoce.face import regions
from vivavoce.speech.mel import filterbank
from vivavoce.types import FPS, HOP, RATE

Rows = NDArray[np.float64]

BANDS = 24
LAGS = 15  # frames to both sides that are looked at
FAR = (50, 95, 3)  # frames: lags at which nothing can agree, from, to, every
RIDGE = 0.02  # of the mean variance of a band
SLOW = 12.0  # frames: slower changes (a smile, a louder passage) say nothing about the moment
SURE = 4.0  # confidence from which the offset is believed
FEWEST = 4 * FPS  # frames with lips
BATCH = 4096  # frames of sound at once


@dataclass(frozen=True)
class Sync:
    """Offset of the sound."""

    offset: float  # s; > 0: the sound is later than the lips
    confidence: float  # standard deviations of correlations at impossible lags; believed from `SURE` on
    correlation: float  # at the best lag
    curve: list[float]  # correlation at lags -LAGS .. LAGS frames


def opening(points: NDArray[np.float32]) -> Rows:  # [T,478,3] px -> [T], shares of the face's height; NaN without a face
    """Gap between the inner lips."""
    upper, lower = (points[:, list(lip), :2] for lip in regions.LIPS_MIDDLE)
    height = np.linalg.norm(points[:, 10, :2] - points[:, 152, :2], axis=1)
    gap: Rows = np.linalg.norm(upper - lower, axis=2).mean(1) / np.maximum(height, 1e-6)
    return gap


def spectrum(sound: Iterator[torch.Tensor], frames: int) -> Rows:  # pieces of whole frames -> [frames,BANDS]
    """Log energies of the 40 ms of each frame."""
    bank = filterbank(1024, BANDS).float()
    window = torch.hann_window(HOP, periodic=False)
    out, at = np.full((frames, BANDS), -7.0), 0
    for piece in sound:
        rows = piece.reshape(-1, HOP)[: frames - at]
        power = torch.fft.rfft(rows * window, 1024).abs().square()
        out[at : at + len(rows)] = (power @ bank).clamp(min=1e-7).log10().numpy()
        at += len(rows)
    return out


def quick(values: Rows, known: NDArray[np.bool_]) -> Rows:  # [T,...], [T]
    """Without slow changes, and of variance 1."""
    weight = ndimage.gaussian_filter1d(known.astype(float), SLOW)
    flat = values.reshape(len(values), -1)
    kept = np.where(known[:, None], flat, 0)
    slow = ndimage.gaussian_filter1d(kept, SLOW, axis=0) / np.maximum(weight, 1e-6)[:, None]
    fast = np.where(known[:, None], flat - slow, 0)
    spread = np.sqrt(np.square(fast).sum(0) / max(int(known.sum()), 1))
    return np.asarray((fast / np.maximum(spread, 1e-9)).reshape(values.shape))


def agreement(bands: Rows, lips: Rows, known: NDArray[np.bool_], lag: int) -> float:  # [T,B], [T], [T] -> -1..1
    """Correlation of the lips with what the sound `lag` frames later says of them, learnt on the other half of the clip."""
    count = len(lips) - abs(lag)
    heard, seen = bands[max(lag, 0) :][:count], lips[max(-lag, 0) :][:count]
    usable = known[max(-lag, 0) :][:count]
    heard, seen = heard[usable], seen[usable]
    half = len(seen) // 2
    found = []
    for learn, judge in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        gram = heard[learn].T @ heard[learn]
        gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        said = heard[judge] @ np.linalg.solve(gram, heard[learn].T @ seen[learn])
        norm = np.sqrt(np.square(said).sum() * np.square(seen[judge]).sum())
        found.append(float(said @ seen[judge] / norm) if norm > 1e-9 else 0.0)
    return sum(found) / 2


def offset(bands: Rows, lips: Rows) -> Sync | None:  # [T,B], [T] with NaN where there is no face
    """The offset of the sound; None where too little is seen or heard to say anything."""
    known = np.isfinite(lips)
    if known.sum() < FEWEST or np.nanstd(lips) < 1e-4 or bands.std(0).max() < 0.05:
        return None
    heard, seen = quick(bands, np.ones(len(bands), bool)), quick(np.nan_to_num(lips), known)
    curve = [agreement(heard, seen, known, lag) for lag in range(-LAGS, LAGS + 1)]
    far = [s * lag for lag in range(*FAR) for s in (-1, 1) if known.sum() - lag > FEWEST / 2]
    apart = np.array([agreement(heard, seen, known, lag) for lag in far] or [0.0, 0.1])
    best = int(np.argmax(curve))
    exact = float(best)
    if 0 < best < len(curve) - 1:
        a, b, c = curve[best - 1 : best + 2]
        exact += 0.5 * (a - c) / min(a - 2 * b + c, -1e-9)
    noise = max(float(apart.std()), 0.02)
    return Sync((exact - LAGS) / FPS, (curve[best] - float(apart.mean())) / noise, curve[best], curve)


assert RATE // FPS == HOP and len(regions.LIPS_INNER) == 20
