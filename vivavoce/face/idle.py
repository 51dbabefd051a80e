"""What a face does beside speaking: the head sways and breathes, the eyes blink. Functions of the frame number and a seed alone.

Nothing is remembered from frame to frame, so a stream equals a file and any frame can be made by itself. Amounts and rates are
those of people who talk to a camera: 15 blinks a minute, 2 to 6 s apart, a blink 0.3 s long, shut faster than opened; a head
that is never quite still, a degree or two around where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar, cast

import torch
from torch import Tensor

from vivavoce.types import FPS

EVERY, EARLY = 4.0, 1.0  # s: a blink in every stretch of 4 s, at most 1 s off its middle, so 2 to 6 s apart
SHUTTING, SHUT, OPENING = 0.08, 0.04, 0.16  # s
SWAY = (0.016, 0.028, 0.012)  # rad: pitch, yaw, roll
DRIFT = (0.0012, 0.0008, 0.0016)  # metres: x, y, z
BREATH, BREATH_PITCH, BREATH_Y = 4.2, 0.003, 0.0006  # s a breath; rad; metres
PACES = ((0.23, 0.8), (0.71, 0.2))  # knots a second and share of the amount: slow wandering, a little unrest on it
NORMAL = 1000  # first channel of the normal numbers; below it each channel has its user here
BEGIN = 1.0  # s in which the sway grows from nothing: the first frame is the source's own pose
STRETCH, KEPT = 50, 200  # frames made at once; stretches that each function keeps
Made = TypeVar("Made", bound=Callable[..., Tensor])


def random(number: Tensor, seed: int, channel: int | Tensor) -> Tensor:  # [...] int64 -> [...] float32 in [0, 1)
    """A number for each integer, the same on every machine and device: 32-bit mixing with the constants of lowbias32."""
    mask = 0xFFFFFFFF
    x = (number.long() * 0x9E3779B1 + seed * 0x85EBCA77 + channel * 0xC2B2AE3D + 0x27D4EB2F) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return ((x ^ (x >> 16)) >> 8).float() / 2**24


def stretched(made: Made) -> Made:
    """A function of frame numbers [T] int64 and integers -> [T,...], made for a stretch of frames at once and kept: a live stream asks for
    a frame or two at a time, and each of its operations takes as long for these as for fifty. Streams of one seed share what is kept."""

    @lru_cache(KEPT)
    def stretch(number: int, *about: int) -> Tensor:
        return made(torch.arange(number * STRETCH, (number + 1) * STRETCH), *about)

    @wraps(made)
    def rows(frame: Tensor, *about: int) -> Tensor:
        if not 0 < len(frame) <= STRETCH:
            return made(frame, *about)
        place = frame.cpu()
        first, last = (int(v) // STRETCH for v in place.aminmax())
        if last > first + 1:
            return made(frame, *about)
        found = stretch(first, *about)
        if last > first:
            found = torch.cat([found, stretch(last, *about)])
        return found[place - first * STRETCH].to(frame.device)

    return cast(Made, rows)


@stretched
def normal(number: Tensor, count: int, seed: int) -> Tensor:  # [T] int64 -> [T,count]
    """`count` independent normal numbers for each integer, mean 0 and deviation 1 (Box and Muller 1958): noise for a generator that
    must make the same of frame t however a stream is cut."""
    channel = NORMAL + 2 * torch.arange(count, device=number.device)
    radius = (-2 * (1 - random(number[:, None], seed, channel)).log()).sqrt()
    return radius * (2 * math.pi * random(number[:, None], seed, channel + 1)).cos()


def wander(seconds: Tensor, seed: int, channel: Tensor, pace: Tensor) -> Tensor:  # [T], [C] int64, [C] float64 -> [T,C] in about -1..1
    """Smooth random paths (twice differentiable): random heights at `pace` knots a second, joined by a uniform cubic B-spline."""
    place = seconds.double()[:, None] * pace
    knot = place.floor().long()
    t = (place - knot).float()
    knots = knot + torch.arange(-1, 3, device=knot.device)[:, None, None]  # [4,T,C]
    weights = torch.stack([(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6])
    return 1.5 * ((2 * random(knots, seed, channel) - 1) * weights).sum(0)


def sway(frame: Tensor, seed: int) -> tuple[Tensor, Tensor]:  # [T] int64 -> [T,3] rad, [T,3] metres
    """Rotation and translation of an idle head, relative to where it was at frame 0."""
    moves = _moves(frame, seed)
    return moves[:, :3], moves[:, 3:]


@stretched
def _moves(frame: Tensor, seed: int) -> Tensor:  # [T] int64 -> [T,6] rad, metres
    """What `sway` tells, all paths in one call."""
    seconds = frame.double() / FPS
    grown = (seconds / BEGIN).clamp(0, 1).float()
    grown = grown * grown * (3 - 2 * grown)
    kind = torch.arange(len(PACES), device=frame.device)
    channels = 10 * torch.arange(6, device=frame.device)[:, None] + kind  # [6,K]
    paces, shares = torch.tensor(PACES, dtype=torch.float64).to(frame.device).unbind(1)
    paths = wander(seconds, seed, channels.flatten(), paces.repeat(6)).unflatten(1, channels.shape)  # [T,6,K]
    breath = torch.sin(2 * math.pi * (seconds / BREATH + float(random(torch.zeros(1), seed, 90)))).float()
    amounts = torch.tensor([*SWAY, *DRIFT]).to(frame.device)
    moves = (paths * shares.float()).sum(2) * amounts
    moves = moves + breath[:, None] * torch.tensor([BREATH_PITCH, 0, 0, 0, BREATH_Y, 0]).to(frame.device)
    return moves * grown[:, None]


@stretched
def blink(frame: Tensor, seed: int) -> Tensor:  # [T] int64 -> [T] 0 open to 1 shut
    """How far a blink has shut the lids."""
    seconds = frame.double() / FPS
    stretch = (seconds / EVERY).floor().long()
    since = (seconds - _begins(stretch, seed)).float()
    shut = (since / SHUTTING).clamp(0, 1)
    opened = ((since - SHUTTING - SHUT) / OPENING).clamp(0, 1)
    opened = opened * opened * (3 - 2 * opened)
    return shut * (1 - opened)


def _begins(stretch: Tensor, seed: int) -> Tensor:  # [T] int64 -> [T] float64
    """Second at which the blink of that stretch of time begins."""
    return (stretch + 0.5) * EVERY + EARLY * (2 * random(stretch, seed, 91).double() - 1)
