"""Triton kernels of `render.mesh`: what pixels take of the corners of their triangles, and the gradients of that.

A program is BLOCK pixels of the list. Gradients in vertices are added up atomically, so that their last bits vary.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _corner(target, corners, p, live, u, v, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """One corner of each pixel's triangle: its row, where it lies from the pixel's centre, 1 / depth."""
    row = tl.load(corners + p * 3 + K, mask=live, other=0)
    x, y = tl.load(target + row * 3, mask=live, other=0.0) - u, tl.load(target + row * 3 + 1, mask=live, other=0.0) - v
    return row, x, y, 1.0 / tl.load(target + row * 3 + 2, mask=live, other=1.0)


@triton.jit
def shares(target, corners, place, share, count, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """target [N,3], corners [P,3] rows of it, place [P] (line * width + column) -> share [P,3]."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = p < count
    at = tl.load(place + p, mask=live, other=0)
    u, v = (at % width).to(tl.float32) + 0.5, (at // width).to(tl.float32) + 0.5
    _a, x0, y0, z0 = _corner(target, corners, p, live, u, v, 0)
    _b, x1, y1, z1 = _corner(target, corners, p, live, u, v, 1)
    _c, x2, y2, z2 = _corner(target, corners, p, live, u, v, 2)
    s0, s1, s2 = (x1 * y2 - x2 * y1) * z0, (x2 * y0 - x0 * y2) * z1, (x0 * y1 - x1 * y0) * z2
    total = s0 + s1 + s2
    tl.store(share + p * 3, s0 / total, mask=live)
    tl.store(share + p * 3 + 1, s1 / total, mask=live)
    tl.store(share + p * 3 + 2, s2 / total, mask=live)


@triton.jit
def shares_back(target, corners, place, pull, out, count, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """As above, pull [P,3] -> added to out [N,3]."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = p < count
    at = tl.load(place + p, mask=live, other=0)
    u, v = (at % width).to(tl.float32) + 0.5, (at // width).to(tl.float32) + 0.5
    a, x0, y0, z0 = _corner(target, corners, p, live, u, v, 0)
    b, x1, y1, z1 = _corner(target, corners, p, live, u, v, 1)
    c, x2, y2, z2 = _corner(target, corners, p, live, u, v, 2)
    s0, s1, s2 = (x1 * y2 - x2 * y1) * z0, (x2 * y0 - x0 * y2) * z1, (x0 * y1 - x1 * y0) * z2
    total = s0 + s1 + s2
    g0, g1 = tl.load(pull + p * 3, mask=live, other=0.0), tl.load(pull + p * 3 + 1, mask=live, other=0.0)
    g2 = tl.load(pull + p * 3 + 2, mask=live, other=0.0)
    even = (g0 * s0 + g1 * s1 + g2 * s2) / total
    d0, d1, d2 = (g0 - even) / total * z0, (g1 - even) / total * z1, (g2 - even) / total * z2
    tl.atomic_add(out + a * 3, d2 * y1 - d1 * y2, mask=live)
    tl.atomic_add(out + a * 3 + 1, d1 * x2 - d2 * x1, mask=live)
    tl.atomic_add(out + a * 3 + 2, -d0 * s0, mask=live)
    tl.atomic_add(out + b * 3, d0 * y2 - d2 * y0, mask=live)
    tl.atomic_add(out + b * 3 + 1, d2 * x0 - d0 * x2, mask=live)
    tl.atomic_add(out + b * 3 + 2, -d1 * s1, mask=live)
    tl.atomic_add(out + c * 3, d1 * y0 - d0 * y1, mask=live)
    tl.atomic_add(out + c * 3 + 1, d0 * x1 - d1 * x0, mask=live)
    tl.atomic_add(out + c * 3 + 2, -d2 * s2, mask=live)


@triton.jit
def carry(values, corners, share, out, count, channels, BLOCK: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """values [N,C], corners [P,3], share [P,3] -> out [P,C]; WIDE is C or the next power of two."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDE)
    live = p < count
    both = live[:, None] & (k < channels)[None, :]
    total = tl.zeros((BLOCK, WIDE), tl.float32)
    for j in tl.static_range(3):
        row, weight = tl.load(corners + p * 3 + j, mask=live, other=0), tl.load(share + p * 3 + j, mask=live, other=0.0)
        total += weight[:, None] * tl.load(values + row[:, None] * channels + k[None, :], mask=both, other=0.0)
    tl.store(out + p[:, None] * channels + k[None, :], total, mask=both)


@triton.jit
def carry_back(  # type: ignore[no-untyped-def]
    values, corners, share, pull, to_values, to_share, count, channels,
    VALUES: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """As above, pull [P,C] -> added to to_values [N,C] if VALUES, put into to_share [P,3] if SHARE."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDE)
    live = p < count
    both = live[:, None] & (k < channels)[None, :]
    grad = tl.load(pull + p[:, None] * channels + k[None, :], mask=both, other=0.0)
    for j in tl.static_range(3):
        row = tl.load(corners + p * 3 + j, mask=live, other=0)
        at = row[:, None] * channels + k[None, :]
        if VALUES:
            weight = tl.load(share + p * 3 + j, mask=live, other=0.0)
            tl.atomic_add(to_values + at, weight[:, None] * grad, mask=both)
        if SHARE:
            found = tl.load(values + at, mask=both, other=0.0)
            tl.store(to_share + p * 3 + j, tl.sum(found * grad, axis=1), mask=live)
