"""The nouns every part shares: Clip, Motion, Camera, the clock, and the one error users see.

A Clip is T consecutive frames and every signal measured on them; row t of every field belongs to frame t, so slicing a
Clip slices everything. Tensors are float32 unless said; images are RGB in [0, 1], channels first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

FPS = 25  # frames a second inside vivavoce; media resamples at the edges
RATE = 16_000  # audio samples a second
HOP = RATE // FPS  # 640 samples a frame, exactly
STEPS = 2  # speech feature steps a frame (50 Hz, the rate of Whisper, wav2vec 2.0 and HuBERT)

Rows = slice | Sequence[int] | Tensor


class InputError(Exception):
    """Bad input, told in one line: the file or option, the cause, and the command or action that helps.

    The command line prints the message alone (no traceback) and exits with 2.
    """

    def __init__(self, subject: object, cause: str, remedy: str = "") -> None:
        self.subject, self.cause, self.remedy = str(subject), cause, remedy
        super().__init__(f"{subject}: {cause}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """So that it reaches the one who asked from a worker process."""
        return InputError, (self.subject, self.cause, self.remedy)


class _Rows:
    """Row-wise behaviour of the dataclasses below: length, slicing, moving, joining."""

    def _parts(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if isinstance(v, (Tensor, _Rows))}

    def __len__(self) -> int:
        for value in self._parts().values():
            return len(value)
        return 0

    def __getitem__(self, rows: Rows) -> Self:
        """The given rows of every field; an integer is not accepted: a Clip of one frame is `clip[t:t + 1]`."""
        if isinstance(rows, Sequence):
            rows = torch.as_tensor(rows, dtype=torch.long)
        return replace(self, **{k: v[rows] for k, v in self._parts().items()})  # type: ignore[type-var]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Every tensor moved as by `Tensor.to`; integer tensors keep their dtype."""

        def move(v: Any) -> Any:
            if isinstance(v, Tensor) and not v.is_floating_point():
                device: list[Any] = [a for a in args if isinstance(a, str | torch.device)]
                return v.to(*device, **{k: w for k, w in kwargs.items() if k != "dtype"})
            return v.to(*args, **kwargs)

        return replace(self, **{k: move(v) for k, v in self._parts().items()})  # type: ignore[type-var]

    def detach(self) -> Self:
        return replace(self, **{k: v.detach() for k, v in self._parts().items()})  # type: ignore[type-var]

    @classmethod
    def cat(cls, items: Sequence[Self]) -> Self:
        """Rows of several pieces one after another; every piece must have the same fields."""
        first = items[0]
        names = first._parts()
        joined = {
            k: type(v).cat([getattr(i, k) for i in items]) if isinstance(v, _Rows) else torch.cat([getattr(i, k) for i in items])
            for k, v in names.items()
        }
        return replace(first, **joined)  # type: ignore[type-var]


@dataclass
class Motion(_Rows):
    """Rigid head pose and expression code, in a named motion space ("blendshapes", "landmarks", "bfm", "keypoints")."""

    rotation: Tensor  # [T,3] rad: pitch, yaw, roll, the one order of face/pose.py
    translation: Tensor  # [T,3] head in camera (metres of the canonical head), or relative to the source
    scale: Tensor  # [T,1]
    expression: Tensor  # [T,E]
    space: str = "blendshapes"


@dataclass
class Camera(_Rows):
    """Pinhole camera, OpenCV axes (x right, y down, z forward)."""

    pose: Tensor  # [T,4,4] world from camera; the world is the canonical head
    focal: Tensor  # [T,2] px
    center: Tensor  # [T,2] px, pixel centres at +0.5


@dataclass
class Clip(_Rows):
    """T consecutive frames and what was measured on them; None = not measured."""

    frames: Tensor | None = None  # [T,3,H,W]
    audio: Tensor | None = None  # [T,640]
    speech: Tensor | None = None  # [T,W,D] windows of features around the frame
    motion: Motion | None = None
    camera: Camera | None = None
    landmarks: Tensor | None = None  # [T,68,2] px
    points: Tensor | None = None  # [T,478,3] px, the dense face mesh; z grows away from the viewer, in px too
    labels: Tensor | None = None  # [T,H,W] uint8, classes of face/regions.py
    torso: Tensor | None = None  # [T,4,H,W]
    background: Tensor | None = None  # [T,3,H,W]
    body: Tensor | None = None  # [T,2,3+n*n] canonical body picture -> frame: an affine map, then nodes of a spline before it
    eyes: Tensor | None = None  # [T,2] openness of left and right eye, 0 shut to 1 open
    units: Tensor | None = None  # [T,U] action units / blendshapes
    mouth: Tensor | None = None  # [T,4] px: x0, y0, x1, y1
    index: Tensor | None = None  # [T] int64: number of the frame in the source

    def missing(self, needs: Iterable[str]) -> list[str]:
        """Names among `needs` that this clip does not hold, sorted."""
        return sorted(n for n in needs if getattr(self, n) is None)


class Source(Protocol):
    """What a Talker plays from: a portrait (one row), a person folder, a corpus clip. Decodes lazily."""

    size: tuple[int, int]  # height, width

    def __len__(self) -> int: ...

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The given rows with the fields named by `needs`; raises InputError naming what is not there."""
        ...


def mirror(rows: Tensor, length: int) -> Tensor:  # [T], int -> [T]
    """Row numbers of a source played to and fro: 0 .. n-1, n-1 .. 0, ... (no jump at either end)."""
    turn = rows % (2 * length)
    return torch.where(turn < length, turn, 2 * length - 1 - turn)
