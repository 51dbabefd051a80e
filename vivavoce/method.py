"""The two contracts a method can fulfil: Renderer (draws frames of one identity) and Generator (speech -> Motion).

A method is one file in `methods/`: a flat `Config` dataclass and one class below. Both contracts train by `loss`;
methods that alternate networks or change their number of parameters override `update`. The loop in train.py knows
nothing else of them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vivavoce.types import Clip, InputError, Motion, Source


class Method(nn.Module):
    """Shared by both contracts. Subclasses set the class variables they differ in.

    Attributes:
        config: the method's dataclass. Common fields, used by the loop when present: `steps` (training steps),
            `batch` (rows a step), `contiguous` (rows of a step are consecutive), `window_rows` (a step has `batch` windows of so
            many consecutive rows instead, one after another: its Clip has batch * window_rows rows), `size` (image height and
            width), `seed`.
        needs: Clip fields read by `render` or `generate` for each row.
        loss_needs: Clip fields read by `loss`, when more than `needs` and `frames`.
        speech: name of the speech encoder whose features the method hears, "" if it hears none.
        window: (past, future) steps of 50 Hz around each frame's first step that a row of `Clip.speech` holds,
            so `Clip.speech` is [T, past + future, D]. `future` is latency: 20 ms a step.
        space: motion space read (Renderer) or made (Generator), "" for none.
        presets: name -> changes to Config. Every method has "tiny" (trains on a CPU in seconds, for tests).
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    loss_needs: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}}

    space: str = ""
    speech: str = ""
    window: tuple[int, int] = (8, 8)
    training_window: tuple[int, int] | None = None  # what a row of speech holds in training, where less than `window` will do
    pieces: int = 1  # parts that `update` works through the rows of a step in, one after another, for less memory

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def setup(self, source: Source) -> None:
        """Initialise from the training source (mean mesh, background, statistics). Called once, before training; not on load."""

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """Named scalars; the loop minimises their sum."""
        raise TypeError(f"{type(self).__name__} is not trained: it has no loss")

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimizers over all parameters; the first is stepped by the default `update`."""
        return [torch.optim.Adam(self.parameters(), lr=getattr(self.config, "rate", 1e-3))]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One training step: gradients of the summed loss, one step of every optimizer. Returns the named losses, detached
        (tensors, not numbers: reading a number would make the GPU wait at every step)."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        parts = [self.loss_of(piece, self.pieces) for piece in _cut(clip, self.pieces, self.config)]
        for optimizer in optimizers:
            optimizer.step()
        return {name: torch.stack([p[name] for p in parts]).sum(0) for name in parts[0]}

    def loss_of(self, clip: Clip, pieces: int) -> dict[str, Tensor]:
        """Adds the gradients of the loss of one of `pieces` equal parts of a step; its share of the named losses, detached."""
        losses = {name: value / pieces for name, value in self.loss(clip).items()}
        torch.stack(list(losses.values())).sum().backward()
        return {name: value.detach() for name, value in losses.items()}


def _cut(clip: Clip, pieces: int, config: Any) -> list[Clip]:
    """Equal parts of whole windows. Raises InputError when there are none."""
    if pieces == 1:
        return [clip]
    window = int(getattr(config, "window_rows", 0)) or 1
    size, left = divmod(len(clip), pieces)
    if left or size % window:
        cause = f"{len(clip) // window} rows or windows a step cannot be cut into so many equal parts"
        raise InputError(f"--accumulate {pieces}", cause, "choose a divisor of --batch")
    return [clip[start : start + size] for start in range(0, len(clip), size)]


class Renderer(Method):
    """Draws frames of one identity.

    `source_needs`: Clip fields that `encode` reads, once, from the source.
    `moves`: fields that `render` brings to its device itself, where that takes fewer copies than one for each of their tensors.
    """

    source_needs: ClassVar[frozenset[str]] = frozenset()
    moves: ClassVar[frozenset[str]] = frozenset()

    def encode(self, source: Clip) -> Any:
        """What `render` needs to know of the identity; None where the identity is in the weights."""
        return None

    def render(self, identity: Any, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames for the rows of `clip`. Each row depends on nothing but itself: a stream equals a file."""
        raise NotImplementedError


class Generator(Method):
    """Speech -> Motion, block by block, with state handed in and out.

    `generate` is called with any number of rows and must give the same result however the rows are cut.
    """

    @property
    def every(self) -> int:
        """It reads the speech of rows 0, `every`, 2 * `every`, ... of a stream; that of the others may be zeros."""
        return 1

    def start(self, source: Clip) -> Any:
        """State before the first row, from the source's first rows (its pose, its rest expression)."""
        return None

    def generate(self, clip: Clip, state: Any) -> tuple[Motion, Any]:
        """Motion of the rows of `clip` and the state after them."""
        raise NotImplementedError
