"""How a portrait's key points follow a motion, as a function of rows: a portrait is a row of numbers, and so is a moment of motion, so
that moments of several portraits are one batch, recorded with the networks that draw them (`drawing.ready`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vivavoce.nn.graphs import Packing
from vivavoce.nn.liveportrait import keypoints
from vivavoce.nn.liveportrait.keypoints import POINTS, SPACE
from vivavoce.types import Motion

Stitch = Callable[[Tensor, Tensor], Tensor]  # source and driving points [T,K,3] -> driving points [T,K,3]

MOMENT = Packing({"rotation": (3,), "translation": (3,), "scale": (1,), "expression": (3 * POINTS,)})
PORTRAIT = Packing({**MOMENT.shapes, "canonical": (POINTS, 3), "points": (POINTS, 3), "offset": (POINTS, 3)})


def moments(own: Motion, given: Motion, absolute: bool) -> Tensor:  # one row, T rows -> [T,N]
    """Motion as rows of numbers: relative to the portrait's own as it is, absolute as what its face is to do."""
    return MOMENT.pack(vars(keypoints.replaced(own, given) if absolute else given), len(given))


def portrait(canonical: Tensor, motion: Motion, points: Tensor, offset: Tensor) -> Tensor:  # [1,K,3], one row, [1,K,3] twice -> [1,N]
    """A portrait as a row of numbers; `offset` is added to its points, however it moves."""
    return PORTRAIT.pack({**vars(motion), "canonical": canonical, "points": points, "offset": offset}, 1)


def followed(
    portraits: Tensor, given: Tensor, stitch: Stitch | None, absolute: bool, multiplier: float
) -> tuple[Tensor, Tensor]:  # [T,N], [T,n] -> [T,K,3] twice
    """Driving points, and the portraits' own.

    Args:
        portraits: of `portrait`. given: of `moments`.
        stitch: what holds still what is not the face; None: nothing does.
        absolute: the motion is the portrait's, not relative to its own. multiplier: of all movement.
    """
    own, change = PORTRAIT.parts(portraits), MOMENT.parts(given)
    moved = _motion(change) if absolute else keypoints.follow(_motion(own), _motion(change))
    points = keypoints.compose(own["canonical"], moved)
    if stitch is not None:
        points = stitch(own["points"], points)
    return torch.lerp(own["points"], points + own["offset"], multiplier), own["points"]


def _motion(parts: dict[str, Tensor]) -> Motion:
    return Motion(parts["rotation"], parts["translation"], parts["scale"], parts["expression"], SPACE)
