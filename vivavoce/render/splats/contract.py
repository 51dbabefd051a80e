"""The numbers and the record that every back end of `render.splats` shares.

Equations: Kerbl et al. 2023 (3-D Gaussian splatting), Zwicker et al. 2001 (EWA splatting) for the projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

ALPHA_MAX = 0.99  # a splat never hides what is behind it altogether, so that every gradient has a way through
ALPHA_MIN = 1.0 / 255.0  # below one step of an 8-bit image a splat adds nothing to a pixel
STOP = 1e-4  # a splat is composited while the transmittance in front of it is at least this
DILATION = 0.3  # px^2 added to the projected covariance: low-pass filter of about one pixel
NEAR = 0.01  # camera depth (world units) from which a splat is drawn
GUARD = 0.3  # the Jacobian's direction is clamped this fraction of the field of view beyond the image's edge


@dataclass
class Room:
    """How many (splat, tile) pairs pictures may take. A back end that lists them waits for their number, unless it is told one."""

    pairs: tuple[int, ...] = ()  # of each picture drawn in the block, in their order; (): as many as there are
    taken: list[Tensor] = field(default_factory=list)  # [] int64, of each: more than it may take: the picture is not whole


ROOM: ContextVar[Room | None] = ContextVar("room", default=None)


@contextmanager
def bounded(pairs: tuple[int, ...] = ()) -> Iterator[Room]:
    """In this block pictures take so many (splat, tile) pairs at most, and nobody waits for their number: a CUDA graph can hold that.
    Only the triton back end has such lists to bound; the others leave `taken` empty."""
    room = Room(pairs)
    token = ROOM.set(room)
    try:
        yield room
    finally:
        ROOM.reset(token)


class Projected(NamedTuple):
    """B x N splats in the image plane."""

    means2d: Tensor  # [B,N,2] px, pixel centres at +0.5
    conics: Tensor  # [B,N,3] inverse covariance xx, xy, yy in px^-2
    depths: Tensor  # [B,N] camera z
    extents: Tensor  # [B,N,2] px: half the box outside which alpha < ALPHA_MIN; 0 where nothing is drawn; no gradient
