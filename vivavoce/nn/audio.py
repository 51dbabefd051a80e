"""Speech windows -> one code a frame: a small convolution over time, then attention over its steps (AudioNet and AudioAttNet
of the AD-NeRF lineage, Guo et al., ICCV 2021, on one window instead of eight)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpeechCode(nn.Module):
    """[T,W,D] -> [T,width].

    Args:
        features: D of the encoder.
        width: of the code.
        hidden: features inside.
        dropout: of whole feature channels, against learning a minute of speech by heart.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, width: int = 64, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.narrow = nn.Linear(features, hidden)
        self.drop = nn.Dropout(dropout)
        self.steps = nn.Sequential(
            nn.Conv1d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.02),
            nn.Conv1d(hidden, hidden, 3, padding=1, stride=2), nn.LeakyReLU(0.02),
            nn.Conv1d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.02),
        )  # fmt: skip
        self.attend = nn.Conv1d(hidden, 1, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, 64))  # log-weight of each step of the window, up to 128 steps of 20 ms
        self.out = nn.Sequential(nn.Linear(hidden, width), nn.LayerNorm(width))  # averaging over time leaves little spread

    @torch.no_grad()
    def fit(self, speech: Tensor) -> None:  # [T,W,D]
        """Standardise as the training speech needs, and start from its principal directions."""
        flat = speech.reshape(-1, speech.shape[-1])
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0).clamp_min(1e-4))
        flat = (flat - self.mean) / self.deviation
        _, values, directions = torch.linalg.svd(flat[:: max(1, len(flat) // 4000)], full_matrices=False)
        count = min(self.narrow.out_features, len(directions))
        spread = values[:count, None] / len(flat[:: max(1, len(flat) // 4000)]) ** 0.5
        self.narrow.weight[:count] = directions[:count] / spread.clamp_min(1e-3)
        self.narrow.bias.zero_()

    def forward(self, speech: Tensor) -> Tensor:  # [T,W,D] -> [T,width]
        steps = torch.tanh(self.narrow((speech - self.mean) / self.deviation) * 0.5)
        steps = self.steps(self.drop(steps).transpose(1, 2))  # [T,hidden,W/2]
        weight = self.attend(steps)[:, 0] + self.place[:, : steps.shape[2]]
        return self.out((steps * torch.softmax(weight, dim=1)[:, None]).sum(2))
