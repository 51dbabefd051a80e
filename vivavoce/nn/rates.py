"""One optimizer for parts that learn at paces of their own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adam(method: nn.Module, groups: Iterable[tuple[list[nn.Parameter], float]], rate: float) -> torch.optim.Adam:
    """One Adam over the groups, each at its multiple of `rate`, and over every other parameter of the method at `rate`."""
    groups = list(groups)
    named = {id(p) for parameters, _ in groups for p in parameters}
    groups.append(([p for p in method.parameters() if id(p) not in named], 1))
    entries = [{"params": p, "lr": rate * factor, "base": rate * factor} for p, factor in groups]
    return torch.optim.Adam(entries, eps=1e-15, fused=True)
