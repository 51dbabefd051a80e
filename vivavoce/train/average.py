"""An exponential moving average of a method's weights: steadier than the last step's (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vivavoce.method import Method


class Average:
    """The average of every floating-point tensor of a method; a tensor whose shape changes (splitting Gaussians) starts anew.

    Args:
        decay: of the average a step; 0: no average is kept. Early on it is (1 + n) / (10 + n), so that the first weights are
            soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, method: Method, step: int) -> None:
        """Take the weights after `step` (counted from 0) in."""
        if not self.decay:
            return
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in _floats(method):
            old = self.state.get(name)
            if old is None or old.shape != value.shape:
                self.state[name] = value.detach().clone()
            else:
                old.lerp_(value.detach(), weight)

    @contextmanager
    def worn(self, method: Method) -> Iterator[None]:
        """The method with the averaged weights, in place, for as long as the block lasts."""
        kept = {}
        with torch.no_grad():
            for name, value in _floats(method):
                new = self.state.get(name)
                if new is not None and new.shape == value.shape:
                    kept[name] = value.detach().clone()
                    value.copy_(new)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in _floats(method):
                    if name in kept:
                        value.copy_(kept[name])


def _floats(method: Method) -> Iterator[tuple[str, Tensor]]:
    return ((k, v) for k, v in method.state_dict(keep_vars=True).items() if v.is_floating_point())
