"""Triton kernels of the CUDA back end: EWA projection of splats and its gradient, one splat a thread.

The same equations as `torch.project`, differentiated by hand. What compositing reads of a splat goes into one packed row:
u, v, conic xx, xy, yy times SCALE, opacity, half box x, y, then the features: colours, depth, and zeros to a multiple of four.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .contract import ALPHA_MIN, DILATION, GUARD, NEAR

LOW, BLUR, BAND, NEAREST = tl.constexpr(ALPHA_MIN), tl.constexpr(DILATION), tl.constexpr(0.5 * GUARD), tl.constexpr(NEAR)
LOG2E = tl.constexpr(1.4426950408889634)  # the exponent's factors are scaled for exp2
TABLE = tl.constexpr(8)  # floats of a packed row before the features
FAR = tl.constexpr(3e38)  # sorts behind everything drawn


@triton.jit
def _to_camera(pose, x, y, z):  # type: ignore[no-untyped-def]
    """World vectors on the camera's axes; `pose` [4,4] is world from camera."""
    return (
        tl.load(pose) * x + tl.load(pose + 4) * y + tl.load(pose + 8) * z,
        tl.load(pose + 1) * x + tl.load(pose + 5) * y + tl.load(pose + 9) * z,
        tl.load(pose + 2) * x + tl.load(pose + 6) * y + tl.load(pose + 10) * z,
    )


@triton.jit
def _to_world(pose, x, y, z):  # type: ignore[no-untyped-def]
    return (
        tl.load(pose) * x + tl.load(pose + 1) * y + tl.load(pose + 2) * z,
        tl.load(pose + 4) * x + tl.load(pose + 5) * y + tl.load(pose + 6) * z,
        tl.load(pose + 8) * x + tl.load(pose + 9) * y + tl.load(pose + 10) * z,
    )


@triton.jit
def _three(row, live):  # type: ignore[no-untyped-def]
    return tl.load(row, mask=live, other=1.0), tl.load(row + 1, mask=live, other=1.0), tl.load(row + 2, mask=live, other=1.0)


@triton.jit
def _point(mean, pose, live):  # type: ignore[no-untyped-def]
    """Camera coordinates of means, and whether they lie ahead."""
    x, y, z = _three(mean, live)
    x, y, z = _to_camera(pose, x - tl.load(pose + 3), y - tl.load(pose + 7), z - tl.load(pose + 11))
    return x, y, z, z > NEAREST


@triton.jit
def _turn(quaternion, live):  # type: ignore[no-untyped-def]
    """Unit quaternion and 1 / |quaternion|."""
    w = tl.load(quaternion, mask=live, other=1.0)
    x, y, z = _three(quaternion + 1, live)
    norm = 1.0 / tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    return w * norm, x * norm, y * norm, z * norm, norm


@triton.jit
def _axes(pose, w, x, y, z):  # type: ignore[no-untyped-def]
    """The splat's three axes, unit vectors on the camera's axes."""
    a0, a1, a2 = _to_camera(pose, 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    b0, b1, b2 = _to_camera(pose, 2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    c0, c1, c2 = _to_camera(pose, 2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    return a0, a1, a2, b0, b1, b2, c0, c1, c2


@triton.jit
def _guard(slope, focal, center, length):  # type: ignore[no-untyped-def]
    """x / z (or y / z) kept near the picture, where the Jacobian is taken, and whether it was there."""
    beyond = BAND * length / focal
    low, high = -center / focal - beyond, (length - center) / focal + beyond
    return tl.minimum(tl.maximum(slope, low), high), (slope >= low) & (slope <= high)


@triton.jit
def _flat(s, a0, a1, a2, slope_x, slope_y, zoom_x, zoom_y):  # type: ignore[no-untyped-def]
    """A half axis in the picture, px."""
    return zoom_x * s * (a0 - slope_x * a2), zoom_y * s * (a1 - slope_y * a2)


@triton.jit
def project(  # type: ignore[no-untyped-def]
    means, quaternions, scales, opacities, colours, by_mean, by_quaternion, by_scale, by_opacity, by_colour,
    pose, focal, center, means2d, packed, keys, counts, radii, each, height, width, across, down, channels, row,
    WIDE: tl.constexpr, HIGH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Packed rows [B,N,row], means2d [B,N,2], keys [B,N] (depth, FAR where not drawn), counts of tiles, radii; program (block, image)."""
    b = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live, i = n < each, b * each + n
    view = pose + 16 * b
    fx, fy, cx, cy = tl.load(focal + 2 * b), tl.load(focal + 2 * b + 1), tl.load(center + 2 * b), tl.load(center + 2 * b + 1)
    x, y, deep, ahead = _point(means + b * by_mean + 3 * n, view, live)
    z = tl.where(ahead, deep, 1.0)
    slope_x, _ = _guard(x / z, fx, cx, width)
    slope_y, _ = _guard(y / z, fy, cy, height)
    s0, s1, s2 = _three(scales + b * by_scale + 3 * n, live)
    qw, qx, qy, qz, _ = _turn(quaternions + b * by_quaternion + 4 * n, live)
    a0, a1, a2, b0, b1, b2, c0, c1, c2 = _axes(view, qw, qx, qy, qz)
    zoom_x, zoom_y = fx / z, fy / z
    px, py = _flat(s0, a0, a1, a2, slope_x, slope_y, zoom_x, zoom_y)
    rx, ry = _flat(s1, b0, b1, b2, slope_x, slope_y, zoom_x, zoom_y)
    tx, ty = _flat(s2, c0, c1, c2, slope_x, slope_y, zoom_x, zoom_y)
    xx, xy, yy = px * px + rx * rx + tx * tx + BLUR, px * py + rx * ry + tx * ty, py * py + ry * ry + ty * ty + BLUR
    determinant = xx * yy - xy * xy
    u, v = zoom_x * x + cx, zoom_y * y + cy
    opacity = tl.load(opacities + b * by_opacity + n, mask=live, other=0.0)
    reach = tl.sqrt(2.0 * tl.log(tl.maximum(opacity / LOW, 1.0)))
    ex, ey = reach * tl.sqrt(xx), reach * tl.sqrt(yy)
    seen = live & ahead & (determinant > 0) & (u + ex > 0) & (u - ex < width) & (v + ey > 0) & (v - ey < height)
    ex, ey = tl.where(seen, ex, 0.0), tl.where(seen, ey, 0.0)
    seen = seen & (ex > 0)
    _, _, w, h = box(u, v, ex, ey, across, down, WIDE, HIGH)
    tl.store(counts + i, w * h, mask=live)
    tl.store(keys + i, tl.where(seen, deep, FAR), mask=live)
    tl.store(radii + i, tl.maximum(ex, ey), mask=live)
    tl.store(means2d + 2 * i, u, mask=live)
    tl.store(means2d + 2 * i + 1, v, mask=live)
    scale = -LOG2E / determinant
    to = packed + i * row
    tl.store(to, u, mask=live)
    tl.store(to + 1, v, mask=live)
    tl.store(to + 2, 0.5 * scale * yy, mask=live)
    tl.store(to + 3, -scale * xy, mask=live)
    tl.store(to + 4, 0.5 * scale * xx, mask=live)
    tl.store(to + 5, opacity, mask=live)
    tl.store(to + 6, ex, mask=live)
    tl.store(to + 7, ey, mask=live)
    c = 0
    while c < row - TABLE:
        value = tl.load(colours + b * by_colour + n * channels + c, mask=live & (c < channels), other=0.0)
        tl.store(to + TABLE + c, tl.where(c == channels, deep, value), mask=live)
        c += 1


@triton.jit
def box(u, v, ex, ey, across, down, WIDE: tl.constexpr, HIGH: tl.constexpr):  # type: ignore[no-untyped-def]
    """First column and row of the tiles that splats touch, and how many columns and rows; none for a box of size 0."""
    x0 = tl.maximum(tl.minimum(tl.floor((u - ex) / WIDE), 1.0 * across), 0.0).to(tl.int32)
    y0 = tl.maximum(tl.minimum(tl.floor((v - ey) / HIGH), 1.0 * down), 0.0).to(tl.int32)
    x1 = tl.maximum(tl.minimum(tl.ceil((u + ex) / WIDE), 1.0 * across), 0.0).to(tl.int32)
    y1 = tl.maximum(tl.minimum(tl.ceil((v + ey) / HIGH), 1.0 * down), 0.0).to(tl.int32)
    drawn = ex > 0
    return x0, y0, tl.where(drawn, tl.maximum(x1 - x0, 0), 0), tl.where(drawn, tl.maximum(y1 - y0, 0), 0)


@triton.jit
def _axis_grad(  # type: ignore[no-untyped-def]
    pose, s, a0, a1, a2, slope_x, slope_y, zoom_x, zoom_y, to_xx, to_xy, to_yy
):  # fmt: skip
    """One half axis's part: pull on its scale, on the axis in the world (3), on the zooms and on the slopes."""
    flat_x, flat_y = s * (a0 - slope_x * a2), s * (a1 - slope_y * a2)
    to_px = to_xx * zoom_x * flat_x + to_xy * zoom_y * flat_y
    to_py = to_yy * zoom_y * flat_y + to_xy * zoom_x * flat_x
    to_zoom_x, to_zoom_y = to_px * flat_x, to_py * flat_y
    to_px, to_py = to_px * zoom_x, to_py * zoom_y
    to_deep = -(slope_x * to_px + slope_y * to_py)
    w0, w1, w2 = _to_world(pose, to_px, to_py, to_deep)
    to_scale = to_px * a0 + to_py * a1 + to_deep * a2
    return to_scale, s * w0, s * w1, s * w2, to_zoom_x, to_zoom_y, -to_px * s * a2, -to_py * s * a2


@triton.jit
def _put(row, live, x, y, z):  # type: ignore[no-untyped-def]
    tl.store(row, x, mask=live)
    tl.store(row + 1, y, mask=live)
    tl.store(row + 2, z, mask=live)


@triton.jit
def _turn_grad(qw, qx, qy, qz, norm, g00, g01, g02, g10, g11, g12, g20, g21, g22):  # type: ignore[no-untyped-def]
    """From the pull on the rotation matrix to that on the quaternion before it was normalised."""
    hw = 2 * (qx * (g21 - g12) + qy * (g02 - g20) + qz * (g10 - g01))
    hx = 2 * (qy * (g01 + g10) + qz * (g02 + g20) + qw * (g21 - g12) - 2 * qx * (g11 + g22))
    hy = 2 * (qx * (g01 + g10) + qz * (g12 + g21) + qw * (g02 - g20) - 2 * qy * (g00 + g22))
    hz = 2 * (qx * (g02 + g20) + qy * (g12 + g21) + qw * (g10 - g01) - 2 * qz * (g00 + g11))
    along = hw * qw + hx * qx + hy * qy + hz * qz
    return norm * (hw - along * qw), norm * (hx - along * qx), norm * (hy - along * qy), norm * (hz - along * qz)


@triton.jit
def project_grad(  # type: ignore[no-untyped-def]
    means, quaternions, scales, by_mean, by_quaternion, by_scale, pose, focal, center, to_means2d, by_means2d, to_packed,
    to_means, to_quaternions, to_scales, to_opacities, to_colours, each, height, width, channels, row, BLOCK: tl.constexpr,
):  # fmt: skip
    """From the pull on means2d (rows `by_means2d` apart) and on packed rows (conics unscaled) to that on what was projected."""
    b = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live, i = n < each, b * each + n
    view = pose + 16 * b
    fx, fy, cx, cy = tl.load(focal + 2 * b), tl.load(focal + 2 * b + 1), tl.load(center + 2 * b), tl.load(center + 2 * b + 1)
    x, y, deep, ahead = _point(means + b * by_mean + 3 * n, view, live)
    z = tl.where(ahead, deep, 1.0)
    slope_x, free_x = _guard(x / z, fx, cx, width)
    slope_y, free_y = _guard(y / z, fy, cy, height)
    s0, s1, s2 = _three(scales + b * by_scale + 3 * n, live)
    qw, qx, qy, qz, norm = _turn(quaternions + b * by_quaternion + 4 * n, live)
    a0, a1, a2, b0, b1, b2, c0, c1, c2 = _axes(view, qw, qx, qy, qz)
    zoom_x, zoom_y = fx / z, fy / z
    px, py = _flat(s0, a0, a1, a2, slope_x, slope_y, zoom_x, zoom_y)
    rx, ry = _flat(s1, b0, b1, b2, slope_x, slope_y, zoom_x, zoom_y)
    tx, ty = _flat(s2, c0, c1, c2, slope_x, slope_y, zoom_x, zoom_y)
    xx, xy, yy = px * px + rx * rx + tx * tx + BLUR, px * py + rx * ry + tx * ty, py * py + ry * ry + ty * ty + BLUR
    determinant = xx * yy - xy * xy
    fine = live & ahead & (determinant > 0)
    share = 1.0 / tl.where(fine, determinant, 1.0)
    qa, qb, qc = yy * share, -xy * share, xx * share
    pull = to_packed + i * row
    pa, pb = tl.load(pull + 2, mask=fine, other=0.0), 0.5 * tl.load(pull + 3, mask=fine, other=0.0)
    pc = tl.load(pull + 4, mask=fine, other=0.0)
    h00, h01, h10, h11 = qa * pa + qb * pb, qa * pb + qb * pc, qb * pa + qc * pb, qb * pb + qc * pc
    to_xx, to_xy, to_yy = -2 * (h00 * qa + h01 * qb), -2 * (h00 * qb + h01 * qc), -2 * (h10 * qb + h11 * qc)
    sa, g00, g10, g20, zx, zy, lx, ly = _axis_grad(view, s0, a0, a1, a2, slope_x, slope_y, zoom_x, zoom_y, to_xx, to_xy, to_yy)
    sb, g01, g11, g21, zx1, zy1, lx1, ly1 = _axis_grad(view, s1, b0, b1, b2, slope_x, slope_y, zoom_x, zoom_y, to_xx, to_xy, to_yy)
    sc, g02, g12, g22, zx2, zy2, lx2, ly2 = _axis_grad(view, s2, c0, c1, c2, slope_x, slope_y, zoom_x, zoom_y, to_xx, to_xy, to_yy)
    _put(to_scales + 3 * i, live, sa, sb, sc)
    to_u = tl.load(to_means2d + i * by_means2d, mask=live & ahead, other=0.0)
    to_v = tl.load(to_means2d + i * by_means2d + 1, mask=live & ahead, other=0.0)
    to_zoom_x, to_zoom_y = zx + zx1 + zx2 + to_u * x, zy + zy1 + zy2 + to_v * y
    to_slope_x, to_slope_y = tl.where(free_x, lx + lx1 + lx2, 0.0) / z, tl.where(free_y, ly + ly1 + ly2, 0.0) / z
    to_z = tl.load(pull + TABLE + channels, mask=live, other=0.0)
    to_z -= (to_zoom_x * zoom_x + to_zoom_y * zoom_y + to_slope_x * x + to_slope_y * y) / z
    wx, wy, wz = _to_world(view, to_u * zoom_x + to_slope_x, to_v * zoom_y + to_slope_y, to_z)
    _put(to_means + 3 * i, live, wx, wy, wz)
    hw, hx, hy, hz = _turn_grad(qw, qx, qy, qz, norm, g00, g01, g02, g10, g11, g12, g20, g21, g22)
    tl.store(to_quaternions + 4 * i, hw, mask=live)
    _put(to_quaternions + 4 * i + 1, live, hx, hy, hz)
    tl.store(to_opacities + i, tl.load(pull + 5, mask=live, other=0.0), mask=live)
    c = 0
    while c < channels:
        tl.store(to_colours + i * channels + c, tl.load(pull + TABLE + c, mask=live, other=0.0), mask=live)
        c += 1
