"""Triton kernels of the CUDA back end: tile lists, compositing and its gradient.

A program is one warp that owns a tile of 8 x 8 pixels. The image takes the tile's splats one by one, eight unrolled, so that their
loads are in flight together; the gradient takes eight at once, its transmittances a running product along them, and runs front to
back as the image did: what lies behind a splat is the picture less what was drawn so far. Four features are drawn at once; more
take more programs, since the gradient is linear in the features.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .contract import ALPHA_MAX, ALPHA_MIN, STOP
from .triton_projection import LOG2E, TABLE, box

MOST, LOW, DONE = tl.constexpr(ALPHA_MAX), tl.constexpr(ALPHA_MIN), tl.constexpr(STOP)


@triton.jit(do_not_specialize=["pairs"])
def fill(  # type: ignore[no-untyped-def]
    packed, order, ends, keys, owners, pairs, total, each, across, down, row,
    WIDE: tl.constexpr, HIGH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One key (image and tile) and owner for every tile of every splat, splat by splat in depth order; `pairs` at most."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < total
    g = tl.load(order + i, mask=live, other=0)
    splat = packed + g * row
    u, v = tl.load(splat, mask=live, other=0.0), tl.load(splat + 1, mask=live, other=0.0)
    ex, ey = tl.load(splat + 6, mask=live, other=0.0), tl.load(splat + 7, mask=live, other=0.0)
    x0, y0, w, h = box(u, v, ex, ey, across, down, WIDE, HIGH)
    number = w * h
    start = tl.load(ends + i, mask=live, other=0) - number
    first = (g // each).to(tl.int32) * (across * down) + y0 * across + x0
    w = tl.maximum(w, 1)
    j, most = 0, tl.max(number, 0)
    number = tl.minimum(number, pairs - start)
    while j < most:
        tl.store(keys + start + j, (first + j // w * across + j % w).to(keys.dtype.element_ty), mask=j < number)
        tl.store(owners + start + j, g.to(tl.int32), mask=j < number)
        j += 1


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
def _put(image, depth, b, feature, channels, plane, pixel, inside, value):  # type: ignore[no-untyped-def]
    """The feature after the colours is the depth; what follows it only fills up a group of four."""
    tl.store(image + (b * channels + feature).to(tl.int64) * plane + pixel, value, mask=inside & (feature < channels))
    tl.store(depth + b.to(tl.int64) * plane + pixel, value, mask=inside & (feature == channels))


@triton.jit
def _take(image, depth, b, feature, channels, plane, pixel, inside):  # type: ignore[no-untyped-def]
    colour = tl.load(image + (b * channels + feature).to(tl.int64) * plane + pixel, mask=inside & (feature < channels), other=0.0)
    return colour + tl.load(depth + b.to(tl.int64) * plane + pixel, mask=inside & (feature == channels), other=0.0)


@triton.jit
def draw(  # type: ignore[no-untyped-def]
    words, ids, starts, image, depth, alpha, height, width, across, tiles, channels, row,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Image [B,C,H,W], depth and alpha [B,H,W] from packed rows read as pairs; program (image and tile, group of four features)."""
    program, feature = tl.program_id(0), 4 * tl.program_id(1)
    b, tile = program // tiles, program % tiles
    column = (tile % across) * WIDE + tl.arange(0, WIDE)[None, :]
    line = (tile // across) * HIGH + tl.arange(0, HIGH)[:, None]
    inside = (column < width) & (line < height)
    x, y = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
    left = tl.where(inside, 1.0, 0.0)  # transmittance
    a0, a1, a2, a3 = left * 0.0, left * 0.0, left * 0.0, left * 0.0
    k, end = tl.load(starts + program), tl.load(starts + program + 1)
    go = (k < end).to(tl.int32)
    while go > 0:
        for j in tl.static_range(K):
            splat = words + tl.load(ids + tl.minimum(k + j, end - 1)) * (row // 2)
            u, v = _pair(splat)
            xx, xy = _pair(splat + 1)
            yy, opacity = _pair(splat + 2)
            f0, f1 = _pair(splat + (TABLE + feature) // 2)
            f2, f3 = _pair(splat + (TABLE + feature) // 2 + 1)
            dx, dy = x - u, y - v
            raw = tl.where(k + j < end, opacity, 0.0) * _exp2((xx * dx) * dx + dy * (xy * dx + yy * dy), FAST)
            weight = tl.where((raw >= LOW) & (left >= DONE), tl.minimum(raw, MOST) * left, 0.0)
            a0 += weight * f0
            a1 += weight * f1
            a2 += weight * f2
            a3 += weight * f3
            left -= weight
        k += K
        go = tl.max(tl.max((left >= DONE).to(tl.int32), 0), 0) * (k < end).to(tl.int32)
    plane, pixel = height * width, line * width + column
    _put(image, depth, b, feature, channels, plane, pixel, inside, a0)
    _put(image, depth, b, feature + 1, channels, plane, pixel, inside, a1)
    _put(image, depth, b, feature + 2, channels, plane, pixel, inside, a2)
    _put(image, depth, b, feature + 3, channels, plane, pixel, inside, a3)
    if feature == 0:
        tl.store(alpha + b.to(tl.int64) * plane + pixel, 1.0 - left, mask=inside)


@triton.jit
def _add(pointer, value, live):  # type: ignore[no-untyped-def]
    tl.atomic_add(pointer, value, mask=live, sem="relaxed")


@triton.jit
def gather(  # type: ignore[no-untyped-def]
    packed, ids, starts, image, depth, alpha, to_image, to_depth, to_alpha, out, height, width, across, tiles, channels, row,
    K: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr,
):  # fmt: skip
    """Adds a tile's part of the gradient to its splats' rows of out [B,N,row]: packed as `packed`, but conics unscaled."""
    program, feature = tl.program_id(0), 4 * tl.program_id(1)
    b, tile = program // tiles, program % tiles
    p = tl.arange(0, WIDE * HIGH)
    column, line = (tile % across) * WIDE + p % WIDE, (tile // across) * HIGH + p // WIDE
    inside = (column < width) & (line < height)
    x, y = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
    left = tl.where(inside, 1.0, 0.0)
    plane, pixel = height * width, line * width + column
    d0 = _take(to_image, to_depth, b, feature, channels, plane, pixel, inside)
    d1 = _take(to_image, to_depth, b, feature + 1, channels, plane, pixel, inside)
    d2 = _take(to_image, to_depth, b, feature + 2, channels, plane, pixel, inside)
    d3 = _take(to_image, to_depth, b, feature + 3, channels, plane, pixel, inside)
    behind = d0 * _take(image, depth, b, feature, channels, plane, pixel, inside)
    behind += d1 * _take(image, depth, b, feature + 1, channels, plane, pixel, inside)
    behind += d2 * _take(image, depth, b, feature + 2, channels, plane, pixel, inside)
    behind += d3 * _take(image, depth, b, feature + 3, channels, plane, pixel, inside)
    if feature == 0:  # the transmittance's part is counted once
        at = b.to(tl.int64) * plane + pixel
        behind -= tl.load(to_alpha + at, mask=inside, other=0.0) * (1.0 - tl.load(alpha + at, mask=inside, other=1.0))
    k, end = tl.load(starts + program), tl.load(starts + program + 1)
    most = tl.where(k < end, 1.0, 0.0)
    while most >= DONE:
        i = k + tl.arange(0, K)
        live = i < end
        g = tl.load(ids + i, mask=live, other=0)
        splat = packed + g * row
        u, v = tl.load(splat, mask=live, other=0.0), tl.load(splat + 1, mask=live, other=0.0)
        xx, xy = tl.load(splat + 2, mask=live, other=0.0), tl.load(splat + 3, mask=live, other=0.0)
        yy, opacity = tl.load(splat + 4, mask=live, other=0.0), tl.load(splat + 5, mask=live, other=0.0)
        f0, f1 = tl.load(splat + TABLE + feature, mask=live, other=0.0), tl.load(splat + TABLE + feature + 1, mask=live, other=0.0)
        f2, f3 = tl.load(splat + TABLE + feature + 2, mask=live, other=0.0), tl.load(splat + TABLE + feature + 3, mask=live, other=0.0)
        dx, dy = x[None, :] - u[:, None], y[None, :] - v[:, None]
        power = dx * (xx[:, None] * dx + xy[:, None] * dy) + yy[:, None] * dy * dy
        raw = opacity[:, None] * tl.exp2(tl.minimum(power, 0.0))
        cover = tl.where(raw < LOW, 0.0, tl.minimum(raw, MOST))
        share = 1.0 / (1.0 - cover)
        before = left[None, :] * tl.cumprod(1.0 - cover, 0) * share
        cover = tl.where(before >= DONE, cover, 0.0)
        weight = cover * before
        pull = f0[:, None] * d0[None, :] + f1[:, None] * d1[None, :] + f2[:, None] * d2[None, :] + f3[:, None] * d3[None, :]
        drawn = weight * pull
        rest = behind[None, :] - tl.cumsum(drawn, 0)
        change = tl.where((cover > 0) & (raw <= MOST), raw * (before * pull - rest * share), 0.0)
        behind -= tl.sum(drawn, 0)
        left -= tl.sum(weight, 0)
        mx, my = tl.sum(change * dx, 1), tl.sum(change * dy, 1)
        to = out + g * row
        _add(to, (-2.0 / LOG2E) * xx * mx - xy / LOG2E * my, live)
        _add(to + 1, (-2.0 / LOG2E) * yy * my - xy / LOG2E * mx, live)
        _add(to + 2, -0.5 * tl.sum(change * dx * dx, 1), live)
        _add(to + 3, -tl.sum(change * dx * dy, 1), live)
        _add(to + 4, -0.5 * tl.sum(change * dy * dy, 1), live)
        _add(to + 5, tl.sum(change, 1) / tl.maximum(opacity, 1e-12), live)
        _add(to + TABLE + feature, tl.sum(weight * d0[None, :], 1), live)
        _add(to + TABLE + feature + 1, tl.sum(weight * d1[None, :], 1), live)
        _add(to + TABLE + feature + 2, tl.sum(weight * d2[None, :], 1), live)
        _add(to + TABLE + feature + 3, tl.sum(weight * d3[None, :], 1), live)
        k += K
        most = tl.where(k < end, tl.max(left, 0), 0.0)
