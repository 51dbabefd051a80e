"""Train, val and test for data sets that do not say: by identity, so that nobody is heard in two of them, and always the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from vivavoce.data.layouts.recording import Recording

HELD = 11  # one of so many identities is held out for each split that is wanting
FEW = 3  # fewer identities than these are all trained on; clips of them are held out instead


def assigned(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings with a split each, in their order.

    Splits that the data set gives stay. Of the rest, identities are drawn by a hash of their name: one of eleven for val and one for
    test, as far as the data set has none of its own; of three to ten one for val. Of one or two people every eleventh clip is val;
    where there are fewer clips than that they stay without a split, and a part of each is held out when they are read.
    """
    given = {r.identity: r.split for r in recordings if r.split in ("val", "test")}
    have = {r.split for r in recordings}
    free = sorted({r.identity for r in recordings if not r.split} - given.keys(), key=lambda name: sha256(name.encode()).digest())
    if len(free) < FEW and not have & {"val", "test"}:
        return _by_clip(recordings)
    each = max(1, round(len(free) / HELD))
    most = ("val", "test") if len(free) >= HELD else ("val",) if len(free) >= FEW else ()
    wanting = [split for split in most if split not in have]
    for k, split in enumerate(wanting):
        given |= dict.fromkeys(free[k * each : (k + 1) * each], split)
    return [r if r.split else replace(r, split=given.get(r.identity, "train")) for r in recordings]


def _by_clip(recordings: Sequence[Recording]) -> list[Recording]:
    free = sorted(r.id for r in recordings if not r.split)
    if len(free) < HELD:
        return list(recordings)
    held = set(free[HELD - 1 :: HELD])
    return [r if r.split else replace(r, split="val" if r.id in held else "train") for r in recordings]
