"""Causal convolutions that carry what they heard, a gated stack of them (WaveNet) and a normalising flow over time made of them.

Each takes any number of steps and the state after the steps before, so a stream cut anywhere gives what a file gives: training
and streaming are one code. State is a tuple of tensors; None stands for the silence before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Past = tuple[Tensor, ...] | None


class Causal(nn.Module):
    """A convolution of `kernel` taps over this step and those before it: [B,C,T] -> [B,D,T]."""

    def __init__(self, channels: int, out: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.conv = nn.Conv1d(channels, out, kernel, dilation=dilation)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The result, and the last steps of `x`, which the next call needs."""
        before = x.new_zeros(x.shape[0], x.shape[1], self.reach) if past is None else past
        whole = torch.cat([before, x], 2)
        return self.conv(whole), whole[:, :, whole.shape[2] - self.reach :]


class WaveNet(nn.Module):
    """Gated dilated causal convolutions with residuals and skips, told the condition at every layer (van den Oord et al., 2016).

    Args:
        width: channels in and out.
        condition: channels of the condition.
        dilations: one layer each.
        dropout: of the channels that go on, in training.
    """

    def __init__(self, width: int, condition: int, dilations: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(Causal(width, 2 * width, 3, d) for d in dilations)
        self.told = nn.ModuleList(nn.Conv1d(condition, 2 * width, 1) for _ in dilations)
        # the last layer goes nowhere but to the skips
        self.mix = nn.ModuleList(nn.Conv1d(width, 2 * width if i < len(dilations) - 1 else width, 1) for i in range(len(dilations)))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor, past: Past = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B,width,T], [B,condition,T] -> [B,width,T] and the state after the last step."""
        skips, states = torch.zeros_like(x), list[Tensor]()
        for i, (layer, told, mix) in enumerate(zip(self.layers, self.told, self.mix, strict=True)):
            heard, state = layer(x, None if past is None else past[i])
            states.append(state)
            level, gate = (heard + told(condition)).chunk(2, 1)
            out = mix(self.drop(level.tanh() * gate.sigmoid()))
            skips = skips + out[:, : self.width]
            if out.shape[1] > self.width:
                x = (x + out[:, self.width :]) * 0.5**0.5
        return skips * len(self.layers) ** -0.5, tuple(states)


class Flow(nn.Module):
    """An invertible map of sequences, z [B,Z,T] <-> standard normal noise, that a condition decides (RealNVP couplings over time).

    Each coupling scales and shifts one half of the channels by what a WaveNet makes of the other; the halves take turns. The
    scales are bounded, so that noise far out does not fly away.
    """

    def __init__(self, channels: int, condition: int, width: int = 64, couplings: int = 4, dilations: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        self.across = channels // 2
        self.begin = nn.ModuleList(nn.Conv1d(self.across, width, 1) for _ in range(couplings))
        self.nets = nn.ModuleList(WaveNet(width, condition, dilations) for _ in range(couplings))
        self.end = nn.ModuleList(nn.Conv1d(width, 2 * self.across, 1) for _ in range(couplings))
        for end in self.end:  # the untrained flow changes nothing
            assert isinstance(end, nn.Conv1d) and end.bias is not None
            nn.init.zeros_(end.weight)
            nn.init.zeros_(end.bias)
        self.depth = len(dilations)

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:  # -> [B,Z,T], [B,T]
        """The noise that stands for z, and the log-determinant of each step."""
        total = z.new_zeros(len(z), z.shape[2])
        for i in range(len(self.nets)):
            still, moved = z.chunk(2, 1)
            shift, scale, _ = self._coupling(i, still, condition, None)
            z = torch.cat([(moved - shift) * torch.exp(-scale), still], 1)
            total = total - scale.sum(1)
        return z, total

    def inverse(self, noise: Tensor, condition: Tensor, past: Past = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The z that the noise stands for, and the state after the last step."""
        z, states = noise, list[Tensor]()
        for i in reversed(range(len(self.nets))):
            moved, still = z.chunk(2, 1)
            place = (len(self.nets) - 1 - i) * self.depth
            shift, scale, state = self._coupling(i, still, condition, None if past is None else past[place : place + self.depth])
            z = torch.cat([still, moved * torch.exp(scale) + shift], 1)
            states += state
        return z, tuple(states)

    def _coupling(self, i: int, still: Tensor, condition: Tensor, past: Past) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        hidden, state = self.nets[i](self.begin[i](still), condition, past)
        shift, scale = self.end[i](torch.nn.functional.gelu(hidden)).chunk(2, 1)
        return shift, scale.tanh(), state
