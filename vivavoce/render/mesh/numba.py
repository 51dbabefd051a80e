"""The CPU back end of `render.mesh`: a z-buffer, parallel over pictures and bands of lines."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from vivavoce.render.mesh import EDGE
from vivavoce.render.threads import kernels

BANDS = 4  # of lines in each picture; every band looks at every triangle


@njit(parallel=True, cache=True, error_model="numpy")
def _nearest(target: np.ndarray, triangles: np.ndarray, seen: np.ndarray) -> None:  # [B,V,3] f32, [F,3] i64, [B,H,W] i64 (-1) out
    rows, height, width = seen.shape
    half, one, zero = np.float32(0.5), np.float32(1), np.float32(0)
    for job in prange(rows * BANDS):
        row, band = job // BANDS, job % BANDS
        top, bottom = band * height // BANDS, (band + 1) * height // BANDS - 1
        buffer = np.full((bottom - top + 1, width), np.float32(np.inf))
        for t in range(len(triangles)):
            x0, y0, z0 = target[row, triangles[t, 0]]
            x1, y1, z1 = target[row, triangles[t, 1]]
            x2, y2, z2 = target[row, triangles[t, 2]]
            first_y = max(top, int(np.ceil(min(y0, y1, y2) - half)))
            last_y = min(bottom, int(np.floor(max(y0, y1, y2) - half)))
            if first_y > last_y or min(z0, z1, z2) <= zero:
                continue
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            if abs(area) <= EDGE:
                continue
            first_x = max(0, int(np.ceil(min(x0, x1, x2) - half)))
            last_x = min(width - 1, int(np.floor(max(x0, x1, x2) - half)))
            inverse = one / area
            for line in range(first_y, last_y + 1):
                v = np.float32(line) + half
                for column in range(first_x, last_x + 1):
                    u = np.float32(column) + half
                    w0 = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) * inverse
                    w1 = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) * inverse
                    w2 = ((x0 - u) * (y1 - v) - (x1 - u) * (y0 - v)) * inverse
                    if w0 >= zero and w1 >= zero and w2 >= zero:
                        depth = one / (w0 / z0 + w1 / z1 + w2 / z2)
                        if depth < buffer[line - top, column]:
                            buffer[line - top, column] = depth
                            seen[row, line, column] = t


def rasterize(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:  # [B,V,3], [F,3], (H, W) -> [B,H,W] int64
    """See the package."""
    seen = np.full((len(target), *size), -1, np.int64)
    with kernels():
        _nearest(np.ascontiguousarray(target.numpy()), np.ascontiguousarray(triangles.numpy()), seen)
    return torch.from_numpy(seen)
