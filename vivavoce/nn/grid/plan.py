"""Where the features of a multi-resolution grid lie in its table: the arithmetic every back end shares.

The convention is torch-ngp's `GridEncoder` with `align_corners=False` (the one RAD-NeRF, R2-Talker, ER-NeRF and SyncTalk train with),
so that its tables have the same sizes and entries: level l has a scale of `base * growth**l - 1`; a point x in 0..1 lies at
`x * scale + 0.5`; entries of a level are rounded up to a multiple of 8. tiny-cuda-nn differs (it has no such -1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vivavoce.types import InputError

PRIMES = (1, 2654435761, 805459861)  # Mueller et al., instant-NGP (SIGGRAPH 2022), section 3
KINDS = ("hash", "tiled", "dense")
EVERY = 2**32 - 1  # a mask that changes nothing
MOST = 2**27  # entries of a dense level: 1 GiB of two features


@dataclass(frozen=True)
class Level:
    start: int  # first entry in the table
    size: int  # entries
    scale: float  # cells from one end to the other
    strides: tuple[int, ...]  # of the vertex numbers along x, y(, z): 0 where a tiled table repeats
    hashed: bool
    mask: int  # the entry is the index & mask


@dataclass(frozen=True)
class Plan:
    dims: int
    features: int
    smooth: bool  # smoothstep in place of linear weights
    levels: tuple[Level, ...]

    @property
    def entries(self) -> int:
        return self.levels[-1].start + self.levels[-1].size


def plan(dims: int, levels: int, features: int, base: int, finest: float, log2_table: int, kind: str, smooth: bool) -> Plan:
    """Raises InputError for settings that make no grid."""
    name = "feature grid"
    if dims not in (2, 3):
        raise InputError(name, f"has {dims} dimensions", "use 2 or 3")
    if kind not in KINDS:
        raise InputError(name, f"knows no kind {kind!r}", f"use one of {', '.join(KINDS)}")
    if levels < 1 or features < 1 or base < 1 or finest < 1 or not 3 <= log2_table <= 30:
        cause = f"cannot have {levels} levels of {features} features from {base} to {finest} cells in 2^{log2_table} entries"
        raise InputError(name, cause, "all are at least 1, and log2_table is 3 to 30")
    growth = float(np.exp2(np.log2(finest / base) / (levels - 1))) if levels > 1 else 1.0
    most = MOST if kind == "dense" else 2**log2_table
    found, start = [], 0
    for number in range(levels):
        # single precision, as the authors' kernel: the stride of a tiled level hangs on which side of a whole number this falls
        scale = float(np.exp2(np.float32(number) * np.float32(math.log2(growth))) * np.float32(base) - np.float32(1))
        side = math.ceil(base * growth**number) + 1
        fits = side**dims <= most
        if not fits and kind == "dense":
            raise InputError(name, f"level {number} would have {side}^{dims} entries", "use kind hash or tiled, or fewer cells")
        size = -(-min(side**dims, most) // 8) * 8
        side = side if fits else math.ceil(scale) + 2
        strides = tuple(side**d if side**d <= size else 0 for d in range(dims))
        found.append(Level(start, size, scale, strides, kind == "hash" and not fits, EVERY if fits else size - 1))
        start += size
    return Plan(dims, features, smooth, tuple(found))
