"""The records and the numbers that every back end of `render.rays.shade` shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MOST = 15.0  # logarithm of the greatest density
BEYOND = 0.001  # of a colour below 0 and above 1


class Gates(NamedTuple):
    """Regions that choose what they hear: before += heard relu(hear features_0) + seen sigmoid(lids relu(look features_0))."""

    hear: Tensor  # [G,K]
    heard: Tensor  # [H,G] with the speech in it
    look: Tensor  # [E,K]
    lids: Tensor  # [L,E]
    seen: Tensor  # [H,L] with the eyes in it


class Net(NamedTuple):
    """Layers of one frame. H is the width of the first two, C that of the colour's."""

    first: tuple[Tensor, ...]  # [H,K] for each of one or two inputs
    bias: Tensor  # [H]
    second: Tensor  # [H,H]
    solid: Tensor  # [H] to the logarithm of the density
    shift: float  # of that logarithm
    tint: Tensor  # [C,H]
    last: Tensor  # [3,C]
    bend: Tensor | None = None  # [H] bias of `second`
    gates: Gates | None = None


class Level(NamedTuple):
    """A level of a feature grid, as `nn.grid.plan.Level` says it."""

    table: Tensor  # [E,F] from its first entry on
    scale: float
    second: int  # what vertex numbers along the second axis are multiplied by
    third: int  # and along the third
    hashed: bool
    mask: int
    share: float  # that its features are multiplied by
    axes: tuple[int, ...]  # of the points, two or three


class Read(NamedTuple):
    """Features of points."""

    look: Callable[[Tensor, torch.dtype], Tensor]  # points [N,D] in 0..1 -> [N,K]
    levels: Sequence[Level] | None  # one after another the same features; None: not to be had in that way


class Scene(NamedTuple):
    """A field in one frame, its condition folded into it."""

    places: Read
    net: Net
    sight: Tensor  # [C,16] harmonics of the direction of view to the layer before the colour
    beside: Tensor  # [C] what that layer adds
    listen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # the layers of `coordinates`, where there is an ambient coordinate
    around: Read | None = None  # features of that coordinate, the second input of `net`


class Look(Protocol):
    """What `colours` gives."""

    dtype: torch.dtype

    def __call__(self, parts: list[Tensor], ray: Tensor) -> tuple[Tensor, Tensor]: ...


def spherical(directions: Tensor) -> Tensor:  # [N,3] of unit length -> [N,16]
    """Real spherical harmonics of degree 0 to 3."""
    x, y, z = directions.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    values = [
        torch.full_like(x, 0.28209479), -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
        1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (3 * zz - 1), -1.09254843 * x * z, 0.54627422 * (xx - yy),
        -0.59004359 * y * (3 * xx - yy), 2.89061144 * x * y * z, -0.45704580 * y * (5 * zz - 1), 0.37317633 * z * (5 * zz - 3),
        -0.45704580 * x * (5 * zz - 1), 1.44530572 * z * (xx - yy), -0.59004359 * x * (xx - 3 * yy),
    ]  # fmt: skip
    return torch.stack(values, 1)
