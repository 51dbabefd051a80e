"""The mel spectrogram of Wav2Lip, SadTalker and their kin: 16 columns of 80 bins a frame, no weights to fetch. Look-ahead 173 ms.

Columns of 800 samples stand 200 samples apart (80 a second); frame t owns the 16 that begin with column floor(3.2 t), 0.2 s of sound
from its own start on. Its two steps hold eight columns each, so that a window of two steps is the [16,80] that those networks read.

Pre-emphasis 0.97, magnitudes, Slaney's mel scale from 55 to 7600 Hz, decibels under 20 dB down to -100. The field maps these to
-4..4; here they lie in 0..8, so that zeros, which stand for what lies outside a recording, are silence: `columns` takes the 4 off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.speech import Stream, batched
from vivavoce.speech.mel import filterbank
from vivavoce.types import HOP, STEPS, InputError

BINS, COLUMNS = 80, 16  # of a frame
APART, WIDTH = 200, 800  # samples
PREEMPHASIS = 0.97
LOWEST, HIGHEST = 55.0, 7600.0  # Hz
REFERENCE, FLOOR = 20.0, -100.0  # dB
LIMIT = 4.0  # of the field's form
EACH = COLUMNS // STEPS  # columns of a step
EARLIEST = (HOP // APART + 1) * APART - HOP  # samples by which a frame's first column may come before the frame: 160
BATCH = 512  # windows at once


class MelWav2Lip:
    """The encoder (see speech.Encoder)."""

    name = "mel_wav2lip"
    dim = EACH * BINS
    lookahead = 173

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.window = torch.hann_window(WIDTH, device=device)
        self.bank = filterbank(WIDTH, BINS, low=LOWEST, high=HIGHEST).to(device)
        self.hop = HOP // STEPS
        self.before = EARLIEST + WIDTH // 2 + 1  # one more, which pre-emphasis reads
        later = (COLUMNS - EACH) * APART - self.hop  # an odd step's first column comes so much later in its window than an even one's
        self.width = self.before + later + (EACH - 1) * APART + WIDTH // 2

    def start(self) -> Stream:
        return Stream.begin(self.width, self.hop, self.before, self.window.device)

    def push(self, samples: Tensor, state: Stream, last: bool = False) -> tuple[Tensor, Stream]:  # [n] -> [m,640]
        first = state.given
        windows, steps, state = state.push(samples, last)
        marked = torch.cat([windows, torch.arange(first, first + len(windows)).to(windows)[:, None] % 10], 1)
        return batched(self._columns, marked, BATCH, self.dim)[:steps], state

    def _columns(self, marked: Tensor) -> Tensor:  # [m,width+1], the last the step's number modulo 10 -> [m,640]
        windows, number = marked[:, :-1], marked[:, -1].long()
        emphasised = windows[:, 1:] - PREEMPHASIS * windows[:, :-1]
        frame, odd = number // STEPS, number % STEPS
        column = frame * HOP // APART  # of five frames, which hold 16 columns
        start = column * APART - frame * HOP + EARLIEST + odd * ((COLUMNS - EACH) * APART - self.hop)
        places = start[:, None] + torch.arange(EACH, device=start.device) * APART  # [m,8]
        frames = emphasised.gather(1, (places[:, :, None] + torch.arange(WIDTH, device=start.device)).flatten(1))
        size = torch.fft.rfft(frames.reshape(-1, EACH, WIDTH) * self.window).abs() @ self.bank
        decibels = 20 * size.clamp(min=10 ** (FLOOR / 20)).log10() - REFERENCE
        return (2 * LIMIT * (decibels - FLOOR) / -FLOOR).clamp(0, 2 * LIMIT).flatten(1)


def columns(speech: Tensor) -> Tensor:  # [T,2,640] -> [T,1,80,16] in -4..4
    """What the networks read of a frame's two steps. Raises InputError for other features."""
    if speech.shape[1:] != (STEPS, EACH * BINS):
        cause = f"features of shape {list(speech.shape[1:])} a frame are not those of mel_wav2lip, [2, {EACH * BINS}]"
        raise InputError("speech", cause, "hear with --speech mel_wav2lip")
    return speech.reshape(-1, COLUMNS, BINS).transpose(1, 2)[:, None] - LIMIT


def load(device: str | torch.device = "cpu") -> MelWav2Lip:
    return MelWav2Lip(device)
