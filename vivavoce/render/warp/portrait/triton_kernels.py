"""Triton kernels of LivePortrait's warping and decoder on a GPU; what they compute is written out in torch.py.

Maps are [N,H,W,C], volumes [T*D,H,W,C]: neighbours in memory are the channels of one place. Sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slots(small, driving, source, out, depth, height, width, step_x, step_y, step_z, SLOTS: tl.constexpr, CHANNELS: tl.constexpr,
          ROW: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Per slot and place: the difference of two Gaussians, and the volume sampled at the shifted place."""
    plane = tl.program_id(1).to(tl.int64)
    row, level = plane // depth, (plane % depth).to(tl.int32)
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]  # neighbouring threads read one line
    inside = at < height * width
    slot = tl.arange(0, WIDE)[None, :]
    point = row * (SLOTS - 1) * 3 + (slot - 1) * 3
    known = (slot > 0) & (slot < SLOTS)
    to_x, from_x = tl.load(driving + point, known, 0.0), tl.load(source + point, known, 0.0)
    to_y, from_y = tl.load(driving + point + 1, known, 0.0), tl.load(source + point + 1, known, 0.0)
    to_z, from_z = tl.load(driving + point + 2, known, 0.0), tl.load(source + point + 2, known, 0.0)
    x, y, z = -1.0 + step_x * (at % width), -1.0 + step_y * (at // width), -1.0 + step_z * level
    place_x = ((x + (from_x - to_x) + 1) * width - 1) / 2  # [BLOCK,WIDE]
    place_y = ((y + (from_y - to_y) + 1) * height - 1) / 2
    place_z = ((z + (from_z - to_z) + 1) * depth - 1) / 2
    low_x, low_y, low_z = tl.floor(place_x), tl.floor(place_y), tl.floor(place_z)
    channel = tl.arange(0, DEEP)[None, None, :]
    value = tl.zeros([BLOCK, WIDE, DEEP], tl.float32)
    base = small + row * depth * height * width * CHANNELS
    for corner in tl.static_range(8):
        cell_x, cell_y, cell_z = low_x + corner % 2, low_y + corner // 2 % 2, low_z + corner // 4
        there = (cell_x >= 0) & (cell_x < width) & (cell_y >= 0) & (cell_y < height) & (cell_z >= 0) & (cell_z < depth)
        there = there & (slot < SLOTS) & inside
        cell = (cell_z.to(tl.int32) * height + cell_y.to(tl.int32)) * width + cell_x.to(tl.int32)
        weight = (1 - tl.abs(place_x - cell_x)) * (1 - tl.abs(place_y - cell_y)) * (1 - tl.abs(place_z - cell_z))
        mask = there[:, :, None] & (channel < CHANNELS)
        value += weight[:, :, None] * tl.load(base + (cell * CHANNELS)[:, :, None] + channel, mask, 0.0).to(tl.float32)
    new = _bump(x, to_x) + _bump(y, to_y) + _bump(z, to_z)
    old = _bump(x, from_x) + _bump(y, from_y) + _bump(z, from_z)
    heat = tl.where(known, tl.exp(new) - tl.exp(old), 0.0)
    target = (plane * height * width + at) * ROW + slot
    tl.store(out + target, heat, inside & (slot < SLOTS))
    # the last channel's slots beyond the last are the row's channels that stay zero
    kept = (slot < SLOTS)[:, :, None] | (channel == CHANNELS - 1)
    column = (channel + 1) * SLOTS + slot[:, :, None]
    mask = inside[:, :, None] & kept & (channel < CHANNELS) & (column < ROW)
    tl.store(out + target[:, :, None] + (channel + 1) * SLOTS, value, mask)


@triton.jit
def _bump(line, point):
    return tl.maximum((line - point) * (line - point) * -50.0, -28.0)


@triton.jit
def shrink(y, bias, out, depth, height, width, COUNT: tl.constexpr, TAPS: tl.constexpr, ROW: tl.constexpr,
           WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Taps of the depth summed, ReLU, mean over 2x2."""
    plane = tl.program_id(2).to(tl.int64)
    level = (plane % depth).to(tl.int32)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = (at < height * width)[:, None] & (column < COUNT)[None, :]
    shift = tl.load(bias + column, column < COUNT, 0.0)[None, :]
    total = tl.zeros([BLOCK, WIDE], tl.float32)
    for corner in tl.static_range(4):
        i, j = at // width * 2 + corner // 2, at % width * 2 + corner % 2
        value = tl.zeros([BLOCK, WIDE], tl.float32) + shift
        for tap in tl.static_range(TAPS):
            step = tap - TAPS // 2
            there = inside & (level + step >= 0) & (level + step < depth)
            place = (((plane + step) * (2 * height) + i) * (2 * width) + j)[:, None] * ROW
            value += tl.load(y + place + (tap * COUNT + column)[None, :], there, 0.0).to(tl.float32)
        total += tl.maximum(value, 0.0)
    target = (plane * height * width + at)[:, None] * COUNT + column[None, :]
    tl.store(out + target, total / 4, inside)


@triton.jit
def spread(y, bias, skip, out, depth, height, width, group_step,
           COUNT: tl.constexpr, TAPS: tl.constexpr, ROW: tl.constexpr, FACTOR: tl.constexpr, GROUP: tl.constexpr, SKIP: tl.constexpr,
           WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Phases put in their places, taps of the depth summed, ReLU; beside it the channels of another map."""
    plane = tl.program_id(2).to(tl.int64)
    level = (plane % depth).to(tl.int32)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = at < height * width
    made = inside[:, None] & (column < COUNT)[None, :]
    KINDS: tl.constexpr = FACTOR if FACTOR < 3 else 3
    FURTHER: tl.constexpr = 1 if FACTOR > 1 else 0  # rows and columns of y more than cells
    i, j = at // width, at % width
    last_i, last_j = (i % FACTOR == FACTOR - 1).to(tl.int32) * FURTHER, (j % FACTOR == FACTOR - 1).to(tl.int32) * FURTHER
    kind_i = tl.where(i % FACTOR == 0, 0, 1) if KINDS == 2 else tl.where(i % FACTOR == 0, 0, 1 + last_i)
    kind_j = tl.where(j % FACTOR == 0, 0, 1) if KINDS == 2 else tl.where(j % FACTOR == 0, 0, 1 + last_j)
    kind = kind_i * KINDS + kind_j
    high, wide = height // FACTOR + FURTHER, width // FACTOR + FURTHER
    value = tl.zeros([BLOCK, WIDE], tl.float32) + tl.load(bias + column, column < COUNT, 0.0)[None, :]
    for tap in tl.static_range(TAPS):
        step = tap - TAPS // 2
        there = made & (level + step >= 0) & (level + step < depth)
        place = (((plane + step) * high + i // FACTOR + last_i) * wide + j // FACTOR + last_j) * ROW + (kind * TAPS + tap) * COUNT
        value += tl.load(y + place[:, None] + column[None, :], there, 0.0).to(tl.float32)
    value = tl.maximum(value, 0.0)
    spot = plane * height * width + at
    if SKIP > 0:
        beside = inside[:, None] & (column >= COUNT)[None, :] & (column < COUNT + SKIP)[None, :]
        other = tl.load(skip + spot[:, None] * SKIP + (column - COUNT)[None, :], beside, 0.0).to(tl.float32)
        target = spot[:, None] * (COUNT + SKIP) + column[None, :]
        tl.store(out + target, tl.where(column[None, :] < COUNT, value, other), made | beside)
    else:
        group = tl.program_id(1) * WIDE // GROUP  # a program's channels are of one group
        target = spot[:, None] * GROUP + (column - group * GROUP)[None, :]
        tl.store(out + group.to(tl.int64) * group_step + target, value, made)


@triton.jit
def sample(y, more, bias, shift, volume, out, depth, height, width, step_x, step_y, step_z, size_y, size_more,
           SLOTS: tl.constexpr, TAP: tl.constexpr, TAPS: tl.constexpr, ROW: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
           MANY: tl.constexpr, TWO: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Shares of the slots (softmax of summed taps) -> the place in the volume -> its channels there."""
    plane = tl.program_id(1).to(tl.int64)
    row, level = plane // depth, (plane % depth).to(tl.int32)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    slot = tl.arange(0, WIDE)
    real = slot < SLOTS
    logit = tl.zeros([BLOCK, WIDE], tl.float32) + tl.load(bias + slot, real, float("-inf"))[None, :]
    for tap in tl.static_range(TAPS):
        step = tap - TAPS // 2
        there = inside[:, None] & real[None, :] & (level + step >= 0) & (level + step < depth)
        place = at[:, None] * ROW + (tap * TAP + slot)[None, :]
        logit += tl.load(y + (plane + step) * size_y + place, there, 0.0).to(tl.float32)
        if TWO:
            logit += tl.load(more + (plane + step) * size_more + place, there, 0.0).to(tl.float32)
    share = tl.exp(logit - tl.max(logit, 1)[:, None])
    share = share / tl.sum(share, 1)[:, None]
    point = shift + (row * SLOTS + slot) * 3
    x = -1.0 + step_x * (at % width) + tl.sum(share * tl.load(point, real, 0.0)[None, :], 1)
    y_ = -1.0 + step_y * (at // width) + tl.sum(share * tl.load(point + 1, real, 0.0)[None, :], 1)
    z = -1.0 + step_z * level + tl.sum(share * tl.load(point + 2, real, 0.0)[None, :], 1)
    place_x, place_y, place_z = ((x + 1) * width - 1) / 2, ((y_ + 1) * height - 1) / 2, ((z + 1) * depth - 1) / 2
    low_x, low_y, low_z = tl.floor(place_x), tl.floor(place_y), tl.floor(place_z)
    column = tl.arange(0, MANY)
    value = tl.zeros([BLOCK, MANY], tl.float32)
    base = row * depth * height * width
    for corner in tl.static_range(8):
        cell_x, cell_y, cell_z = low_x + corner % 2, low_y + corner // 2 % 2, low_z + corner // 4
        there = (cell_x >= 0) & (cell_x < width) & (cell_y >= 0) & (cell_y < height) & (cell_z >= 0) & (cell_z < depth) & inside
        cell = (cell_z.to(tl.int32) * height + cell_y.to(tl.int32)) * width + cell_x.to(tl.int32)
        weight = (1 - tl.abs(place_x - cell_x)) * (1 - tl.abs(place_y - cell_y)) * (1 - tl.abs(place_z - cell_z))
        mask = there[:, None] & (column < CHANNELS)[None, :]
        value += weight[:, None] * tl.load(volume + (base + cell)[:, None] * CHANNELS + column[None, :], mask, 0.0).to(tl.float32)
    target = ((row * height * width + at) * depth + level)[:, None] * CHANNELS + column[None, :]
    tl.store(out + target, value, inside[:, None] & (column < CHANNELS)[None, :])


@triton.jit
def statistics(x, other, beside, out, moments, rows, CHUNK: tl.constexpr, CHANNELS: tl.constexpr, ADD: tl.constexpr, ROW: tl.constexpr,
               WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Mean and sum of squared differences of each channel in a chunk of rows; of the sum of several maps, which is kept."""
    part, many = tl.program_id(0), tl.num_programs(0)
    map_ = tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    real = column < CHANNELS
    count, mean, spread_ = 0.0, tl.zeros([WIDE], tl.float32), tl.zeros([WIDE], tl.float32)
    for step in range(CHUNK // BLOCK):
        start = part * CHUNK + step * BLOCK
        at = start + tl.arange(0, BLOCK)
        there = (at < rows)[:, None] & real[None, :]
        place = (map_ * rows + at)[:, None] * CHANNELS + column[None, :]
        value = tl.load(x + place, there, 0.0).to(tl.float32)
        if ADD:
            value += tl.load(other + place, there, 0.0).to(tl.float32)
        if ROW > 0:
            last = (map_ * rows + at)[:, None] * ROW + (ROW - CHANNELS + column)[None, :]
            value += tl.load(beside + last, there, 0.0).to(tl.float32)
        if ADD or ROW > 0:
            tl.store(out + place, value, there)
        more = tl.minimum(tl.maximum(rows - start, 0), BLOCK).to(tl.float32)
        own = tl.sum(value, 0) / tl.maximum(more, 1.0)
        away = tl.where(there, value - own[None, :], 0.0)
        total, apart = count + more, own - mean
        spread_ += tl.sum(away * away, 0) + apart * apart * (count * more / total)
        mean += apart * (more / total)
        count = total
    target = (map_ * many + part) * 2 * CHANNELS + column
    tl.store(moments + target, mean, real)
    tl.store(moments + target + CHANNELS, spread_, real)


@triton.jit
def modulate(x, moments, maps, bias, out, height, width, slope, CHUNK: tl.constexpr, CHANNELS: tl.constexpr, CHUNKS: tl.constexpr,
             MANY: tl.constexpr, FACTOR: tl.constexpr, ROW: tl.constexpr, SHIFT: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
             BLOCK: tl.constexpr):  # fmt: skip
    """Instance norm by chunks' moments, scale and shift from a map, leaky ReLU; the map normalised may be the smaller one."""
    map_ = tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    real = column < CHANNELS
    low, narrow = height // FACTOR, width // FACTOR
    part = tl.arange(0, MANY)
    held = tl.maximum(tl.minimum(low * narrow - part * CHUNK, CHUNK), 0).to(tl.float32)[:, None]  # rows of each chunk
    place = (map_ * CHUNKS + part)[:, None] * 2 * CHANNELS + column[None, :]
    there = (part < CHUNKS)[:, None] & real[None, :]
    means, spreads = tl.load(moments + place, there, 0.0), tl.load(moments + place + CHANNELS, there, 0.0)
    count = (low * narrow).to(tl.float32)
    mean = tl.sum(means * held, 0) / count
    apart = means - mean[None, :]
    scale = tl.rsqrt(tl.sum(spreads + held * apart * apart, 0) / count + 1e-5)
    gain, lift = tl.load(bias + column, real, 0.0)[None, :], tl.load(bias + CHANNELS + column, real & SHIFT, 0.0)[None, :]
    for step in range(STEPS):
        at = (tl.program_id(0) * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        mask = (at < height * width)[:, None] & real[None, :]
        spot = (map_ * height * width + at)[:, None]
        origin = ((map_ * low + at // width // FACTOR) * narrow + at % width // FACTOR)[:, None] if FACTOR > 1 else spot
        value = tl.load(x + origin * CHANNELS + column[None, :], mask, 0.0).to(tl.float32)
        times = tl.load(maps + spot * ROW + column[None, :], mask, 0.0).to(tl.float32) + gain
        value = (value - mean[None, :]) * scale[None, :] * times
        if SHIFT:
            value += tl.load(maps + spot * ROW + CHANNELS + column[None, :], mask, 0.0).to(tl.float32) + lift
        tl.store(out + spot * CHANNELS + column[None, :], tl.where(value > 0, value, value * slope), mask)


@triton.jit
def finish(x, other, beside, bias, out, rows, slope, CHANNELS: tl.constexpr, ADD: tl.constexpr, ROW: tl.constexpr,
           WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Bias, further maps, leaky ReLU."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    mask = (at < rows)[:, None] & (column < CHANNELS)[None, :]
    place = at[:, None] * CHANNELS + column[None, :]
    value = tl.load(x + place, mask, 0.0).to(tl.float32) + tl.load(bias + column, column < CHANNELS, 0.0)[None, :]
    if ADD:
        value += tl.load(other + place, mask, 0.0).to(tl.float32)
    if ROW > 0:
        value += tl.load(beside + at[:, None] * ROW + (ROW - CHANNELS + column)[None, :], mask, 0.0).to(tl.float32)
    tl.store(out + place, tl.where(value > 0, value, value * slope), mask)


@triton.jit
def hide(x, bias, y, more, level_bias, out, depth, size, size_y, size_more, FIRST: tl.constexpr, ROW: tl.constexpr, CHANNELS: tl.constexpr,
         DEEP: tl.constexpr, TWO: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """A map with its bias times the occlusion, whose parts lie on the diagonal of levels and columns."""
    row = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = at < size
    level = tl.arange(0, DEEP)
    place, real = at[:, None] * ROW + (FIRST + level)[None, :], inside[:, None] & (level < depth)[None, :]
    parts = tl.load(y + (row * depth + level)[None, :] * size_y + place, real, 0.0).to(tl.float32)
    if TWO:
        parts += tl.load(more + (row * depth + level)[None, :] * size_more + place, real, 0.0).to(tl.float32)
    seen = 1 / (1 + tl.exp(-(tl.sum(parts, 1) + tl.load(level_bias))))
    mask = inside[:, None] & (column < CHANNELS)[None, :]
    place = (row * size + at)[:, None] * CHANNELS + column[None, :]
    value = tl.load(x + place, mask, 0.0).to(tl.float32) + tl.load(bias + column, column < CHANNELS, 0.0)[None, :]
    tl.store(out + place, value * seen[:, None], mask)


@triton.jit
def picture(x, bias, out, height, width, ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Pixel shuffle by two and sigmoid: [T,H,W,ROW] -> [T,3,2H,2W] float32."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    plane = tl.program_id(1).to(tl.int64)
    row, colour = plane // 3, (plane % 3).to(tl.int32)
    inside = at < 4 * height * width
    i, j = at // (2 * width), at % (2 * width)
    channel = colour * 4 + i % 2 * 2 + j % 2
    value = tl.load(x + ((row * height + i // 2) * width + j // 2) * ROW + channel, inside, 0.0).to(tl.float32)
    value += tl.load(bias + channel, inside, 0.0)
    tl.store(out + plane * 4 * height * width + at, 1 / (1 + tl.exp(-value)), inside)
