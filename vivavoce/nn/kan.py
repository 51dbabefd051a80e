"""Kolmogorov-Arnold layer with Taylor polynomials on its edges (Liu et al., KAN, 2024; the Taylor form as EGSTalker uses it).

Each edge i -> o has its own function: c0 + c1 x + c2 x^2 + ... + w silu(x); a node sums its edges and a bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TaylorKan(nn.Module):
    """[...,inputs] -> [...,outputs], with powers 0 .. order-1 on every edge."""

    def __init__(self, inputs: int, outputs: int, order: int = 3) -> None:
        super().__init__()
        self.order = order
        self.coefficients = nn.Parameter(torch.randn(outputs, inputs, order) * 0.3 / inputs**0.5)
        self.base = nn.Parameter(torch.randn(outputs, inputs) * 1.5 / inputs**0.5)  # silu halves the spread: a layer keeps it
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, values: Tensor) -> Tensor:  # [...,inputs] -> [...,outputs]
        out = functional.linear(functional.silu(values), self.base, self.bias)
        power = torch.ones_like(values)
        for degree in range(self.order):
            out = out + functional.linear(power, self.coefficients[..., degree])
            power = power * values
        return out


def kan(inputs: int, hidden: int, outputs: int, order: int = 3) -> nn.Sequential:
    """Two layers with a ReLU between, as the family uses for its condition tokens."""
    return nn.Sequential(TaylorKan(inputs, hidden, order), nn.ReLU(), TaylorKan(hidden, outputs, order))
