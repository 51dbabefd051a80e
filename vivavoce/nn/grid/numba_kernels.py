"""numba kernels of the CPU back end: reading a feature grid, and its gradients in the table and in the points.

The inner loops run over LANES points of one level and are written so that LLVM turns them into vector code with gathers: no
branches, results on the stack (heap arrays might overlap the table, which would forbid it). Two float32 features are
gathered as one 64-bit word. Tables hold few enough entries to be numbered in 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, prange

from vivavoce.render.splats.numba_compositing import as_float, stack

LANES = 64
F, I32, U, W = np.float32, np.int32, np.uint32, np.uint64
ONE, HALF, ZERO = F(1), F(0.5), F(0)
# NaN must stay what it is: no "nnan" or "ninf"
OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"}, "error_model": "numpy", "cache": True, "nogil": True,
}  # fmt: skip


@njit(inline="always", **OPTIONS)
def load(points, low, count, place, axes):
    """Points low .. low+count as place[dim * LANES + lane], clamped to 0..1 and NaN turned into 0."""
    for d in range(3):
        for i in range(LANES):
            place[d * LANES + i] = ZERO
    for i in range(count):
        for d in range(len(axes)):
            x = points[low + i, d]
            x = x if x > ZERO else ZERO
            place[d * LANES + i] = x if x < ONE else ONE


@njit(inline="always", **OPTIONS)
def spot(x, y, z, scale, times_y, times_z, axes):
    """Terms of the index of the lower and the upper vertex along x, y, z, and the place between them."""
    x, y, z = x * scale + HALF, y * scale + HALF, z * scale + HALF
    column, line, slab = I32(x), I32(y), I32(z)
    right, down, deep = x - F(column), y - F(line), (z - F(slab) if len(axes) == 3 else ZERO)
    low_y, low_z = U(U(line) * times_y), U(U(slab) * times_z)
    return U(column), U(U(column) + U(1)), low_y, U(low_y + times_y), low_z, U(low_z + times_z), right, down, deep


@njit(**OPTIONS)
def index(a, b, c, hashed, mask):
    return U((U(a ^ b ^ c) if hashed else U(U(a + b) + c)) & mask)


@njit(**OPTIONS)
def weigh(share, smooth):
    return share * share * (F(3) - F(2) * share) if smooth else share


@njit(inline="always", **OPTIONS)
def read_pair(place, words, channels, scale, times_y, times_z, hashed, mask, smooth, axes, first, second):
    """Two features of LANES points on one level; `words` begins at the level's first word of this pair."""
    for i in range(LANES):
        x0, x1, y0, y1, z0, z1, fx, fy, fz = spot(place[i], place[LANES + i], place[2 * LANES + i], scale, times_y, times_z, axes)
        fx, fy, fz = weigh(fx, smooth), weigh(fy, smooth), weigh(fz, smooth)
        one, two = ZERO, ZERO
        for c in range(1 << len(axes)):
            weight = (fx if c & 1 else ONE - fx) * (fy if c & 2 else ONE - fy) * (fz if c & 4 else ONE - fz)
            at = index(x1 if c & 1 else x0, y1 if c & 2 else y0, z1 if c & 4 else z0, hashed, mask)
            word = words[W(at) * W(len(channels) // 2)]
            one += weight * as_float(I32(word))
            two += weight * as_float(I32(word >> 32))
        first[i], second[i] = one, two


@njit(inline="always", **OPTIONS)
def read_single(place, table, channels, scale, times_y, times_z, hashed, mask, smooth, axes, first):
    """One feature of LANES points on one level, as `read_pair`."""
    for i in range(LANES):
        x0, x1, y0, y1, z0, z1, fx, fy, fz = spot(place[i], place[LANES + i], place[2 * LANES + i], scale, times_y, times_z, axes)
        fx, fy, fz = weigh(fx, smooth), weigh(fy, smooth), weigh(fz, smooth)
        one = ZERO
        for c in range(1 << len(axes)):
            weight = (fx if c & 1 else ONE - fx) * (fy if c & 2 else ONE - fy) * (fz if c & 4 else ONE - fz)
            at = index(x1 if c & 1 else x0, y1 if c & 2 else y0, z1 if c & 4 else z0, hashed, mask)
            one += weight * table[W(at) * W(len(channels))]
        first[i] = one


@njit(parallel=True, **OPTIONS)
def read(points, table, words, starts, scales, times, hashed, masks, opened, smooth, axes, channels, out):
    """points [N,D], table [E*F] float32 and the same memory as words [E*F/2] int64 (empty for odd F) -> out [N,L*F].

    `axes` and `channels` are tuples of D and of F zeros: their lengths are constants to the compiler.
    """
    count, levels = len(points), len(scales)
    features = len(channels)
    pairs = 0 if features % 2 else features // 2
    for block in prange((count + LANES - 1) // LANES):
        place, first, second = carray(stack(192), (192,)), carray(stack(64), (64,)), carray(stack(64), (64,))
        low = block * LANES
        here = min(LANES, count - low)
        load(points, low, here, place, axes)
        for level in range(levels):
            share, at = opened[level], level * features
            scale, y, z, mixed, mask = scales[level], times[level, 0], times[level, 1], hashed[level], masks[level]
            if share == ZERO:
                out[low : low + here, at : at + features] = ZERO
            elif pairs:
                for k in range(pairs):
                    view = words[starts[level] * W(pairs) + W(k) :]
                    read_pair(place, view, channels, scale, y, z, mixed, mask, smooth, axes, first, second)
                    for i in range(here):
                        out[low + i, at + 2 * k] = share * first[i]
                        out[low + i, at + 2 * k + 1] = share * second[i]
            else:
                for k in range(features):
                    view = table[starts[level] * W(features) + W(k) :]
                    read_single(place, view, channels, scale, y, z, mixed, mask, smooth, axes, first)
                    for i in range(here):
                        out[low + i, at + k] = share * first[i]
        for i in range(here):
            for d in range(len(axes)):
                if points[low + i, d] != points[low + i, d]:
                    out[low + i, :] = np.nan


@njit(parallel=True, **OPTIONS)
def table_grad(points, pull, starts, scales, times, hashed, masks, opened, smooth, axes, channels, grad):
    """pull [L,N,F] -> grad [E*F], added to. A level belongs to one thread, which takes the points in order: the same bits every time."""
    count, features = len(points), len(channels)
    corners = 1 << len(axes)
    for level in prange(len(scales)):
        if opened[level] == ZERO:
            continue
        place, values, weights = carray(stack(192), (192,)), carray(stack(64), (64,)), carray(stack(512), (512,))
        places = np.empty((8, LANES), U)
        scale, y, z, mixed, mask, share = scales[level], times[level, 0], times[level, 1], hashed[level], masks[level], opened[level]
        mine = grad[starts[level] * W(features) :]
        for block in range((count + LANES - 1) // LANES):
            low = block * LANES
            here = min(LANES, count - low)
            load(points, low, here, place, axes)
            for i in range(LANES):
                x0, x1, y0, y1, z0, z1, fx, fy, fz = spot(place[i], place[LANES + i], place[2 * LANES + i], scale, y, z, axes)
                fx, fy, fz = weigh(fx, smooth), weigh(fy, smooth), weigh(fz, smooth)
                for c in range(corners):
                    weights[c * LANES + i] = (fx if c & 1 else ONE - fx) * (fy if c & 2 else ONE - fy) * (fz if c & 4 else ONE - fz) * share
                    places[c, i] = index(x1 if c & 1 else x0, y1 if c & 2 else y0, z1 if c & 4 else z0, mixed, mask)
            for k in range(features):
                for i in range(here):
                    lost = False
                    for d in range(len(axes)):
                        lost |= points[low + i, d] != points[low + i, d]
                    values[i] = ZERO if lost else pull[level, low + i, k]
                for c in range(corners):
                    for i in range(here):
                        mine[W(places[c, i]) * W(features) + W(k)] += weights[c * LANES + i] * values[i]


@njit(inline="always", **OPTIONS)
def slope(place, table, channels, pull, low, here, scale, times_y, times_z, hashed, mask, smooth, axes, share, sums):
    """Adds to sums[dim * LANES + lane] `share` of what one level says of d loss / d point; pull [N,F] of the level."""
    features = len(channels)
    for i in range(here):
        x0, x1, y0, y1, z0, z1, fx, fy, fz = spot(place[i], place[LANES + i], place[2 * LANES + i], scale, times_y, times_z, axes)
        steep = share * scale
        steep_x, steep_y, steep_z = steep, steep, steep
        if smooth:
            steep_x, steep_y, steep_z = F(6) * steep * fx * (ONE - fx), F(6) * steep * fy * (ONE - fy), F(6) * steep * fz * (ONE - fz)
        fx, fy, fz = weigh(fx, smooth), weigh(fy, smooth), weigh(fz, smooth)
        to_x, to_y, to_z = ZERO, ZERO, ZERO
        for c in range(1 << len(axes)):
            at = W(index(x1 if c & 1 else x0, y1 if c & 2 else y0, z1 if c & 4 else z0, hashed, mask)) * W(features)
            value = ZERO
            for k in range(features):
                value += pull[low + i, k] * table[at + W(k)]
            wx, wy, wz = (fx if c & 1 else ONE - fx), (fy if c & 2 else ONE - fy), (fz if c & 4 else ONE - fz)
            to_x += (value if c & 1 else -value) * wy * wz
            to_y += (value if c & 2 else -value) * wx * wz
            to_z += (value if c & 4 else -value) * wx * wy
        sums[i] += to_x * steep_x
        sums[LANES + i] += to_y * steep_y
        sums[2 * LANES + i] += to_z * steep_z


@njit(parallel=True, **OPTIONS)
def points_grad(points, table, pull, starts, scales, times, hashed, masks, opened, smooth, axes, channels, grad):
    """pull [L,N,F] -> grad [N,D]: 0 where the point was clamped or NaN."""
    count = len(points)
    for block in prange((count + LANES - 1) // LANES):
        place, sums = carray(stack(192), (192,)), carray(stack(192), (192,))
        low = block * LANES
        here = min(LANES, count - low)
        load(points, low, here, place, axes)
        for i in range(3 * LANES):
            sums[i] = ZERO
        for level in range(len(scales)):
            share = opened[level]
            if share != ZERO:
                slope(
                    place, table[starts[level] * W(len(channels)) :], channels, pull[level], low, here, scales[level],
                    times[level, 0], times[level, 1], hashed[level], masks[level], smooth, axes, share, sums,
                )  # fmt: skip
        for i in range(here):
            lost = False
            for d in range(len(axes)):
                lost |= points[low + i, d] != points[low + i, d]
            for d in range(len(axes)):
                x = points[low + i, d]
                grad[low + i, d] = sums[d * LANES + i] if x >= ZERO and x <= ONE and not lost else ZERO
