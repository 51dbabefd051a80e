"""The records and the numbers that every back end of `render.rays` shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

STOP = 1e-4  # a sample counts while the transmittance in front of it is at least this
LATTICE = 65536  # intervals of a ray at most: a far end that is infinite ends the loop all the same
BLOCK = 8  # cells along a side of the blocks by which empty space is skipped


class Cells(NamedTuple):
    """The part of an `Occupancy` that marching reads: a box cut into resolution^3 cells, z fastest."""

    low: Tensor  # [3]
    high: Tensor  # [3]
    bits: Tensor  # [resolution^3/8] uint8: cell i is bit i % 8 of byte i // 8
    blocks: Tensor  # [(resolution/8)^3] bool: whether any cell of the block is occupied
    resolution: int


@dataclass
class Samples:
    """Points on rays, ray after ray and front to back: row m of every field is sample m of M."""

    ray: Tensor  # [M] int64, never falls
    t: Tensor  # [M] distance along the ray in lengths of its direction
    dt: Tensor  # [M] length of the interval that the sample stands for
    positions: Tensor  # [M,3]
    starts: Tensor  # [R+1] int64: ray r has the samples starts[r] to starts[r + 1]
    found: int  # samples there would be without a cap

    def __len__(self) -> int:
        return len(self.t)


@dataclass
class Composited:
    features: Tensor  # [R,C] sum of weight times feature: premultiplied, the background is the caller's
    opacity: Tensor  # [R] sum of weights
    depth: Tensor  # [R] sum of weight times t: divide by opacity for the mean depth
    weights: Tensor  # [M] of the samples; without a gradient
