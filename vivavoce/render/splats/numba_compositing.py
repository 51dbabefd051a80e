"""numba kernels of the CPU back end: depth sort, tile lists, compositing and its gradient.

A task is a tile of 16 x 16 pixels; inside it the loop runs over splats, and a tile's row of 16 pixels is one AVX-512
register or two AVX2 ones. The gradient runs front to back as the image did, so nothing is kept for it but the image; each
(splat, tile) writes its own row of a scratch table laid out splat by splat, which is then summed: no atomics, the same
result every time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from .contract import ALPHA_MAX, ALPHA_MIN, STOP

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

TILE = 16  # px; the kernels' inner loops are written for it
PIXELS = TILE * TILE
FEATURES = 64  # at most, depth included
LOCAL = PIXELS * FEATURES
LANES = TILE * (FEATURES + 3)
MOMENTS = 6  # sums over a splat's pixels of d loss / d exponent times 1, dx, dy, dx^2, dx dy, dy^2
LOG2E = np.float32(1.4426950408889634)
F = np.float32
I = np.int32  # noqa: E741 (the short name keeps the casts below readable)
HIGH, LOW, DONE = F(ALPHA_MAX), F(ALPHA_MIN), F(STOP)
FLOOR = F(-16)  # 2^FLOOR is far below ALPHA_MIN; smaller numbers would only slow the processor down (denormals)
OPTIONS: dict[str, Any] = {"fastmath": True, "error_model": "numpy", "cache": True, "nogil": True}


@intrinsic(prefer_literal=True)
def stack(context: Any, count: Any) -> Any:
    """Pointer to `count` floats on the stack: unlike heap arrays LLVM knows them not to overlap, and so vectorises without checks."""

    if not isinstance(count, types.IntegerLiteral):
        return None
    size = count.literal_value

    def build(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once(builder, ir.FloatType(), size=size)

    return types.CPointer(types.float32)(count), build


@intrinsic
def as_float(context: Any, bits: Any) -> Any:
    """The float32 whose bits are this int32."""

    def build(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


@njit(inline="always", **OPTIONS)
def exp2(x: float) -> float:
    """2^x for -126 <= x <= 0 with a relative error of 1e-7: a polynomial, because a call to libm is not vectorised."""
    whole = np.floor(x + F(0.5))
    f = x - whole
    p = F(1.00000007) + f * (F(0.693146967) + f * (F(0.240221197) + f * (F(0.0555071327) + f * (F(0.00967554133) + f * F(0.00132764718)))))
    return p * as_float(I((I(whole) + I(127)) << I(23)))


@njit(**OPTIONS)
def depth_order(depths: Floats, extents: Floats) -> Integers:  # [N], [N,2] -> [V]
    """The drawn splats, nearest first, equal depths in their order: three passes of a radix sort on the bits of positive floats."""
    count = 0
    for i in range(len(depths)):
        count += extents[i, 0] > 0
    order, other = np.empty(count, np.int32), np.empty(count, np.int32)
    count = 0
    for i in range(len(depths)):
        if extents[i, 0] > 0:
            order[count] = i
            count += 1
    bits = depths.view(np.uint32)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, np.int32)
        for i in order:
            starts[((bits[i] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
        for j in range(2048):
            starts[j + 1] += starts[j]
        for i in order:
            j = (bits[i] >> np.uint32(shift)) & np.uint32(2047)
            other[starts[j]] = i
            starts[j] += 1
        order, other = other, order
    return order


@njit(**OPTIONS)
def tile_lists(means2d: Floats, extents: Floats, order: Integers, height: int, width: int) -> tuple[Integers, Integers, Integers, Integers]:
    """Lists of splats of every tile in depth order.

    Returns starts [tiles+1] into ids [M], boxes [N,4] of tiles (x0, y0, x1, y1) and offsets [N+1]: splat g's rows in the
    scratch table of the gradient are offsets[g] .. offsets[g+1], tile by tile.
    """
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    boxes = np.zeros((len(means2d), 4), np.int32)
    offsets = np.zeros(len(means2d) + 1, np.int32)
    starts = np.zeros(across * down + 1, np.int32)
    step = F(1.0 / TILE)
    for g in order:
        u, v, ex, ey = means2d[g, 0], means2d[g, 1], extents[g, 0], extents[g, 1]
        x0 = I(np.floor(max((u - ex) * step, F(0))))
        y0 = I(np.floor(max((v - ey) * step, F(0))))
        x1 = I(np.ceil(min((u + ex) * step, F(across))))
        y1 = I(np.ceil(min((v + ey) * step, F(down))))
        boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3] = x0, y0, x1, y1
        offsets[g + 1] = max(x1 - x0, 0) * max(y1 - y0, 0)
        for y in range(y0, y1):
            for x in range(x0, x1):
                starts[y * across + x + 1] += 1
    for g in range(len(means2d)):
        offsets[g + 1] += offsets[g]
    for t in range(across * down):
        starts[t + 1] += starts[t]
    ids = np.empty(starts[-1], np.int32)
    cursor = starts[:-1].copy()
    for g in order:
        for y in range(boxes[g, 1], boxes[g, 3]):
            for x in range(boxes[g, 0], boxes[g, 2]):
                t = y * across + x
                ids[cursor[t]] = g
                cursor[t] += 1
    return starts, ids, boxes, offsets


@njit(**OPTIONS)
def _draw(
    tile: int, splats: Floats, features: Floats, starts: Integers, ids: Integers, image: Floats, through: Floats, channels: Any
) -> None:
    """One tile of the image; `channels` is a tuple whose length, known to the compiler, is the number of features."""
    height, width = through.shape
    across = (width + TILE - 1) // TILE
    left, top = (tile % across) * TILE, (tile // across) * TILE
    left_over = carray(stack(PIXELS), (TILE, TILE))
    total = carray(stack(LOCAL), (len(channels), TILE, TILE))
    left_over[:] = F(0)  # beyond the image's edge nothing is seen, which lets such a tile end early too
    left_over[: height - top, : width - left] = F(1)
    total[:] = F(0)
    for k in range(starts[tile], starts[tile + 1]):
        g = ids[k]
        u, v = splats[g, 0] - F(left) - F(0.5), splats[g, 1] - F(top) - F(0.5)
        xx, xy, yy = splats[g, 2] * (F(-0.5) * LOG2E), splats[g, 3] * -LOG2E, splats[g, 4] * (F(-0.5) * LOG2E)
        opacity, reach = splats[g, 5], splats[g, 6]
        y0, y1 = max(0, int(np.ceil(v - reach))), min(TILE - 1, int(np.floor(v + reach)))
        for y in range(y0, y1 + 1):
            dy = F(y) - v
            dyy, dxy = yy * dy * dy, xy * dy
            for x in range(TILE):
                dx = F(I(x)) - u
                alpha = min(opacity * exp2(max(min(dx * (xx * dx + dxy) + dyy, F(0)), FLOOR)), HIGH)
                alpha = F(0) if (alpha < LOW) | (left_over[y, x] < DONE) else alpha
                weight = alpha * left_over[y, x]
                left_over[y, x] -= weight
                for c in range(len(channels)):
                    total[c, y, x] += weight * features[g, c]
        if (k & 15) == 15:
            most = F(0)
            for y in range(TILE):
                for x in range(TILE):
                    most = max(most, left_over[y, x])
            if most < DONE:
                break
    for y in range(min(TILE, height - top)):
        for x in range(min(TILE, width - left)):
            through[top + y, left + x] = left_over[y, x]
            for c in range(len(channels)):
                image[c, top + y, left + x] = total[c, y, x]


@njit(parallel=True, **OPTIONS)
def draw(splats: Floats, features: Floats, starts: Integers, ids: Integers, image: Floats, through: Floats, channels: Any) -> None:
    """Image [F,H,W] and transmittance [H,W] from splats [N,7] (u, v, conic xx, xy, yy, opacity, half height) and features [N,F]."""
    for t in prange(len(starts) - 1):
        _draw(t, splats, features, starts, ids, image, through, channels)


@njit(**OPTIONS)
def _gather(
    tile: int,
    splats: Floats,
    features: Floats,
    starts: Integers,
    ids: Integers,
    boxes: Integers,
    offsets: Integers,
    picture: tuple[Floats, Floats],
    pull: tuple[Floats, Floats],
    rows: Floats,
    channels: Any,
) -> None:
    """One tile's part of the gradient, into the scratch rows of its splats."""
    image, through = picture
    image_grad, through_grad = pull
    height, width = through.shape
    across = (width + TILE - 1) // TILE
    tile_x, tile_y = tile % across, tile // across
    left, top = tile_x * TILE, tile_y * TILE
    left_over, behind = carray(stack(PIXELS), (TILE, TILE)), carray(stack(PIXELS), (TILE, TILE))
    want = carray(stack(LOCAL), (len(channels), TILE, TILE))
    sums = carray(stack(LANES), (len(channels) + 3, TILE))  # by column: pull on the exponent times 1, dy, dy^2; features
    left_over[:] = F(0)
    behind[:] = F(0)  # pull of everything behind the splat on the pixel, weighted as drawn
    want[:] = F(0)
    for y in range(min(TILE, height - top)):
        for x in range(min(TILE, width - left)):
            left_over[y, x] = F(1)
            behind[y, x] = through_grad[top + y, left + x] * through[top + y, left + x]
            for c in range(len(channels)):
                want[c, y, x] = image_grad[c, top + y, left + x]
                behind[y, x] += want[c, y, x] * image[c, top + y, left + x]
    k, end = starts[tile], starts[tile + 1]
    while k < end:
        g = ids[k]
        u, v = splats[g, 0] - F(left) - F(0.5), splats[g, 1] - F(top) - F(0.5)
        xx, xy, yy = splats[g, 2] * (F(-0.5) * LOG2E), splats[g, 3] * -LOG2E, splats[g, 4] * (F(-0.5) * LOG2E)
        opacity, reach = splats[g, 5], splats[g, 6]
        y0, y1 = max(0, int(np.ceil(v - reach))), min(TILE - 1, int(np.floor(v + reach)))
        sums[:] = F(0)
        for y in range(y0, y1 + 1):
            dy = F(y) - v
            dyy, dxy = yy * dy * dy, xy * dy
            for x in range(TILE):
                dx = F(I(x)) - u
                raw = opacity * exp2(max(min(dx * (xx * dx + dxy) + dyy, F(0)), FLOOR))
                here = left_over[y, x]
                alpha = F(0) if (raw < LOW) | (here < DONE) else min(raw, HIGH)
                weight = alpha * here
                pull_here = F(0)
                for c in range(len(channels)):
                    pull_here += want[c, y, x] * features[g, c]
                    sums[c + 3, x] += weight * want[c, y, x]
                behind[y, x] -= weight * pull_here
                left_over[y, x] = here - weight
                change = raw * (here * pull_here - behind[y, x] / (F(1) - alpha))
                change = change if (alpha > F(0)) & (raw <= HIGH) else F(0)
                sums[0, x] += change
                sums[1, x] += change * dy
                sums[2, x] += change * (dy * dy)
        slot = offsets[g] + (tile_y - boxes[g, 1]) * (boxes[g, 2] - boxes[g, 0]) + tile_x - boxes[g, 0]
        _sum_columns(sums, u, rows, slot, channels)
        k += 1
        if (k & 15) == 15:
            most = F(0)
            for y in range(TILE):
                for x in range(TILE):
                    most = max(most, left_over[y, x])
            if most < DONE:
                break
    while k < end:
        g = ids[k]
        slot = offsets[g] + (tile_y - boxes[g, 1]) * (boxes[g, 2] - boxes[g, 0]) + tile_x - boxes[g, 0]
        rows[slot] = F(0)
        k += 1


@njit(inline="always", **OPTIONS)
def _sum_columns(sums: Floats, u: float, rows: Floats, slot: int, channels: Any) -> None:
    """A splat's sums over one tile: moments about its mean, then the pull on its features."""
    one, mx, my, mxx, mxy, myy = F(0), F(0), F(0), F(0), F(0), F(0)
    for x in range(TILE):
        dx = F(I(x)) - u
        one += sums[0, x]
        mx += sums[0, x] * dx
        my += sums[1, x]
        mxx += sums[0, x] * (dx * dx)
        mxy += sums[1, x] * dx
        myy += sums[2, x]
    rows[slot, 0], rows[slot, 1], rows[slot, 2], rows[slot, 3], rows[slot, 4], rows[slot, 5] = one, mx, my, mxx, mxy, myy
    for c in range(len(channels)):
        total = F(0)
        for x in range(TILE):
            total += sums[c + 3, x]
        rows[slot, MOMENTS + c] = total


@njit(parallel=True, **OPTIONS)
def gather(
    splats: Floats,
    features: Floats,
    starts: Integers,
    ids: Integers,
    boxes: Integers,
    offsets: Integers,
    picture: tuple[Floats, Floats],  # image [F,H,W], transmittance [H,W]
    pull: tuple[Floats, Floats],  # d loss / d of these
    grad: Floats,  # [N,6+F] out: mean x, y, conic xx, xy, yy, opacity, features
    channels: Any,
) -> None:
    """Gradient of a loss in the splats, given its gradient in the picture."""
    rows = np.empty((len(ids), MOMENTS + len(channels)), np.float32)
    for t in prange(len(starts) - 1):
        _gather(t, splats, features, starts, ids, boxes, offsets, picture, pull, rows, channels)
    for g in prange(len(splats)):
        if offsets[g + 1] == offsets[g]:
            grad[g] = F(0)
            continue
        for j in range(MOMENTS + len(channels)):
            total = F(0)
            for slot in range(offsets[g], offsets[g + 1]):
                total += rows[slot, j]
            grad[g, j] = total
        one, mx, my, mxx, mxy, myy = grad[g, 0], grad[g, 1], grad[g, 2], grad[g, 3], grad[g, 4], grad[g, 5]
        grad[g, 0] = splats[g, 2] * mx + splats[g, 3] * my
        grad[g, 1] = splats[g, 3] * mx + splats[g, 4] * my
        grad[g, 2], grad[g, 3], grad[g, 4] = F(-0.5) * mxx, -mxy, F(-0.5) * myy
        grad[g, 5] = one / splats[g, 5]
