"""What numbers an option or a setting can be: one out of its range is told in a line, before anything slow begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from vivavoce.cli.words import option
from vivavoce.types import InputError


class Range(NamedTuple):
    """From `least` to `most`, both included, or `also` (0 or -1 where that has a meaning of its own)."""

    least: float
    most: float = float("inf")
    also: float | None = None

    def __str__(self) -> str:
        numbers = f"{_shown(self.least)} or more" if self.most == float("inf") else f"{_shown(self.least)} to {_shown(self.most)}"
        return numbers if self.also is None else f"{numbers}, or {_shown(self.also)}"


SEED, SHARE, SIGNED = Range(0, 2**31 - 1), Range(0, 1), Range(-1000, 1000)
TRAINED, JUDGED, DRAWN = Range(32, 4096, 0), Range(32, 8192), Range(64, 8192, 0)  # px: a loss that looks at windows and boxes needs 32

VERBS: dict[str, dict[str, Range]] = {
    "prepare": {"task": Range(1, 9)},
    "run": {"seed": SEED, "face": Range(0, 1000)},
    "eval": {"size": JUDGED, "frames": Range(0)},
    "view": {"size": DRAWN, "port": Range(1, 65535)},
    "export": {"frames": Range(1, 100_000), "texture": Range(16, 8192)},
    "train": {
        "accumulate": Range(1), "average": Range(0, 0.999999), "check_every": Range(-1), "patience": Range(0),
        "save_every": Range(0), "keep_every": Range(0), "log_every": Range(1), "profile": Range(0, 10_000),
    },
}  # fmt: skip

# settings of methods whose range their kind of number does not tell
SETTINGS = {
    "steps": Range(1, 10**9), "batch": Range(1, 65_536), "seed": SEED, "size": TRAINED, "side": Range(16, 1024),
    "window_rows": Range(1, 10_000), "table": Range(3, 24), "log2_table": Range(3, 24), "mark_table": Range(3, 24), "levels": Range(1, 32),
    "cells": Range(8, 512), "ambient": Range(2, 3), "resolution": Range(4, 256), "flow_cells": Range(2, 64), "points": Range(16, 10**7),
    "most": Range(1, 10**7), "rate": Range(1e-9, 1), "share": Range(0.01, 4),
}  # fmt: skip
NOUGHT = {  # counts of which none at all makes sense
    "ahead", "bank", "begin", "coarse", "context", "embedding", "fix", "future", "guided", "identity", "judge_steps", "past", "warm",
}  # fmt: skip
ENDS = ("dropout", "_from", "_until", "_share")  # of the names of shares
SHARES = {"curriculum", "decay", "fuse", "keep", "lle", "second", "shut"}
ANY = ("gaze_", "head_", "emotion_", "multiplier", "strength", "sway", "pose")  # how names of numbers begin that may be negative
FURTHER = 64  # times the largest of its presets a count may be: what a slip of two zeros asks for, memory does not have


def check(options: Any, ranges: Mapping[str, Range]) -> None:
    """Raises InputError for a number of `options` that is out of its range, naming the option, the number and the range."""
    for name, allowed in ranges.items():
        value = getattr(options, name, None)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool) or not isinstance(one, int | float) or one == allowed.also:
                continue
            if not allowed.least <= one <= allowed.most:  # nor NaN
                cause = "is too small a number" if not one > allowed.most else "is too large a number"
                raise InputError(f"{option(name)} {_shown(one)}", cause, f"give {allowed}")


def of_settings(plain: Any, presets: list[Any]) -> dict[str, Range]:
    """The range of each setting of a method that is a number, or numbers.

    Args:
        plain: its Config as it is by itself. presets: its Config with each of its presets; what they hold is never out of range.
    """
    found: dict[str, Range] = {}
    for field in dataclasses.fields(plain):
        values = [value for config in (plain, *presets) for value in _numbers(getattr(config, field.name))]
        if values:
            found[field.name] = _around(_range(field.name, values), values)
    return found


def _range(name: str, values: list[float]) -> Range:
    if name in SETTINGS:
        return SETTINGS[name]
    if name.startswith(ANY):
        return SIGNED
    if all(isinstance(value, int) for value in values):
        return Range(0 if name in NOUGHT else 1, max(FURTHER, FURTHER * max(values)))
    if name.endswith(ENDS) or name in SHARES:
        return SHARE
    return Range(0, 1000, -1 if -1 in values else None)


def _around(allowed: Range, values: list[float]) -> Range:
    """The range, wide enough for these values."""
    inside = [value for value in values if value != allowed.also]
    return allowed._replace(least=min([allowed.least, *inside]), most=max([allowed.most, *inside]))


def _numbers(value: Any) -> list[float]:
    return [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int | float) and not isinstance(one, bool)]


def _shown(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
