"""numba kernels of the CPU back end: marching through an occupancy grid, compositing and its gradient. A task is a run of rays."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from .contract import LATTICE, STOP

RUN = 64  # rays a task
SPAN = 64  # intervals looked at together
F, I32, U32, U64 = np.float32, np.int32, np.uint32, np.uint64
ZERO, ONE = F(0), F(1)
DONE = F(STOP)
# NaN and infinite distances must end a ray, as they do in plain torch
OPTIONS: dict[str, Any] = {"fastmath": {"nsz"}, "error_model": "numpy", "cache": True, "nogil": True}


@intrinsic
def lowest(context: Any, bits: Any) -> Any:
    """Number of the lowest bit set in this uint64, which is not 0."""

    def build(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), build


@njit(forceinline=True, **OPTIONS)
def ahead(number, origin, direction, begin, end, share, low, per, side, words, step):
    """Which of SPAN intervals of a ray have a sample, those from `number` on: one bit each. `per` [3]: cells a length along each axis.

    All of them without a branch, eight or more at a time: to walk from cell to cell, with leaps over empty blocks, took six times as long.
    """
    found, wide = U64(0), F(side)
    for i in range(SPAN):
        start = begin + F(I32(number) + I32(i)) * step
        dt = min(start + step, end) - start
        full = (start < end) & (dt > ZERO) & (I32(number) + I32(i) < I32(LATTICE))
        if side:
            t = start + share * dt
            x = (origin[0] + t * direction[0] - low[0]) * per[0]
            y = (origin[1] + t * direction[1] - low[1]) * per[1]
            z = (origin[2] + t * direction[2] - low[2]) * per[2]
            full = full & (x >= ZERO) & (y >= ZERO) & (z >= ZERO) & (x < wide) & (y < wide) & (z < wide)
            at = (I32(x) * I32(side) + I32(y)) * I32(side) + I32(z)
            at = at if full else I32(0)
            full = full & ((words[at >> I32(5)] >> U32(at & I32(31))) & U32(1) != U32(0))
        found |= U64(1 if full else 0) << U64(i)
    return found


@njit(forceinline=True, **OPTIONS)
def ended(number, begin, end, step):
    """Whether no interval is left from `number` on."""
    return number >= LATTICE or not begin + F(number) * step < end


@njit(parallel=True, **OPTIONS)
def find(origins, directions, near, far, first, jitter, low, per, side, words, step, most, slots, counts, after):
    """Interval numbers of the samples of each ray: slots [R,most], counts [R], and the interval to go on from in after [R] (-1: none).

    `per` [3]: cells a length along each axis. side 0: everything is occupied.
    """
    rays = len(near)
    for run in prange((rays + RUN - 1) // RUN):
        for r in range(run * RUN, min(rays, (run + 1) * RUN)):
            number, taken, behind = first[r], 0, -1
            while number >= 0 and taken < most and not ended(number, near[r], far[r], step):
                found = ahead(number, origins[r], directions[r], near[r], far[r], jitter[r], low, per, side, words, step)
                while found and taken < most:
                    slots[r, taken] = number + lowest(found)
                    behind = slots[r, taken] + 1
                    found &= found - U64(1)
                    taken += 1
                number += SPAN
            counts[r] = taken
            after[r] = behind if taken == most else -1


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
