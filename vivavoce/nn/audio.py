"""Speech windows -> one code a frame: a small convolution over time, then attention over its steps (AudioNet and AudioAttNet
of the AD-NeRF lineage, Guo et al., ICCV 2021, on one window instead of eight).

The attended steps are laid side by side, not summed: a sum over half a second forgets when a sound was made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

BOUND = 2.0  # root mean square a code can reach: a voice never heard is a direction, not a distance nobody trained for


class SpeechCode(nn.Module):
    """[T,W,D] -> [T,width].

    Args:
        features: D of the encoder.
        window: W, steps a row.
        width: of the code.
        hidden: features inside.
        dropout: of whole feature channels, against learning a minute of speech by heart.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, window: int, width: int = 64, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.narrow = nn.Linear(features, hidden)
        self.drop = nn.Dropout(dropout)
        self.steps = nn.Sequential(
            nn.Conv1d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.02),
            nn.Conv1d(hidden, hidden, 3, padding=1, stride=2), nn.LeakyReLU(0.02),
            nn.Conv1d(hidden, hidden, 3, padding=1, stride=2), nn.LeakyReLU(0.02),
        )  # fmt: skip
        self.attend = nn.Conv1d(hidden, 1, 3, padding=1)
        left = -(-window // 4)  # steps after two strides of 2
        self.place = nn.Parameter(torch.zeros(left))  # log-weight of each of them
        self.out = nn.Linear(hidden * left, width)

    @torch.no_grad()
    def fit(self, speech: Tensor) -> None:  # [T,W,D]
        """Standardise as the training speech needs, start from its principal directions, and let the codes of the untrained
        net have mean 0 and deviation 1 (before their bound): else what all speech shares hides how it differs, and the lips learn late."""
        flat = speech.reshape(-1, speech.shape[-1])
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0).clamp_min(1e-4))
        flat = (flat - self.mean) / self.deviation
        _, values, directions = torch.linalg.svd(flat[:: max(1, len(flat) // 4000)], full_matrices=False)
        count = min(self.narrow.out_features, len(directions))
        spread = values[:count, None] / len(flat[:: max(1, len(flat) // 4000)]) ** 0.5
        self.narrow.weight[:count] = directions[:count] / spread.clamp_min(0.05)
        self.narrow.bias.zero_()
        codes = self._pool(speech[:: max(1, len(speech) // 1000)], self.narrow) @ self.out.weight.t()
        spread = codes.std(0).clamp_min(1e-2)
        self.out.bias.copy_(-codes.mean(0) / spread)
        self.out.weight.div_(spread[:, None])

    @torch.enable_grad()
    def learn(self, speech: Tensor, targets: Tensor, steps: int, batch: int = 128, most: int = 8) -> Tensor:  # [T,W,D], [T,K] -> []
        """Warm up: tell the `most` principal components of the targets (mouth shapes) from speech. Seconds of this spare a
        renderer thousands of steps, in which each frame would teach the lips only when it is drawn. Returns the last loss,
        1 at worst: the share of the targets' variance not explained."""
        u, s, _ = torch.linalg.svd(targets - targets.mean(0), full_matrices=False)
        wanted = (u * s)[:, :most]
        wanted = wanted / wanted.square().sum(1).mean().sqrt()
        head = nn.Linear(self.out.out_features, wanted.shape[1])
        before, loss = self.training, torch.ones(())
        optimizer = torch.optim.AdamW([*self.parameters(), *head.parameters()], 2e-3, weight_decay=0.02)
        self.train()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
            rows = torch.randint(len(speech), (batch,))
            loss = (head(self(speech[rows])) - wanted[rows]).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.zero_grad()
        self.train(before)
        return loss.detach()

    def forward(self, speech: Tensor) -> Tensor:  # [T,W,D] -> [T,width]
        code = self.out(self._pool(speech, lambda steps: self.drop(self.narrow(steps))))
        return code * torch.rsqrt(1 + code.square().mean(1, keepdim=True) / BOUND**2)

    def _pool(self, speech: Tensor, narrow: Callable[[Tensor], Tensor]) -> Tensor:  # [T,W,D] -> [T,hidden*W/4]
        steps = torch.tanh(narrow((speech - self.mean) / self.deviation) * 0.5)
        steps = self.steps(steps.transpose(1, 2))  # [T,hidden,W/4]
        weight = torch.softmax(self.attend(steps)[:, 0] + self.place, dim=1)
        return (steps * weight[:, None] * weight.shape[1]).flatten(1)
