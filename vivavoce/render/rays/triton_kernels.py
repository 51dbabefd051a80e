"""Triton kernels of the CUDA back end: marching through an occupancy grid, compositing and its gradient.

Marching gives a warp 32 rays, which walk together until the last has ended. Compositing gives a warp one ray and takes 32 of its
samples at once: the transmittance is a running sum of optical thickness along them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .contract import BLOCK, LATTICE, STOP

SIDE, MOST, DONE = tl.constexpr(BLOCK), tl.constexpr(LATTICE), tl.constexpr(STOP)
THICK = tl.constexpr(1e4)  # optical thickness of what is opaque: infinity would turn differences into NaN


@triton.jit
def _reach(place, heading):  # type: ignore[no-untyped-def]
    """Distance in t from `place` (cells) to the end of its block along one axis, at `heading` cells a length."""
    low = tl.floor(place / SIDE) * SIDE
    ahead = (tl.where(heading > 0, low + SIDE, low) - place) / tl.where(heading == 0, 1.0, heading)
    return tl.where(heading == 0, float("inf"), ahead)


@triton.jit
def find(  # type: ignore[no-untyped-def]
    origins, directions, near, far, first, jitter, low, per, bits, blocks, step, slots, counts, after, rays, most,
    RESUME: tl.constexpr, SHIFT: tl.constexpr, RESOLUTION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Interval numbers of the samples of each ray: slots [R,most], counts [R], and where to go on in after [R] (-1: nowhere).

    RESOLUTION 0: everything is occupied. RESUME, SHIFT: whether `first` and `jitter` are there.
    """
    r = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    live = r < rays
    begin, end = tl.load(near + r, mask=live, other=0.0), tl.load(far + r, mask=live, other=0.0)
    number, taken = tl.zeros((WIDE,), tl.int32), tl.zeros((WIDE,), tl.int32)
    share = tl.zeros((WIDE,), tl.float32) + 0.5
    if RESUME:
        number = tl.load(first + r, mask=live, other=-1)
    if SHIFT:
        share = tl.load(jitter + r, mask=live, other=0.5)
    ox, oy, oz = (tl.load(origins + r * 3, mask=live), tl.load(origins + r * 3 + 1, mask=live), tl.load(origins + r * 3 + 2, mask=live))
    hx, hy, hz = (
        tl.load(directions + r * 3, mask=live), tl.load(directions + r * 3 + 1, mask=live), tl.load(directions + r * 3 + 2, mask=live)
    )  # fmt: skip
    going = live & (number >= 0) & (begin < end)
    while tl.max(going.to(tl.int32), 0) > 0:
        start = begin + number.to(tl.float32) * step
        dt = tl.minimum(start + step, end) - start
        going = going & (start < end) & (dt > 0) & (number < MOST)
        full, skip = going, tl.zeros((WIDE,), tl.int32)
        if RESOLUTION:
            t = start + share * dt
            px, py, pz = tl.load(per), tl.load(per + 1), tl.load(per + 2)
            x, y, z = (ox + t * hx - tl.load(low)) * px, (oy + t * hy - tl.load(low + 1)) * py, (oz + t * hz - tl.load(low + 2)) * pz
            inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < RESOLUTION) & (y < RESOLUTION) & (z < RESOLUTION) & going
            i, j, k = x.to(tl.int32), y.to(tl.int32), z.to(tl.int32)
            coarse = RESOLUTION // SIDE
            block = tl.load(blocks + (i // SIDE * coarse + j // SIDE) * coarse + k // SIDE, mask=inside, other=0) != 0
            at = (i * RESOLUTION + j) * RESOLUTION + k
            byte = tl.load(bits + (at >> 3), mask=inside & block, other=0).to(tl.int32)
            full = inside & block & (((byte >> (at & 7)) & 1) != 0)
            left = tl.minimum(_reach(x, hx * px), tl.minimum(_reach(y, hy * py), _reach(z, hz * pz))) / step
            # what is left of the empty block, less one for rounding
            skip = tl.where(inside & (block == 0) & (left > 2) & (left < MOST), left, 1.0).to(tl.int32) - 1
        tl.store(slots + r.to(tl.int64) * most + taken, number, mask=full)
        taken += full.to(tl.int32)
        number += tl.where(going, skip + 1, 0)  # rays that have ended stand still
        going = going & (taken < most)
    tl.store(counts + r, taken, mask=live)
    tl.store(after + r, tl.where(taken == most, number, -1), mask=live)


@triton.jit
def write(  # type: ignore[no-untyped-def]
    origins, directions, near, far, jitter, step, slots, starts, ray, times, lengths, positions, total, most,
    SHIFT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The samples of `find`, given the ray of each: t, dt, positions."""
    m = tl.program_id(0).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    live = m < total
    r = tl.load(ray + m, mask=live, other=0)
    number = tl.load(slots + r * most + m - tl.load(starts + r, mask=live, other=0), mask=live, other=0)
    start = tl.load(near + r, mask=live, other=0.0) + number.to(tl.float32) * step
    dt = tl.minimum(start + step, tl.load(far + r, mask=live, other=0.0)) - start
    if SHIFT:
        t = start + tl.load(jitter + r, mask=live, other=0.0) * dt
    else:
        t = start + 0.5 * dt
    tl.store(times + m, t, mask=live)
    tl.store(lengths + m, dt, mask=live)
    for d in tl.static_range(3):
        place = tl.load(origins + r * 3 + d, mask=live, other=0.0) + t * tl.load(directions + r * 3 + d, mask=live, other=0.0)
        tl.store(positions + m * 3 + d, place, mask=live)


@triton.jit
def _thickness(sigma, dt, m, live):  # type: ignore[no-untyped-def]
    part = tl.load(sigma + m, mask=live, other=0.0) * tl.load(dt + m, mask=live, other=0.0)
    return tl.where(part > THICK, THICK, part)  # NaN stays NaN


@triton.jit
def _hidden(part):  # type: ignore[no-untyped-def]
    """1 - exp(-part), without cancellation where it is small."""
    return tl.where(part < 1e-3, part * (1.0 - 0.5 * part), 1.0 - tl.exp(-part))


@triton.jit
def composite(  # type: ignore[no-untyped-def]
    sigma,
    features,
    times,
    dt,
    starts,
    drawn,
    opacity,
    depth,
    extra,
    alive,
    channels,
    ADD: tl.constexpr,
    WIDE: tl.constexpr,
    N: tl.constexpr,
):
    """Sums of each ray, and the weights [M] of its samples in `extra`.

    ADD: ray number a is row alive[a] of the sums, which are added to behind the optical thickness that `extra` [R] holds.
    """
    a = tl.program_id(0)
    m, end = tl.load(starts + a), tl.load(starts + a + 1)
    lane, f = tl.arange(0, N), tl.arange(0, WIDE)
    r, before = a.to(tl.int64), 0.0
    solid, far, colour = tl.zeros((N,), tl.float32), tl.zeros((N,), tl.float32), tl.zeros((WIDE,), tl.float32)
    if ADD:
        r = tl.load(alive + a)
        before = tl.load(extra + r)
    while m < end:
        at = m + lane
        live = at < end
        part = _thickness(sigma, dt, at, live)
        through = tl.exp(-(before + tl.cumsum(part, 0) - part))
        weight = tl.where(live & ((through < DONE) == 0), through * _hidden(part), 0.0)
        if not ADD:
            tl.store(extra + at, weight, mask=live)
        solid += weight
        far += tl.where(live, weight * tl.load(times + at, mask=live, other=0.0), 0.0)
        taken = live[:, None] & (f < channels)[None, :]
        value = tl.load(features + at[:, None] * channels + f[None, :], mask=taken, other=0.0)
        colour += tl.sum(weight[:, None] * value, 0)
        before += tl.sum(part, 0)
        m += N
    total, middle = tl.sum(solid, 0), tl.sum(far, 0)
    row = drawn + r * channels + f
    if ADD:
        total += tl.load(opacity + r)
        middle += tl.load(depth + r)
        colour += tl.load(row, mask=f < channels, other=0.0)
        tl.store(extra + r, before)
    tl.store(opacity + r, total)
    tl.store(depth + r, middle)
    tl.store(row, colour, mask=f < channels)


@triton.jit
def composite_grad(  # type: ignore[no-untyped-def]
    sigma, features, times, dt, starts, drawn, opacity, depth, to_drawn, to_opacity, to_depth, to_sigma, to_features, channels,
    WIDE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Front to back as the picture was: what lies behind a sample is the picture less what was drawn so far."""
    r = tl.program_id(0).to(tl.int64)
    m, end = tl.load(starts + r), tl.load(starts + r + 1)
    lane, f = tl.arange(0, N), tl.arange(0, WIDE)
    some = f < channels
    pull = tl.load(to_drawn + r * channels + f, mask=some, other=0.0)
    pull_solid, pull_far = tl.load(to_opacity + r), tl.load(to_depth + r)
    behind = tl.sum(pull * tl.load(drawn + r * channels + f, mask=some, other=0.0), 0)
    behind += pull_solid * tl.load(opacity + r) + pull_far * tl.load(depth + r)
    before = 0.0
    while m < end:
        at = m + lane
        live = at < end
        part = _thickness(sigma, dt, at, live)
        thick = before + tl.cumsum(part, 0)
        through = tl.exp(-(thick - part))
        counts = live & ((through < DONE) == 0)  # NaN counts, so that it is seen
        weight = tl.where(counts, through * _hidden(part), 0.0)
        taken = live[:, None] & some[None, :]
        row = at[:, None] * channels + f[None, :]
        value = tl.sum(tl.load(features + row, mask=taken, other=0.0) * pull[None, :], 1)
        value += pull_solid + pull_far * tl.load(times + at, mask=live, other=0.0)
        shown = tl.where(live, weight * value, 0.0)
        rest = behind - tl.cumsum(shown, 0)
        length = tl.load(dt + at, mask=live, other=0.0)
        tl.store(to_sigma + at, tl.where(counts, length * (tl.exp(-thick) * value - rest), 0.0), mask=live)
        tl.store(to_features + row, weight[:, None] * pull[None, :], mask=taken)
        behind -= tl.sum(shown, 0)
        before += tl.sum(part, 0)
        m += N
