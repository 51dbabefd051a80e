"""Triton kernels of the CUDA back end: reading a feature grid, and its gradients in the table and in the points.

A program is BLOCK points of one level (of all levels for the gradient in the points, which is then a sum in one order). The
features of an entry lie together and are loaded together: two of them are one 64-bit load. Levels run fastest, so that the parts of a
row of the output are written at about the same time. Index arithmetic is that of 32-bit words, which wrap as the hash wants.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _axis(points, i, live, scale, AXIS: tl.constexpr, ROW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Lower vertex, place above it, whether the coordinate is NaN, and whether it lies in 0..1. ROW: numbers a point has."""
    x = tl.load(points + i * ROW + AXIS, mask=live, other=0.0)
    inside = (x >= 0) & (x <= 1)
    place = tl.where(x > 0, x, 0.0)
    place = tl.where(place < 1, place, 1.0) * scale + 0.5
    corner = place.to(tl.int32)
    return corner, place - corner.to(tl.float32), x != x, inside


@triton.jit
def _corner(a, b, c, up_b, up_c, times_y, times_z, hashed, mask, CORNER: tl.constexpr, DIMS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Entry of one corner of the cell: bits 0, 1, 2 of CORNER say up or not along x, y, z; `b` and `c` are multiplied already."""
    x = a + (CORNER & 1)
    y = up_b if CORNER & 2 else b
    if DIMS == 2:
        return tl.where(hashed != 0, x ^ y, x + y) & mask
    else:
        z = up_c if CORNER & 4 else c
        return tl.where(hashed != 0, x ^ y ^ z, x + y + z) & mask


@triton.jit
def _smooth(share, SMOOTH: tl.constexpr):  # type: ignore[no-untyped-def]
    if SMOOTH:
        return share * share * (3.0 - 2.0 * share)
    else:
        return share


@triton.jit
def read(  # type: ignore[no-untyped-def]
    points, table, starts, numbers, floats, out, grad, count, width,
    DIMS: tl.constexpr, FEATURES: tl.constexpr, WIDE: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
    ROW: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, Z: tl.constexpr, PULL: tl.constexpr,
):  # fmt: skip
    """Columns X, Y, Z of points [N,ROW] and a table [E,F] -> L*F columns of out [N,width]; with PULL, `out` is what pulls and
    `grad` [E,F] is added to instead.

    numbers [L,4]: multipliers of y and z, hashed, mask. floats [L,2]: scale, share that is open.
    """
    level = tl.program_id(0)
    i = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    f = tl.arange(0, WIDE)
    live = i < count
    start = tl.load(starts + level)
    times_y, times_z = tl.load(numbers + level * 4), tl.load(numbers + level * 4 + 1)
    hashed, mask = tl.load(numbers + level * 4 + 2), tl.load(numbers + level * 4 + 3)
    scale, share = tl.load(floats + level * 2), tl.load(floats + level * 2 + 1)
    a, fx, lost, _ = _axis(points, i, live, scale, X, ROW)
    b, fy, lost_y, _ = _axis(points, i, live, scale, Y, ROW)
    lost = lost | lost_y
    c, fz = a, fx
    if DIMS == 3:
        c, fz, lost_z, _ = _axis(points, i, live, scale, Z, ROW)
        lost = lost | lost_z
    fx, fy, fz = _smooth(fx, SMOOTH), _smooth(fy, SMOOTH), _smooth(fz, SMOOTH)
    b, c = b * times_y, c * times_z
    up_b, up_c = b + times_y, c + times_z
    row = out + (i * width + level * FEATURES)[:, None] + f[None, :]
    within = live[:, None] & (f < FEATURES)[None, :]
    total = tl.zeros((BLOCK, WIDE), tl.float32)
    useful = within & (lost == 0)[:, None] & (total + share > 0)
    pull = total
    if PULL:
        pull = tl.load(row, mask=useful, other=0.0).to(tl.float32)
    for corner in tl.static_range(1 << DIMS):
        weight = (fx if corner & 1 else 1.0 - fx) * (fy if corner & 2 else 1.0 - fy) * share
        if DIMS == 3:
            weight = weight * (fz if corner & 4 else 1.0 - fz)
        at = start + _corner(a, b, c, up_b, up_c, times_y, times_z, hashed, mask, corner, DIMS)
        entry = at[:, None] * FEATURES + f[None, :]
        if PULL:
            tl.atomic_add(grad + entry, weight[:, None] * pull, mask=useful, sem="relaxed")
        else:
            total += weight[:, None] * tl.load(table + entry, mask=useful, other=0.0)
    if not PULL:
        tl.store(row, tl.where(lost[:, None], float("nan"), total), mask=within)


@triton.jit
def points_grad(  # type: ignore[no-untyped-def]
    points, table, starts, numbers, floats, pull, grad, count,
    LEVELS: tl.constexpr, DIMS: tl.constexpr, FEATURES: tl.constexpr, WIDE: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """pull [N,L*F] -> grad [N,D]: 0 where the point was clamped or NaN."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    f = tl.arange(0, WIDE)
    live = i < count
    to_x, to_y, to_z = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for level in range(LEVELS):
        start = tl.load(starts + level)
        times_y, times_z = tl.load(numbers + level * 4), tl.load(numbers + level * 4 + 1)
        hashed, mask = tl.load(numbers + level * 4 + 2), tl.load(numbers + level * 4 + 3)
        scale, share = tl.load(floats + level * 2), tl.load(floats + level * 2 + 1)
        a, gx, _, _ = _axis(points, i, live, scale, 0, DIMS)
        b, gy, _, _ = _axis(points, i, live, scale, 1, DIMS)
        c, gz = a, gx
        if DIMS == 3:
            c, gz, _, _ = _axis(points, i, live, scale, 2, DIMS)
        fx, fy, fz = _smooth(gx, SMOOTH), _smooth(gy, SMOOTH), _smooth(gz, SMOOTH)
        b, c = b * times_y, c * times_z
        up_b, up_c = b + times_y, c + times_z
        within = live[:, None] & (f < FEATURES)[None, :] & (tl.zeros((BLOCK, WIDE), tl.float32) + share > 0)
        wanted = tl.load(pull + (i * LEVELS + level)[:, None] * FEATURES + f[None, :], mask=within, other=0.0) * (share * scale)
        sx, sy, sz = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for corner in tl.static_range(1 << DIMS):
            wx, wy = (fx if corner & 1 else 1.0 - fx), (fy if corner & 2 else 1.0 - fy)
            at = start + _corner(a, b, c, up_b, up_c, times_y, times_z, hashed, mask, corner, DIMS)
            value = tl.sum(tl.load(table + at[:, None] * FEATURES + f[None, :], mask=within, other=0.0) * wanted, 1)
            if DIMS == 3:
                wz = fz if corner & 4 else 1.0 - fz
                sz += (value if corner & 4 else -value) * wx * wy
                value = value * wz
            sx += (value if corner & 1 else -value) * wy
            sy += (value if corner & 2 else -value) * wx
        if SMOOTH:
            sx, sy, sz = sx * 6.0 * gx * (1.0 - gx), sy * 6.0 * gy * (1.0 - gy), sz * 6.0 * gz * (1.0 - gz)
        to_x, to_y, to_z = to_x + sx, to_y + sy, to_z + sz
    _, _, lost, in_x = _axis(points, i, live, 1.0, 0, DIMS)
    _, _, lost_y, in_y = _axis(points, i, live, 1.0, 1, DIMS)
    lost = lost | lost_y
    if DIMS == 3:
        _, _, lost_z, in_z = _axis(points, i, live, 1.0, 2, DIMS)
        lost = lost | lost_z
        tl.store(grad + i * DIMS + 2, tl.where(in_z & (lost == 0), to_z, 0.0), mask=live)
    tl.store(grad + i * DIMS, tl.where(in_x & (lost == 0), to_x, 0.0), mask=live)
    tl.store(grad + i * DIMS + 1, tl.where(in_y & (lost == 0), to_y, 0.0), mask=live)
