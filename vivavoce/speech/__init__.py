"""Audio -> speech features, one file an encoder (or a family of them); the same result live in 20 ms chunks and offline.

Every encoder makes feature steps at 50 Hz (two a frame), from a stream: `push` takes any number of samples and gives the
steps that are final. Offline is a stream of one chunk, so nothing can differ. `lookahead` says, in milliseconds, how much
audio after a step the encoder must hear before it gives that step.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from vivavoce.types import HOP, STEPS, InputError


class Encoder(Protocol):
    """An encoder: `load(device) -> Encoder` in `speech/<name>.py`; a file of several lists them as `NAMES` and has `load(device, name)`."""

    name: str
    dim: int  # D
    lookahead: int  # ms

    def start(self) -> Any:
        """State of a new stream."""
        ...

    def push(self, samples: Tensor, state: Any, last: bool = False) -> tuple[Tensor, Any]:  # [n] -> [m,D]
        """Feed samples at 16 kHz, get the steps that became final. With `last`, the stream is padded with silence to
        a whole frame and all steps left come out: in total 2 * ceil(samples / 640)."""
        ...


@cache
def _loaders() -> dict[str, Callable[[str | torch.device], Encoder]]:
    found: dict[str, Callable[[str | torch.device], Encoder]] = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{name}")
        if not hasattr(module, "load"):
            continue  # a listener of another kind, as vad
        family = getattr(module, "NAMES", ())
        found |= {n: partial(module.load, name=n) for n in family} if family else {name: module.load}
    return found


def names() -> list[str]:
    return sorted(_loaders())


def load(name: str, device: str | torch.device = "cpu") -> Encoder:
    """The encoder of that name. Raises InputError when it does not exist or its weights cannot be had."""
    if name not in _loaders():
        raise InputError(name, "no such speech encoder", f"choose from: {', '.join(names())}")
    return _loaders()[name](device)


def encode(encoder: Encoder, audio: Tensor) -> Tensor:  # [N] -> [T,2,D]
    """Features of a whole recording, two steps a frame, T = ceil(N / 640): a stream of one chunk."""
    steps, _ = encoder.push(audio, encoder.start(), last=True)
    return steps.reshape(-1, STEPS, steps.shape[-1])


class Windows:
    """Cuts a stream of steps into one window a frame: steps [2t - past, 2t + future) around frame t, zeros outside.

    `push` gives the windows that are complete; the same rows come out however the steps are cut.
    """

    def __init__(self, past: int, future: int, dim: int) -> None:
        self.past, self.future = past, future
        self.kept = torch.zeros(past, dim)  # steps from 2 * (next frame) - past on
        self.frames = 0  # windows given so far

    def push(self, steps: Tensor, last: bool = False) -> Tensor:  # [m,D] -> [t,past+future,D]
        kept = torch.cat([self.kept.to(steps), steps])
        if last:
            whole = (len(kept) - self.past) // STEPS
            kept = torch.cat([kept, kept.new_zeros(self.future, kept.shape[1])])
        else:
            whole = max(0, (len(kept) - self.past - self.future) // STEPS + 1)
        width = self.past + self.future
        rows = kept.unfold(0, width, STEPS)[:whole].transpose(1, 2) if whole else kept.new_zeros(0, width, kept.shape[1])
        self.kept = kept[whole * STEPS :]
        self.frames += whole
        return rows


def windows(features: Tensor, past: int, future: int) -> Tensor:  # [T,2,D] -> [T,past+future,D]
    """`Windows` over a whole recording."""
    return Windows(past, future, features.shape[-1]).push(features.reshape(-1, features.shape[-1]), last=True)


@dataclass(frozen=True)
class Stream:
    """State of an encoder that works on windows of samples at fixed places: window k is samples [k * hop - before, ... + width).

    Places are counted from the start of the stream, zeros stand outside it, so windows do not depend on how the audio is cut.
    One window makes `hop / 320` steps.
    """

    width: int
    hop: int
    kept: Tensor  # [n] samples from k * hop - before on, k the next window
    heard: int = 0  # samples so far
    given: int = 0  # windows so far

    @classmethod
    def begin(cls, width: int, hop: int, before: int, device: str | torch.device = "cpu") -> Self:
        return cls(width, hop, torch.zeros(before, device=device))

    def push(self, samples: Tensor, last: bool = False) -> tuple[Tensor, int, Self]:  # [n] -> [m,width]
        """Complete windows, how many steps of theirs belong to the stream, and the state after them.

        Raises InputError when the samples are not one row of floating-point numbers.
        """
        if samples.ndim != 1 or not samples.is_floating_point():
            raise InputError("audio", f"{samples.dtype} {list(samples.shape)} is not one row of floating-point samples", "mix it to mono")
        kept, heard = torch.cat([self.kept, samples.to(self.kept)]), self.heard + len(samples)
        per = self.hop // (HOP // STEPS)  # steps a window
        if last:
            steps = STEPS * -(-heard // HOP) - self.given * per
            count = -(-steps // per)
            kept = torch.nn.functional.pad(kept, (0, max(0, (count - 1) * self.hop + self.width - len(kept))))
        else:
            count = max(0, (len(kept) - self.width) // self.hop + 1)
            steps = count * per
        windows = kept.unfold(0, self.width, self.hop)[:count] if count else kept.new_zeros(0, self.width)
        return windows, steps, replace(self, kept=kept[count * self.hop :].clone(), heard=heard, given=self.given + count)


def batched(features: Callable[[Tensor], Tensor], windows: Tensor, batch: int, dim: int) -> Tensor:  # [m,width] -> [m * per,dim]
    """`features` of all windows, at most `batch` at once: the memory of a long recording stays bounded."""
    return torch.cat([features(part) for part in windows.split(batch)]) if len(windows) else windows.new_zeros(0, dim)
