"""Parts of radiance fields: how points are described, how a frame's condition reaches them, density and colour networks.

A frame's condition is one vector, its points are a hundred thousand: a layer over both costs what a layer over the points does
when the condition's share is made once a frame (`Told`), and the direction's once a ray (`Views`). The same sums, in another order.
For a frame that is only drawn the condition goes into the weights themselves (`folded`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nn.grid import Grid
from vivavoce.render.rays import shade
from vivavoce.render.rays.shade import spherical
from vivavoce.types import Clip

SHIFT = 2.5  # of the logarithm of the density: an untrained head is half opaque, a sixteenth of its box deep


@dataclass(frozen=True)
class Rows:
    """Which row of a clip each of N points belongs to."""

    index: Tensor | None  # [N] int64; None: all to the one row there is
    count: int

    def take(self, values: Tensor) -> Tensor:  # [count,C] -> [N,C], or [1,C] that broadcasts
        """Each point's row of `values`. By a product with zeros and ones: its gradient is a product too, where adding up a
        million points into eight rows would make a GPU wait for itself, in an order that differs from run to run."""
        return values if self.index is None else self.shares.to(values.dtype) @ values

    def add(self, points: Tensor, values: Tensor) -> Tensor:  # [N,C], [count,C] -> [N,C]
        """`points + take(values)`, written over `points`, which nobody else may need."""
        return points.add_(values) if self.index is None else points.addmm_(self.shares.to(points.dtype), values.to(points.dtype))

    @cached_property
    def shares(self) -> Tensor:  # [N,count] of zeros and ones
        assert self.index is not None
        return (self.index[:, None] == torch.arange(self.count, device=self.index.device)).float()


@dataclass(frozen=True)
class Views:
    """The rays that N points lie on."""

    directions: Tensor  # [R,3] of length 1
    ray: Tensor  # [N] int64

    def take(self, values: Tensor) -> Tensor:  # [R,C] -> [N,C]
        return values.index_select(0, self.ray)


class _Exponential(torch.autograd.Function):
    """exp whose gradient stops growing: one wild density would throw every weight (Mueller et al., Instant NGP, 2022)."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.clamp(max=15).exp()

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (x,) = context.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * x.clamp(-15, 15).exp()


def exponential(x: Tensor) -> Tensor:
    """exp, with a bounded gradient."""
    return _Exponential.apply(x)  # type: ignore[no-untyped-call]


def waves(points: Tensor, octaves: int) -> Tensor:  # [N,d] -> [N,d+2*d*octaves]
    """The points, and sine and cosine of them times 1, 2, 4, ... (Mildenhall et al., NeRF, 2020, eq. 4, without its pi)."""
    scaled = points[:, None] * 2.0 ** torch.arange(octaves, device=points.device)[:, None]
    return torch.cat([points, scaled.sin().flatten(1), scaled.cos().flatten(1)], 1)


class Told(nn.Module):
    """An MLP over what a point is like and what its row was told: ReLU between the layers, no biases, as in the RAD-NeRF lineage.

    Args:
        width: features of a point. told: numbers of the condition, 0 where the points have heard it already. outs: widths of the layers.
        bias: whether the layers have one, as NeRF's.
    """

    def __init__(self, width: int, told: int, *outs: int, bias: bool = False) -> None:
        super().__init__()
        self.point = nn.Linear(width, outs[0], bias=bias)
        self.row = nn.Linear(told, outs[0], bias=False) if told else None
        for layer in filter(None, (self.point, self.row)):
            nn.init.kaiming_uniform_(layer.weight, 5**0.5)
            layer.weight.data *= (layer.in_features / (width + told)) ** 0.5  # as one layer over both starts
        layers: list[nn.Module] = []
        for a, b in pairwise(outs):
            layers += [nn.ReLU(inplace=True), nn.Linear(a, b, bias=bias)]  # in place: a frame has a million of these
        self.rest = nn.Sequential(*layers)

    def forward(self, points: Tensor | Sequence[Tensor], told: Tensor, rows: Rows) -> Tensor:
        """[N,width], in one piece or in several side by side, and [T,told] -> [N,outs[-1]]."""
        return self.rest(self.before(points, told, rows))

    def before(self, points: Tensor | Sequence[Tensor], told: Tensor, rows: Rows) -> Tensor:  # -> [N,outs[0]]
        """The first layer, before it bends. Of pieces a sum of products: to lay a million rows side by side takes as long."""
        parts = [points] if isinstance(points, Tensor) else list(points)
        weights = self.point.weight.split([part.shape[1] for part in parts], 1)
        first = functional.linear(parts[0], weights[0], self.point.bias)
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            first.addmm_(part.to(first.dtype), weight.t().to(first.dtype))
        return first if self.row is None else rows.add(first, self.row(told))

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers over what is inside, one after another."""
        return [layer for layer in self.rest if isinstance(layer, nn.Linear)]


class Density(nn.Module):
    """Features of a point and the row's condition -> density and what its colour is made of (RAD-NeRF's sigma net).

    Nothing bends between the last layer and the first of the colour's: what is given on to `Colour` is what that layer reads, and
    the layer itself (`shown`) is multiplied into the other's, once for all points.

    Args:
        width: features of a point. told: numbers of the condition. hidden: of the layers.
    """

    def __init__(self, width: int, told: int, hidden: int = 64) -> None:
        super().__init__()
        self.net = Told(width, told, hidden, hidden, 1 + hidden)

    def forward(self, points: Tensor | Sequence[Tensor], told: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:  # -> [N], [N,hidden]
        inner = torch.relu_(self.net.linear[0](torch.relu_(self.net.before(points, told, rows))))
        return exponential((inner @ self.last[0]).float() + SHIFT), inner

    @property
    def last(self) -> Tensor:  # [1+hidden,hidden]
        return self.net.linear[-1].weight

    @property
    def shown(self) -> Tensor:  # [hidden,hidden]
        """The last layer without the density."""
        return self.last[1:]


class Colour(nn.Module):
    """What the density net says of a point, its direction of view and the frame's own code -> colour (RAD-NeRF's colour net).

    Args:
        width: features of a point. code: numbers of the frame's code. hidden: of the layer.
    """

    def __init__(self, width: int = 64, code: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.width = width
        self.net = Told(width + 16, code, hidden, 3)

    def forward(self, inner: Tensor, shown: Tensor, views: Views, code: Tensor, rows: Rows) -> Tensor:
        """Colour [N,3] in 0..1 of points whose features are `inner` [N,K] times the layer `shown` [width,K], not yet multiplied."""
        tint, view = self.net.point.weight.split((self.width, 16), 1)
        first = functional.linear(inner, tint @ shown)  # in half precision where the caller wants that: so must be what is added in place
        first.addmm_(views.take(spherical(views.directions).to(first.dtype)), view.t().to(first.dtype))
        assert self.net.row is not None
        return tinted(self.net.rest(rows.add(first, self.net.row(code))))


def tinted(out: Tensor) -> Tensor:
    """Numbers -> colours; a little beyond 0..1, so that black and white are reached."""
    return torch.sigmoid(out) * (1 + 2 * shade.BEYOND) - shade.BEYOND


def folded(
    places: shade.Read,
    last: Tensor,
    shine: Colour,
    frame: Tensor,
    listen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    around: shade.Read | None = None,
    **layers: Any,
) -> shade.Scene:
    """A field in one frame: the density net's last layer [1+K,K] joined with the colour net, which hears the code `frame` [1,code].
    `layers`: the other fields of the `shade.Net`; the rest as of `shade.Scene`."""
    tint, sight = shine.net.point.weight.split((shine.width, 16), 1)
    assert shine.net.row is not None
    net = shade.Net(solid=last[0], shift=SHIFT, tint=tint @ last[1:], last=shine.net.linear[-1].weight, **layers)
    return shade.Scene(places, net, sight, shine.net.row(frame)[0], listen, around)


class Individual(nn.Module):
    """A few numbers that belong to one training frame alone (its light, its blur); every other frame has their mean.

    Args:
        frames: of the source. width: numbers a frame.
    """

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.zeros(frames, width))

    def forward(self, clip: Clip, count: int) -> Tensor:  # -> [count,width]
        if self.training and clip.index is not None:
            return self.codes[clip.index.clamp(max=len(self.codes) - 1)]
        return self.codes.mean(0, keepdim=True).expand(count, -1)


class AmbientField(nn.Module):
    """The field of RAD-NeRF (section 3.2): a grid over space, and one over an ambient coordinate that the condition gives each point.

    Args:
        levels, finest, table: of the grids. ambient: numbers of the coordinate, 2 or 3.
        told: numbers of the condition. wide: of the network that gives the coordinate. hidden: of the others.
        individual: numbers that belong to one training frame alone.
    """

    def __init__(self, levels: int, finest: int, table: int, ambient: int, told: int, wide: int, hidden: int, individual: int) -> None:
        super().__init__()
        self.places = Grid(3, levels, 2, 16, finest, table, "tiled")
        self.around = Grid(ambient, levels, 2, 16, finest, table, "tiled")
        self.listen = Told(self.places.width, told, wide, wide, ambient)
        self.solid = Density(self.places.width + self.around.width, 2, hidden)
        self.shine = Colour(hidden, individual, hidden)

    def density(self, points: Tensor, told: Tensor, eyes: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density [N], what the colour is made of [N,hidden], and how far the ambient coordinate is from zero [N]."""
        here = self.places(points)
        coordinate = torch.tanh(self.listen(here, told, rows))
        density, inner = self.solid([here, self.around((coordinate + 1) / 2)], eyes, rows)
        return density, inner, coordinate.abs().sum(1)

    def colour(self, inner: Tensor, views: Views, frame: Tensor, rows: Rows) -> Tensor:  # -> [N,3]
        return self.shine(inner, self.solid.shown, views, frame, rows)

    def still(self, told: Tensor, eyes: Tensor, frame: Tensor) -> shade.Scene:
        """The field of one frame (`told`, `eyes`, `frame` [1,...])."""
        net, wide = self.solid.net, self.places.width
        assert net.row is not None and self.listen.row is not None
        first = net.point.weight.split((wide, self.around.width), 1)
        second, third = self.listen.linear
        return folded(
            self.places.reads(), self.solid.last, self.shine, frame,
            (self.listen.point.weight, self.listen.row(told)[0], second.weight, third.weight), self.around.reads(),
            first=first, bias=net.row(eyes)[0], second=net.linear[0].weight,
        )  # fmt: skip
