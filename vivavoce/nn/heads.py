"""Last networks of a deformation: one a kind of change (place, shape, turn, opacity, colour), starting nearly still."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.nn.kan import TaylorKan, kan

KINDS = (3, 3, 4, 1, 3)  # numbers of each kind of change of a Gaussian


def still(layer: nn.Linear | TaylorKan) -> nn.Linear | TaylorKan:
    """The layer with outputs near zero: what it moves starts where it is."""
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=2e-3)
            nn.init.zeros_(layer.bias)
        else:
            for part in (layer.coefficients, layer.base):
                part.mul_(2e-3 / part.std())
    return layer


class Heads(nn.Module):
    """[...,width] -> [...,sum(kinds)], two layers a kind: "mlp" (linear, ReLU, linear) or "kan" (Taylor polynomials on the edges)."""

    def __init__(self, width: int, hidden: int, net: str = "mlp", kinds: tuple[int, ...] = KINDS) -> None:
        super().__init__()
        if net not in ("mlp", "kan"):
            raise ValueError(f"net is {net!r}, not one of mlp, kan")
        self.kinds = nn.ModuleList()
        for outputs in kinds:
            last: nn.Linear | TaylorKan
            if net == "kan":
                first, middle, last = kan(width, hidden, outputs)  # type: ignore[assignment]
            else:
                first, middle, last = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
            self.kinds.append(nn.Sequential(first, middle, still(last)))

    def forward(self, features: Tensor) -> Tensor:  # [...,width] -> [...,sum(kinds)]
        return torch.cat([kind(features) for kind in self.kinds], -1)
