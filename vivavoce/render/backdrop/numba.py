"""The body over the plate on a CPU: one numba kernel, a line of a frame a turn. Contract as in the package, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import carray, njit, prange
from numpy.typing import NDArray
from torch import Tensor

from vivavoce.render.backends import floats
from vivavoce.render.splats.numba_compositing import stack
from vivavoce.render.threads import kernels

Array = NDArray[Any]
F = np.float32
I = np.int32  # noqa: E741 (numba makes 64 bits of every sum, and half as many fit a register)
PIECE = 64  # pixels of a line worked on at once
PAINT = 4 * PIECE
OPTIONS: dict[str, Any] = {"fastmath": True, "error_model": "numpy", "cache": True, "nogil": True}


@njit(inline="always", **OPTIONS)
def _cell(at: Any, last: Any) -> tuple[Any, Any]:
    """The whole number below a place in 0..last, never the last itself, and how far the place lies beyond it."""
    at = min(max(at, F(0)), F(last))
    low = min(I(at), I(last - I(1)))
    return low, at - F(low)


@njit(inline="always", **OPTIONS)
def _mix(flat: Array, at: Any, right: Any, below: Any, u: Any, v: Any) -> Any:
    """Between four numbers of a flat array: the one at `at`, those `right` and `below` of it."""
    a, b, c, d = flat[np.uintp(at)], flat[np.uintp(I(at + right))], flat[np.uintp(I(at + below))], flat[np.uintp(I(at + below + right))]
    top, low = a + u * (b - a), c + u * (d - c)
    return top + v * (low - top)


@njit(**OPTIONS)
def _line(row: int, line: int, picture: Array, wide: Any, plate: Array, flow: Array, affine: Array, field: Array, out: Array) -> None:
    """One line of a frame, PIECE pixels a turn: each loop is one a compiler knows to vectorise, over numbers on the stack."""
    _, _, height, width = out.shape
    right, below = I(4), I(4 * wide)
    last_x, last_y = I(wide - 1), I(len(picture) // (4 * wide) - 1)
    cells, nodes = I(flow.shape[2] - 1), I(field.shape[2] - 1)
    bends_x, bends_y = field[row, 0].ravel(), field[row, 1].ravel()
    flow_x, flow_y = flow[row, 0].ravel(), flow[row, 1].ravel()
    m = affine[row]
    gy = F(2 * line + 1) / F(height) - F(1)
    bx, by = m[0, 1] * gy + m[0, 2], m[1, 1] * gy + m[1, 2]
    half, step = F(0.5) * F(nodes), F(cells) / F(max(width - 1, 1))
    k, share = _cell(F(line) * (F(cells) / F(max(height - 1, 1))), cells)
    zoom_x, zoom_y = F(0.5) * F(last_x + 1), F(0.5) * F(last_y + 1)
    sx, sy, done = carray(stack(PIECE), PIECE), carray(stack(PIECE), PIECE), carray(stack(PAINT), (4, PIECE))
    for left in range(0, width, PIECE):
        many = min(PIECE, width - left)
        for i in range(many):
            gx = F(I(2 * (left + i) + 1)) / F(width) - F(1)
            x, y = m[0, 0] * gx + bx, m[1, 0] * gx + by
            x0, u = _cell((x + F(1)) * half, nodes)
            y0, v = _cell((y + F(1)) * half, nodes)
            at = I(y0 * (nodes + I(1)) + x0)
            x -= _mix(bends_x, at, I(1), I(nodes + I(1)), u, v)
            y -= _mix(bends_y, at, I(1), I(nodes + I(1)), u, v)
            x0, u = _cell(F(I(left + i)) * step, cells)
            at = I(k * (cells + I(1)) + x0)
            sx[i] = x + _mix(flow_x, at, I(1), I(cells + I(1)), u, share)
            sy[i] = y + _mix(flow_y, at, I(1), I(cells + I(1)), u, share)
        for i in range(many):
            x0, u = _cell((sx[i] + F(1)) * zoom_x - F(0.5), last_x)
            y0, v = _cell((sy[i] + F(1)) * zoom_y - F(0.5), last_y)
            at = I(y0 * below + right * x0)
            for channel in range(4):
                done[channel, i] = _mix(picture, I(at + I(channel)), right, below, u, v)
        for channel in range(3):
            for i in range(many):
                through = F(1) - min(max(done[3, i], F(0)), F(1))
                out[row, channel, line, left + i] = done[channel, i] + through * plate[channel, line, left + i]


@njit(parallel=True, **OPTIONS)
def _draw(picture: Array, wide: int, plate: Array, flow: Array, affine: Array, field: Array, out: Array) -> None:
    # picture [h*w*4], its width, plate [3,H,W], flow [T,2,f,f], affine [T,2,3], field [T,2,n,n], out [T,3,H,W]
    rows, _, height, _ = out.shape
    for job in prange(rows * height):
        _line(job // height, job % height, picture, wide, plate, flow, affine, field, out)


def draw(picture: Tensor, plate: Tensor, flow: Tensor, affine: Tensor, field: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Shapes as in backdrop.draw. A picture whose four numbers of a pixel lie together is not copied."""
    out = torch.empty(len(affine), 3, *size)
    bends = field if field is not None else affine.new_zeros(len(affine), 2, 2, 2)
    with kernels():
        flat = floats(picture.movedim(0, -1)).reshape(-1)
        _draw(flat, picture.shape[2], floats(plate), floats(flow), floats(affine), floats(bends), out.numpy())
    return out
