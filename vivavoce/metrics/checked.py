"""Bad input of a metric is one clear error, not a number that means nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.types import InputError


def checked(name: str, *rows: Tensor, least: int = 1) -> None:
    """Raises InputError unless all have the same number of rows, at least `least`, of finite numbers.

    Args:
        name: of the metric.
        rows: [T,...] each.
        least: rows that the metric needs.
    """
    counts = [len(r) for r in rows]
    if len(set(counts)) > 1:
        raise InputError(name, f"{' and '.join(map(str, counts))} rows do not match", "cut both to the frames that they share")
    if counts[0] < least:
        raise InputError(name, f"{counts[0]} rows, it needs {least}", "give a longer clip")
    for row in rows:
        if row.is_floating_point() and not bool(torch.isfinite(row).all()):
            raise InputError(name, "a value is infinite or not a number", "look at the frames that were made")


def checked_pictures(name: str, images: Tensor, targets: Tensor) -> None:  # [T,C,H,W] x2
    """The same for pictures, which must be of one size too."""
    if images.ndim != 4 or targets.ndim != 4 or images.shape[1:] != targets.shape[1:]:
        cause = f"pictures {list(images.shape)} and {list(targets.shape)} do not match"
        raise InputError(name, cause, "give [frames, channels, height, width] of one size")
    checked(name, images, targets)
