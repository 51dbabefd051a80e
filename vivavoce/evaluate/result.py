"""What one run did on one person: a folder with `eval.json`, `frames.webp` and `film.mp4`, there whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vivavoce.evaluate.subject import Protocol
from vivavoce.files import whole
from vivavoce.types import InputError

FILE, FRAMES = "eval.json", "frames.webp"
FORMAT = 1
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Result:
    """Figures of one run on one person, with all that they hang on.

    `made` and `truth`: {version: {figure: value}}; None is "cannot be said", and `notes` says why. `place`: the folder it was read from.
    """

    label: str
    method: str
    preset: str
    family: str
    person: str
    weights: str
    protocol: Protocol
    reads: list[str]  # Clip fields that the method is given for each frame
    told: bool  # the lips come from what was measured on the test video, not from its sound
    made: dict[str, Figures]
    truth: dict[str, Figures]
    costs: Figures
    notes: dict[str, str]
    machine: str
    date: str
    prepared: str  # hash of the person folder
    asked: dict[str, str]  # networks that were chosen: identity, fid, fvd
    driver: str = ""  # the generator whose motion it draws
    learnt: str = ""  # name of the person it has learnt, where it is judged on another
    place: Path = field(default=Path(), compare=False)

    @property
    def name(self) -> str:
        """The label, less the person's name at its end: rows of a person's table need not say whose they are."""
        parts = (part.removesuffix(f"_{self.person}").removesuffix(f"-{self.person}") for part in self.label.split("+"))
        return "+".join(parts) or self.label

    @property
    def title(self) -> str:
        """As the tables call it."""
        name = self.name if self.method in self.label else f"{self.name} ({self.method})"
        steps = self.costs.get("steps")
        words = [w for w in (self.preset, f"{steps:.0f} steps" if steps else "") if w]
        return ", ".join([name, *words])


def finite(values: dict[str, float]) -> Figures:
    """None for what is infinite or not a number, as JSON has it."""
    return {k: float(v) if v is not None and math.isfinite(v) else None for k, v in values.items()}


def save(result: Result, folder: Path) -> None:
    """Write eval.json into a folder."""
    page = {"format": FORMAT, **{k: v for k, v in asdict(result).items() if k != "place"}}
    with whole(folder / FILE) as part:
        part.write_text(json.dumps(page, indent=1), "utf-8")


def load(folder: Path) -> Result:
    """Read a result. Raises InputError for a file that is none."""
    path, again = folder / FILE, "make it again: vivavoce eval RUN --again"
    try:
        page: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if page.pop("format", 0) != FORMAT:
            raise InputError(path, "written by another version of vivavoce", again)
        return Result(**{**page, "protocol": Protocol(**page["protocol"])}, place=folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"no result of vivavoce eval ({error})", again) from error


def into_place(made: Path, folder: Path) -> None:
    """A finished folder under its name, in place of an older one."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(made, folder)
    shutil.rmtree(old, ignore_errors=True)


def gathered(places: Sequence[str | Path]) -> list[Result]:
    """Results found in files and folders, however deep; of one run, person, protocol and weights the newest.

    Raises InputError for a place without one.
    """
    if not places:
        raise InputError("vivavoce eval --merge", "nothing is given", "give eval.json files, or folders that hold them")
    found = []
    for place in map(Path, places):
        files = [place] if place.is_file() else sorted(place.rglob(FILE))
        files = [f for f in files if not f.parent.name.endswith((".part", ".old"))]
        if not files:
            raise InputError(place, "no eval.json in it", "copy the folders that vivavoce eval wrote")
        for file in files:
            if file.name != FILE:
                raise InputError(file, "not an eval.json", "give eval.json files, or folders that hold them")
            found.append(load(file.parent))
    return newest(found)


def newest(results: Sequence[Result]) -> list[Result]:
    """Of one run, person, protocol and weights the newest; the first of those of one day that has its pictures beside it."""
    kept: dict[tuple[Any, ...], Result] = {}
    for result in results:
        key = (result.label, result.person, result.protocol, result.weights)
        if key not in kept or (kept[key].date, _seen(kept[key])) < (result.date, _seen(result)):
            kept[key] = result
    return list(kept.values())


def _seen(result: Result) -> bool:
    return (result.place / FRAMES).is_file()
