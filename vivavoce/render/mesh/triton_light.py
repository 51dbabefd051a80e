"""The Triton kernel of `render.mesh.lit`: formulas as in nn/skin.py and nn/shading.py. A program is BLOCK pixels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tangent(x):  # type: ignore[no-untyped-def]
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _orders(x, y, z, light, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of one colour of a light in spherical harmonics towards x, y, z: its orders 0, 1, 2, 3."""
    xx, yy, zz = x * x, y * y, z * z
    at = light + K
    none = 0.28209479177387814 * tl.load(at)
    first = 0.4886025119029199 * (y * tl.load(at + 3) + z * tl.load(at + 6) + x * tl.load(at + 9))
    second = 1.0925484305920792 * (x * y * tl.load(at + 12) + y * z * tl.load(at + 15) + x * z * tl.load(at + 21))
    second += 0.31539156525252005 * (3.0 * zz - 1.0) * tl.load(at + 18) + 0.5462742152960396 * (xx - yy) * tl.load(at + 24)
    third = 0.5900435899266435 * (y * (3.0 * xx - yy) * tl.load(at + 27) + x * (xx - 3.0 * yy) * tl.load(at + 45))
    third += 2.890611442640554 * x * y * z * tl.load(at + 30) + 1.445305721320277 * z * (xx - yy) * tl.load(at + 42)
    third += 0.4570457994644658 * (5.0 * zz - 1.0) * (y * tl.load(at + 33) + x * tl.load(at + 39))
    third += 0.3731763325901154 * z * (5.0 * zz - 3.0) * tl.load(at + 36)
    return none, first, second, third


@triton.jit
def lit(looks, normal, place, row, lens, light, out, count, bump, shine, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """looks [P,9], normal [P,3], place [P,2], row [P], lens [T,13], light [16,3] -> out [P,6]."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = p < count
    at, view = looks + p * 9, lens + tl.load(row + p, mask=live, other=0) * 13
    a, b = tl.load(normal + p * 3, mask=live, other=0.0), tl.load(normal + p * 3 + 1, mask=live, other=0.0)
    c = tl.load(normal + p * 3 + 2, mask=live, other=1.0)
    size = 1.0 / tl.maximum(tl.sqrt(a * a + b * b + c * c), 1e-8)
    a = a * size + bump * _tangent(tl.load(at + 6, mask=live, other=0.0))
    b = b * size + bump * _tangent(tl.load(at + 7, mask=live, other=0.0))
    c = c * size + bump * _tangent(tl.load(at + 8, mask=live, other=0.0))
    size = 1.0 / tl.maximum(tl.sqrt(a * a + b * b + c * c), 1e-8)
    a, b, c = a * size, b * size, c * size
    x = a * tl.load(view, mask=live, other=0.0) + b * tl.load(view + 3, mask=live, other=0.0) + c * tl.load(view + 6, mask=live, other=0.0)
    y = a * tl.load(view + 1, mask=live, other=0.0) + b * tl.load(view + 4, mask=live, other=0.0)
    y += c * tl.load(view + 7, mask=live, other=0.0)
    z = a * tl.load(view + 2, mask=live, other=0.0) + b * tl.load(view + 5, mask=live, other=0.0)
    z += c * tl.load(view + 8, mask=live, other=0.0)
    u = tl.load(view + 9, mask=live, other=0.0) - tl.load(place + p * 2, mask=live, other=0.0)
    v = tl.load(view + 10, mask=live, other=0.0) - tl.load(place + p * 2 + 1, mask=live, other=0.0)
    u, v = u / tl.load(view + 11, mask=live, other=1.0), v / tl.load(view + 12, mask=live, other=1.0)
    size = 1.0 / tl.sqrt(u * u + v * v + 1.0)
    u, v, w = u * size, v * size, -size  # to the eye
    shadow, roughness = _sigmoid(tl.load(at + 3, mask=live, other=0.0)), _sigmoid(tl.load(at + 4, mask=live, other=0.0))
    metal = _sigmoid(tl.load(at + 5, mask=live, other=0.0))
    tl.store(out + p * 6 + 3, shadow, mask=live)
    tl.store(out + p * 6 + 4, roughness, mask=live)
    tl.store(out + p * 6 + 5, metal, mask=live)
    roughness = 0.1 + 0.9 * roughness
    facing = x * u + y * v + z * w
    mx, my, mz = 2.0 * facing * x - u, 2.0 * facing * y - v, 2.0 * facing * z - w
    spread = -0.5 * roughness * roughness * roughness * roughness
    facing = tl.minimum(tl.maximum(facing, 1e-4), 1.0)
    fit = 1.0 - roughness
    grazing = tl.minimum(fit * fit, tl.exp2(-9.28 * facing)) * fit + 0.0425 - 0.0275 * roughness
    scale = -1.04 * grazing + 1.04 - 0.572 * roughness
    bias = 1.04 * grazing - 0.04 + 0.022 * roughness
    for k in tl.static_range(3):
        colour = _sigmoid(tl.load(at + k, mask=live, other=0.0))
        none, first, second, third = _orders(mx, my, mz, light, k)
        mirrored = none + tl.exp(2.0 * spread) * first + tl.exp(6.0 * spread) * second + tl.exp(12.0 * spread) * third
        shining = ((shine * (1.0 - metal) + colour * metal) * scale + bias) * tl.maximum(mirrored, 0.0)
        even, half, quarter, _last = _orders(x, y, z, light, k)
        fallen = even + 0.6666666666666666 * half + 0.25 * quarter  # what a clamped cosine keeps of each order, over pi
        tl.store(out + p * 6 + k, (colour * (1.0 - metal) * tl.maximum(fallen, 0.0) + shining) * (1.0 - shadow), mask=live)
