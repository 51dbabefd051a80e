"""The records and the numbers that every back end of `render.rays.shade` shares."""

from __future__ import annotations

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


class Look(Protocol):
    """What `colours` gives."""

    dtype: torch.dtype

    def __call__(self, parts: list[Tensor], ray: Tensor) -> tuple[Tensor, Tensor]: ...
