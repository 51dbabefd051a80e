"""Triton kernels of `render.mesh`: outlines between neighbouring pixels, and pixels mixed by them; see `outlines.py`.

A program is BLOCK pixels, lines and pictures one after another. Each pixel looks at the way to its right neighbour (axis 0) and
to its lower one (axis 1).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(target, start, vertex, live):  # type: ignore[no-untyped-def]
    """Where a vertex of a picture lies; `start` is the picture's first vertex."""
    at = target + (start + vertex) * 3
    return tl.load(at, mask=live, other=0.0), tl.load(at + 1, mask=live, other=0.0)


@triton.jit
def _depth(target, triangles, start, number, u, v):  # type: ignore[no-untyped-def]
    """Of triangles (none: -1) at u, v; infinite where there is none."""
    live = number >= 0
    at = triangles + number * 3
    a, b = tl.load(at, mask=live, other=0), tl.load(at + 1, mask=live, other=0)
    c = tl.load(at + 2, mask=live, other=0)
    x0, y0 = _place(target, start, a, live)
    x1, y1 = _place(target, start, b, live)
    x2, y2 = _place(target, start, c, live)
    z0, z1 = tl.load(target + (start + a) * 3 + 2, mask=live, other=1.0), tl.load(target + (start + b) * 3 + 2, mask=live, other=1.0)
    z2 = tl.load(target + (start + c) * 3 + 2, mask=live, other=1.0)
    s0, s1 = (x1 - u) * (y2 - v) - (x2 - u) * (y1 - v), (x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)
    s2 = (x0 - u) * (y1 - v) - (x1 - u) * (y0 - v)
    near = s0 / z0 + s1 / z1 + s2 / z2
    return tl.where(live, (s0 + s1 + s2) / tl.where(near == 0, 1.0, near), float("inf"))


@triton.jit
def _edge(sx, sy, ex, ey, u, v, wx, wy, good):  # type: ignore[no-untyped-def]
    """Which part of the way (wx, wy) from u, v lies before the edge from s to e; 2 where the edge is not met."""
    dx, dy = ex - sx, ey - sy
    side = dx * wy - dy * wx
    good = good & (tl.abs(side) > 1e-9)
    safe = tl.where(good, side, 1.0)
    where = -(dx * (v - sy) - dy * (u - sx)) / safe
    on = (wx * (sy - v) - wy * (sx - u)) / safe
    return tl.where(good & (where >= 0) & (where <= 1) & (on >= 0) & (on <= 1), where, 2.0)


@triton.jit
def crossed(  # type: ignore[no-untyped-def]
    target, triangles, across, corner, seen, found, count, height, width, vertices, HOPS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """target [B,V,3], triangles, across, corner [F,3] (`Links`), seen [B,H,W] -> found [2,B,H,W]: triangle * 3 + corner, or -1."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    axis = tl.program_id(1)
    place = p % (height * width)
    column, line = place % width, place // width
    start = p // (height * width) * vertices
    step = tl.where(axis == 0, 1, width)
    live = (p < count) & tl.where(axis == 0, column + 1 < width, line + 1 < height)
    first, second = tl.load(seen + p, mask=live, other=-1), tl.load(seen + p + step, mask=live, other=-1)
    live = live & (first != second)
    right, down = tl.where(axis == 0, 1.0, 0.0), tl.where(axis == 0, 0.0, 1.0)
    u, v = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
    code = tl.full((BLOCK,), -1, tl.int64)
    going = tl.max(live.to(tl.int32), axis=0)
    if going > 0:
        ahead = _depth(target, triangles, start, tl.where(live, first, -1), u, v)
        forth = ahead <= _depth(target, triangles, start, tl.where(live, second, -1), u + right, v + down)
        number = tl.where(forth, first, second)
        u, v = tl.where(forth, u, u + right), tl.where(forth, v, v + down)
        wx, wy = tl.where(forth, right, -right), tl.where(forth, down, -down)
        came = tl.full((BLOCK,), -1, tl.int64)
        live = live & (number >= 0)
        for _hop in range(HOPS):
            at = number * 3
            a, b = tl.load(triangles + at, mask=live, other=0), tl.load(triangles + at + 1, mask=live, other=0)
            c = tl.load(triangles + at + 2, mask=live, other=0)
            n0, n1 = tl.load(across + at, mask=live, other=-1), tl.load(across + at + 1, mask=live, other=-1)
            n2 = tl.load(across + at + 2, mask=live, other=-1)
            x0, y0 = _place(target, start, a, live)
            x1, y1 = _place(target, start, b, live)
            x2, y2 = _place(target, start, c, live)
            w0 = _edge(x1, y1, x2, y2, u, v, wx, wy, live & ((n0 != came) | (came < 0)))
            w1 = _edge(x2, y2, x0, y0, u, v, wx, wy, live & ((n1 != came) | (came < 0)))
            w2 = _edge(x0, y0, x1, y1, u, v, wx, wy, live & ((n2 != came) | (came < 0)))
            best = tl.minimum(tl.minimum(w0, w1), w2)
            is0, is1 = w0 == best, (w1 == best) & (w0 != best)
            out = tl.where(is0, 0, tl.where(is1, 1, 2))
            inside = live & (best < 1.5)
            after = tl.where(is0, n0, tl.where(is1, n1, n2))
            other = tl.load(corner + at + out, mask=inside, other=-1)
            ox, oy = _place(target, start, tl.where(other >= 0, other, 0), inside & (other >= 0))
            cx, cy = tl.where(is0, x0, tl.where(is1, x1, x2)), tl.where(is0, y0, tl.where(is1, y1, y2))
            sx, sy = tl.where(is0, x1, tl.where(is1, x2, x0)), tl.where(is0, y1, tl.where(is1, y2, y0))
            dx, dy = tl.where(is0, x2, tl.where(is1, x0, x1)) - sx, tl.where(is0, y2, tl.where(is1, y0, y1)) - sy
            here, there = dx * (cy - sy) - dy * (cx - sx), dx * (oy - sy) - dy * (ox - sx)
            ends = inside & ((other < 0) | (here * there > 0))
            steep = tl.abs(dy) >= tl.abs(dx)
            hit = ends & tl.where(axis == 0, steep, ~steep)
            code = tl.where(hit, at + out, code)
            live = inside & ~ends & (after >= 0)
            came = number
            number = tl.where(live, after, number)
    tl.store(found + axis * count + p, code, mask=p < count)


@triton.jit
def _cut(target, triangles, found, at, live, start, column, line, AXIS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of ways that begin at a pixel: whether an edge cuts them, where (0..1), its ends, how far along the edge, its slope."""
    code = tl.load(found + at, mask=live, other=-1)
    hit = live & (code >= 0)
    code = tl.where(hit, code, 0)
    number, k = code // 3, code % 3
    a = tl.load(triangles + number * 3 + (k + 1) % 3, mask=hit, other=0)
    b = tl.load(triangles + number * 3 + (k + 2) % 3, mask=hit, other=0)
    ax, ay = _place(target, start, a, hit)
    bx, by = _place(target, start, b, hit)
    u, v = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
    if AXIS == 0:
        wide = tl.where(hit, by - ay, 1.0)
        slope, share, from_start = (bx - ax) / wide, (v - ay) / wide, ax - u
        where = from_start + share * (bx - ax)
    else:
        wide = tl.where(hit, bx - ax, 1.0)
        slope, share, from_start = (by - ay) / wide, (u - ax) / wide, ay - v
        where = from_start + share * (by - ay)
    return hit, where, a, b, share, slope


@triton.jit
def blend(  # type: ignore[no-untyped-def]
    image, target, triangles, found, out, count, channels, height, width, vertices, BLOCK: tl.constexpr
):  # fmt: skip
    """image [B,C,H,W] -> out [B,C,H,W]: every pixel with what the four ways at it bring."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = p < count
    plane = height * width
    place = p % plane
    column, line = place % width, place // width
    start = p // plane * vertices
    h0, w0, _a0, _b0, _s0, _m0 = _cut(target, triangles, found, p, live, start, column, line, 0)
    h1, w1, _a1, _b1, _s1, _m1 = _cut(target, triangles, found + count, p, live, start, column, line, 1)
    h2, w2, _a2, _b2, _s2, _m2 = _cut(target, triangles, found, p - 1, live & (column > 0), start, column - 1, line, 0)
    h3, w3, _a3, _b3, _s3, _m3 = _cut(target, triangles, found + count, p - width, live & (line > 0), start, column, line - 1, 1)
    h0, h1, h2, h3 = h0 & (w0 < 0.5), h1 & (w1 < 0.5), h2 & (w2 >= 0.5), h3 & (w3 >= 0.5)  # those that change this pixel
    base = image + p // plane * channels * plane + place
    for k in range(channels):
        at = base + k * plane
        own = tl.load(at, mask=live, other=0.0)
        change = tl.where(h0, (w0 - 0.5) * (own - tl.load(at + 1, mask=h0, other=0.0)), 0.0)
        change += tl.where(h1, (w1 - 0.5) * (own - tl.load(at + width, mask=h1, other=0.0)), 0.0)
        change += tl.where(h2, (w2 - 0.5) * (tl.load(at - 1, mask=h2, other=0.0) - own), 0.0)
        change += tl.where(h3, (w3 - 0.5) * (tl.load(at - width, mask=h3, other=0.0) - own), 0.0)
        tl.store(out + p // plane * channels * plane + place + k * plane, own + change, mask=live)


@triton.jit
def _pull(out, start, a, b, share, slope, pulled, hit, AXIS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradient of where an edge cuts a way, times `pulled`, added to the places of its ends."""
    to_a, to_b = out + (start + a) * 3, out + (start + b) * 3
    tl.atomic_add(to_a + AXIS, pulled * (1.0 - share), mask=hit)
    tl.atomic_add(to_b + AXIS, pulled * share, mask=hit)
    tl.atomic_add(to_a + (1 - AXIS), -pulled * (1.0 - share) * slope, mask=hit)
    tl.atomic_add(to_b + (1 - AXIS), -pulled * share * slope, mask=hit)


@triton.jit
def blend_back(  # type: ignore[no-untyped-def]
    image, target, triangles, found, pull, to_image, to_target, count, channels, height, width, vertices, BLOCK: tl.constexpr
):  # fmt: skip
    """As above, pull [B,C,H,W] -> to_image [B,C,H,W], and added to to_target [B,V,3]."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = p < count
    plane = height * width
    place = p % plane
    column, line = place % width, place // width
    start = p // plane * vertices
    h0, w0, a0, b0, s0, m0 = _cut(target, triangles, found, p, live, start, column, line, 0)
    h1, w1, a1, b1, s1, m1 = _cut(target, triangles, found + count, p, live, start, column, line, 1)
    h2, w2, _a2, _b2, _s2, _m2 = _cut(target, triangles, found, p - 1, live & (column > 0), start, column - 1, line, 0)
    h3, w3, _a3, _b3, _s3, _m3 = _cut(target, triangles, found + count, p - width, live & (line > 0), start, column, line - 1, 1)
    d0, d1 = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    offset = p // plane * channels * plane + place
    for k in range(channels):
        at = offset + k * plane
        own, grad = tl.load(image + at, mask=live, other=0.0), tl.load(pull + at, mask=live, other=0.0)
        # of the pixel that a way changes: this one, or the one at its other end
        g0 = tl.where(w0 >= 0.5, tl.load(pull + at + 1, mask=h0, other=0.0), grad)
        g1 = tl.where(w1 >= 0.5, tl.load(pull + at + width, mask=h1, other=0.0), grad)
        g2 = tl.where(w2 >= 0.5, grad, tl.load(pull + at - 1, mask=h2, other=0.0))
        g3 = tl.where(w3 >= 0.5, grad, tl.load(pull + at - width, mask=h3, other=0.0))
        total = grad + tl.where(h0, (w0 - 0.5) * g0, 0.0) + tl.where(h1, (w1 - 0.5) * g1, 0.0)
        total -= tl.where(h2, (w2 - 0.5) * g2, 0.0) + tl.where(h3, (w3 - 0.5) * g3, 0.0)
        tl.store(to_image + at, total, mask=live)
        d0 += tl.where(h0, g0 * (own - tl.load(image + at + 1, mask=h0, other=0.0)), 0.0)
        d1 += tl.where(h1, g1 * (own - tl.load(image + at + width, mask=h1, other=0.0)), 0.0)
    _pull(to_target, start, a0, b0, s0, m0, d0, h0, 0)
    _pull(to_target, start, a1, b1, s1, m1, d1, h1, 1)
