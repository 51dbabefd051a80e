"""A growing set of 3-D Gaussians as parameters, with density control that keeps the optimizer's memory in step.

Kerbl et al., SIGGRAPH 2023, section 5, with one change: the Gaussians that grow are the given share with the largest mean
gradient of their place, not those above a threshold, so the rule does not depend on image size, loss weights or batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Gaussians(nn.Module):
    """Canonical Gaussians. `count` rows of every parameter; call `start` to give them values.

    Attributes:
        means: [N,3] metres; quaternions: [N,4] wxyz, any length; log_scales: [N,3]; logits: [N] of the opacity;
        colours: [N,3]; embeddings: [N,E], free features of each Gaussian.
    """

    NAMES = ("means", "quaternions", "log_scales", "logits", "colours", "embeddings")
    push: Tensor
    seen: Tensor

    def __init__(self, count: int, embedding: int = 0) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.randn(count, 3) * 0.05)
        self.quaternions = nn.Parameter(functional.normalize(torch.randn(count, 4), dim=1))
        self.log_scales = nn.Parameter(torch.full((count, 3), -5.0))
        self.logits = nn.Parameter(torch.full((count,), 1.0))
        self.colours = nn.Parameter(torch.full((count, 3), 0.5))
        self.embeddings = nn.Parameter(torch.randn(count, embedding) * 0.1, requires_grad=embedding > 0)
        self.register_buffer("push", torch.zeros(count))  # summed length of the gradient of each place
        self.register_buffer("seen", torch.zeros(count))  # steps with a gradient

    def __len__(self) -> int:
        return len(self.means)

    @torch.no_grad()
    def start(self, means: Tensor, colours: Tensor, scales: Tensor, opacity: float = 0.8) -> None:  # [N,3], [N,3], [N]
        """Round Gaussians at the given places; the rows must number `len(self)`."""
        self.means.copy_(means)
        self.colours.copy_(colours)
        self.log_scales.copy_(scales.log()[:, None].expand(-1, 3))
        self.logits.fill_(float(torch.logit(torch.tensor(opacity))))

    def watch(self) -> None:
        """Remember this step's gradient of the places; call between backward and the optimizer's step."""
        if self.means.grad is not None:
            length = self.means.grad.norm(dim=1)
            self.push += length
            self.seen += (length > 0).to(length)

    @torch.no_grad()
    def control(
        self, optimizer: torch.optim.Optimizer, share: float, most: int, faint: float = 0.02, wide: float = 0.02
    ) -> tuple[Tensor, Tensor]:  # -> [M] int64, [M] bool
        """Drop faint and over-wide Gaussians; split the `share` of them that the loss pushes hardest, up to `most` in all.

        A Gaussian is split into two along its longest axis, each 0.7 as long. Returns, for each row of the new set, the old
        row it comes from and whether it is a new half.
        """
        keep = (self.logits.sigmoid() > faint) & (self.log_scales.amax(1).exp() < wide)
        old = keep.nonzero()[:, 0]
        if not len(old):  # a head of NaN: the training loop says so, with what to do, at its next look at the loss
            old = torch.arange(len(keep), device=keep.device)
        score = (self.push / self.seen.clamp_min(1))[old]
        grow = max(0, min(int(len(old) * share), most - len(old)))
        chosen = old[score.topk(grow).indices]
        half = self.log_scales[chosen].amax(1, keepdim=True) == self.log_scales[chosen]
        axis = _longest_axis(self.quaternions[chosen], self.log_scales[chosen]) * 0.6
        shrink = torch.where(half, torch.log(torch.tensor(0.7)).to(self.means), 0.0)
        self.means[chosen] += axis
        self.log_scales[chosen] += shrink
        rows = torch.cat([old, chosen])
        fresh = torch.arange(len(rows), device=rows.device) >= len(old)
        self._gather(rows, fresh, optimizer)
        self.means[fresh] -= 2 * axis
        return rows, fresh

    def _gather(self, rows: Tensor, fresh: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Every parameter becomes its given rows; the optimizer's moments go along, those of fresh rows start at zero."""
        for name in self.NAMES:
            old: nn.Parameter = getattr(self, name)
            new = nn.Parameter(old.detach()[rows].clone(), requires_grad=old.requires_grad)
            setattr(self, name, new)
            for group in optimizer.param_groups:
                group["params"] = [new if p is old else p for p in group["params"]]
            state: dict[str, Any] | None = optimizer.state.pop(old, None)
            if state is not None:
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == old.shape:
                        state[key] = value[rows].clone()
                        state[key][fresh] = 0
                optimizer.state[new] = state
        self.push = torch.zeros(len(rows), device=rows.device)
        self.seen = torch.zeros(len(rows), device=rows.device)


def _longest_axis(quaternions: Tensor, log_scales: Tensor) -> Tensor:  # [N,4], [N,3] -> [N,3] metres
    """The longest half-axis of each Gaussian as a vector: the column of its rotation times its scale."""
    w, x, y, z = functional.normalize(quaternions, dim=1).unbind(1)
    columns = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], 1),
            torch.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], 1),
            torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )
    size, which = log_scales.exp().max(1)
    return columns[torch.arange(len(which), device=which.device), which] * size[:, None]
