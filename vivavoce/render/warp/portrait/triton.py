"""The steps between the convolutions on CUDA, each one launch. Maps are contiguous; biases and moments float32."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from . import even
from . import triton_kernels as kernels

PROGRAMS = 256  # enough for all processors of a GPU


def _step(cells: int) -> float:
    return 2.0 / max(cells - 1, 1)


def _wide(channels: int, most: int = 64) -> int:
    return min(most, triton.next_power_of_2(channels))


def _or(given: Tensor | None, unread: Tensor) -> Tensor:
    """A kernel wants a pointer where it reads nothing, too."""
    return unread if given is None else given


def slots(small: Tensor, driving: Tensor, source: Tensor, row: int) -> Tensor:
    rows, depth, height, width, channels = small.shape
    count, block = driving.shape[1] + 1, 32
    wide = triton.next_power_of_2(count + row - (channels + 1) * count)  # threads beyond the slots write the zeros
    out = small.new_empty(rows * depth, height, width, row)
    kernels.slots[(triton.cdiv(height * width, block), rows * depth)](
        small, driving.contiguous(), source.contiguous(), out, depth, height, width, _step(width), _step(height), _step(depth),
        SLOTS=count, CHANNELS=channels, ROW=row, WIDE=wide, DEEP=triton.next_power_of_2(channels), BLOCK=block,
        num_warps=8,
    )  # fmt: skip
    return out


def shrink(y: Tensor, bias: Tensor, depth: int, taps: int) -> Tensor:
    planes, height, width, row = y.shape
    count, wide = len(bias), _wide(len(bias))
    out = y.new_empty(planes, height // 2, width // 2, count)
    block = 16
    grid = (triton.cdiv(height * width // 4, block), triton.cdiv(count, wide), planes)
    kernels.shrink[grid](y, bias, out, depth, height // 2, width // 2, COUNT=count, TAPS=taps, ROW=row, WIDE=wide, BLOCK=block)
    return out


def spread(y: Tensor, bias: Tensor, depth: int = 1, taps: int = 1, factor: int = 1, groups: int = 1, skip: Tensor | None = None) -> Tensor:
    planes, more = y.shape[0], int(factor > 1)
    height, width, count = (y.shape[1] - more) * factor, (y.shape[2] - more) * factor, len(bias)
    beside = 0 if skip is None else skip.shape[-1]
    shape = (planes, height, width, count + beside) if groups == 1 else (groups, planes, height, width, count // groups)
    out = y.new_empty(shape)
    wide, block = _wide(count + beside) if groups == 1 else math.gcd(count // groups, 64), 32
    grid = (triton.cdiv(height * width, block), triton.cdiv(count + beside, wide), planes)
    kernels.spread[grid](
        y, bias, _or(skip, y), out, depth, height, width, planes * height * width * (count // groups),
        COUNT=count, TAPS=taps, ROW=y.shape[3], FACTOR=factor, GROUP=shape[-1], SKIP=beside, WIDE=wide, BLOCK=block,
    )  # fmt: skip
    return out


def sample(y: Tensor, bias: Tensor, shift: Tensor, volume: Tensor, taps: int, more: Tensor | None = None) -> Tensor:
    rows, depth, height, width, channels = volume.shape
    out = volume.new_empty(rows, height, width, depth * channels)
    slots, second = shift.shape[1], _or(more, y)
    kernels.sample[(triton.cdiv(height * width, 32), rows * depth)](
        y, second, bias, shift.contiguous(), volume, out, depth, height, width, _step(width), _step(height), _step(depth),
        y.stride(0), second.stride(0),
        SLOTS=slots, TAP=even(slots), TAPS=taps, ROW=y.shape[3], CHANNELS=channels, WIDE=triton.next_power_of_2(slots),
        MANY=triton.next_power_of_2(channels), TWO=more is not None, BLOCK=32,
    )  # fmt: skip
    return out


def _chunk(maps: int, rows: int, channels: int) -> int:
    """Rows that one program's moments are of: few enough that all processors have work, many enough to be joined again quickly."""
    chunks = PROGRAMS // (maps * triton.cdiv(channels, _wide(channels)))
    return max(64, triton.next_power_of_2(triton.cdiv(rows, min(64, max(16, chunks)))))


def statistics(x: Tensor, other: Tensor | None = None, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    maps, height, width, channels = x.shape
    rows, chunk = height * width, _chunk(maps, height * width, channels)
    chunks = triton.cdiv(rows, chunk)
    wide = _wide(channels, 64 if maps * chunks * channels >= 64 * PROGRAMS else 16)
    out = x if other is None and beside is None else torch.empty_like(x)
    moments = x.new_empty(maps, chunks, 2, channels, dtype=torch.float32)
    kernels.statistics[(chunks, triton.cdiv(channels, wide), maps)](
        x, _or(other, x), _or(beside, x), out, moments, rows,
        CHUNK=chunk, CHANNELS=channels, ADD=other is not None, ROW=0 if beside is None else beside.shape[3], WIDE=wide, BLOCK=64,
    )  # fmt: skip
    return out, moments


def modulate(x: Tensor, moments: Tensor, maps: Tensor, bias: Tensor, slope: float) -> Tensor:
    count, height, width, row = maps.shape
    channels, factor, wide, chunks = x.shape[3], height // x.shape[1], _wide(x.shape[3]), moments.shape[1]
    out, blocks = maps.new_empty(count, height, width, channels), triton.cdiv(channels, wide)
    steps = 16 if count * height * width * blocks >= 512 * 2 * PROGRAMS else 8  # each program joins all moments first
    kernels.modulate[(triton.cdiv(height * width, 32 * steps), blocks, count)](
        x, moments, maps, bias, out, height, width, slope,
        CHUNK=_chunk(count, x.shape[1] * x.shape[2], channels), CHANNELS=channels, CHUNKS=chunks,
        MANY=triton.next_power_of_2(chunks), FACTOR=factor, ROW=row, SHIFT=len(bias) > channels, STEPS=steps, WIDE=wide, BLOCK=32,
    )  # fmt: skip
    return out


def finish(x: Tensor, bias: Tensor, slope: float, other: Tensor | None = None, beside: Tensor | None = None) -> Tensor:
    channels, out = x.shape[-1], torch.empty_like(x)
    rows, wide = x.numel() // channels, _wide(channels)
    kernels.finish[(triton.cdiv(rows, 64), triton.cdiv(channels, wide))](
        x, _or(other, x), _or(beside, x), bias, out, rows, slope,
        CHANNELS=channels, ADD=other is not None, ROW=0 if beside is None else beside.shape[-1], WIDE=wide, BLOCK=64,
    )  # fmt: skip
    return out


def hide(x: Tensor, bias: Tensor, y: Tensor, first: int, level: Tensor, more: Tensor | None = None) -> Tensor:
    rows, height, width, channels = x.shape
    depth, wide, out, second = y.shape[0] // rows, _wide(channels), torch.empty_like(x), _or(more, y)
    kernels.hide[(triton.cdiv(height * width, 32), triton.cdiv(channels, wide), rows)](
        x, bias, y, second, level, out, depth, height * width, y.stride(0), second.stride(0),
        FIRST=first, ROW=y.shape[3], CHANNELS=channels, DEEP=triton.next_power_of_2(depth), TWO=more is not None, WIDE=wide, BLOCK=32,
    )  # fmt: skip
    return out


def picture(x: Tensor, bias: Tensor) -> Tensor:
    rows, height, width, row = x.shape
    out = x.new_empty(rows, 3, 2 * height, 2 * width, dtype=torch.float32)
    kernels.picture[(triton.cdiv(4 * height * width, 512), 3 * rows)](x, bias, out, height, width, ROW=row, BLOCK=512)
    return out
