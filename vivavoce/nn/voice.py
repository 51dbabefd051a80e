"""Where somebody speaks: labels from the sound, and what silence is to a speech encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vivavoce.nn.silence import SECONDS, not_speech
from vivavoce.types import FPS, STEPS

LOUD, QUIET = 30.0, -50.0  # a frame is voiced within 30 dB of the loud moments and over -50 dB of full scale
EARLY = 3  # frames: mouths open before they sound and shut after
GIVEN = slice(4, 34, 6)  # windows of each noise that are kept: after the encoder's first steps, before its last


def voiced(audio: Tensor, alone: bool = False) -> Tensor:  # [B,L,640] -> [B,L] 0 or 1
    """Frames in which, or next to which, somebody is heard. `alone`: how loud that is, each stretch says for itself (they are of
    several speakers), not all together."""
    level = 10 * (audio.square().mean(2) + 1e-10).log10()
    loud = level.quantile(0.95, dim=1, keepdim=True) if alone else level.flatten().quantile(0.95)
    there = (level > (loud - LOUD).clamp(min=QUIET)).float()
    return F.max_pool1d(there[:, None], 2 * EARLY + 1, 1, EARLY)[:, 0]


def silence(name: str, window: tuple[int, int], features: int) -> Tensor:  # -> [Q,W,D]
    """Windows of silence and of noise as that encoder hears them; none where it is not on this machine, or gives other features."""
    steps = not_speech(name)
    if steps is None or steps.shape[1] != features:
        return torch.zeros(0, sum(window), features)
    noises = steps.unflatten(0, (-1, SECONDS * FPS * STEPS))  # [N,S,D]
    return noises.unfold(1, sum(window), STEPS).transpose(2, 3)[:, GIVEN].flatten(0, 1).detach().cpu()
