"""numba kernels of the CPU back end: EWA projection of splats and its gradient, one splat a turn.

The same equations as `torch.project`, differentiated by hand; all arrays are float32 and B x N splats are one row after another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .contract import ALPHA_MIN, DILATION, GUARD, NEAR

Floats = NDArray[np.float32]
F = np.float32
OPTIONS: dict[str, Any] = {"fastmath": True, "error_model": "numpy", "cache": True, "nogil": True}


@njit(inline="always", **OPTIONS)
def _rotation(w: float, x: float, y: float, z: float) -> tuple[Any, ...]:
    """Rows of the rotation matrix of a unit quaternion."""
    one, two = F(1), F(2)
    return (
        one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y),
        two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x),
        two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y),
    )  # fmt: skip


@njit(inline="always", **OPTIONS)
def _half_axes(i: int, quaternions: Floats, scales: Floats, turn: Floats, axes: Floats) -> float:
    """Half axes of splat i in the camera as columns of axes [3,3], without the scales; returns 1 / |quaternion|."""
    q0, q1, q2, q3 = quaternions[i, 0], quaternions[i, 1], quaternions[i, 2], quaternions[i, 3]
    norm = F(1) / max(np.sqrt(q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3), F(1e-12))
    r = _rotation(q0 * norm, q1 * norm, q2 * norm, q3 * norm)
    for row in range(3):
        for column in range(3):
            axes[row, column] = turn[row, 0] * r[column] + turn[row, 1] * r[3 + column] + turn[row, 2] * r[6 + column]
    return norm


@njit(inline="always", **OPTIONS)
def _place(i: int, means: Floats, turn: Floats) -> tuple[float, float, float]:
    """Splat i's mean in the camera, whose rows are turn [4,4]."""
    x, y, z = means[i, 0], means[i, 1], means[i, 2]
    return (
        turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z + turn[0, 3],
        turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z + turn[1, 3],
        turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z + turn[2, 3],
    )


@njit(inline="always", **OPTIONS)
def _slope(across: float, z: float, focal: Floats, center: Floats, axis: int, length: int) -> tuple[float, bool]:
    """x/z (axis 0, length = width) or y/z, kept where the Jacobian still holds, and whether it lay there by itself."""
    slope, beyond = across / z, F(GUARD * 0.5) * F(length) / focal[axis]
    low = -center[axis] / focal[axis] - beyond
    high = (F(length) - center[axis]) / focal[axis] + beyond
    return min(max(slope, low), high), (slope >= low) & (slope <= high)


@njit(parallel=True, **OPTIONS)
def project(
    splats: tuple[Floats, Floats, Floats, Floats],  # means [M,3], quaternions [M,4], scales [M,3], opacities [M]; M = B*N
    view: Floats,  # [B,4,4] camera from world
    focal: Floats,  # [B,2]
    center: Floats,  # [B,2]
    size: tuple[int, int],
    out: tuple[Floats, Floats, Floats, Floats],  # means2d [M,2], conics [M,3], depths [M], extents [M,2]
) -> None:
    """Fills `out`."""
    means, quaternions, scales, opacities = splats
    means2d, conics, depths, extents = out
    height, width = size
    each = max(len(means) // len(view), 1)
    for i in prange(len(means)):
        b = i // each
        turn = view[b]
        x, y, deep = _place(i, means, turn)
        ahead = deep > F(NEAR)
        z = deep if ahead else F(1)
        slope_x, _ = _slope(x, z, focal[b], center[b], 0, width)
        slope_y, _ = _slope(y, z, focal[b], center[b], 1, height)
        axes = np.empty((3, 3), np.float32)
        _half_axes(i, quaternions, scales, turn, axes)
        zoom_x, zoom_y = focal[b, 0] / z, focal[b, 1] / z
        xx, xy, yy = F(DILATION), F(0), F(DILATION)
        for j in range(3):
            px = zoom_x * scales[i, j] * (axes[0, j] - slope_x * axes[2, j])
            py = zoom_y * scales[i, j] * (axes[1, j] - slope_y * axes[2, j])
            xx += px * px
            xy += px * py
            yy += py * py
        determinant = xx * yy - xy * xy
        u, v = zoom_x * x + center[b, 0], zoom_y * y + center[b, 1]
        means2d[i, 0], means2d[i, 1], depths[i] = u, v, deep
        conics[i, 0], conics[i, 1], conics[i, 2] = yy / determinant, -xy / determinant, xx / determinant
        reach = np.sqrt(F(2) * np.log(max(opacities[i] * F(1 / ALPHA_MIN), F(1))))
        ex, ey = reach * np.sqrt(xx), reach * np.sqrt(yy)
        seen = ahead & (determinant > F(0)) & (u + ex > F(0)) & (u - ex < F(width)) & (v + ey > F(0)) & (v - ey < F(height))
        extents[i, 0], extents[i, 1] = ex if seen else F(0), ey if seen else F(0)


@njit(inline="always", **OPTIONS)
def _quaternion_grad(i: int, quaternions: Floats, norm: float, g: Floats, out: Floats) -> None:
    """From the pull g [3,3] on the rotation matrix to that on the quaternion before it was normalised."""
    w, x, y, z = quaternions[i, 0] * norm, quaternions[i, 1] * norm, quaternions[i, 2] * norm, quaternions[i, 3] * norm
    two = F(2)
    gw = two * (x * (g[2, 1] - g[1, 2]) + y * (g[0, 2] - g[2, 0]) + z * (g[1, 0] - g[0, 1]))
    gx = two * (y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2]) - two * x * (g[1, 1] + g[2, 2]))
    gy = two * (x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0]) - two * y * (g[0, 0] + g[2, 2]))
    gz = two * (x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) + w * (g[1, 0] - g[0, 1]) - two * z * (g[0, 0] + g[1, 1]))
    along = gw * w + gx * x + gy * y + gz * z
    out[i, 0], out[i, 1] = norm * (gw - along * w), norm * (gx - along * x)
    out[i, 2], out[i, 3] = norm * (gy - along * y), norm * (gz - along * z)


@njit(inline="always", **OPTIONS)
def _covariance_grad(conic: Floats, pull: Floats) -> tuple[float, float, float]:
    """From the pull on the inverse (xx, xy, yy) to twice that on the covariance's xx, xy, yy: -Q G Q with G symmetric."""
    a, b, c = conic[0], conic[1], conic[2]
    ga, gb, gc = pull[0], F(0.5) * pull[1], pull[2]
    h00, h01, h10, h11 = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
    return F(-2) * (h00 * a + h01 * b), F(-2) * (h00 * b + h01 * c), F(-2) * (h10 * b + h11 * c)


@njit(parallel=True, **OPTIONS)
def project_grad(
    splats: tuple[Floats, Floats, Floats],  # means [M,3], quaternions [M,4], scales [M,3]
    conics: Floats,  # [M,3] as projected
    view: Floats,
    focal: Floats,
    center: Floats,
    size: tuple[int, int],
    pull: tuple[Floats, Floats, Floats],  # d loss / d means2d [M,2], conics [M,3], depths [M]
    out: tuple[Floats, Floats, Floats],  # d loss / d means, quaternions, scales
) -> None:
    """Fills `out`."""
    means, quaternions, scales = splats
    height, width = size
    each = max(len(means) // len(view), 1)
    for i in prange(len(means)):
        b = i // each
        turn = view[b]
        x, y, z = _place(i, means, turn)
        axes, turned = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
        norm = _half_axes(i, quaternions, scales, turn, axes)
        to_x, to_y, to_z = F(0), F(0), pull[2][i]
        to_xx, to_xy, to_yy = _covariance_grad(conics[i], pull[1][i])  # each already times 2
        if z > F(NEAR):
            slope_x, free_x = _slope(x, z, focal[b], center[b], 0, width)
            slope_y, free_y = _slope(y, z, focal[b], center[b], 1, height)
            zoom_x, zoom_y = focal[b, 0] / z, focal[b, 1] / z
            to_slope_x, to_slope_y, to_zoom_x, to_zoom_y = F(0), F(0), F(0), F(0)
            for j in range(3):
                s = scales[i, j]
                flat_x, flat_y = s * (axes[0, j] - slope_x * axes[2, j]), s * (axes[1, j] - slope_y * axes[2, j])
                to_px = to_xx * zoom_x * flat_x + to_xy * zoom_y * flat_y
                to_py = to_yy * zoom_y * flat_y + to_xy * zoom_x * flat_x
                to_zoom_x += to_px * flat_x
                to_zoom_y += to_py * flat_y
                to_px, to_py = to_px * zoom_x, to_py * zoom_y
                to_slope_x -= to_px * s * axes[2, j]
                to_slope_y -= to_py * s * axes[2, j]
                to_deep = -(slope_x * to_px + slope_y * to_py)
                out[2][i, j] = to_px * axes[0, j] + to_py * axes[1, j] + to_deep * axes[2, j]
                for row in range(3):
                    turned[row, j] = s * (turn[0, row] * to_px + turn[1, row] * to_py + turn[2, row] * to_deep)
            to_u, to_v = pull[0][i, 0], pull[0][i, 1]
            to_zoom_x, to_zoom_y = to_zoom_x + to_u * x, to_zoom_y + to_v * y
            to_x, to_y = to_u * zoom_x, to_v * zoom_y
            to_z -= (to_zoom_x * zoom_x + to_zoom_y * zoom_y) / z
            if free_x:
                to_x, to_z = to_x + to_slope_x / z, to_z - to_slope_x * x / (z * z)
            if free_y:
                to_y, to_z = to_y + to_slope_y / z, to_z - to_slope_y * y / (z * z)
        else:
            turned[:] = F(0)
            out[2][i] = F(0)
        for j in range(3):
            out[0][i, j] = turn[0, j] * to_x + turn[1, j] * to_y + turn[2, j] * to_z
        _quaternion_grad(i, quaternions, norm, turned, out[1])
