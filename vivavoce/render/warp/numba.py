"""Warps on a CPU: numba kernels, parallel over rows and bands of lines. Contracts as in the package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from vivavoce.render.backends import array
from vivavoce.render.threads import kernels

Array = NDArray[Any]
F = np.float32
BANDS = 8  # pieces a row is cut into: more than threads, so that a band without triangles costs nothing
SLACK = F(1e-5)
NONE = F(3e38)  # depth of a pixel on which nothing is drawn; an equal depth later draws nothing either


@njit(fastmath=True, inline="always")
def _read(picture: Array, c: int, x: Any, y: Any) -> Any:
    # picture [C,h,w], bilinear at x, y (pixel centres at integers here)
    height, width = picture.shape[1], picture.shape[2]
    x = min(max(x, F(0)), F(width - 1))
    y = min(max(y, F(0)), F(height - 1))
    x0, y0 = np.uintp(x), np.uintp(y)  # unsigned: numba would ask of each whether it counts from the end
    x1, y1 = min(x0 + np.uintp(1), np.uintp(width - 1)), min(y0 + np.uintp(1), np.uintp(height - 1))
    u, v = x - F(x0), y - F(y0)
    top = picture[c, y0, x0] * (F(1) - u) + picture[c, y0, x1] * u
    low = picture[c, y1, x0] * (F(1) - u) + picture[c, y1, x1] * u
    return top * (F(1) - v) + low * v


@njit(fastmath=True, error_model="numpy", inline="always")
def _within(low: Any, high: Any, value: Any, slope: Any) -> tuple[Any, Any]:
    # the steps in [low, high] at which value + slope * step is not negative, and two more at each end for rounding
    if slope > F(1e-9):
        low = max(low, -value / slope - F(2))
    elif slope < F(-1e-9):
        high = min(high, -value / slope + F(2))
    return low, high


@njit(fastmath=True, error_model="numpy")
def _band(source: Array, target: Array, triangles: Array, first: int, depth: Array, place: Array) -> None:
    # z-buffer of the lines of one row from `first` on: source [V,2], target [V,3]; depth [lines,W], NONE where nothing is drawn yet;
    # place [lines,W,2] in the picture, pixel centres at integers
    lines, width = depth.shape
    for t in range(len(triangles)):
        i0, i1, i2 = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, x1, x2 = target[i0, 0], target[i1, 0], target[i2, 0]
        y0, y1, y2 = target[i0, 1] - F(first), target[i1, 1] - F(first), target[i2, 1] - F(first)
        top = max(F(0), math.ceil(min(y0, y1, y2) - F(0.5)))
        low = min(F(lines - 1), math.floor(max(y0, y1, y2) - F(0.5)))
        left = max(F(0), math.ceil(min(x0, x1, x2) - F(0.5)))
        right = min(F(width - 1), math.floor(max(x0, x1, x2) - F(0.5)))
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not (top <= low and left <= right and abs(area) > F(1e-9)):  # written so that NaN is dropped too
            continue
        inverse = F(1) / area
        z0, z1, z2 = target[i0, 2], target[i1, 2], target[i2, 2]
        across1, down1 = (y2 - y0) * inverse, (x0 - x2) * inverse  # how the weights of the second and third corner change
        across2, down2 = (y0 - y1) * inverse, (x1 - x0) * inverse
        u0, u1, u2 = source[i0, 0] - F(0.5), source[i1, 0] - F(0.5), source[i2, 0] - F(0.5)
        v0, v1, v2 = source[i0, 1] - F(0.5), source[i1, 1] - F(0.5), source[i2, 1] - F(0.5)
        for y in range(int(top), int(low) + 1):
            py = F(y) + F(0.5)
            px = left + F(0.5)
            w1 = (px - x0) * across1 + (py - y0) * down1
            w2 = (px - x0) * across2 + (py - y0) * down2
            begin, end = _within(F(0), right - left, F(1) - w1 - w2, -across1 - across2)
            begin, end = _within(begin, end, w1, across1)
            begin, end = _within(begin, end, w2, across2)
            if not begin <= end:
                continue
            for x in range(int(left) + int(begin), int(left) + int(end) + 1):
                px = F(x) + F(0.5)
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
                w2 = F(1) - w0 - w1
                if w0 >= -SLACK and w1 >= -SLACK and w2 >= -SLACK:
                    z = w0 * z0 + w1 * z1 + w2 * z2
                    if z < depth[y, x]:
                        depth[y, x] = z
                        place[y, x, 0] = w0 * u0 + w1 * u1 + w2 * u2
                        place[y, x, 1] = w0 * v0 + w1 * v1 + w2 * v2


@njit(parallel=True, fastmath=True, error_model="numpy", cache=True, nogil=True)
def _warp(picture: Array, source: Array, target: Array, triangles: Array, under: Array, image: Array, alpha: Array) -> None:
    # picture [B or 1,C,h,w], source [B or 1,V,2], target [B,V,3], triangles [F,3], under [C,H,W], image [B,C,H,W], alpha [B,1,H,W]
    rows, channels, height, width = image.shape
    for job in prange(rows * BANDS):
        row, band = job // BANDS, job % BANDS
        first, last = band * height // BANDS, (band + 1) * height // BANDS
        lines = last - first
        depth = np.full((lines, width), NONE, F)
        place = np.empty((lines, width, 2), F)
        _band(source[row if len(source) > 1 else 0], target[row], triangles, first, depth, place)
        page = picture[row if len(picture) > 1 else 0]
        for y in range(lines):
            for x in range(width):
                if depth[y, x] == NONE:
                    alpha[row, 0, first + y, x] = F(0)
                    for c in range(channels):
                        image[row, c, first + y, x] = under[c, first + y, x]
                    continue
                sx, sy = place[y, x, 0], place[y, x, 1]
                alpha[row, 0, first + y, x] = F(1)
                for c in range(channels):
                    image[row, c, first + y, x] = _read(page, c, sx, sy)


def warp(
    picture: Tensor, source: Tensor, target: Tensor, triangles: Tensor, size: tuple[int, int], under: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Shapes as in warp.warp -> image [B,C,H,W], alpha [B,1,H,W]."""
    pages = array(picture if picture.ndim == 4 else picture[None])
    image = np.empty((len(target), pages.shape[1], *size), F)
    ground = np.zeros(image.shape[1:], F) if under is None else array(under)
    alpha = np.empty((len(target), 1, *size), F)
    with kernels():
        _warp(pages, array(source if source.ndim == 3 else source[None]), array(target), array(triangles, np.int32), ground, image, alpha)
    return torch.from_numpy(image), torch.from_numpy(alpha)


@njit(fastmath=True, error_model="numpy", inline="always")
def _nearest(line: Array, count: int, x: Any, y: Any) -> tuple[Any, bool]:
    # line [P,2], its first `count` pieces (the last of P joins the first) -> squared distance of x, y; inside or not
    inside = False
    nearest = F(1e30)
    for i in range(count):
        ax, ay = line[i, 0], line[i, 1]
        j = i + 1 if i + 1 < len(line) else 0
        bx, by = line[j, 0], line[j, 1]
        dx, dy = bx - ax, by - ay
        along = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, F(1e-12))
        along = min(max(along, F(0)), F(1))
        ex, ey = x - ax - along * dx, y - ay - along * dy
        nearest = min(nearest, ex * ex + ey * ey)
        if (ay > y) != (by > y) and x < ax + (y - ay) * dx / dy:
            inside = not inside
    return nearest, inside


@njit(fastmath=True, error_model="numpy", inline="always")
def _box(line: Array) -> tuple[Any, Any, Any, Any]:
    # line [P,2] -> left, right, top, bottom
    left, right, top, low = line[0, 0], line[0, 0], line[0, 1], line[0, 1]
    for i in range(1, len(line)):
        left, right = min(left, line[i, 0]), max(right, line[i, 0])
        top, low = min(top, line[i, 1]), max(low, line[i, 1])
    return left, right, top, low


@njit(parallel=True, fastmath=True, error_model="numpy", cache=True, nogil=True)
def _polygon(points: Array, soft: Array, mask: Array) -> None:
    # points [B,P,2], soft [B], mask [B,1,H,W]
    rows, _, height, width = mask.shape
    for job in prange(rows * height):
        row, line = job // height, job % height
        left, right, top, low = _box(points[row])
        for column in range(width):
            if column + 1 < left or column > right or line + 1 < top or line > low:
                mask[row, 0, line, column] = F(0)
                continue
            nearest, inside = _nearest(points[row], points.shape[1], F(column) + F(0.5), F(line) + F(0.5))
            t = min(math.sqrt(nearest) / soft[row], F(1))
            mask[row, 0, line, column] = t * t * (F(3) - F(2) * t) if inside else F(0)


@njit(parallel=True, fastmath=True, error_model="numpy", cache=True, nogil=True)
def _stroke(points: Array, width: float, mask: Array) -> None:
    # points [B,P,2], mask [B,1,H,W]
    rows, _, height, columns = mask.shape
    far = F(4) * width  # where the line has faded to 1e-7
    for job in prange(rows * height):
        row, line = job // height, job % height
        left, right, top, low = _box(points[row])
        for column in range(columns):
            if column + 1 < left - far or column > right + far or line + 1 < top - far or line > low + far:
                mask[row, 0, line, column] = F(0)
                continue
            nearest, _ = _nearest(points[row], points.shape[1] - 1, F(column) + F(0.5), F(line) + F(0.5))
            mask[row, 0, line, column] = math.exp(-nearest / (width * width))


def polygon(points: Tensor, size: tuple[int, int], soft: Tensor) -> Tensor:  # [B,P,2], [B] -> [B,1,H,W]
    """As warp.polygon."""
    mask = np.empty((len(points), 1, *size), F)
    with kernels():
        _polygon(array(points), array(soft), mask)
    return torch.from_numpy(mask)


def stroke(points: Tensor, size: tuple[int, int], width: float) -> Tensor:  # [B,P,2] -> [B,1,H,W]
    """As warp.stroke."""
    mask = np.empty((len(points), 1, *size), F)
    with kernels():
        _stroke(array(points), F(width), mask)
    return torch.from_numpy(mask)


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _affine(picture: Array, matrix: Array, image: Array) -> None:
    # picture [C,h,w], matrix [B,2,3], image [B,C,H,W]
    rows, channels, height, width = image.shape
    for job in prange(rows * height):
        row, y = job // height, job % height
        m = matrix[row]
        py = F(y) + F(0.5)
        for x in range(width):
            px = F(x) + F(0.5)
            sx = m[0, 0] * px + m[0, 1] * py + m[0, 2] - F(0.5)
            sy = m[1, 0] * px + m[1, 1] * py + m[1, 2] - F(0.5)
            for c in range(channels):
                image[row, c, y, x] = _read(picture, c, sx, sy)


def affine(picture: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:  # [C,h,w], [B,2,3] -> [B,C,H,W]
    """As warp.affine."""
    image = np.empty((len(matrix), len(picture), *size), F)
    with kernels():
        _affine(array(picture), array(matrix), image)
    return torch.from_numpy(image)
