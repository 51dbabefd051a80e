"""Agent attention: many points hear a few condition tokens through a few agents (Han et al., Agent Attention, ECCV 2024;
"efficient spatial-audio attention" in EGSTalker, SMC 2025).

Step 1: the agents attend to the tokens. Step 2: the points attend to the agents. Step 2's weights depend on the points
alone, so they are made once for a trained head; a frame then costs one [N,A] x [A,D] product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AgentAttention(nn.Module):
    """Args:
    width: D, features of points, agents and tokens.
    sharpness: the points' softmax divides by sqrt(width / sharpness) (the family's head count enters only here). That of
        the agents divides by sqrt(width): with the family's 16 the tokens that never change win it, and speech is not heard.
    """

    def __init__(self, width: int, sharpness: int = 16) -> None:
        super().__init__()
        self.scale, self.calm = (width / sharpness) ** -0.5, width**-0.5
        self.agent = nn.Linear(width, width)

    def weights(self, points: Tensor, agents: Tensor) -> Tensor:  # [N,D], [A,D] -> [N,A]
        """How much each point listens to each agent; depends on no frame."""
        return torch.softmax(points @ self.agent(agents).t() * self.scale, dim=-1)

    def values(self, agents: Tensor, tokens: Tensor) -> Tensor:  # [A,D], [T,K,D] -> [T,A,D]
        """What the agents heard in each frame."""
        heard = torch.softmax(self.agent(agents) @ tokens.transpose(1, 2) * self.calm, dim=-1)  # [T,A,K]
        return heard @ tokens

    def forward(self, points: Tensor, agents: Tensor, tokens: Tensor) -> Tensor:  # [N,D], [A,D], [T,K,D] -> [T,N,D]
        return self.weights(points, agents) @ self.values(agents, tokens)


def spread(points: Tensor, count: int) -> Tensor:  # [N,3] -> [min(count,N)] int64
    """Indices of points far from one another (farthest-point sampling, from the point nearest the mean)."""
    first = (points - points.mean(0)).square().sum(1).argmin()
    chosen, distance = [first], (points - points[first]).square().sum(1)
    for _ in range(min(count, len(points)) - 1):
        chosen.append(distance.argmax())
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.stack(chosen)


class Forth(nn.Module):
    """What follows an attention in a transformer: what was heard is added, the sum normalised, and a small network added to that."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, features: Tensor, heard: Tensor) -> Tensor:  # [N,D], [T,N,D] -> [T,N,D]
        joined = self.norm(features + heard)
        return joined + self.net(joined)
