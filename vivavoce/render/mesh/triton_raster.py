"""The Triton kernel of the CUDA back end of `render.mesh`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def lower(corners, words, total, faces, height, width, edge, EACH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Corners [B*F,9] (x, y, depth), words [B,H,W] int64: each triangle lowers the words of the pixels whose centres it covers."""
    lane = tl.arange(0, BLOCK)
    for k in range(EACH):
        number = tl.program_id(0) * EACH + k
        live = number < total
        at = corners + number.to(tl.int64) * 9
        x0, y0, z0 = tl.load(at, mask=live, other=0.0), tl.load(at + 1, mask=live, other=0.0), tl.load(at + 2, mask=live, other=0.0)
        x1, y1, z1 = tl.load(at + 3, mask=live, other=0.0), tl.load(at + 4, mask=live, other=0.0), tl.load(at + 5, mask=live, other=0.0)
        x2, y2, z2 = tl.load(at + 6, mask=live, other=0.0), tl.load(at + 7, mask=live, other=0.0), tl.load(at + 8, mask=live, other=0.0)
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        # clamped as floats: a corner far outside is no int32
        left = tl.maximum(tl.ceil(tl.minimum(tl.minimum(x0, x1), x2) - 0.5), 0.0).to(tl.int32)
        right = tl.minimum(tl.floor(tl.maximum(tl.maximum(x0, x1), x2) - 0.5), width - 1.0).to(tl.int32)
        top = tl.maximum(tl.ceil(tl.minimum(tl.minimum(y0, y1), y2) - 0.5), 0.0).to(tl.int32)
        bottom = tl.minimum(tl.floor(tl.maximum(tl.maximum(y0, y1), y2) - 0.5), height - 1.0).to(tl.int32)
        good = live & (tl.abs(area) > edge) & (tl.minimum(tl.minimum(z0, z1), z2) > 0)
        wide, high = tl.maximum(right - left + 1, 0), tl.maximum(bottom - top + 1, 0)
        count = tl.where(good, wide * high, 0)
        wide = tl.maximum(wide, 1)
        plane = words + (number // faces).to(tl.int64) * height * width
        start = 0
        while start < count:
            j = start + lane
            column, line = left + j % wide, top + j // wide
            u, v = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
            w0 = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) / area
            w1 = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) / area
            w2 = ((x0 - u) * (y1 - v) - (x1 - u) * (y0 - v)) / area
            inside = (j < count) & (w0 >= 0) & (w1 >= 0) & (w2 >= 0)
            depth = 1.0 / (w0 / z0 + w1 / z1 + w2 / z2)
            bits = depth.to(tl.int32, bitcast=True).to(tl.int64)  # a positive float sorts as the integer of its bits
            tl.atomic_min(plane + line * width + column, (bits << 32) | (number % faces).to(tl.int64), mask=inside)
            start += BLOCK
