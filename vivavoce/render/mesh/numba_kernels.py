"""The numba kernels of the CPU back end of `render.mesh`. Arrays are float32 and int64, C-contiguous."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
BANDS = 4  # of lines in each picture; every band looks at every triangle


@njit(parallel=True, cache=True, error_model="numpy")
def nearest(target, triangles, seen, edge):  # [B,V,3], [F,3], [B,H,W] (-1) out, least area
    """Which triangle each pixel sees: a z-buffer, parallel over pictures and bands of lines."""
    rows, height, width = seen.shape
    half, one, zero = F(0.5), F(1), F(0)
    for job in prange(rows * BANDS):
        row, band = job // BANDS, job % BANDS
        top, bottom = band * height // BANDS, (band + 1) * height // BANDS - 1
        buffer = np.full((bottom - top + 1, width), F(np.inf))
        for t in range(len(triangles)):
            x0, y0, z0 = target[row, triangles[t, 0]]
            x1, y1, z1 = target[row, triangles[t, 1]]
            x2, y2, z2 = target[row, triangles[t, 2]]
            first_y = max(top, int(np.ceil(min(y0, y1, y2) - half)))
            last_y = min(bottom, int(np.floor(max(y0, y1, y2) - half)))
            if first_y > last_y or min(z0, z1, z2) <= zero:
                continue
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            if abs(area) <= edge:
                continue
            first_x = max(0, int(np.ceil(min(x0, x1, x2) - half)))
            last_x = min(width - 1, int(np.floor(max(x0, x1, x2) - half)))
            inverse = one / area
            for line in range(first_y, last_y + 1):
                v = F(line) + half
                for column in range(first_x, last_x + 1):
                    u = F(column) + half
                    w0 = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) * inverse
                    w1 = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) * inverse
                    w2 = ((x0 - u) * (y1 - v) - (x1 - u) * (y0 - v)) * inverse
                    if w0 >= zero and w1 >= zero and w2 >= zero:
                        depth = one / (w0 / z0 + w1 / z1 + w2 / z2)
                        if depth < buffer[line - top, column]:
                            buffer[line - top, column] = depth
                            seen[row, line, column] = t


@njit(cache=True, error_model="numpy", nogil=True)
def shares(target, corners, place, width, share):  # [N,3], [P,3], [P], [P,3] out
    for p in range(len(place)):
        u, v = F(place[p] % width) + F(0.5), F(place[p] // width) + F(0.5)
        a, b, c = corners[p]
        x0, y0, x1, y1 = target[a, 0] - u, target[a, 1] - v, target[b, 0] - u, target[b, 1] - v
        x2, y2 = target[c, 0] - u, target[c, 1] - v
        s0, s1, s2 = (x1 * y2 - x2 * y1) / target[a, 2], (x2 * y0 - x0 * y2) / target[b, 2], (x0 * y1 - x1 * y0) / target[c, 2]
        total = F(1) / (s0 + s1 + s2)
        share[p, 0], share[p, 1], share[p, 2] = s0 * total, s1 * total, s2 * total


@njit(cache=True, error_model="numpy", nogil=True)
def shares_back(target, corners, place, width, share, pull, out):  # as above, pull [P,3], out [N,3] added to
    for p in range(len(place)):
        u, v = F(place[p] % width) + F(0.5), F(place[p] // width) + F(0.5)
        a, b, c = corners[p]
        x0, y0, x1, y1 = target[a, 0] - u, target[a, 1] - v, target[b, 0] - u, target[b, 1] - v
        x2, y2 = target[c, 0] - u, target[c, 1] - v
        z0, z1, z2 = F(1) / target[a, 2], F(1) / target[b, 2], F(1) / target[c, 2]
        s0, s1, s2 = (x1 * y2 - x2 * y1) * z0, (x2 * y0 - x0 * y2) * z1, (x0 * y1 - x1 * y0) * z2
        total = F(1) / (s0 + s1 + s2)
        even = pull[p, 0] * share[p, 0] + pull[p, 1] * share[p, 1] + pull[p, 2] * share[p, 2]
        d0, d1, d2 = (pull[p, 0] - even) * total, (pull[p, 1] - even) * total, (pull[p, 2] - even) * total
        out[a, 2] -= d0 * s0 * z0
        out[b, 2] -= d1 * s1 * z1
        out[c, 2] -= d2 * s2 * z2
        d0, d1, d2 = d0 * z0, d1 * z1, d2 * z2
        out[a, 0] += d2 * y1 - d1 * y2
        out[a, 1] += d1 * x2 - d2 * x1
        out[b, 0] += d0 * y2 - d2 * y0
        out[b, 1] += d2 * x0 - d0 * x2
        out[c, 0] += d1 * y0 - d0 * y1
        out[c, 1] += d0 * x1 - d1 * x0


@njit(cache=True, error_model="numpy", nogil=True)
def carry(values, corners, share, out):  # [N,C], [P,3], [P,3], [P,C] out
    for p in range(len(corners)):
        a, b, c = corners[p]
        w0, w1, w2 = share[p]
        for k in range(values.shape[1]):
            out[p, k] = values[a, k] * w0 + values[b, k] * w1 + values[c, k] * w2


@njit(cache=True, error_model="numpy", nogil=True)
def carry_back(values, corners, share, pull, to_values, to_share):  # as above, pull [P,C], out: [N,C] added to, [P,3]
    for p in range(len(corners)):
        for j in range(3):
            vertex, weight, total = corners[p, j], share[p, j], F(0)
            for k in range(values.shape[1]):
                to_values[vertex, k] += weight * pull[p, k]
                total += values[vertex, k] * pull[p, k]
            to_share[p, j] = total


@njit(cache=True, error_model="numpy")
def _outline(target, triangles, corner, row, t, k):
    """Whether the mesh does not go on in the picture beyond the edge opposite to corner k: its border, or a fold."""
    other = corner[t, k]
    if other < 0:
        return True
    a, b, c = triangles[t, (k + 1) % 3], triangles[t, (k + 2) % 3], triangles[t, k]
    sx, sy = target[row, a, 0], target[row, a, 1]
    ex, ey = target[row, b, 0] - sx, target[row, b, 1] - sy
    here = ex * (target[row, c, 1] - sy) - ey * (target[row, c, 0] - sx)
    there = ex * (target[row, other, 1] - sy) - ey * (target[row, other, 0] - sx)
    return here * there > F(0)


@njit(cache=True, error_model="numpy")
def _depth(target, triangles, row, t, u, v):
    if t < 0:
        return F(np.inf)
    a, b, c = triangles[t]
    x0, y0, x1, y1 = target[row, a, 0] - u, target[row, a, 1] - v, target[row, b, 0] - u, target[row, b, 1] - v
    x2, y2 = target[row, c, 0] - u, target[row, c, 1] - v
    s0, s1, s2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    return (s0 + s1 + s2) / (s0 / target[row, a, 2] + s1 / target[row, b, 2] + s2 / target[row, c, 2])


@njit(cache=True, error_model="numpy", nogil=True)
def _walk(target, triangles, across, corner, row, t, u, v, axis, sign, hops):
    """The outline's edge on the way from the centre u, v in triangle t to the next pixel's, as in `outlines.crossed`."""
    came = -1
    wx, wy = (F(sign), F(0)) if axis == 0 else (F(0), F(sign))
    for _ in range(hops):
        best, out = F(2), -1
        for k in range(3):
            if came >= 0 and across[t, k] == came:
                continue
            a, b = triangles[t, (k + 1) % 3], triangles[t, (k + 2) % 3]
            sx, sy = target[row, a, 0], target[row, a, 1]
            ex, ey = target[row, b, 0] - sx, target[row, b, 1] - sy
            side = ex * wy - ey * wx
            if abs(side) <= F(1e-9):
                continue
            where = -(ex * (v - sy) - ey * (u - sx)) / side
            on = (wx * (sy - v) - wy * (sx - u)) / side
            if where >= F(0) and where <= F(1) and on >= F(0) and on <= F(1) and where < best:
                best, out = where, k
        if out < 0:
            return -1
        if _outline(target, triangles, corner, row, t, out):
            a, b = triangles[t, (out + 1) % 3], triangles[t, (out + 2) % 3]
            steep = abs(target[row, b, 1] - target[row, a, 1]) >= abs(target[row, b, 0] - target[row, a, 0])
            return t * 3 + out if steep == (axis == 0) else -1
        came, t = t, across[t, out]
        if t < 0:
            return -1
    return -1


@njit(parallel=True, cache=True, error_model="numpy")
def crossed(target, triangles, across, corner, seen, hops, found):  # [B,V,3], [F,3] three times, [B,H,W], [2,B,H,W] out
    """As `outlines.crossed`."""
    rows, height, width = seen.shape
    for row in prange(rows):
        close = np.zeros(len(triangles), np.uint8)  # of the steps, how many are left at a triangle that an outline is so far from
        for t in range(len(triangles)):
            for k in range(3):
                if _outline(target, triangles, corner, row, t, k):
                    close[t] = hops
        for left in range(hops, 1, -1):
            for t in range(len(triangles)):
                if close[t] == left:
                    for k in range(3):
                        if across[t, k] >= 0 and close[across[t, k]] < left - 1:
                            close[across[t, k]] = left - 1
        for line in range(height):
            v = F(line) + F(0.5)
            for column in range(width):
                u, a = F(column) + F(0.5), seen[row, line, column]
                for axis in range(2):
                    found[axis, row, line, column] = -1
                    if (axis == 0 and column + 1 == width) or (axis == 1 and line + 1 == height):
                        continue
                    b = seen[row, line + axis, column + 1 - axis]
                    if a == b or not ((a >= 0 and close[a] > 0) or (b >= 0 and close[b] > 0)):
                        continue
                    u2, v2 = u + F(1 - axis), v + F(axis)
                    if _depth(target, triangles, row, a, u, v) <= _depth(target, triangles, row, b, u2, v2):
                        found[axis, row, line, column] = _walk(target, triangles, across, corner, row, a, u, v, axis, 1, hops)
                    else:
                        found[axis, row, line, column] = _walk(target, triangles, across, corner, row, b, u2, v2, axis, -1, hops)
