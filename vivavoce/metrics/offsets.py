"""Lips against the sound around them: the distances at -15 to +15 frames that LSE and the sync of our own experts are read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce.types import InputError

SHIFTS = 15  # frames to both sides
MOMENT = 5  # frames that are seen at once
BATCH = 20  # moments at once


@dataclass(frozen=True)
class Sync:
    """How well lips and sound agree."""

    offset: int  # frames by which the sound must be moved to fit; 0: in sync
    distance: float  # LSE-D with the authors' weights; lower is better
    confidence: float  # LSE-C with the authors' weights; higher is better
    distances: Tensor  # [n,31] of each moment, at sound shifted by -15..15 frames
    windows: int

    @classmethod
    def of(cls, distances: Tensor) -> Sync:  # [n,31]
        """The figures of a table of distances; NaN where there was nothing to compare."""
        mean = distances.nanmean(0)
        known = torch.isfinite(mean)
        least, at = torch.where(known, mean, torch.inf).min(0)
        return cls((len(mean) - 1) // 2 - int(at), float(least), float(mean[known].median() - least), distances, len(distances))


class Watch:
    """Takes the frames of a clip piece by piece; what is kept does not grow with it but for 31 distances a frame.

    Args:
        count: moments of five frames that are compared.
        see: [m+4,...] frames -> [m,D].
        hear: (first, end) moment -> [end-first,D].
        apart: [m,1,D], [m,31,D] -> [m,31].
        beyond: what stands for sound before the first and after the last moment; NaN: nothing is compared there.
    """

    def __init__(
        self,
        count: int,
        see: Callable[[Tensor], Tensor],
        hear: Callable[[int, int], Tensor],
        apart: Callable[[Tensor, Tensor], Tensor],
        beyond: float = 0.0,
    ) -> None:
        self.count, self.see, self.hear, self.apart, self.beyond = count, see, hear, apart, beyond
        self.waiting: Tensor | None = None  # frames of moments that are not complete
        self.heard: Tensor | None = None  # of moments from `done - SHIFTS` on
        self.known, self.done = 0, 0  # moments heard, moments seen
        self.tables: list[Tensor] = []

    @torch.no_grad()
    def push(self, frames: Tensor) -> None:  # [t,...]
        """The next frames."""
        waiting = frames if self.waiting is None else torch.cat([self.waiting, frames])
        while (many := min(len(waiting) - MOMENT + 1, self.count - self.done, BATCH)) > 0:
            seen = self.see(waiting[: many + MOMENT - 1])
            self.tables.append(self.apart(seen[:, None], self._around(many)))
            waiting = waiting[many:]
            self.done += many
        self.waiting = waiting[: MOMENT - 1].clone()  # a copy, or all that was pushed would stay

    def _around(self, many: int) -> Tensor:  # -> [many,31,D]
        """The sound around the next moments."""
        while self.known < min(self.done + many + SHIFTS, self.count):
            end = min(self.known + BATCH, self.count)
            new = self.hear(self.known, end)
            before = new.new_full((SHIFTS, new.shape[1]), self.beyond) if self.heard is None else self.heard
            self.heard, self.known = torch.cat([before, new]), end
        assert self.heard is not None
        rows = functional.pad(self.heard, (0, 0, 0, max(0, self.done + many + SHIFTS - self.known)), value=self.beyond)
        self.heard = self.heard[many:]
        return rows[: many + 2 * SHIFTS].unfold(0, 2 * SHIFTS + 1, 1).transpose(1, 2)

    def score(self) -> Sync:
        """Of what has come so far. Raises InputError before the fifth frame."""
        if not self.tables:
            raise InputError("sync", "no moment of five frames has come", "push the clip's frames")
        return Sync.of(torch.cat(self.tables))
