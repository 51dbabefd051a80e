"""Networks of a frame on CUDA: a whole network is one launch. Weights and what is inside are float16, sums float32."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import triton_kernels
from .contract import BEYOND, MOST, Net

BLOCK, WARPS = 64, 2  # points and warps a program; see the kernels for why two
LEAST = 16  # rows and columns of a product of a tensor core


def _wide(count: int) -> int:
    return max(LEAST, triton.next_power_of_2(count))


def _packed(weight: Tensor) -> Tensor:  # [out,in] -> [wide in,wide out] float16
    rows, columns = weight.shape
    whole = weight.new_zeros(_wide(columns), _wide(rows), dtype=torch.float16)
    whole[:columns, :rows] = weight.t()
    return whole


def _row(values: Tensor, wide: int) -> Tensor:  # [...,K] -> [...,wide] float32
    return torch.nn.functional.pad(values.float(), (0, wide - values.shape[-1])).contiguous()


def _half(features: Tensor) -> Tensor:
    return features.to(torch.float16).contiguous()


class Colours:
    dtype = torch.float16

    def __init__(self, net: Net, views: Tensor) -> None:
        hidden, inside = _wide(len(net.bias)), _wide(len(net.tint))
        first = [_packed(weight) for weight in net.first]
        gates = first[:1] * 5 if net.gates is None else [_packed(weight) for weight in net.gates]  # not read where there are none
        bend = net.bias.new_zeros(hidden) if net.bend is None else _row(net.bend, hidden)
        self.views = torch.nn.functional.pad(views, (0, inside - views.shape[1])).to(torch.float16)
        self.weights = (
            first[0], first[-1], _row(net.bias, hidden), *gates, _packed(net.second), bend, _row(net.solid, hidden), _packed(net.tint),
            _row(net.last, inside),
        )  # fmt: skip
        one, two = net.first[0].shape[1], net.first[1].shape[1] if len(net.first) > 1 else 0
        self.shift, self.widths = net.shift, [one, two][: len(net.first)]
        self.shape = {
            "ONE": one, "WIDE_ONE": _wide(one), "TWO": two, "WIDE_TWO": _wide(two), "HIDDEN": hidden, "INSIDE": inside,
            "GATES": net.gates is not None, "HEAR": gates[0].shape[1], "LOOK": gates[2].shape[1], "LIDS": gates[3].shape[1],
        }  # fmt: skip

    @torch.no_grad()
    def __call__(self, parts: list[Tensor], ray: Tensor) -> tuple[Tensor, Tensor]:
        if [part.shape[1] for part in parts] != self.widths:
            raise ValueError(f"features have widths {[part.shape[1] for part in parts]}: {self.widths} wanted")
        count, (first, other) = len(ray), (_half(parts[0]), _half(parts[-1]))
        density, colour = (ray.new_empty(shape, dtype=torch.float32) for shape in ((count,), (count, 3)))
        if count:
            with torch.cuda.device_of(ray):
                triton_kernels.shade[(triton.cdiv(count, BLOCK),)](
                    first, other, ray.contiguous(), self.views, *self.weights, density, colour, count, self.shift,
                    LIMIT=MOST, BEYOND=BEYOND, BLOCK=BLOCK, num_warps=WARPS, **self.shape,
                )  # fmt: skip
        return density, colour


class Coordinates:
    def __init__(self, first: Tensor, bias: Tensor, second: Tensor, third: Tensor) -> None:
        self.weights = (_packed(first), _row(bias, _wide(len(bias))), _packed(second), _row(third, _wide(len(second))))
        (_, one), middle, self.out = first.shape, len(second), len(third)
        self.shape = {"ONE": one, "WIDE": _wide(one), "HIDDEN": _wide(len(bias)), "INSIDE": _wide(middle), "OUT": self.out}

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:  # [N,K] -> [N,D] in 0..1
        count, features = len(features), _half(features)
        place = features.new_empty(count, self.out, dtype=torch.float32)
        if count:
            with torch.cuda.device_of(features):
                triton_kernels.coordinate[(triton.cdiv(count, BLOCK),)](
                    features, *self.weights, place, count, BLOCK=BLOCK, num_warps=WARPS, **self.shape
                )  # fmt: skip
        return place
