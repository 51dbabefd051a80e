"""What points of one frame look like: the small networks of a radiance field, for drawing. One contract, two back ends, no gradients.

    net = Net(...)                                          # the layers, with the frame's condition folded into them
    look = colours(net, views)                              # views [R,hidden]: what a ray adds to the layer before the colour
    density, colour = look([features, ...], ray)            # [N,K] each, [N] -> [N], [N,3]
    hear = coordinates(first, bias, second, third)          # an ambient coordinate, as RAD-NeRF's
    place = hear(features)                                  # [N,K] -> [N,2] or [N,3] in 0..1

The sums: before = bias + sum of first_i features_i (+ gates); inner = relu(second relu(before) + bend); density = exp(solid inner +
shift), colour = sigmoid(last relu(tint inner + views[ray])), a little beyond 0..1. `look.dtype` is what features are best given in.

| back end | device, arithmetic |
|---|---|
| torch | any, that of the weights: the oracle |
| triton | CUDA, products of float16 summed in float32; nothing but the results goes through memory |
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch as pytorch  # importing the back end of that name binds `torch` in this package
from torch import Tensor

from vivavoce.types import InputError

from .contract import BEYOND, MOST, Gates, Look, Net

__all__ = ["BACKENDS", "BEYOND", "MOST", "Gates", "Look", "Net", "Still", "choose", "colours", "coordinates"]

BACKENDS = ("torch", "triton")
Still = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # points [N,3] in 0..1, their rays [N] -> density [N], colour [N,3]


def choose(device: pytorch.device) -> str:
    """The fastest back end for tensors of this device."""
    return "triton" if device.type == "cuda" and importlib.util.find_spec("triton") else "torch"


def _load(backend: str, like: Tensor) -> ModuleType:
    if backend == "auto":
        backend = choose(like.device)
    if backend not in BACKENDS:
        raise InputError(f"back end {backend}", "is not known to render.rays.shade", f"use auto or one of {', '.join(BACKENDS)}")
    if backend != "torch" and importlib.util.find_spec(backend) is None:
        raise InputError(f"back end {backend}", "is not installed", f"run: pip install {backend}, or use backend auto")
    return importlib.import_module(f"{__name__}.{backend}")


@pytorch.no_grad()
def colours(net: Net, views: Tensor, backend: str = "auto") -> Look:
    """The networks of a frame, made ready to be asked many times. Raises InputError for a back end that is not there."""
    look: Look = _load(backend, views).Colours(net, views)
    return look


@pytorch.no_grad()
def coordinates(first: Tensor, bias: Tensor, second: Tensor, third: Tensor, backend: str = "auto") -> Any:
    """(tanh(third relu(second relu(first features + bias))) + 1) / 2, made ready to be asked many times."""
    return _load(backend, bias).Coordinates(first, bias, second, third)
