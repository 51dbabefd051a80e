"""numba kernels of the CPU back end: marching through an occupancy grid, compositing and its gradient. A task is a run of rays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from .contract import BLOCK, LATTICE, STOP

RUN = 64  # rays a task
F, I32 = np.float32, np.int32
ZERO, ONE, SIDE = F(0), F(1), F(BLOCK)
DONE = F(STOP)
# NaN and infinite distances must end a ray, as they do in plain torch
OPTIONS: dict[str, Any] = {"fastmath": {"nsz"}, "error_model": "numpy", "cache": True, "nogil": True}


@njit(inline="always", **OPTIONS)
def blocked(place, heading):
    """Distance in t from `place` (cells) to the end of its block along one axis, at `heading` cells a length."""
    if heading == ZERO:
        return F(np.inf)
    low = np.floor(place / SIDE) * SIDE
    return ((low + SIDE if heading > ZERO else low) - place) / heading


@njit(parallel=True, **OPTIONS)
def find(origins, directions, near, far, first, jitter, low, per, side, bits, blocks, step, most, slots, counts, after):
    """Interval numbers of the samples of each ray: slots [R,most], counts [R], and the interval to go on from in after [R] (-1: none).

    `per` [3]: cells a length along each axis. side 0: everything is occupied.
    """
    rays, coarse = len(near), side // BLOCK
    for run in prange((rays + RUN - 1) // RUN):
        for r in range(run * RUN, min(rays, (run + 1) * RUN)):
            number, taken, end, begin = I32(first[r]), 0, far[r], near[r]
            inside = number >= 0
            share = jitter[r]
            while inside and number < LATTICE and taken < most:
                start = begin + F(number) * step
                dt = min(start + step, end) - start
                if not (start < end and dt > ZERO):
                    inside = False
                    continue
                full = True
                if side:
                    t = start + share * dt
                    x = (origins[r, 0] + t * directions[r, 0] - low[0]) * per[0]
                    y = (origins[r, 1] + t * directions[r, 1] - low[1]) * per[1]
                    z = (origins[r, 2] + t * directions[r, 2] - low[2]) * per[2]
                    full = x >= ZERO and y >= ZERO and z >= ZERO and x < F(side) and y < F(side) and z < F(side)
                    if full:
                        i, j, k = I32(x), I32(y), I32(z)
                        full = blocks[(i // BLOCK * coarse + j // BLOCK) * coarse + k // BLOCK]
                        if full:
                            at = (i * side + j) * side + k
                            full = (bits[at >> 3] >> (at & 7)) & 1 != 0
                        else:  # what is left of the empty block, less one for rounding
                            reach = min(
                                blocked(x, directions[r, 0] * per[0]),
                                min(blocked(y, directions[r, 1] * per[1]), blocked(z, directions[r, 2] * per[2])),
                            )
                            skip = reach / step
                            if skip > F(2) and skip < F(LATTICE):
                                number += I32(skip) - 1
                if full:
                    slots[r, taken] = number
                    taken += 1
                number += 1
            counts[r] = taken
            after[r] = number if taken == most else -1


@njit(parallel=True, **OPTIONS)
def write(origins, directions, near, far, jitter, step, slots, starts, ray, at, length, positions):
    """The samples of `find`: ray, t, dt, positions."""
    rays = len(near)
    for run in prange((rays + RUN - 1) // RUN):
        for r in range(run * RUN, min(rays, (run + 1) * RUN)):
            for m in range(starts[r], starts[r + 1]):
                start = near[r] + F(slots[r, m - starts[r]]) * step
                dt = min(start + step, far[r]) - start
                t = start + jitter[r] * dt
                ray[m], at[m], length[m] = r, t, dt
                for d in range(3):
                    positions[m, d] = origins[r, d] + t * directions[r, d]


@njit(parallel=True, **OPTIONS)
def composite(sigma, features, t, dt, starts, drawn, opacity, depth, weights, through):
    """Sums of each ray; weights [M] and the transmittance behind each sample, through [M]."""
    rays, channels = len(opacity), features.shape[1]
    for run in prange((rays + RUN - 1) // RUN):
        for r in range(run * RUN, min(rays, (run + 1) * RUN)):
            left, solid, far, thick = ONE, ZERO, ZERO, ZERO
            for c in range(channels):
                drawn[r, c] = ZERO
            for m in range(starts[r], starts[r + 1]):
                weight = ZERO
                if left >= DONE or left != left:
                    part = sigma[m] * dt[m]
                    weight = -left * np.expm1(-part)
                    thick += part
                    left = np.exp(-thick)
                    solid += weight
                    far += weight * t[m]
                    for c in range(channels):
                        drawn[r, c] += weight * features[m, c]
                weights[m], through[m] = weight, left
            opacity[r], depth[r] = solid, far


@njit(parallel=True, **OPTIONS)
def composite_grad(sigma, features, t, dt, starts, weights, through, to_drawn, to_opacity, to_depth, to_sigma, to_features):
    """Back to front: what lies behind a sample is what its density hides."""
    rays, channels = len(to_opacity), features.shape[1]
    for run in prange((rays + RUN - 1) // RUN):
        for r in range(run * RUN, min(rays, (run + 1) * RUN)):
            behind = ZERO
            for back in range(starts[r + 1] - starts[r]):
                m = starts[r + 1] - 1 - back
                before = ONE if m == starts[r] else through[m - 1]
                value = to_opacity[r] + to_depth[r] * t[m]
                for c in range(channels):
                    value += to_drawn[r, c] * features[m, c]
                    to_features[m, c] = weights[m] * to_drawn[r, c]
                to_sigma[m] = ZERO if before < DONE else dt[m] * (through[m] * value - behind)
                behind += weights[m] * value


@njit(parallel=True, **OPTIONS)
def accumulate(drawn, opacity, depth, thickness, alive, sigma, features, t, dt, starts):
    """The next samples of the rays `alive`, behind what the sums hold already."""
    rays, channels = len(alive), features.shape[1]
    for run in prange((rays + RUN - 1) // RUN):
        for a in range(run * RUN, min(rays, (run + 1) * RUN)):
            r = alive[a]
            thick = thickness[r]
            left = np.exp(-thick)
            for m in range(starts[a], starts[a + 1]):
                if not left < DONE:
                    part = sigma[m] * dt[m]
                    weight = -left * np.expm1(-part)
                    opacity[r] += weight
                    depth[r] += weight * t[m]
                    for c in range(channels):
                        drawn[r, c] += weight * features[m, c]
                    thick += part
                    left = np.exp(-thick)
            thickness[r] = thick
