"""Windows of rows cut into moments of five frames, each with the other moments of its window: what Wav2Lip and its expert learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.types import Clip, InputError

FRAMES = 5
LEAST = 4  # moments of a window, overlapping if need be: batch norm must have something to average over


def starts(count: int, window: int) -> Tensor:  # -> [B,k] rows, k >= 2
    """First rows of the moments of each window of consecutive rows.

    `count` rows are windows of `window` rows one after another; where they are not, one window. Raises InputError for fewer than six.
    """
    rows = window if window and count % window == 0 else count
    if rows <= FRAMES:
        raise InputError("training data", f"windows of {rows} frames hold no two moments of {FRAMES}", "give a larger --window_rows")
    count_each = min(max(LEAST, rows // FRAMES), rows - FRAMES + 1)
    within = torch.linspace(0, rows - FRAMES, count_each).round().long()
    return torch.arange(0, count, rows)[:, None] + within


def others(first: Tensor) -> Tensor:  # [B,k] -> [B,k]
    """For each moment another one of the same window, the same step away for all; drawn from torch's generator."""
    return first.roll(int(torch.randint(1, first.shape[1], ())), 1)


def rows(first: Tensor) -> Tensor:  # [B,k] -> [B*k,5]
    """All rows of the moments."""
    return first.flatten()[:, None] + torch.arange(FRAMES)


def seen(clip: Clip) -> Tensor:  # -> [T] bool
    """Rows in which the face was found."""
    assert clip.landmarks is not None
    return torch.isfinite(clip.landmarks).flatten(1).all(1)
