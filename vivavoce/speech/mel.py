"""Log-mel energies: 80 bins at 50 Hz, no weights to fetch. Look-ahead 10 ms.

A step is the spectrum of 40 ms of audio centred on its 20 ms. The scale is Whisper's (Radford et al., arXiv 2212.04356): the
mel scale of Slaney's Auditory Toolbox, log10 of power, shifted and divided by 4; but the floor is a constant and not relative
to the loudest moment of the recording, which a live stream cannot know.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vivavoce.speech import Stream, batched
from vivavoce.types import HOP, RATE, STEPS

BINS = 80
FLOOR = -7.0  # log10 of power: 80 dB under a loud voice, where Whisper's floor lies in ordinary recordings
BATCH = 4096  # windows at once


def filterbank(size: int, bins: int = BINS, rate: int = RATE, low: float = 0, high: float = 0) -> Tensor:  # -> [size // 2 + 1, bins]
    """Triangles equally wide on the mel scale from `low` to `high` Hz (0: rate / 2), each of area 1 (in Hz) so that noise gives equal
    energies."""
    knee, step = 1000.0, math.log(6.4) / 27  # linear below 1 kHz, logarithmic above
    first, last = (f * 3 / 200 if f < knee else 15 + math.log(f / knee) / step for f in (low, high or rate / 2))
    mel = torch.linspace(first, last, bins + 2, dtype=torch.float64)
    hertz = torch.where(mel < 15, mel * 200 / 3, knee * torch.exp((mel - 15) * step))
    lows, mids, highs = hertz[:-2], hertz[1:-1], hertz[2:]
    at = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    rise, fall = (at - lows) / (mids - lows), (highs - at) / (highs - mids)
    return (torch.minimum(rise, fall).clamp(min=0) * 2 / (highs - lows)).float()


def log_mel(frames: Tensor, window: Tensor, bank: Tensor) -> Tensor:  # [...,size], [size], [size // 2 + 1, bins] -> [...,bins]
    """Log-mel energies of frames of samples, about -0.75 (silence) to 1.5 (loud)."""
    power = torch.fft.rfft(frames * window).abs().square()
    energies: Tensor = (power @ bank).clamp(min=1e-10).log10()
    return (energies.clamp(min=FLOOR) + 4) / 4


class Mel:
    """The encoder (see speech.Encoder)."""

    name = "mel"
    dim = BINS
    lookahead = 10

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.hop = HOP // STEPS
        self.width = 2 * self.hop
        self.window = torch.hann_window(self.width, device=device)
        self.bank = filterbank(self.width).to(device)

    def start(self) -> Stream:
        return Stream.begin(self.width, self.hop, (self.width - self.hop) // 2, self.window.device)

    def push(self, samples: Tensor, state: Stream, last: bool = False) -> tuple[Tensor, Stream]:  # [n] -> [m,80]
        windows, steps, state = state.push(samples, last)
        return batched(lambda part: log_mel(part, self.window, self.bank), windows, BATCH, BINS)[:steps], state


def load(device: str | torch.device = "cpu") -> Mel:
    """On the CPU always: the few numbers of a live picture's sound take it a tenth of the time that a GPU's kernels take to be started."""
    return Mel()
