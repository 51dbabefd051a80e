"""The place of a run: made for it, and as it was before when the run is refused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vivavoce.train import ranks


@contextlib.contextmanager
def made(folder: Path, last: str) -> Iterator[Callable[[], None]]:
    """The run folder, made with its parents; gives the function to call when the first step is over.

    An error before that is a refusal (data that lack something, settings that do not go together, too little memory): what came
    into the folder is taken away again, and so are the folders made. What was there before stays, and so does all of a folder that
    holds a run, told by its checkpoint `last`. A run that is interrupted keeps its files: it goes on from them.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]  # deepest first
    kept = set(folder.iterdir()) if folder.is_dir() else set()
    started = (folder / last).is_file() or not ranks.first()  # the first process writes the files
    if ranks.first():
        folder.mkdir(parents=True, exist_ok=True)

    def begun() -> None:
        nonlocal started
        started = True

    try:
        yield begun
    except Exception:
        if not started:
            for place in set(folder.iterdir()) - kept:
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)
            _emptied(new)
        raise
    except KeyboardInterrupt:
        _emptied(new)
        raise


def _emptied(places: list[Path]) -> None:
    """Folders that we made and that hold nothing are taken away, the deepest first."""
    with contextlib.suppress(OSError):  # somebody put something there
        for place in places:
            place.rmdir()
