"""Landmarks as a condition: standardised by the person's own statistics and kept within them; the eyelids left to `Clip.eyes`.

What R2-Talker does when testing (each coordinate within 2.3 deviations of its mean, brows within 1.15) is done in training too, so
that both see the same. The lids' points stay at their mean: lids are told by openness alone, which a user can choose.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.nn.signals import SURE, Signals
from vivavoce.types import Clip, InputError, Source

COUNT = 68
WITHIN, BROWS_WITHIN = 2.3, 1.15  # deviations from the mean
BROWS, LIDS = slice(17, 27), slice(36, 48)
FLOOR = 0.1  # smallest deviation, of the mean one: a point that never moves says nothing


class Marks(nn.Module):
    """Args:
    noise: standard deviations added in training: a generator's landmarks are not a tracker's.
    """

    mean: Tensor
    deviation: Tensor
    within: Tensor

    def __init__(self, noise: float = 0.1) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("mean", torch.zeros(3 * COUNT))
        self.register_buffer("deviation", torch.ones(3 * COUNT))
        within = torch.full((COUNT, 3), WITHIN)
        within[BROWS], within[LIDS] = BROWS_WITHIN, 0.0
        self.register_buffer("within", within.flatten())

    @torch.no_grad()
    def fit(self, expression: Tensor) -> None:  # [T,204]
        """The person's own statistics. Raises InputError for motion of another space."""
        if expression.shape[1] != len(self.mean):
            cause = f"{expression.shape[1]} numbers a frame, not {len(self.mean)}"
            raise InputError("landmarks", cause, "run: vivavoce prepare FOLDER --only idexp")
        deviation = expression.std(0)
        self.mean.copy_(expression.mean(0))
        self.deviation.copy_(deviation.clamp_min(FLOOR * float(deviation.mean())).clamp_min(1e-6))

    def forward(self, clip: Clip) -> Tensor:  # -> [T,204] in standard deviations
        assert clip.motion is not None
        code = (clip.motion.expression - self.mean) / self.deviation
        if self.training:
            code = code + self.noise * torch.randn_like(code)
        return torch.maximum(torch.minimum(code, self.within), -self.within)


def signals(source: Source) -> tuple[Signals, Tensor]:
    """What is known of training rows before a first picture is drawn, for a method that hears nothing; and expressions [T,204]."""
    rows = torch.linspace(0, len(source) - 1, min(len(source), SURE)).long()
    every = source.clip(rows, {"camera", "landmarks", "motion"})
    assert every.camera is not None and every.landmarks is not None and every.motion is not None and every.index is not None
    nothing = torch.zeros(len(rows), 0)
    return Signals(every.camera, nothing[:, None], every.landmarks, nothing, "", int(every.index.max()) + 1), every.motion.expression
