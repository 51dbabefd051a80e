"""Triton kernels of the CUDA back end: tile lists, compositing and its gradient.

A program is a tile; it takes its splats K at a time against all its pixels, so that loads and exponentials of K splats are in
flight together and the transmittance is a running product inside a thread. The gradient runs front to back as the image did:
what lies behind a splat is the picture less what was drawn so far. Sums over a tile's pixels are matrix products of the pull on
the exponents with the monomials 1, x, y, x^2, xy, y^2 of the pixels, done by tensor cores in three TF32 passes (float32 accuracy).
Four features are drawn at once; more take more programs, since the gradient is linear in the features.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .contract import ALPHA_MAX, ALPHA_MIN, STOP

HIGH, LOW, DONE = tl.constexpr(ALPHA_MAX), tl.constexpr(ALPHA_MIN), tl.constexpr(STOP)
ROW = tl.constexpr(8)  # floats in a row of the table: u, v, conic xx, xy, yy scaled for exp2, opacity, half box x, y
SUMS = tl.constexpr(10)  # floats in a row of the scratch table: six moments, four features


@triton.jit
def _box(table, g, live, across, down, WIDE: tl.constexpr, HIGH_: tl.constexpr):  # type: ignore[no-untyped-def]
    u, v = tl.load(table + g * ROW, mask=live, other=0.0), tl.load(table + ROW * g + 1, mask=live, other=0.0)
    ex, ey = tl.load(table + g * ROW + 6, mask=live, other=0.0), tl.load(table + ROW * g + 7, mask=live, other=0.0)
    x0 = tl.maximum(tl.floor((u - ex) / WIDE), 0.0).to(tl.int32)
    y0 = tl.maximum(tl.floor((v - ey) / HIGH_), 0.0).to(tl.int32)
    x1 = tl.minimum(tl.ceil((u + ex) / WIDE), across.to(tl.float32)).to(tl.int32)
    y1 = tl.minimum(tl.ceil((v + ey) / HIGH_), down.to(tl.float32)).to(tl.int32)
    drawn = live & (ex > 0)
    return x0, y0, tl.where(drawn, tl.maximum(x1 - x0, 0), 0), tl.where(drawn, tl.maximum(y1 - y0, 0), 0)


@triton.jit
def count(table, order, counts, total, across, down, WIDE: tl.constexpr, HIGH_: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Number of tiles of each splat, in depth order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < total
    g = tl.load(order + i, mask=live, other=0)
    _, _, w, h = _box(table, g, live, across, down, WIDE, HIGH_)
    tl.store(counts + i, w * h, mask=live)


@triton.jit
def fill(table, order, ends, keys, owners, total, each, across, down, WIDE: tl.constexpr, HIGH_: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One key (image and tile) and owner for every tile of every splat, splat by splat in depth order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < total
    g = tl.load(order + i, mask=live, other=0)
    x0, y0, w, h = _box(table, g, live, across, down, WIDE, HIGH_)
    number = w * h
    start = tl.load(ends + i, mask=live, other=0) - number
    first = (g // each).to(tl.int32) * (across * down)
    w = tl.maximum(w, 1)
    j, most = 0, tl.max(number, 0)
    while j < most:
        key = first + (y0 + j // w) * across + x0 + j % w
        tl.store(keys + start + j, key.to(keys.dtype.element_ty), mask=j < number)
        tl.store(owners + start + j, g.to(tl.int32), mask=j < number)
        j += 1


@triton.jit
def _alphas(table, features, ids, k, end, x, y, feature, length, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """K splats against the pixels x, y [P]: raw and clamped alpha [K,P] and what was loaded."""
    i = k + tl.arange(0, K)
    live = i < end
    g = tl.load(ids + i, mask=live, other=0)
    row = table + g * ROW
    u, v = tl.load(row, mask=live, other=0.0), tl.load(row + 1, mask=live, other=0.0)
    xx, xy, yy = tl.load(row + 2, mask=live, other=0.0), tl.load(row + 3, mask=live, other=0.0), tl.load(row + 4, mask=live, other=0.0)
    opacity = tl.load(row + 5, mask=live, other=0.0)
    paint = features + length * g + feature
    f0 = tl.load(paint, mask=live, other=0.0)
    f1 = tl.load(paint + 1, mask=live, other=0.0)
    f2 = tl.load(paint + 2, mask=live, other=0.0)
    f3 = tl.load(paint + 3, mask=live, other=0.0)
    dx, dy = x[None, :] - u[:, None], y[None, :] - v[:, None]
    power = dx * (xx[:, None] * dx + xy[:, None] * dy) + yy[:, None] * dy * dy
    raw = opacity[:, None] * tl.exp2(tl.minimum(power, 0.0))
    alpha = tl.where(raw < LOW, 0.0, tl.minimum(raw, HIGH))
    return g, u, v, f0, f1, f2, f3, raw, alpha


@triton.jit
def draw(  # type: ignore[no-untyped-def]
    table, features, ids, starts, image, through, height, width, across, tiles, length,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH_: tl.constexpr,
):  # fmt: skip
    """Image [B,F,H,W] and transmittance [B,H,W]; program (image and tile, group of four features)."""
    program, feature = tl.program_id(0), 4 * tl.program_id(1)
    b, tile = program // tiles, program % tiles
    p = tl.arange(0, WIDE * HIGH_)
    column, row = (tile % across) * WIDE + p % WIDE, (tile // across) * HIGH_ + p // WIDE
    inside = (column < width) & (row < height)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    left = tl.where(inside, 1.0, 0.0)  # transmittance
    a0, a1, a2, a3 = left * 0.0, left * 0.0, left * 0.0, left * 0.0
    k, end = tl.load(starts + program).to(tl.int32), tl.load(starts + program + 1).to(tl.int32)
    most = tl.where(k < end, 1.0, 0.0)
    while most >= DONE:
        _, _, _, f0, f1, f2, f3, _, alpha = _alphas(table, features, ids, k, end, x, y, feature, length, K)
        clear = 1.0 - alpha
        before = left[None, :] * tl.cumprod(clear, 0) / clear
        weight = tl.where(before >= DONE, alpha * before, 0.0)
        a0 += tl.sum(weight * f0[:, None], 0)
        a1 += tl.sum(weight * f1[:, None], 0)
        a2 += tl.sum(weight * f2[:, None], 0)
        a3 += tl.sum(weight * f3[:, None], 0)
        left -= tl.sum(weight, 0)
        k += K
        most = tl.where(k < end, tl.max(left, 0), 0.0)
    pixel = row * width + column
    plane = height * width
    out = image + (b * length + feature).to(tl.int64) * plane + pixel
    tl.store(out, a0, mask=inside)
    tl.store(out + plane, a1, mask=inside)
    tl.store(out + 2 * plane, a2, mask=inside)
    tl.store(out + 3 * plane, a3, mask=inside)
    if feature == 0:
        tl.store(through + b.to(tl.int64) * plane + pixel, left, mask=inside)


@triton.jit
def _pick(values, column, j: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.sum(tl.where(column == j, values, 0.0), 1)


@triton.jit
def gather(  # type: ignore[no-untyped-def]
    table, features, ids, slots, starts, image, through, to_image, to_through, out,
    height, width, across, tiles, length, rows,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH_: tl.constexpr, SUM: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """A tile's part of the gradient.

    SUM: how sums over pixels are made: "tf32x3" or "tf32" (matrix products), "add" (reductions).
    STORE: "atomic": added to the splat's row of out [groups,B*N,10]; "scratch": written to out [groups,M,10] at the row of the
    splat's tile. Columns: moments about the splat's mean (1, x, y, x^2, xy, y^2), pull on four features.
    """
    program, group = tl.program_id(0), tl.program_id(1)
    feature = 4 * group
    b, tile = program // tiles, program % tiles
    p = tl.arange(0, WIDE * HIGH_)
    left_x, top_y = (tile % across) * WIDE, (tile // across) * HIGH_
    column, row = left_x + p % WIDE, top_y + p // WIDE
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
    middle_x, middle_y = left_x.to(tl.float32) + 0.5 * WIDE, top_y.to(tl.float32) + 0.5 * HIGH_
    col = tl.arange(0, 16)[None, :]
    near_x, near_y = (x - middle_x)[:, None], (y - middle_y)[:, None]
    monomials = tl.where(col == 0, 1.0, tl.where(col == 1, near_x, tl.where(col == 2, near_y, 0.0)))
    monomials = tl.where(col == 3, near_x * near_x, tl.where(col == 4, near_x * near_y, tl.where(col == 5, near_y * near_y, monomials)))
    wants = tl.where(col == 0, d0[:, None], tl.where(col == 1, d1[:, None], 0.0))
    wants = tl.where(col == 2, d2[:, None], tl.where(col == 3, d3[:, None], wants))
    k, end = tl.load(starts + program).to(tl.int32), tl.load(starts + program + 1).to(tl.int32)
    most = tl.where(k < end, 1.0, 0.0)
    while most >= DONE:
        g, u, v, f0, f1, f2, f3, raw, alpha = _alphas(table, features, ids, k, end, x, y, feature, length, K)
        share = 1.0 / (1.0 - alpha)
        before = left[None, :] * tl.cumprod(1.0 - alpha, 0) * share
        alpha = tl.where(before >= DONE, alpha, 0.0)
        weight = alpha * before
        pull = f0[:, None] * d0[None, :] + f1[:, None] * d1[None, :] + f2[:, None] * d2[None, :] + f3[:, None] * d3[None, :]
        drawn = weight * pull
        rest = behind[None, :] - tl.cumsum(drawn, 0)
        change = tl.where((alpha > 0) & (raw <= HIGH), raw * (before * pull - rest * share), 0.0)
        behind -= tl.sum(drawn, 0)
        left -= tl.sum(weight, 0)
        i = k + tl.arange(0, K)
        live = i < end
        if SUM == "add":
            dx, dy = x[None, :] - u[:, None], y[None, :] - v[:, None]
            one, mx, my = tl.sum(change, 1), tl.sum(change * dx, 1), tl.sum(change * dy, 1)
            mxx, mxy, myy = tl.sum(change * dx * dx, 1), tl.sum(change * dx * dy, 1), tl.sum(change * dy * dy, 1)
            s0, s1 = tl.sum(weight * d0[None, :], 1), tl.sum(weight * d1[None, :], 1)
            s2, s3 = tl.sum(weight * d2[None, :], 1), tl.sum(weight * d3[None, :], 1)
        else:
            sums = tl.dot(change, monomials, input_precision=SUM)
            seen = tl.dot(weight, wants, input_precision=SUM)
            one, mx, my, mxx, mxy, myy = (
                _pick(sums, col, 0), _pick(sums, col, 1), _pick(sums, col, 2),
                _pick(sums, col, 3), _pick(sums, col, 4), _pick(sums, col, 5),
            )  # fmt: skip
            s0, s1, s2, s3 = _pick(seen, col, 0), _pick(seen, col, 1), _pick(seen, col, 2), _pick(seen, col, 3)
            du, dv = u - middle_x, v - middle_y  # from moments about the tile's middle to those about the mean
            mxx, myy = mxx - 2 * du * mx + du * du * one, myy - 2 * dv * my + dv * dv * one
            mxy = mxy - du * my - dv * mx + du * dv * one
            mx, my = mx - du * one, my - dv * one
        if STORE == "atomic":
            to = out + (group * rows + g) * SUMS
            tl.atomic_add(to, one, mask=live, sem="relaxed")
            tl.atomic_add(to + 1, mx, mask=live, sem="relaxed")
            tl.atomic_add(to + 2, my, mask=live, sem="relaxed")
            tl.atomic_add(to + 3, mxx, mask=live, sem="relaxed")
            tl.atomic_add(to + 4, mxy, mask=live, sem="relaxed")
            tl.atomic_add(to + 5, myy, mask=live, sem="relaxed")
            tl.atomic_add(to + 6, s0, mask=live, sem="relaxed")
            tl.atomic_add(to + 7, s1, mask=live, sem="relaxed")
            tl.atomic_add(to + 8, s2, mask=live, sem="relaxed")
            tl.atomic_add(to + 9, s3, mask=live, sem="relaxed")
        else:
            slot = tl.load(slots + i, mask=live, other=0)
            to = out + (group * rows + slot) * SUMS
            tl.store(to, one, mask=live)
            tl.store(to + 1, mx, mask=live)
            tl.store(to + 2, my, mask=live)
            tl.store(to + 3, mxx, mask=live)
            tl.store(to + 4, mxy, mask=live)
            tl.store(to + 5, myy, mask=live)
            tl.store(to + 6, s0, mask=live)
            tl.store(to + 7, s1, mask=live)
            tl.store(to + 8, s2, mask=live)
            tl.store(to + 9, s3, mask=live)
        k += K
        most = tl.where(k < end, tl.max(left, 0), 0.0)


@triton.jit
def total(scratch, order, ends, out, count_, bands, rows, splats, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums a splat's scratch rows: out [groups,B*N,10]. Splats in depth order, as their rows lie."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1)
    live = i < count_
    g = tl.load(order + i, mask=live, other=0)
    end = tl.load(ends + i, mask=live, other=0) * bands
    start = tl.load(ends + i - 1, mask=live & (i > 0), other=0) * bands
    col = tl.arange(0, 16)[None, :]
    wanted = live[:, None] & (col < SUMS)
    sums = tl.zeros((BLOCK, 16), tl.float32)
    j, most = 0, tl.max(end - start, 0)
    while j < most:
        slot = start + j
        sums += tl.load(scratch + ((group * rows + slot) * SUMS)[:, None] + col, mask=wanted & (slot < end)[:, None], other=0.0)
        j += 1
    tl.store(out + ((group * splats + g) * SUMS)[:, None] + col, sums, mask=wanted)
