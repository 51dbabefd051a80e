"""numba kernel of the CPU back end: a whole frame, from rays to pixels. A thread runs it for its share of the rays.

It holds LANES rays at a time and moves each on by one sample in every round, so that all layers of all networks run over LANES points
without gaps and nothing but pixels is written to memory. A ray that is opaque or at its end makes way for the next one. What a layer
reads and writes is [features,LANES].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from vivavoce.render.rays.numba_kernels import SPAN, ahead, ended, lowest
from vivavoce.render.splats.numba_compositing import exp2, stack

from .contract import BEYOND, MOST
from .numba_vectors import LANES, beyond, layer, level, pointer

RUN = 64  # rays next to each other that a share takes at a time: their samples share cells
HARMONICS = 16
F, I32, U64 = np.float32, np.int32, np.uint64
ZERO, ONE, HALF = F(0), F(1), F(0.5)
LOG2E, FLOOR, CEILING, LARGEST = F(1.4426950408889634), F(-126), F(126), F(MOST)
EDGE = F(BEYOND)
NOTHING = F(-np.inf)  # a layer without a ReLU
# places of the layers in the table that the host makes
LISTEN, ATTEND, POINT, FIRST, HEAR, HEARD, LOOK, LIDS, SEEN, SECOND, SOLID, TINT, LAST = range(13)
SOLIDITY, DISTANCE, CLEAR, AT, LENGTH = range(3, 8)  # of what a lane sums up, behind the colour: opacity, depth, transmittance; its sample
OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"}, "error_model": "numpy", "cache": True, "nogil": True,
}  # fmt: skip


@njit(forceinline=True, **OPTIONS)
def exponential(x):
    return exp2(min(max(x * LOG2E, FLOOR), CEILING))


@njit(forceinline=True, **OPTIONS)
def sigmoid(x):
    return ONE / (ONE + exponential(-x))


@njit(**OPTIONS)
def harmonics(direction, out, lane):
    """Real spherical harmonics of degree 0 to 3 of a direction of length 1, in a column of out [16,LANES]. As `contract.spherical`."""
    x, y, z = direction[0], direction[1], direction[2]
    xx, yy, zz = x * x, y * y, z * z
    out[0, lane], out[1, lane], out[2, lane], out[3, lane] = F(0.28209479), F(-0.48860251) * y, F(0.48860251) * z, F(-0.48860251) * x
    out[4, lane], out[5, lane], out[6, lane] = F(1.09254843) * x * y, F(-1.09254843) * y * z, F(0.31539157) * (F(3) * zz - ONE)
    out[7, lane], out[8, lane] = F(-1.09254843) * x * z, F(0.54627422) * (xx - yy)
    out[9, lane], out[10, lane] = F(-0.59004359) * y * (F(3) * xx - yy), F(2.89061144) * x * y * z
    out[11, lane], out[12, lane] = F(-0.45704580) * y * (F(5) * zz - ONE), F(0.37317633) * z * (F(5) * zz - F(3))
    out[13, lane], out[14, lane] = F(-0.45704580) * x * (F(5) * zz - ONE), F(1.44530572) * z * (xx - yy)
    out[15, lane] = F(-0.59004359) * x * (xx - F(3) * yy)


@njit(**OPTIONS)
def read(points, levels, out):
    """Features of points [3,LANES] on all levels, one after another: out [features,LANES], both pointers."""
    tables, shifts, scales, times, hashed, masks, shares, axes, widths = levels
    turned = stack(192)
    seen, given = carray(turned, (3, LANES)), carray(points, (3, LANES))
    before = -1
    for number in range(len(scales)):
        dims, width, to = 3 if axes[number, 2] >= 0 else 2, widths[number], out
        name = axes[number, 0] * 16 + axes[number, 1] * 4 + axes[number, 2]
        if name != before:
            for d in range(dims):
                for i in range(LANES):
                    seen[d, i] = given[axes[number, d], i]
            before = name
        table, scale, mask = tables[number], scales[number], masks[number]
        steps, mixed, shift = pointer(times[number]), hashed[number], shifts[number]
        if width == 1:
            if dims == 3:
                level(turned, 3, 0, table, shift, scale, steps, mixed, mask, to)
            else:
                level(turned, 2, 0, table, shift, scale, steps, mixed, mask, to)
        for k in range(width // 2):
            if dims == 3:
                level(turned, 3, 1, table + 8 * k, shift, scale, steps, mixed, mask, beyond(to, 2 * k * LANES))
            else:
                level(turned, 2, 1, table + 8 * k, shift, scale, steps, mixed, mask, beyond(to, 2 * k * LANES))
        if shares[number] != ONE:
            part = carray(to, (width * LANES,))
            for i in range(width * LANES):
                part[i] *= shares[number]
        out = beyond(to, width * LANES)


@njit(**OPTIONS)
def multiply(row, weights, x, more, least, out):
    """A layer of the table, whose rows are: start of the weights, start of the bias, inputs, outputs."""
    layer(x, beyond(weights, row[0]), beyond(weights, row[1]), row[2], row[3], more, least, out)


@njit(**OPTIONS)
def networks(points, places, around, layers, packed, x, one, other, inner, out):
    """Points [3,LANES] -> out [8,LANES]: row 0 the logarithm of the density, rows 4 to 6 the colour before its sigmoid. All pointers."""
    weights = pointer(packed)
    read(points, places, x)
    if layers[LISTEN, 3]:
        multiply(layers[LISTEN], weights, x, False, ZERO, one)
        multiply(layers[ATTEND], weights, one, False, ZERO, other)
        multiply(layers[POINT], weights, other, False, NOTHING, one)
        coordinate = carray(one, (3 * LANES,))
        for i in range(3 * LANES):
            coordinate[i] = sigmoid(F(2) * coordinate[i])  # (tanh + 1) / 2
        read(one, around, beyond(x, layers[LISTEN, 2] * LANES))
    gated = layers[HEAR, 3] > 0
    multiply(layers[FIRST], weights, x, False, NOTHING if gated else ZERO, one)
    if gated:
        multiply(layers[HEAR], weights, x, False, ZERO, other)
        multiply(layers[HEARD], weights, other, True, NOTHING, one)
        multiply(layers[LOOK], weights, x, False, ZERO, other)
        multiply(layers[LIDS], weights, other, False, NOTHING, inner)
        wide = carray(inner, (layers[LIDS, 3] * LANES,))
        for i in range(len(wide)):
            wide[i] = sigmoid(wide[i])
        multiply(layers[SEEN], weights, inner, True, ZERO, one)
    multiply(layers[SECOND], weights, one, False, ZERO, inner)
    multiply(layers[SOLID], weights, inner, False, NOTHING, out)
    multiply(layers[TINT], weights, inner, False, ZERO, one)  # its last inputs are the harmonics, which lie behind
    multiply(layers[LAST], weights, one, False, NOTHING, beyond(out, 4 * LANES))


@njit(forceinline=True, **OPTIONS)
def leave(r, lane, sums, drawn, opacity, depth):
    """What a ray has seen goes to its pixel, and the lane is as new."""
    for c in range(3):
        drawn[r, c] = sums[c, lane]
    opacity[r], depth[r] = sums[SOLIDITY, lane], sums[DISTANCE, lane]
    for c in range(CLEAR):
        sums[c, lane] = ZERO
    sums[CLEAR, lane] = ONE


@njit(**OPTIONS)
def draw(which, tasks, rays, cells, corner, unit, step, most, stop, thin, places, around, layers, packed, rows, results):
    """Every `tasks`-th run of rays, the first of which is `which`.

    rays: origins, directions [R,3], near, far [R]. corner, unit [3]: a place's part of the box is (place - corner) * unit. thin: what the
    density is multiplied by. rows: of the buffers. results: drawn [R,3], opacity [R], depth [R], of zeros.
    """
    origins, directions, near, far = rays
    low, per, side, words = cells
    drawn, opacity, depth = results
    scratch = np.zeros((rows[0] + 3 * rows[1], LANES), F)
    x, one, other, inner = scratch[: rows[0]], scratch[rows[0] :], scratch[rows[0] + rows[1] :], scratch[rows[0] + 2 * rows[1] :]
    sight = inner[layers[SECOND, 3] :]
    place, found, state = stack(192), stack(512), stack(512)  # not on the heap: what may overlap is not made into vectors
    points, out, sums = carray(place, (3, LANES)), carray(found, (8, LANES)), carray(state, (8, LANES))
    ray, number, taken, waiting = np.full(LANES, -1, np.int64), np.zeros(LANES, I32), np.zeros(LANES, I32), np.zeros(LANES, U64)
    for c in range(8):
        for i in range(LANES):
            sums[c, i] = ONE if c == CLEAR else ZERO
            if c < 3:
                points[c, i] = ZERO
    cursor, count, live = 0, len(near), 1
    while live:
        live = 0
        for i in range(LANES):
            r = ray[i]
            while waiting[i] == U64(0):
                if r >= 0:
                    number[i] += SPAN
                    if ended(number[i], near[r], far[r], step):
                        leave(r, i, sums, drawn, opacity, depth)
                        r = -1
                if r < 0:
                    r = (cursor // RUN * tasks + which) * RUN + cursor % RUN
                    if r >= count:
                        r = -1
                        break
                    cursor += 1
                    number[i], taken[i] = 0, 0
                if near[r] < far[r]:
                    waiting[i] = ahead(number[i], origins[r], directions[r], near[r], far[r], HALF, low, per, side, words, step)
                    if taken[i] == 0 and waiting[i] != U64(0):
                        harmonics(directions[r], sight, i)
            ray[i] = r
            if r >= 0:
                live += 1
                start = near[r] + F(number[i] + I32(lowest(waiting[i]))) * step
                waiting[i] &= waiting[i] - U64(1)
                length = min(start + step, far[r]) - start
                t = start + HALF * length
                sums[AT, i], sums[LENGTH, i] = t, length
                for d in range(3):
                    points[d, i] = min(max((origins[r, d] + t * directions[r, d] - corner[d]) * unit[d], ZERO), ONE)
        if not live:
            break
        networks(place, places, around, layers, packed, pointer(x), pointer(one), pointer(other), pointer(inner), found)
        for i in range(LANES):
            clear = exponential(-exponential(min(out[0, i], LARGEST)) * thin * sums[LENGTH, i])
            weight = sums[CLEAR, i] * (ONE - clear)
            sums[CLEAR, i] *= clear
            sums[SOLIDITY, i] += weight
            sums[DISTANCE, i] += weight * sums[AT, i]
            for c in range(3):
                sums[c, i] += weight * (sigmoid(out[4 + c, i]) * (ONE + F(2) * EDGE) - EDGE)
        for i in range(LANES):
            taken[i] += 1
            if ray[i] >= 0 and (sums[CLEAR, i] < stop or taken[i] >= most):
                if sums[CLEAR, i] < stop:  # what lies behind is taken to look like what lies before
                    for c in range(CLEAR):
                        sums[c, i] /= ONE - sums[CLEAR, i]
                leave(ray[i], i, sums, drawn, opacity, depth)
                ray[i], waiting[i] = -1, U64(0)
