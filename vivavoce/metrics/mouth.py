"""What mouths and eyes do over time: following, silence, blinks, trembling."""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.face import regions
from vivavoce.metrics.checked import checked
from vivavoce.types import FPS

BLINK = 0.5  # of the person's usual openness: eyes below it are shut
SHORTEST = 2  # frames that a blink lasts at least


def following(made: Tensor, real: Tensor) -> float:  # [T] x2
    """Pearson correlation of two openings over time; 0 where one of them never moves."""
    checked("mouth r", made, real, least=3)
    pair = torch.stack([made, real]).double()
    return float(torch.corrcoef(pair)[0, 1]) if float(pair.std(1).min()) > 0 else 0.0


def silence_motion(opening: Tensor, speaking: Tensor) -> float:  # [T], [T] bool
    """How much the mouth moves while nobody speaks, as a share of how much it moves in speech: mean absolute change of the opening.

    NaN where there is no silence or no speech of two frames.
    """
    checked("silence motion", opening, speaking, least=2)
    moved = opening.double().diff().abs()
    silent, spoken = ~(speaking[1:] | speaking[:-1]), speaking[1:] & speaking[:-1]
    if not bool(silent.any()) or not bool(spoken.any()):
        return float("nan")
    return float(moved[silent].mean() / moved[spoken].mean().clamp(min=1e-9))


def eye_openness(points: Tensor) -> Tensor:  # [T,478,2 or 3] px -> [T]
    """Eye aspect ratio (Soukupova and Cech, 2016): gap of the lids over the width of the eye, mean of both.

    On 71 s of a news anchor, looked at, it tells blinks at any threshold from 0.4 to 0.7 of the usual (36 to 42 a minute), where the
    scores of the expression net find 2 to 42.
    """
    checked("eye openness", points)
    eyes = ((regions.LIDS_RIGHT, regions.CORNERS_RIGHT), (regions.LIDS_LEFT, regions.CORNERS_LEFT))
    ratios = []
    for lids, (outer, inner) in eyes:
        gap = torch.stack([(points[:, a, :2] - points[:, b, :2]).norm(dim=1) for a, b in lids]).mean(0)
        ratios.append(gap / (points[:, outer, :2] - points[:, inner, :2]).norm(dim=1).clamp(min=1e-6))
    return torch.stack(ratios).mean(0)


def blinks(openness: Tensor) -> float:  # [T] of `eye_openness`
    """Blinks a second: stretches of at least SHORTEST frames in which the eyes are below BLINK of their 90th percentile."""
    checked("blink rate", openness, least=FPS)
    shut = (openness < BLINK * openness.quantile(0.9)).to(torch.int8)
    edges = torch.cat([shut.new_zeros(1), shut, shut.new_zeros(1)]).diff()
    lengths = (edges == -1).nonzero()[:, 0] - (edges == 1).nonzero()[:, 0]
    return float((lengths >= SHORTEST).sum()) * FPS / len(openness)


def jitter(points: Tensor) -> float:  # [T,P,2] px -> px a frame^3
    """Trembling: 95th percentile over points and frames of the third difference's length, divided by what white noise of one pixel
    gives (the root of 20), so that it reads as px of noise. Smooth motion counts next to nothing."""
    checked("jitter", points, least=4)
    return float(points.double().diff(n=3, dim=0).norm(dim=-1).flatten().quantile(0.95) / 20**0.5)


class Trembling:
    """`jitter` of a stream, a few frames at a time, in memory that does not grow: lengths are counted in bins 0.5 % wide."""

    LOW, STEP = 1e-4, 0.005  # px of the first bin; width of a bin in natural logarithm

    def __init__(self) -> None:
        self.counts = torch.zeros(4096, dtype=torch.long)
        self.recent: Tensor | None = None

    def cut(self) -> None:
        """The next frame does not follow the last one."""
        self.recent = None

    def add(self, points: Tensor) -> None:  # [t,P,2] px
        """Frames that follow those of before."""
        checked("jitter", points)
        rows = points.double() if self.recent is None else torch.cat([self.recent, points.double()])
        self.recent = rows[-3:]
        if len(rows) > 3:
            lengths = rows.diff(n=3, dim=0).norm(dim=-1).flatten() / 20**0.5
            bins = ((lengths.clamp(min=self.LOW) / self.LOW).log() / self.STEP).long().clamp(max=len(self.counts) - 1)
            self.counts += torch.bincount(bins, minlength=len(self.counts))

    def value(self) -> float:
        """Within 0.5 % of `jitter`; NaN when no four frames followed one another."""
        total = int(self.counts.sum())
        if not total:
            return float("nan")
        place = int(torch.searchsorted(self.counts.cumsum(0), round(0.95 * (total - 1)) + 1))
        return self.LOW * float(torch.tensor((place + 0.5) * self.STEP).exp()) if place else 0.0


def blendshape_error(made: Tensor, real: Tensor) -> Tensor:  # [T,52] x2 -> [T]
    """Mean absolute difference of blendshape scores. Not the field's AUE, which needs OpenFace's intensities: `unit_error`."""
    checked("blendshape error", made, real)
    return (made - real).abs().mean(1)


LOWER = (10, 12, 14, 15, 17, 20, 23, 25, 26)  # action units of the lower face
UPPER = (1, 2, 4, 5, 6, 7, 9, 45)


def unit_error(made: dict[int, Tensor], real: dict[int, Tensor], units: tuple[int, ...] = LOWER + UPPER) -> Tensor:  # {AU: [T]} -> [T]
    """AUE: squared difference of OpenFace intensities (`AU<nn>_r` of its tables), summed over the units (AUE-L with LOWER, AUE-U with
    UPPER). Papers differ in sum or mean: this is the sum. Raises KeyError for a unit that a table lacks."""
    for u in units:
        checked("AUE", made[u], real[u])
    return torch.stack([made[u] - real[u] for u in units]).square().sum(0)
