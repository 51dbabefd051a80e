"""A speaking face and the same face at rest, in blendshape roots (`blendshapes.curve`, in which scores are nearly linear in movement).

What a voice does to a face is told as a difference from that face with its mouth shut. From a stretch of speech the shut mouth is
the mean of the frames whose lips are nearest to each other; from a portrait it is the portrait's own, or, where that one smiles
with open lips, the mouth that people usually have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.face import blendshapes

SHUT_SHARE = 0.2  # of a stretch's frames, those with the narrowest mouth, make its rest
OPEN = (0.0005, 0.0020)  # metres of a source's lip gap: below its mouth rests as it is, above as shut mouths rest
GATE = (0.3, 0.7)  # probability of a voice at which the mouth is held shut, and left free
FREED, HELD = 0.4, 0.25  # most a gate opens and shuts in a frame: a mouth takes three frames to begin and four to end


def scores(roots: Tensor) -> Tensor:  # [...,52] -> [...,52]
    """Inverse of `blendshapes.curve`."""
    low, high = blendshapes.KNEE**0.5, (1 + blendshapes.KNEE) ** 0.5
    found: Tensor = (roots.clamp(0, 1) * (high - low) + low).square() - blendshapes.KNEE
    return found


def rest(units: Tensor) -> Tensor:  # [C,L,52] scores -> [C,1,52] roots
    """The face of each stretch when its mouth is shut."""
    gap = blendshapes.load().to(units.device).gap(units).mean(-1)
    count = max(1, round(SHUT_SHARE * units.shape[1]))
    shut = gap.argsort(1)[:, :count, None].expand(-1, -1, units.shape[-1])
    return blendshapes.curve(units).gather(1, shut).mean(1, keepdim=True)


def usual(rests: Tensor) -> Tensor:  # [C,52] roots -> [52]
    """The rest of those whose lips do meet at rest."""
    gap = blendshapes.load().to(rests.device).gap(scores(rests)).mean(1)
    return rests[gap <= gap.quantile(SHUT_SHARE)].mean(0)


def opening(moves: Tensor) -> Tensor:  # [C,L,52] roots less those at rest -> [C,1,1] metres
    """How far the lips open in a stretch: the root mean square of their gap over that at rest, as far as it is linear."""
    lips = blendshapes.load().to(moves.device).lips[:-1].mean(1)
    return (moves @ lips).square().mean(1).sqrt()[:, None, None]


def closed(units: Tensor, shut: Tensor) -> Tensor:  # [52] scores, [52] roots -> [52] roots
    """A portrait's face at rest: as it is, with the mouth of `shut` as far as its own is open."""
    found = blendshapes.curve(units)
    gap = float(blendshapes.load().to(units.device).gap(units).amax())
    share = min(1.0, max(0.0, (gap - OPEN[0]) / (OPEN[1] - OPEN[0])))
    mouth = torch.tensor(blendshapes.MOUTH, device=found.device)
    found[mouth] = torch.lerp(found[mouth], shut[mouth], share)
    return found


def free(logit: Tensor) -> Tensor:  # [T] -> [T] 0..1
    """How free a mouth is by the logit of there being a voice."""
    low, high = GATE
    return ((logit.sigmoid() - low) / (high - low)).clamp(0, 1)


def slowed(free: Tensor, gate: float) -> tuple[Tensor, float]:  # [T] -> [T] 0..1
    """A gate that neither opens nor shuts at once, and where it is after these frames."""
    rows = []
    for value in free.tolist():
        gate = min(max(value, gate - HELD), gate + FREED)
        rows.append(gate)
    return free.new_tensor(rows), gate
