"""Several person folders as one source: rows of all of them, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from vivavoce.data.person import Person
from vivavoce.types import Clip, InputError, Rows


class Corpus:
    """Rows of many folders; row numbers run through the folders in order.

    Args:
        folders: person folders.
        options: as for `Person`, the same for all.
    Raises:
        InputError: no folder, or images of different sizes (give `size`).
    """

    def __init__(self, folders: Sequence[str | Path], **options: Any) -> None:
        if not folders:
            raise InputError("corpus", "no person folder in it", "run: vivavoce prepare VIDEO")
        self.people = [Person(f, **options) for f in folders]
        self.size = self.people[0].size
        self.ends = torch.tensor([len(p) for p in self.people]).cumsum(0)

        moved = [p.spans + torch.tensor([int(end) - len(p), 0]) for p, end in zip(self.people, self.ends, strict=True)]
        self.spans = torch.cat(moved)  # [n,2] as of Person

    def __len__(self) -> int:
        return int(self.ends[-1])

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The given rows, in the given order."""
        places = torch.arange(len(self))[rows] if isinstance(rows, slice) else torch.as_tensor(rows)
        owner = torch.searchsorted(self.ends, places, right=True)
        order = torch.argsort(owner, stable=True)
        pieces = []
        for person in torch.unique(owner).tolist():
            start = int(self.ends[person - 1]) if person else 0
            pieces.append(self.people[person].clip(places[order][owner[order] == person] - start, needs))
        return Clip.cat(pieces)[torch.argsort(order)]


def person_folders(path: str | Path) -> list[Path]:
    """The path itself when it is a prepared folder, else the prepared folders right inside it, sorted."""
    path = Path(path)
    if (path / "transforms_train.json").is_file():
        return [path]
    return sorted(p.parent for p in path.glob("*/transforms_train.json"))
