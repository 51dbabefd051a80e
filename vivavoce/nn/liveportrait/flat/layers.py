"""Convolutions of pictures, and the weights that make one of a volume or of an enlarged map such a one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv(nn.Module):
    """[N,H,W,I] -> [N,H',W',O], no bias.

    Args:
        weight: [O,I,k,k'].
        dtype: of weights and maps.
        padding: rows and columns; by default half a kernel.
        entering: channels, where more than the weight's.
        leaving: the same; what more there is, is zero.
    """

    def __init__(
        self, weight: Tensor, dtype: torch.dtype, padding: tuple[int, int] | None = None, entering: int = 0, leaving: int = 0
    ) -> None:
        super().__init__()
        made, inside, high, wide = weight.shape
        whole = weight.new_zeros(leaving or made, entering or inside, high, wide, dtype=dtype)
        whole[:made, :inside] = weight.to(dtype)
        self.weight = nn.Parameter(whole.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.padding = (high // 2, wide // 2) if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x.permute(0, 3, 1, 2), self.weight, padding=self.padding).permute(0, 2, 3, 1).contiguous()


def constant(values: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A bias: float32, but for float64."""
    assert values is not None
    return values.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).contiguous().clone()


def phases(weight: Tensor, factor: int) -> Tensor:  # [O,I,...,3,3] -> [kinds*kinds*O,I,...,2,2]
    """Of a 3x3 convolution of a map enlarged `factor` times (nearest), as a 2x2 one of the small map with a margin of one.

    Of the pixels that a cell becomes, the first sees the cell before and its own, the last its own and the next, those between their
    own alone; the last stands with the next cell's results, where its two cells are the ones seen.
    """
    first = weight.new_tensor([[1, 0, 0], [0, 1, 1]])
    last = weight.new_tensor([[1, 1, 0], [0, 0, 1]])
    middle = weight.new_tensor([[0, 0, 0], [1, 1, 1]])
    kinds = [first, last] if factor == 2 else [first, middle, last]
    return torch.cat([torch.einsum("oi...yx,ay,bx->oi...ab", weight, a, b) for a in kinds for b in kinds])


def flattened(weight: Tensor, kinds: int = 1) -> Tensor:  # [kinds*O,I,taps,k,k] -> [kinds*taps*O,I,k,k]
    """Of a convolution of a volume: one of its slices, with results for each tap of the depth."""
    return weight.unflatten(0, (kinds, -1)).permute(0, 3, 1, 2, 4, 5).flatten(0, 2)
