"""A judge of whether a movement and a sound belong together: both become directions, near where they do (SyncNet, contrastively).

Convolutions over a stretch of speech and the frames about it; `motion_sync.py` is dit_motion's, of single moments of a fifth of a second.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

EVERY = 4  # frames: one of them stands for its stretch, its neighbours would be as good an answer
SHARP = 10.0  # of the scores: cosines tell 1 from -1 alone


class MotionExpert(nn.Module):
    """[B,L,W,D] windows of speech features, [B,E,L] movements -> how badly each movement finds its sound.

    Args:
        features: D.
        numbers: E.
        width: of the directions.
        dropout: of the features of speech, in training.
    """

    def __init__(self, features: int, numbers: int, width: int, dropout: float) -> None:
        super().__init__()
        self.sound = nn.Sequential(nn.Dropout(dropout), nn.Conv1d(features, width, 3), nn.GELU(), nn.Conv1d(width, width, 3, stride=2))
        self.movement = nn.Sequential(nn.Conv1d(numbers, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, width, 3, padding=1))

    def forward(self, sound: Tensor, movement: Tensor) -> Tensor:  # -> []
        """Cross entropy of choosing each movement's sound among all of the batch."""
        heard = self.sound(sound[:, 1::EVERY].flatten(0, 1).transpose(1, 2)).amax(2)
        moved = self.movement(movement)[:, :, 1::EVERY].transpose(1, 2).flatten(0, 1)
        scores = SHARP * F.normalize(moved, dim=1) @ F.normalize(heard, dim=1).T
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def judge(self, sound: Tensor, movement: Tensor) -> Tensor:  # -> []
        """The same, as a loss of the movement alone: the expert does not learn from what it judges."""
        frozen = {k: v.detach() for k, v in self.named_parameters()}
        found: Tensor = functional_call(self, frozen, (sound, movement))
        return found
