"""Mel-frequency cepstral coefficients: 13 numbers at 100 Hz, with the parameters of python_speech_features; what SyncNet hears.

Windows of 25 ms without taper every 10 ms, pre-emphasis 0.97, 512-point power spectrum, 26 triangles from 0 to 8000 Hz on the mel scale
of HTK with corners rounded down to bins, logarithm, orthonormal cosine transform, sinusoidal lifter of 22, and the logarithm of the
energy in the place of the first coefficient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vivavoce.types import RATE, InputError

COEFFICIENTS = 13
WIDTH, APART = RATE * 25 // 1000, RATE // 100  # samples
SIZE, FILTERS, LIFTER = 512, 26, 22
PREEMPHASIS = 0.97
LEAST = torch.finfo(torch.float64).eps  # of an energy, before its logarithm


def _corners() -> Tensor:  # -> [28] bins
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    hertz = 700 * (10 ** (torch.linspace(0, top, FILTERS + 2, dtype=torch.float64) / 2595) - 1)
    return ((SIZE + 1) * hertz / RATE).floor()


def _bank() -> Tensor:  # -> [257,26]
    corners, at = _corners(), torch.arange(SIZE // 2 + 1, dtype=torch.float64)[:, None]
    low, mid, high = corners[:-2], corners[1:-1], corners[2:]
    rise, fall = (at - low) / (mid - low).clamp(min=1), (high - at) / (high - mid).clamp(min=1)
    rising, falling = (at >= low) & (at < mid), (at >= mid) & (at < high)
    return torch.where(rising, rise, torch.where(falling, fall, torch.zeros(1, dtype=torch.float64)))


def _cosines() -> Tensor:  # -> [26,13], of the orthonormal transform, lifted
    n, k = torch.arange(FILTERS, dtype=torch.float64)[:, None], torch.arange(COEFFICIENTS, dtype=torch.float64)
    transform = torch.cos(math.pi * k * (2 * n + 1) / (2 * FILTERS)) * math.sqrt(2 / FILTERS)
    transform[:, 0] /= math.sqrt(2)
    return transform * (1 + LIFTER / 2 * torch.sin(math.pi * k / LIFTER))


def as_16_bit(samples: Tensor) -> Tensor:  # [N] -1..1 -> [N] float64, whole numbers
    """Samples as they come out of a 16-bit file, which is what the reference reads."""
    return (samples.double() * 32768).round().clamp(-32768, 32767)


def mfcc(samples: Tensor) -> Tensor:  # [N] -> [M,13] float64
    """Of samples on the scale of 16 bits (`as_16_bit`): M = 1 + ceil((N - 400) / 160) rows, the last filled up with zeros.

    Raises InputError for no samples, or anything but one row of them.
    """
    if samples.ndim != 1 or not len(samples):
        raise InputError("audio", f"{list(samples.shape)} is not one row of samples", "give mono sound at 16 kHz")
    x = samples.double()
    emphasised = torch.cat([x[:1], x[1:] - PREEMPHASIS * x[:-1]])
    count = 1 + max(0, -(-(len(x) - WIDTH) // APART))
    padded = torch.nn.functional.pad(emphasised, (0, (count - 1) * APART + WIDTH - len(x)))
    power = torch.fft.rfft(padded.unfold(0, WIDTH, APART), SIZE).abs().square() / SIZE
    energy, filtered = power.sum(1), power @ _bank().to(power.device)
    logs = torch.where(filtered == 0, LEAST, filtered).log()
    out = logs @ _cosines().to(power.device)
    out[:, 0] = torch.where(energy == 0, LEAST, energy).log()
    return out
