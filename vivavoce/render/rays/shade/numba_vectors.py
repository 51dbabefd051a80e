"""Loops over LANES points written in LLVM's own vectors: a layer of a network, a level of a feature grid.

Left to the compiler such loops come out in vectors half as long, and keep their sums in memory rather than in registers: on a
processor with AVX-512 a layer of 32 by 32 is three times as fast so as a product of MKL, a level of a grid 1.6 times as the loop it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64  # points at once
OUTS = 4  # outputs of a layer at once; layers are padded to as many
WIDE = 16  # floats of a vector here: the compiler cuts it where registers are shorter
VECTORS = 4 if binding.get_host_cpu_features().get("avx512f") else 1  # at once: 16 sums in 32 registers, or 8 in 16

FLOAT, BYTE, INT, LONG = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOATS, INTS, LONGS, BITS = (ir.VectorType(kind, WIDE) for kind in (FLOAT, INT, LONG, ir.IntType(1)))
POINTERS = ir.VectorType(BYTE.as_pointer(), WIDE)
FLAGS = ("contract", "nsz")
FLOAT_P = types.CPointer(types.float32)


def _long(value: int) -> ir.Constant:
    return ir.Constant(LONG, value)


def _spread(b: Any, value: Any, kind: Any) -> Any:
    """A vector of one number."""
    one = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT, 0))
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(INTS, [0] * WIDE))


def _at(b: Any, start: Any, place: Any) -> Any:
    return b.bitcast(b.gep(start, [place]), FLOATS.as_pointer())


def _add(b: Any, total: Any, one: Any, other: Any) -> Any:
    """total + one * other, in one instruction where there is such a one."""
    return b.fadd(total, b.fmul(one, other, flags=FLAGS), flags=FLAGS)


def _between(b: Any, one: Any, other: Any, share: Any) -> Any:
    return _add(b, one, b.fsub(other, one, flags=FLAGS), share)


def _tile(b: Any, x: Any, weights: Any, inputs: Any, first: list[Any], lane: Any) -> list[Any]:
    """The innermost loop of `layer`: OUTS outputs for VECTORS vectors of points, summed in registers."""
    entry, loop, done = b.block, b.append_basic_block("inputs"), b.append_basic_block("summed")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(LONG)
    k.add_incoming(_long(0), entry)
    sums = [b.phi(FLOATS) for _ in first]
    for total, value in zip(sums, first, strict=True):
        total.add_incoming(value, entry)
    row = b.add(b.mul(k, _long(LANES)), lane)
    seen = [b.load(_at(b, x, b.add(row, _long(WIDE * v))), align=4) for v in range(VECTORS)]
    after = []
    for j in range(OUTS):
        weight = _spread(b, b.load(b.gep(weights, [b.add(b.mul(k, _long(OUTS)), _long(j))])), FLOATS)
        after += [_add(b, sums[j * VECTORS + v], weight, seen[v]) for v in range(VECTORS)]
    following = b.add(k, _long(1))
    k.add_incoming(following, loop)
    for total, value in zip(sums, after, strict=True):
        total.add_incoming(value, loop)
    b.cbranch(b.icmp_unsigned("<", following, inputs), loop, done)
    b.position_at_end(done)
    return after


@intrinsic
def layer(context: Any, x: Any, weights: Any, bias: Any, inputs: Any, outputs: Any, more: Any, least: Any, out: Any) -> Any:
    """out [outputs,LANES] = max(weights x + bias, least), x [inputs,LANES]; with `more` added to what `out` holds, in place of the bias.

    weights: [outputs/OUTS,inputs,OUTS]. inputs: at least 1. outputs: a multiple of OUTS.
    """

    def build(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, weights, bias, inputs, outputs, more, least, out = arguments
        floor = _spread(b, least, FLOATS)
        with (
            cgutils.for_range_slice(b, _long(0), _long(LANES), _long(WIDE * VECTORS), intp=LONG) as (lane, _),
            cgutils.for_range_slice(b, _long(0), outputs, _long(OUTS), intp=LONG) as (start, _),
        ):
            places, first = [], []
            for j in range(OUTS):
                row = b.add(b.mul(b.add(start, _long(j)), _long(LANES)), lane)
                fresh = _spread(b, b.load(b.gep(bias, [b.add(start, _long(j))])), FLOATS)
                for v in range(VECTORS):
                    places.append(_at(b, out, b.add(row, _long(WIDE * v))))
                    first.append(b.select(more, b.load(places[-1], align=4), fresh))
            for place, value in zip(places, _tile(b, x, b.gep(weights, [b.mul(start, inputs)]), inputs, first, lane), strict=True):
                b.store(b.select(b.fcmp_ordered("<", value, floor), floor, value), place, align=4)  # NaN stays NaN
        return context.get_dummy_value()

    floats = [FLOAT_P] * 3
    return types.none(*floats, types.int64, types.int64, types.boolean, types.float32, FLOAT_P), build


def _corners(b: Any, place: list[Any], times: list[Any], mask: Any, join: Callable[[Any, Any], Any]) -> tuple[list[Any], list[Any]]:
    """Entries [2^D] of the vertices around points, and the points' places between them [D]; `place` [D] in cells, `times` [D], first 1."""
    ends, share = [], []
    for position, step in zip(place, times, strict=True):
        whole = b.fptosi(position, INTS)
        share.append(b.fsub(position, b.sitofp(whole, FLOATS), flags=FLAGS))
        low = b.mul(whole, step) if ends else whole
        ends.append((low, b.add(low, step)))
    entries = []
    for corner in range(1 << len(ends)):
        entry = ends[0][corner & 1]
        for d in range(1, len(ends)):
            entry = join(entry, ends[d][corner >> d & 1])
        entries.append(b.and_(entry, mask))
    return entries, share


def _gather(b: Any, base: Any, entry: Any, shift: Any, pair: bool) -> list[Any]:
    """Features [1 or 2] of table entries: two of them as one word of 64 bits."""
    kind, bits = (LONGS, 64) if pair else (INTS, 32)
    signature = ir.FunctionType(kind, [POINTERS, INT, BITS, kind])
    gather = cgutils.get_or_insert_function(b.module, signature, f"llvm.masked.gather.v{WIDE}i{bits}.v{WIDE}p0")
    address = b.add(base, b.shl(b.zext(entry, LONGS), shift))
    every = ir.Constant(BITS, [1] * WIDE)
    found = b.call(gather, [b.inttoptr(address, POINTERS), ir.Constant(INT, bits // 8), every, ir.Constant(kind, ir.Undefined)])
    if not pair:
        return [b.bitcast(found, FLOATS)]
    return [b.bitcast(b.trunc(part, INTS), FLOATS) for part in (found, b.lshr(found, ir.Constant(LONGS, [32] * WIDE)))]


@intrinsic(prefer_literal=True)
def level(
    context: Any, points: Any, dims: Any, pair: Any, table: Any, shift: Any, scale: Any, times: Any, hashed: Any, mask: Any, out: Any
) -> Any:
    """out [1 or 2,LANES]: features of points [dims,LANES] in 0..1 on one level of a grid, weighed linearly between its vertices.

    dims: literal 2 or 3. pair: literal 1 for two features, 0 for one. table: address of the level's first entry. shift: logarithm of an
    entry's bytes. scale, hashed, mask: as of `nn.grid.plan.Level`. times [dims-1]: what vertex numbers along y (and z) are multiplied by.
    """
    if not isinstance(dims, types.IntegerLiteral) or not isinstance(pair, types.IntegerLiteral):
        return None
    sides, two = dims.literal_value, bool(pair.literal_value)

    def build(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        points, _, _, table, shift, scale, times, hashed, mask, out = arguments
        base, bytes_, masks = _spread(b, table, LONGS), _spread(b, shift, LONGS), _spread(b, mask, INTS)
        steps = [ir.Constant(INTS, [1] * WIDE), *(_spread(b, b.load(b.gep(times, [_long(d)])), INTS) for d in range(sides - 1))]
        cells, half = _spread(b, scale, FLOATS), ir.Constant(FLOATS, [0.5] * WIDE)
        with b.if_else(hashed) as branches:
            for branch, join in zip(branches, (b.xor, b.add), strict=True):
                with branch, cgutils.for_range_slice(b, _long(0), _long(LANES), _long(WIDE), intp=LONG) as (lane, _):
                    place = [_add(b, half, b.load(_at(b, points, b.add(lane, _long(d * LANES))), align=4), cells) for d in range(sides)]
                    entries, share = _corners(b, place, steps, masks, join)
                    found = [_gather(b, base, entry, bytes_, two) for entry in entries]
                    for part in share:
                        pairs = zip(found[::2], found[1::2], strict=True)
                        found = [[_between(b, *ends, part) for ends in zip(*pair, strict=True)] for pair in pairs]
                    for k, feature in enumerate(found[0]):
                        b.store(feature, _at(b, out, b.add(lane, _long(k * LANES))), align=4)
        return context.get_dummy_value()

    unsigned = types.CPointer(types.uint32)
    numbers = (types.int64, types.int64, types.float32, unsigned, types.boolean, types.uint32)
    return types.none(FLOAT_P, dims, pair, *numbers, FLOAT_P), build


@intrinsic
def pointer(context: Any, array: Any) -> Any:
    """Where an array begins."""

    def build(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, b, arguments[0]).data

    return types.CPointer(array.dtype)(array), build


@intrinsic
def beyond(context: Any, start: Any, count: Any) -> Any:
    """The pointer so many elements further on."""

    def build(_: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.gep(arguments[0], [arguments[1]])

    return start(start, types.int64), build
