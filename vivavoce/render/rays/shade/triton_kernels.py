"""Triton kernels: the networks of a frame for BLOCK points at a time. Weights lie [in,out], padded with zeros to powers of two.

Two warps a program: with four, Triton 3.6 multiplies by Hopper's asynchronous products, and on an H200 several of them in a row came out
wrong or read beyond their memory (64 rows with 16 or 32 columns). Two warps multiply by the older, synchronous ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(6e4)


@triton.jit
def _weights(start, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.load(start + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def _features(start, i, live, WIDTH: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    column = tl.arange(0, WIDE)
    return tl.load(start + i[:, None] * WIDTH + column[None, :], mask=live[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def _relu(x):  # type: ignore[no-untyped-def]
    """In half precision, which ends at 65504: what lies beyond would be infinite, and NaN a layer later."""
    return tl.minimum(tl.maximum(x, 0.0), LARGEST).to(tl.float16)


@triton.jit
def _sum(x, weights, row, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """One number of a last layer, whose weights lie [out,in]: too few for a product of tensor cores."""
    return tl.sum(x * tl.load(weights + row * WIDE + tl.arange(0, WIDE))[None, :], 1)


@triton.jit
def shade(  # type: ignore[no-untyped-def]
    first, other, ray, views, w_first, w_other, bias, hear, heard, look, lids, seen, second, bend, solid, tint, last, density, colour,
    count, shift,
    ONE: tl.constexpr, WIDE_ONE: tl.constexpr, TWO: tl.constexpr, WIDE_TWO: tl.constexpr, HIDDEN: tl.constexpr, INSIDE: tl.constexpr,
    GATES: tl.constexpr, HEAR: tl.constexpr, LOOK: tl.constexpr, LIDS: tl.constexpr, LIMIT: tl.constexpr, BEYOND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """features [N,ONE] (and [N,TWO]) -> density [N], colour [N,3]. Fields of `Net` by their names."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < count
    h = tl.arange(0, HIDDEN)
    x = _features(first, i, live, ONE, WIDE_ONE)
    before = tl.dot(x, _weights(w_first, WIDE_ONE, HIDDEN)) + tl.load(bias + h)[None, :]
    if TWO:
        before += tl.dot(_features(other, i, live, TWO, WIDE_TWO), _weights(w_other, WIDE_TWO, HIDDEN))
    if GATES:
        before += tl.dot(_relu(tl.dot(x, _weights(hear, WIDE_ONE, HEAR))), _weights(heard, HEAR, HIDDEN))
        wide = tl.dot(_relu(tl.dot(x, _weights(look, WIDE_ONE, LOOK))), _weights(lids, LOOK, LIDS))
        wide = 1.0 / (1.0 + tl.exp(-wide))
        before += tl.dot(wide.to(tl.float16), _weights(seen, LIDS, HIDDEN))
    inner = tl.dot(_relu(before), _weights(second, HIDDEN, HIDDEN)) + tl.load(bend + h)[None, :]
    inner = tl.maximum(inner, 0.0)
    thick = tl.sum(inner * tl.load(solid + h)[None, :], 1) + shift
    tl.store(density + i, tl.exp(tl.minimum(thick, LIMIT)), mask=live)
    r = tl.load(ray + i, mask=live, other=0).to(tl.int64)
    inside = tl.arange(0, INSIDE)
    view = tl.load(views + r[:, None] * INSIDE + inside[None, :], mask=live[:, None], other=0.0).to(tl.float32)
    tinted = _relu(tl.dot(_relu(inner), _weights(tint, HIDDEN, INSIDE)) + view)
    tinted = tinted.to(tl.float32)
    for channel in tl.static_range(3):
        out = _sum(tinted, last, channel, INSIDE)
        tl.store(colour + i * 3 + channel, (1.0 + 2.0 * BEYOND) / (1.0 + tl.exp(-out)) - BEYOND, mask=live)


@triton.jit
def coordinate(  # type: ignore[no-untyped-def]
    features, first, bias, second, third, place, count,
    ONE: tl.constexpr, WIDE: tl.constexpr, HIDDEN: tl.constexpr, INSIDE: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """features [N,ONE] -> place [N,OUT] in 0..1."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < count
    x = _features(features, i, live, ONE, WIDE)
    inner = _relu(tl.dot(x, _weights(first, WIDE, HIDDEN)) + tl.load(bias + tl.arange(0, HIDDEN))[None, :])
    inner = _relu(tl.dot(inner, _weights(second, HIDDEN, INSIDE)))
    inner = inner.to(tl.float32)
    for axis in tl.static_range(OUT):
        out = _sum(inner, third, axis, INSIDE)
        tl.store(place + i * OUT + axis, 1.0 / (1.0 + tl.exp(-2.0 * out)), mask=live)  # (tanh + 1) / 2
