"""Is somebody speaking? Energy over a tracked noise floor, and a spectrum like a voice's; a frame of 40 ms at a time, no weights.

A frame is voice when its level between 150 and 4000 Hz stands out of the floor and it either repeats itself at 70 to 400 times a second
(a voice's pitch) or has peaks (formants; the flatness of white noise is high), or follows such a frame closely (an "s" within a
word). The floor falls at once and rises slowly, but quickly under a sound whose level does not move: hum and hiss become floor.
Nothing is looked at ahead, so a stream equals a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce.types import FPS, HOP, RATE

SIZE = 1024  # of the transform
BAND = (150, 4000)  # Hz
PITCH = (70, 400)  # Hz
OVER = 9.0  # dB over the floor from which a frame can be a voice
KEPT, HANG = 6.0, 5  # dB over the floor, and frames, in which what follows a voice still is one
QUIETEST = -58.0  # dB of full scale: below it nothing is heard
REPEATS, PEAKS = 0.45, 0.10  # autocorrelation at the pitch; flatness of the band
START = -60.0  # dB: the floor before anything is heard
RISE, RISE_STEADY = 2.0 / FPS, 25.0 / FPS  # dB a frame
STEADY, SPAN = 1.5, 12  # dB of deviation over so many frames that a sound is called steady


@dataclass(frozen=True)
class Listening:
    """What is carried from frame to frame."""

    floor: float = START
    recent: tuple[float, ...] = field(default=())  # levels of the last frames, dB
    since: int = HANG  # frames since the last sure voice


def push(frames: Tensor, state: Listening | None = None) -> tuple[Tensor, Listening]:  # [T,640] -> [T] 0 or 1
    """Whether each frame holds a voice, and the state after them."""
    state = state or Listening()
    rows = []
    for level, repeats, flat in zip(*(v.tolist() for v in measures(frames)), strict=True):
        recent = (*state.recent, level)[-SPAN:]
        middle = sum(recent) / len(recent)
        steady = len(recent) == SPAN and math.sqrt(sum((v - middle) ** 2 for v in recent) / SPAN) < STEADY
        floor = min(level, state.floor + (RISE_STEADY if steady else RISE))
        over = level - floor if level > QUIETEST else 0.0
        sure = over > OVER and not steady and (repeats > REPEATS or flat < PEAKS)
        since = 0 if sure else state.since + 1
        rows.append(1.0 if sure or (over > KEPT and since <= HANG and not steady) else 0.0)
        state = replace(state, floor=max(floor, -100.0), recent=recent, since=since)
    return frames.new_tensor(rows), state


def around(frames: Tensor, reach: int) -> Tensor:  # [T,640] -> [T] 0 or 1
    """Frames with a voice and those at most `reach` before or after one, of a whole recording."""
    return functional.max_pool1d(push(frames)[0][None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]


def measures(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [T,640] -> [T], [T], [T]
    """Level of the band in dB of full scale, how well the frame repeats at a pitch (0..1), flatness of the band (0..1)."""
    window = torch.hann_window(HOP, periodic=False, device=frames.device)
    power = torch.fft.rfft(frames * window, SIZE).abs().square()  # [T,513]
    low, high = (round(f * SIZE / RATE) for f in BAND)
    band = power[:, low:high] + 1e-10
    level = 10 * (band.sum(1) * 2 / (SIZE * window.square().sum())).log10()
    flat = band.log().mean(1).exp() / band.mean(1)
    inside = torch.zeros_like(power)
    inside[:, low:high] = power[:, low:high]
    lags = slice(RATE // PITCH[1], RATE // PITCH[0] + 1)
    itself = torch.fft.irfft(torch.fft.rfft(window, 2 * SIZE).abs().square())
    of_window = itself[lags] / itself[0]  # a windowed frame repeats less well at long lags, whatever it holds
    found = torch.fft.irfft(inside)
    repeats = (found[:, lags] / found[:, :1].clamp(min=1e-12) / of_window.clamp(min=0.2)).amax(1).clamp(0, 1)
    return level, repeats, flat
