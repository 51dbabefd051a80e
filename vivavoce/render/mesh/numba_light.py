"""The numba kernel of `render.mesh.lit`: formulas as in nn/skin.py and nn/shading.py. Arrays are float32 and C-contiguous."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

F = np.float32


@njit(fastmath=True, cache=True)
def _sigmoid(x):
    return F(1) / (F(1) + math.exp(-x))


@njit(fastmath=True, cache=True)
def _harmonics(x, y, z, out):  # [16] out
    xx, yy, zz = x * x, y * y, z * z
    out[0] = F(0.28209479177387814)
    out[1], out[2], out[3] = F(0.4886025119029199) * y, F(0.4886025119029199) * z, F(0.4886025119029199) * x
    out[4], out[5], out[7] = F(1.0925484305920792) * x * y, F(1.0925484305920792) * y * z, F(1.0925484305920792) * x * z
    out[6], out[8] = F(0.31539156525252005) * (F(3) * zz - F(1)), F(0.5462742152960396) * (xx - yy)
    out[9], out[15] = F(0.5900435899266435) * y * (F(3) * xx - yy), F(0.5900435899266435) * x * (xx - F(3) * yy)
    out[10], out[14] = F(2.890611442640554) * x * y * z, F(1.445305721320277) * z * (xx - yy)
    out[11], out[13] = F(0.4570457994644658) * y * (F(5) * zz - F(1)), F(0.4570457994644658) * x * (F(5) * zz - F(1))
    out[12] = F(0.3731763325901154) * z * (F(5) * zz - F(3))


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def lit(looks, normal, place, row, lens, light, bump, shine, out):  # [P,9], [P,3], [P,2], [P], [T,13], [16,3], [P,6] out
    falls = np.empty((16, 3), F)  # a clamped cosine keeps so much of each order, over pi
    for j in range(16):
        kept = F(1) if j == 0 else F(2 / 3) if j < 4 else F(0.25) if j < 9 else F(0)
        for k in range(3):
            falls[j, k] = kept * light[j, k]
    bent, mirror_share = F(bump), F(shine)
    for p in prange(len(looks)):
        basis, view = np.empty(16, F), lens[row[p]]
        a, b, c = normal[p, 0], normal[p, 1], normal[p, 2]
        size = F(1) / max(math.sqrt(a * a + b * b + c * c), F(1e-8))
        a, b = a * size + bent * math.tanh(looks[p, 6]), b * size + bent * math.tanh(looks[p, 7])
        c = c * size + bent * math.tanh(looks[p, 8])
        size = F(1) / max(math.sqrt(a * a + b * b + c * c), F(1e-8))
        a, b, c = a * size, b * size, c * size
        x, y = a * view[0] + b * view[3] + c * view[6], a * view[1] + b * view[4] + c * view[7]
        z = a * view[2] + b * view[5] + c * view[8]
        u, v = -(place[p, 0] - view[9]) / view[11], -(place[p, 1] - view[10]) / view[12]
        size = F(1) / math.sqrt(u * u + v * v + F(1))
        u, v, w = u * size, v * size, -size  # to the eye
        shadow, metal = _sigmoid(looks[p, 3]), _sigmoid(looks[p, 5])
        roughness = _sigmoid(looks[p, 4])
        out[p, 3], out[p, 4], out[p, 5] = shadow, roughness, metal
        roughness = F(0.1) + F(0.9) * roughness
        facing = x * u + y * v + z * w
        _harmonics(F(2) * facing * x - u, F(2) * facing * y - v, F(2) * facing * z - w, basis)
        spread = roughness * roughness
        spread = F(-0.5) * spread * spread
        first, second, third = math.exp(F(2) * spread), math.exp(F(6) * spread), math.exp(F(12) * spread)
        facing = min(max(facing, F(1e-4)), F(1))
        fit = F(1) - roughness
        grazing = min(fit * fit, F(2) ** (F(-9.28) * facing)) * fit + F(0.0425) - F(0.0275) * roughness
        scale = F(-1.04) * grazing + F(1.04) - F(0.572) * roughness
        bias = F(1.04) * grazing - F(0.04) + F(0.022) * roughness
        for k in range(3):
            near, far = basis[1] * light[1, k] + basis[2] * light[2, k] + basis[3] * light[3, k], F(0)
            for j in range(4, 9):
                far += basis[j] * light[j, k]
            last = F(0)
            for j in range(9, 16):
                last += basis[j] * light[j, k]
            out[p, k] = max(basis[0] * light[0, k] + first * near + second * far + third * last, F(0))
        _harmonics(x, y, z, basis)
        for k in range(3):
            colour, fallen = _sigmoid(looks[p, k]), F(0)
            for j in range(9):
                fallen += basis[j] * falls[j, k]
            shining = ((mirror_share * (F(1) - metal) + colour * metal) * scale + bias) * out[p, k]
            out[p, k] = (colour * (F(1) - metal) * max(fallen, F(0)) + shining) * (F(1) - shadow)
