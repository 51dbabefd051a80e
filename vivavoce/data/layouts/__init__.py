"""Data sets by name: `lrs2:/data/lrs2` -> recordings, each with its identity, its split and what the data set tells of it.

A file here is a family of layouts; a new one is a function from a folder to recordings, and a line in its file's `LAYOUTS`.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from vivavoce.data.layouts import acted, cut, folders, speech
from vivavoce.data.layouts.recording import Layout, Recording, said
from vivavoce.data.layouts.splits import assigned
from vivavoce.types import InputError

__all__ = ["LAYOUTS", "Layout", "Recording", "find", "named", "recordings", "said"]

LAYOUTS: dict[str, Layout] = {one.name: one for part in (speech, acted, cut, folders) for one in part.LAYOUTS}


def find(name: str) -> Layout:
    """The layout of that name. Raises InputError with the nearest name when there is none."""
    known = LAYOUTS | {alias: one for one in LAYOUTS.values() for alias in one.aliases}
    plain = name.lower().replace("-", "_")
    if plain not in known:
        near = difflib.get_close_matches(plain, known, 1)
        raise InputError(name, "no such data set", f"did you mean {near[0]}?" if near else "see: vivavoce list --data")
    return known[plain]


def named(data: str) -> tuple[Layout, Path]:
    """`NAME:PATH` taken apart. Raises InputError when it is not of that form, there is no such name or no such place."""
    name, colon, path = data.partition(":")
    if not colon or not path:
        raise InputError(f"--data {data}", "is not NAME:PATH", "give, for example, --data lrs2:/data/lrs2; names: vivavoce list --data")
    layout, place = find(name), Path(path).expanduser()
    if not place.exists():
        raise InputError(place, "no such folder", "check the path")
    return layout, place


def recordings(data: str) -> list[Recording]:
    """Every recording of `NAME:PATH` in the order of their names, each with a split as far as one can be had.

    Raises InputError as `named` does, when the folder is not laid out so, or when two recordings would have one name.
    """
    layout, place = named(data)
    found = sorted((replace(r, id=r.id.replace(".", "_"), speaker=layout.speaker) for r in layout.read(place)), key=lambda r: r.id)
    for one, other in pairwise(found):
        if one.id == other.id:
            raise InputError(one.video, f"and {other.video} are both {one.id} of {layout.name}", "keep one of them")
    return assigned(found)
