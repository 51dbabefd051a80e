"""What points of one frame look like: the feature grids and small networks of a radiance field, for drawing. No gradients.

    scene = Scene(places, net, sight, beside, ...)          # a field, with the frame's condition folded into its layers
    ask = asked(scene, directions)                          # points [N,3] in 0..1, their rays [N] -> density [N], colour [N,3]
    drawn = draw(scene, rays, occupancy, step, most, stop)  # the same through `rays.trace`, all in one kernel, where it is `whole`

    look = colours(net, views)                              # views [R,hidden]: what a ray adds to the layer before the colour
    density, colour = look([features, ...], ray)            # [N,K] each, [N] -> [N], [N,3]
    hear = coordinates(first, bias, second, third)          # an ambient coordinate, as RAD-NeRF's
    place = hear(features)                                  # [N,K] -> [N,2] or [N,3] in 0..1

The sums: before = bias + sum of first_i features_i (+ gates); inner = relu(second relu(before) + bend); density = exp(solid inner +
shift), colour = sigmoid(last relu(tint inner + views[ray])), a little beyond 0..1. `look.dtype` is what features are best given in.

| back end | device, arithmetic |
|---|---|
| torch | any, that of the weights: the oracle |
| numba | CPU, float32: `draw`; where a scene is not whole, torch |
| triton | CUDA, products of float16 summed in float32: `colours` and `coordinates`; nothing but the results goes through memory |
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch as pytorch  # importing the back end of that name binds `torch` in this package
from torch import Tensor

from vivavoce.render.backends import choose, load
from vivavoce.render.rays.contract import Composited
from vivavoce.render.rays.occupancy import Occupancy

from .contract import BEYOND, MOST, Gates, Level, Look, Net, Read, Scene, spherical

__all__ = [
    "BACKENDS", "BEYOND", "MOST", "Gates", "Level", "Look", "Net", "Read", "Scene", "Still", "asked", "choose", "colours", "coordinates",
    "draw", "spherical", "whole",
]  # fmt: skip

BACKENDS = ("torch", "numba", "triton")
Still = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # points [N,3] in 0..1, their rays [N] -> density [N], colour [N,3]


def _load(backend: str, like: Tensor) -> ModuleType:
    """The back end of a part of a frame: numba draws whole ones."""
    return load(__name__, BACKENDS, backend, choose(like.device).replace("numba", "torch"))


def whole(scene: Scene) -> bool:
    """Whether `draw` is the fastest way to a frame of this scene, and can be had."""
    reads = [scene.places] if scene.around is None else [scene.places, scene.around]
    bias = scene.net.bias
    return choose(bias.device) == "numba" and bias.dtype == pytorch.float32 and all(read.levels is not None for read in reads)


@pytorch.no_grad()
def draw(
    scene: Scene,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],  # origins [R,3], directions [R,3], near [R], far [R]
    occupancy: Occupancy,
    step: float,
    most: int,
    stop: float,
) -> Composited:
    """What `rays.trace` gives for the field of a scene that is `whole`, in the box of the occupancy; densities are a box deep.

    Args:
        step, most: as of `rays.trace`.
        stop: a ray through which less than this is seen goes no further, and is as if what it has seen were all there is: opaque.
    """
    drawn: Composited = load(__name__, BACKENDS, "numba", "").draw(scene, rays, occupancy, step, most, stop)
    return drawn


@pytorch.no_grad()
def asked(scene: Scene, directions: Tensor, backend: str = "auto") -> Still:
    """A scene as a function of points, on rays of these directions [R,3]."""
    look = colours(scene.net, spherical(directions) @ scene.sight.t() + scene.beside, backend)
    if scene.listen is None or scene.around is None:
        return lambda points, ray: look([scene.places.look(points, look.dtype)], ray)
    hear, around = coordinates(*scene.listen, backend), scene.around

    def ask(points: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        here = scene.places.look(points, look.dtype)
        return look([here, around.look(hear(here), look.dtype)], ray)

    return ask


@pytorch.no_grad()
def colours(net: Net, views: Tensor, backend: str = "auto") -> Look:
    """The networks of a frame, made ready to be asked many times. Raises InputError for a back end that is not there."""
    look: Look = _load(backend, views).Colours(net, views)
    return look


@pytorch.no_grad()
def coordinates(first: Tensor, bias: Tensor, second: Tensor, third: Tensor, backend: str = "auto") -> Any:
    """(tanh(third relu(second relu(first features + bias))) + 1) / 2, made ready to be asked many times."""
    return _load(backend, bias).Coordinates(first, bias, second, third)
