"""What is behind a head: one canonical picture of the body, laid where the body is in each frame, over a background plate.

Two back ends that agree (tested): "torch" (any device and dtype, differentiable in everything; the oracle) and "numba" (CPU,
float32, no gradients, a fifth of the time: no grid of places is written and read back). "auto" takes numba for CPU tensors when it is
installed and nobody asks for a gradient.

Coordinates are -1 to 1 from edge to edge of a picture, its pixels' centres half a pixel inside; the picture continues its edge.
"""

from __future__ import annotations

import torch as pytorch  # importing the back end of that name binds `torch` in this package
from torch import Tensor

from vivavoce.render.backends import installed, load

BACKENDS = ("torch", "numba")


def choose(parts: tuple[Tensor | None, ...]) -> str:
    """The fastest back end that can draw these tensors as they are."""
    given = [part for part in parts if part is not None]
    plain = all(part.device.type == "cpu" and part.dtype == pytorch.float32 for part in given)
    free = pytorch.is_grad_enabled() and any(part.requires_grad for part in given)
    return "numba" if plain and not free and installed("numba") else "torch"


def draw(
    picture: Tensor,  # [4,h,w] premultiplied colour and alpha
    plate: Tensor,  # [3,H,W] straight, as large as the frames
    flow: Tensor,  # [T,2,f,f] added to the places last, bilinear from corner to corner of the frame
    affine: Tensor,  # [T,2,3] frame -> picture
    field: Tensor | None,  # [T,2,n,n] taken off where the affine map ends, bilinear from corner to corner of the picture
    size: tuple[int, int],  # H, W
    backend: str = "auto",
) -> Tensor:  # [T,3,H,W]
    """The picture moved as told over the plate, for each row. Raises InputError for a back end that is not there, ValueError
    for one that cannot draw this."""
    able = choose((picture, plate, flow, affine, field))
    module = load(__name__, BACKENDS, backend, able)
    if backend == "numba" and able != "numba":
        raise ValueError("the numba back end draws float32 tensors of the CPU without gradients")
    drawn: Tensor = module.draw(picture, plate, flow, affine, field, size)
    return drawn
