"""Nobody speaks: then the mouth is shut, whatever a speech net says of sound it never heard.

A head trained on one voice has heard little silence and no noise, and its lips hang open in both. Two things are learned apart from
the speech net: the code of the shut mouth, from frames in which the lips touch (whatever was said), and how surely a step of
20 ms is no speech, by logistic regression on the encoder's features: of the recording's own pauses, and of silence and noise
that the encoder is given.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce import speech as encoders
from vivavoce.types import HOP, RATE, STEPS, Clip, InputError

log = logging.getLogger(__name__)

SHUT = 0.15  # share of the rows, those with the narrowest lips, whose mouth counts as shut
PAUSE = 35.0  # decibels below the loud steps of a recording, from which a step is a pause
AROUND = 5  # steps before and after a row's own two that must be quiet too: 100 ms, longer than the closure of a stop
LOUDNESS = (0.003, 0.02, 0.1)  # root mean square of the noises
SECONDS = 2  # of each of them


def lip_gap(landmarks: Tensor) -> Tensor:  # [T,68,2] px -> [T] in distances of the eyes
    gap = (landmarks[:, 61:64] - landmarks[:, [67, 66, 65]]).norm(dim=2).mean(1)
    return gap / (landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1)).norm(dim=1).clamp_min(1e-6)


@lru_cache(maxsize=1)
def not_speech(name: str) -> Tensor | None:  # -> [S,D]
    """Features of silence, white noise and hum by the encoder of that name; None where its weights cannot be had."""
    try:
        with torch.random.fork_rng([]):  # its first weights are drawn: a run that goes on would see other chance than one unbroken
            encoder = encoders.load(name)
    except InputError as error:
        log.warning("the mouth learns silence from the recording's pauses alone: %s", error)
        return None
    count = RATE * SECONDS
    draw = torch.Generator().manual_seed(0)
    time = torch.arange(count) / RATE
    hum = torch.stack([(2 * torch.pi * 50 * k * time).sin() / k for k in (1, 2, 3, 5)]).mean(0)
    noises = [torch.zeros(count)]
    for loud in LOUDNESS:
        white = torch.randn(count, generator=draw)
        brown = white.cumsum(0) - functional.avg_pool1d(white.cumsum(0)[None], 401, 1, 200, count_include_pad=False)[0]
        noises += [loud * noise / noise.square().mean().sqrt() for noise in (white, brown, hum)]
    return torch.cat([encoders.encode(encoder, noise).flatten(0, 1) for noise in noises])


class Silence(nn.Module):
    """Args:
    width: of the speech code. past: steps of a row before its own two.
    share: of the shut rows of a training step that teach the code of the shut mouth.
    """

    weight: Tensor
    bias: Tensor
    narrow: Tensor

    def __init__(self, width: int, past: int, share: float = 0.5) -> None:
        super().__init__()
        self.past, self.share = past, share
        self.shut = nn.Parameter(torch.zeros(width))
        self.register_buffer("weight", torch.zeros(0))  # [D]; none: never quiet, until `fit`
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("narrow", torch.tensor(0.0))  # lips nearer than this are shut

    @torch.no_grad()
    def fit(self, speech: Tensor, audio: Tensor, landmarks: Tensor, codes: Tensor, others: Tensor | None = None) -> None:
        """From rows of the recording.

        Args:
            speech: [T,W,D]. audio: [T,640]. landmarks: [T,68,2] px. codes: [T,width] of the speech net as it is now.
            others: [S,D] features of what is no speech, as `not_speech` gives.
        """
        gap = lip_gap(landmarks)
        self.narrow.copy_(gap.quantile(SHUT))
        self.shut.copy_(codes[gap <= self.narrow].mean(0))
        steps = speech[:, self.past : self.past + STEPS].flatten(0, 1)  # [T*2,D], each row's own
        power = audio.reshape(-1, HOP // STEPS).square().mean(1).clamp_min(1e-10).log10() * 10  # [T*2] dB
        quiet = power < power.quantile(0.9) - PAUSE
        loud = power > power.quantile(0.9) - PAUSE * 0.6  # between the two nobody knows
        silent = [steps[quiet], *([others] if others is not None and others.shape[1] == steps.shape[1] else [])]
        rows = torch.cat([*silent, steps[loud]])
        said = torch.arange(len(rows)) >= len(rows) - int(loud.sum())
        if said.all() or not said.any():  # no pause and no encoder: the gate stays open
            return
        weight, bias = _logistic(rows, ~said)
        self.weight, self.bias = weight, bias

    def quiet(self, speech: Tensor) -> Tensor:  # [T,W,D] -> [T] in 0..1
        """How surely nobody speaks around each row: as sure as the least sure step. Before the first step and after the last, where a
        window holds zeros, there is nobody."""
        if not len(self.weight):
            return speech.new_zeros(len(speech))
        near = speech[:, max(self.past - AROUND, 0) : self.past + STEPS + AROUND]
        sure = torch.sigmoid(near @ self.weight + self.bias)
        return sure.masked_fill((near == 0).all(2), 1.0).amin(1)

    def forward(self, code: Tensor, clip: Clip) -> Tensor:  # [T,width] -> [T,width]
        """The code where somebody speaks, that of the shut mouth where nobody does. In training some rows whose lips touch
        (clip.landmarks) have the code of the shut mouth, so that it is known."""
        return self.hush(code, code, clip)[0]

    def hush(self, code: Tensor, pose: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:  # [T,width], [T,6] -> [T,width], [T,6]
        """As `forward`; and the head's pose as that hears it which moves the lips: where nobody speaks it is the mean one. Who nods as he
        speaks would open his mouth whenever he nods."""
        assert clip.speech is not None
        if not self.training:
            gate = self.quiet(clip.speech)[:, None]
            return code + (self.shut - code) * gate, pose * (1 - gate)
        if clip.landmarks is None:
            return code, pose
        shut = lip_gap(clip.landmarks) <= self.narrow
        taught = (shut & (torch.rand(len(code), device=code.device) < self.share))[:, None]
        return torch.where(taught, self.shut, code), pose.masked_fill(taught, 0.0)


@torch.enable_grad()
def _logistic(rows: Tensor, wanted: Tensor, hold: float = 1e-4) -> tuple[Tensor, Tensor]:  # [N,D], [N] bool -> [D], []
    """Logistic regression with both classes of equal weight and weights held small, on standardised features."""
    mean, deviation = rows.mean(0), rows.std(0).clamp_min(1e-4)
    known = (rows - mean) / deviation
    share = wanted.float().mean()
    balance = torch.where(wanted, 0.5 / share, 0.5 / (1 - share))
    weight, bias = torch.zeros(rows.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(known @ weight + bias, wanted.float(), balance) + hold * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weight.detach() / deviation
    return found, bias.detach() - (found * mean).sum()
