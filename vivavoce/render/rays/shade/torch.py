"""Networks of a frame in plain torch: the oracle. Any float dtype and device."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import BEYOND, MOST, Net


class Colours:
    def __init__(self, net: Net, views: Tensor) -> None:
        self.net, self.views, self.dtype = net, views, views.dtype
        self.seen = torch.cat([part.t() for part in net.first]) if len(net.first) > 1 else net.first[0].t()

    @torch.no_grad()
    def __call__(self, parts: list[Tensor], ray: Tensor) -> tuple[Tensor, Tensor]:  # [N,K] each, [N] -> [N], [N,3]
        net, x = self.net, parts[0]
        inner = torch.addmm(net.bias, x if len(parts) == 1 else torch.cat(parts, 1), self.seen)
        if net.gates is not None:
            hear, heard, look, lids, seen = net.gates
            inner.addmm_((x @ hear.t()).relu_(), heard.t())
            inner.addmm_(((x @ look.t()).relu_() @ lids.t()).sigmoid_(), seen.t())
        inner = inner.relu_() @ net.second.t()
        inner = (inner if net.bend is None else inner.add_(net.bend)).relu_()
        density = (inner @ net.solid + net.shift).clamp_(max=MOST).exp_()
        tinted = self.views.index_select(0, ray).addmm_(inner, net.tint.t()).relu_()
        return density, (tinted @ net.last.t()).sigmoid_().mul_(1 + 2 * BEYOND).sub_(BEYOND)


class Coordinates:
    def __init__(self, first: Tensor, bias: Tensor, second: Tensor, third: Tensor) -> None:
        self.layers = (first, bias, second, third)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:  # [N,K] -> [N,D] in 0..1
        first, bias, second, third = self.layers
        inner = torch.addmm(bias, features, first.t()).relu_() @ second.t()
        return (inner.relu_() @ third.t()).tanh_().add_(1).div_(2)
