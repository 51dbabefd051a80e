"""A small expert that says whether lips and voice belong together: two towers on a fifth of a second each, trained to tell the
moment's own voice from those of other moments (Chung and Zisserman, SyncNet, 2016, with InfoNCE, van den Oord et al. 2018), then
frozen as the judge of a generator (Prajwal et al., Wav2Lip, 2020), on motion instead of pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 5  # in a moment
WARMTH = 0.1  # temperature of the softmax over moments
MOST = 256  # moments compared with one another at once


class MotionSync(nn.Module):
    """Args:
    motion: numbers a frame. features: D of the speech, two steps a frame.
    """

    def __init__(self, motion: int, features: int, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.hear = nn.Sequential(
            nn.Linear(2 * features, width), nn.GELU(), nn.Dropout(dropout), nn.Flatten(1), nn.Linear(FRAMES * width, width)
        )
        self.see = nn.Sequential(nn.Linear(motion, width), nn.GELU(), nn.Dropout(dropout), nn.Flatten(1), nn.Linear(FRAMES * width, width))

    def agreement(self, motion: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:  # [B,L,M], [B,L,2,D] -> [N,E], [N,E]
        """Directions of all moments' lips and voices, N = B * (L - 4)."""
        lips = motion.unfold(1, FRAMES, 1).transpose(2, 3).flatten(0, 1)  # [N,5,M]
        voice = steps.flatten(2).unfold(1, FRAMES, 1).transpose(2, 3).flatten(0, 1)  # [N,5,2D]
        return F.normalize(self.see(lips), dim=-1), F.normalize(self.hear(voice), dim=-1)

    def learn(self, motion: Tensor, steps: Tensor) -> Tensor:  # [B,L,M], [B,L,2,D] -> []
        """InfoNCE both ways over some of the moments: log N when nothing is told apart."""
        lips, voice = self.agreement(motion, steps)
        some = torch.randperm(len(lips), device=lips.device)[:MOST]
        alike = lips[some] @ voice[some].T / WARMTH
        own = torch.arange(len(alike), device=alike.device)
        return (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2

    def judge(self, motion: Tensor, steps: Tensor, weight: Tensor) -> Tensor:  # [B,L,M], [B,L,2,D], [B] -> []
        """1 less the cosine between lips and voice, averaged over moments; `weight`: of each sample. No gradient reaches the voice."""
        lips, voice = self.agreement(motion, steps)
        off = (1 - (lips * voice.detach()).sum(-1)).reshape(len(weight), -1).mean(1)
        return (off * weight).sum() / weight.sum().clamp(min=1e-6)
