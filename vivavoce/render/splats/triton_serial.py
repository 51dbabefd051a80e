"""Triton kernels that take a tile's splats one by one, unrolled: values and gradients of compositing.

A program is a tile of 16 columns, or a band of its rows; threads own pixels of one column, so that what depends on the column
alone is computed once a thread. Splats are read as pairs of floats, the same pair by all threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .contract import ALPHA_MAX, ALPHA_MIN, STOP

HIGH, LOW, DONE = tl.constexpr(ALPHA_MAX), tl.constexpr(ALPHA_MIN), tl.constexpr(STOP)
SUMS = tl.constexpr(10)
PAIRS = tl.constexpr(4)  # 64-bit words in a row of the table: (u, v), (xx, xy), (yy, opacity), (half box)


@triton.jit
def _pair(pointer):  # type: ignore[no-untyped-def]
    """Two float32 read as one 64-bit word."""
    word = tl.load(pointer)
    return word.to(tl.int32).to(tl.float32, bitcast=True), (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _exp2(x, FAST: tl.constexpr):  # type: ignore[no-untyped-def]
    if FAST:  # denormals to zero: spares the scaling around the hardware's exponential
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def _inverse(x, FAST: tl.constexpr):  # type: ignore[no-untyped-def]
    if FAST:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def _raw(table, g, live, x, y, FAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Opacity times the Gaussian of splat g at columns x [1,W] and rows y [R,1]."""
    row = table + g * PAIRS
    u, v = _pair(row)
    xx, xy = _pair(row + 1)
    yy, opacity = _pair(row + 2)
    opacity = tl.where(live, opacity, 0.0)
    dx, dy = x - u, y - v
    raw = opacity * _exp2((xx * dx) * dx + dy * (xy * dx + yy * dy), FAST)
    return raw, dx, dy


@triton.jit
def draw(  # type: ignore[no-untyped-def]
    table, features, ids, starts, image, through, height, width, across, tiles, length,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH_: tl.constexpr, BANDS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Image [B,F,H,W] and transmittance [B,H,W]; program (image, tile and band of its rows; group of four features)."""
    ROWS: tl.constexpr = HIGH_ // BANDS
    program, feature = tl.program_id(0) // BANDS, 4 * tl.program_id(1)
    b, tile = program // tiles, program % tiles
    column = (tile % across) * WIDE + tl.arange(0, WIDE)[None, :]
    row = (tile // across) * HIGH_ + (tl.program_id(0) % BANDS) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (column < width) & (row < height)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    left = tl.where(inside, 1.0, 0.0)
    a0, a1, a2, a3 = left * 0.0, left * 0.0, left * 0.0, left * 0.0
    k, end = tl.load(starts + program).to(tl.int32), tl.load(starts + program + 1).to(tl.int32)
    go = (k < end).to(tl.int32)
    while go > 0:
        for j in tl.static_range(K):
            g = tl.load(ids + tl.minimum(k + j, end - 1))
            raw, _, _ = _raw(table, g, k + j < end, x, y, FAST)
            f0, f1 = _pair(features + (g * length + feature) // 2)
            f2, f3 = _pair(features + (g * length + feature) // 2 + 1)
            weight = tl.where((raw >= LOW) & (left >= DONE), tl.minimum(raw, HIGH) * left, 0.0)
            a0 += weight * f0
            a1 += weight * f1
            a2 += weight * f2
            a3 += weight * f3
            left -= weight
        k += K
        go = tl.max(tl.max((left >= DONE).to(tl.int32), 0), 0) * (k < end).to(tl.int32)
    plane = height * width
    pixel = row * width + column
    out = image + (b * length + feature).to(tl.int64) * plane + pixel
    tl.store(out, a0, mask=inside)
    tl.store(out + plane, a1, mask=inside)
    tl.store(out + 2 * plane, a2, mask=inside)
    tl.store(out + 3 * plane, a3, mask=inside)
    if feature == 0:
        tl.store(through + b.to(tl.int64) * plane + pixel, left, mask=inside)


@triton.jit
def _all(values):  # type: ignore[no-untyped-def]
    return tl.sum(tl.sum(values, 0), 0)


@triton.jit
def gather(  # type: ignore[no-untyped-def]
    table, features, ids, slots, starts, image, through, to_image, to_through, out,
    height, width, across, tiles, length, rows,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH_: tl.constexpr, BANDS: tl.constexpr, STORE: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """A band's part of the gradient, added to the splat's row of out [groups,B*N,10] or written to the scratch out [groups,M*BANDS,10]."""
    ROWS: tl.constexpr = HIGH_ // BANDS
    program, group = tl.program_id(0) // BANDS, tl.program_id(1)
    band, feature = tl.program_id(0) % BANDS, 4 * group
    b, tile = program // tiles, program % tiles
    column = (tile % across) * WIDE + tl.arange(0, WIDE)[None, :]
    row = (tile // across) * HIGH_ + band * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (column < width) & (row < height)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    left = tl.where(inside, 1.0, 0.0)
    plane = height * width
    pixel = row * width + column
    at = (b * length + feature).to(tl.int64) * plane + pixel
    d0, d1 = tl.load(to_image + at, mask=inside, other=0.0), tl.load(to_image + at + plane, mask=inside, other=0.0)
    d2, d3 = tl.load(to_image + at + 2 * plane, mask=inside, other=0.0), tl.load(to_image + at + 3 * plane, mask=inside, other=0.0)
    behind = d0 * tl.load(image + at, mask=inside, other=0.0) + d1 * tl.load(image + at + plane, mask=inside, other=0.0)
    behind += d2 * tl.load(image + at + 2 * plane, mask=inside, other=0.0) + d3 * tl.load(image + at + 3 * plane, mask=inside, other=0.0)
    if feature == 0:  # the transmittance's part is counted once
        first = b.to(tl.int64) * plane + pixel
        behind += tl.load(to_through + first, mask=inside, other=0.0) * tl.load(through + first, mask=inside, other=0.0)
    lane = tl.arange(0, 16)
    k, end = tl.load(starts + program).to(tl.int32), tl.load(starts + program + 1).to(tl.int32)
    go = (k < end).to(tl.int32)
    while go > 0:
        for j in tl.static_range(K):
            i = tl.minimum(k + j, end - 1)
            g = tl.load(ids + i)
            raw, dx, dy = _raw(table, g, k + j < end, x, y, FAST)
            f0, f1 = _pair(features + (g * length + feature) // 2)
            f2, f3 = _pair(features + (g * length + feature) // 2 + 1)
            alpha = tl.where((raw >= LOW) & (left >= DONE), tl.minimum(raw, HIGH), 0.0)
            if tl.max(tl.max((alpha > 0).to(tl.int32), 0), 0) > 0:
                weight = alpha * left
                pull = f0 * d0 + f1 * d1 + f2 * d2 + f3 * d3
                behind -= weight * pull
                change = raw * (left * pull - behind * _inverse(1.0 - alpha, FAST))
                change = tl.where((alpha > 0) & (raw <= HIGH), change, 0.0)
                left -= weight
                by_row = change * dy
                s0, s1, s2 = tl.sum(change, 0)[None, :], tl.sum(by_row, 0)[None, :], tl.sum(by_row * dy, 0)
                one, mx, mxx = tl.sum(s0, 1), tl.sum(s0 * dx, 1), tl.sum(s0 * dx * dx, 1)
                my, mxy, myy = tl.sum(s1, 1), tl.sum(s1 * dx, 1), tl.sum(s2, 0)
                sums = tl.where(lane == 0, one, tl.where(lane == 1, mx, tl.where(lane == 2, my, tl.where(lane == 3, mxx, mxy))))
                sums = tl.where(lane == 5, myy, tl.where(lane == 6, _all(weight * d0), tl.where(lane == 7, _all(weight * d1), sums)))
                sums = tl.where(lane == 8, _all(weight * d2), tl.where(lane == 9, _all(weight * d3), sums))
                if STORE == "atomic":
                    tl.atomic_add(out + (group * rows + g) * SUMS + lane, sums, mask=lane < SUMS, sem="relaxed")
                else:
                    slot = tl.load(slots + i) * BANDS + band
                    tl.store(out + (group * rows + slot) * SUMS + lane, sums, mask=lane < SUMS)
        k += K
        go = tl.max(tl.max((left >= DONE).to(tl.int32), 0), 0) * (k < end).to(tl.int32)


@triton.jit
def _put(rows, j, row, values):  # type: ignore[no-untyped-def]
    return tl.where(row == j, values[None, :], rows)


@triton.jit
def gather_rows(  # type: ignore[no-untyped-def]
    table, features, ids, slots, starts, image, through, to_image, to_through, out,
    height, width, across, tiles, length, rows,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH_: tl.constexpr, BANDS: tl.constexpr, STORE: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """As `gather`; sums down the columns are kept for K splats [K,16], then added across the columns for all K at once."""
    ROWS: tl.constexpr = HIGH_ // BANDS
    program, group = tl.program_id(0) // BANDS, tl.program_id(1)
    band, feature = tl.program_id(0) % BANDS, 4 * group
    b, tile = program // tiles, program % tiles
    column = (tile % across) * WIDE + tl.arange(0, WIDE)[None, :]
    row = (tile // across) * HIGH_ + band * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (column < width) & (row < height)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    left = tl.where(inside, 1.0, 0.0)
    plane = height * width
    pixel = row * width + column
    at = (b * length + feature).to(tl.int64) * plane + pixel
    d0, d1 = tl.load(to_image + at, mask=inside, other=0.0), tl.load(to_image + at + plane, mask=inside, other=0.0)
    d2, d3 = tl.load(to_image + at + 2 * plane, mask=inside, other=0.0), tl.load(to_image + at + 3 * plane, mask=inside, other=0.0)
    behind = d0 * tl.load(image + at, mask=inside, other=0.0) + d1 * tl.load(image + at + plane, mask=inside, other=0.0)
    behind += d2 * tl.load(image + at + 2 * plane, mask=inside, other=0.0) + d3 * tl.load(image + at + 3 * plane, mask=inside, other=0.0)
    if feature == 0:  # the transmittance's part is counted once
        first = b.to(tl.int64) * plane + pixel
        behind += tl.load(to_through + first, mask=inside, other=0.0) * tl.load(through + first, mask=inside, other=0.0)
    number = tl.arange(0, K)[:, None]
    k, end = tl.load(starts + program).to(tl.int32), tl.load(starts + program + 1).to(tl.int32)
    go = (k < end).to(tl.int32)
    while go > 0:
        one = tl.zeros((K, WIDE), tl.float32)
        mx, my, mxx, mxy, myy, c0, c1, c2, c3 = one, one, one, one, one, one, one, one, one
        for j in tl.static_range(K):
            g = tl.load(ids + tl.minimum(k + j, end - 1))
            raw, dx, dy = _raw(table, g, k + j < end, x, y, FAST)
            f0, f1 = _pair(features + (g * length + feature) // 2)
            f2, f3 = _pair(features + (g * length + feature) // 2 + 1)
            alpha = tl.where((raw >= LOW) & (left >= DONE), tl.minimum(raw, HIGH), 0.0)
            weight = alpha * left
            pull = f0 * d0 + f1 * d1 + f2 * d2 + f3 * d3
            behind -= weight * pull
            change = raw * (left * pull - behind * _inverse(1.0 - alpha, FAST))
            change = tl.where((alpha > 0) & (raw <= HIGH), change, 0.0)
            left -= weight
            by_row = change * dy
            s0, s1 = tl.sum(change, 0), tl.sum(by_row, 0)
            along = tl.sum(dx, 0)
            one, mx, mxx = _put(one, j, number, s0), _put(mx, j, number, s0 * along), _put(mxx, j, number, s0 * along * along)
            my, mxy, myy = _put(my, j, number, s1), _put(mxy, j, number, s1 * along), _put(myy, j, number, tl.sum(by_row * dy, 0))
            c0, c1 = _put(c0, j, number, tl.sum(weight * d0, 0)), _put(c1, j, number, tl.sum(weight * d1, 0))
            c2, c3 = _put(c2, j, number, tl.sum(weight * d2, 0)), _put(c3, j, number, tl.sum(weight * d3, 0))
        i = k + tl.arange(0, K)
        live = i < end
        if STORE == "atomic":
            to = out + (group * rows + tl.load(ids + i, mask=live, other=0)) * SUMS
            tl.atomic_add(to, tl.sum(one, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 1, tl.sum(mx, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 2, tl.sum(my, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 3, tl.sum(mxx, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 4, tl.sum(mxy, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 5, tl.sum(myy, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 6, tl.sum(c0, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 7, tl.sum(c1, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 8, tl.sum(c2, 1), mask=live, sem="relaxed")
            tl.atomic_add(to + 9, tl.sum(c3, 1), mask=live, sem="relaxed")
        else:
            slot = tl.load(slots + i, mask=live, other=0) * BANDS + band
            to = out + (group * rows + slot) * SUMS
            tl.store(to, tl.sum(one, 1), mask=live)
            tl.store(to + 1, tl.sum(mx, 1), mask=live)
            tl.store(to + 2, tl.sum(my, 1), mask=live)
            tl.store(to + 3, tl.sum(mxx, 1), mask=live)
            tl.store(to + 4, tl.sum(mxy, 1), mask=live)
            tl.store(to + 5, tl.sum(myy, 1), mask=live)
            tl.store(to + 6, tl.sum(c0, 1), mask=live)
            tl.store(to + 7, tl.sum(c1, 1), mask=live)
            tl.store(to + 8, tl.sum(c2, 1), mask=live)
            tl.store(to + 9, tl.sum(c3, 1), mask=live)
        k += K
        go = tl.max(tl.max((left >= DONE).to(tl.int32), 0), 0) * (k < end).to(tl.int32)
