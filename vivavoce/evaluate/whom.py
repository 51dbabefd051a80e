"""Who is judged on whom: pairs of a subject and a person's folder, and what tables call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vivavoce.evaluate.subject import DRIVEN, Missed, Subject
from vivavoce.types import InputError


def pairs(subjects: Sequence[Subject], folders: Sequence[str | Path], missed: Missed | None = None) -> list[tuple[Subject, Path]]:
    """Each subject with every folder it is judged on: without folders the one it was trained on, else those of `folders` that it can draw.

    Raises InputError for a folder that is not there; where nobody asks what was `missed`, also for a subject that no folder fits.
    """
    places = list({Path(f).resolve(): Path(f) for f in folders}.values())
    for place in places:
        if not place.is_dir():
            raise InputError(place, "no such person folder", "run: vivavoce prepare VIDEO")
    out = []
    for subject in subjects:
        try:
            mine = _own(subject, places) if places else [folder_of(subject)]
        except InputError as error:
            if missed is None:
                raise
            missed(subject.label, error)
            continue
        out += [(subject, place) for place in mine]
    order = [*places, *(place for _, place in out)]
    return _labelled(sorted(out, key=lambda pair: order.index(pair[1])))


def folder_of(subject: Subject) -> Path:
    """The person folder that a run was trained on. Raises InputError when it has gone, or was no person's."""
    whom = f"say on whom: vivavoce eval {subject.name} --data FOLDER"
    if subject.run is None:
        raise InputError(subject.method, "it was not trained on anybody", whom)
    folder = Path(str(subject.about.get("folder", "")))
    if "folder" not in subject.about or not folder.exists():
        raise InputError(subject.run, f"the folder that it was trained on is not there ({folder})", whom)
    if not any((folder / f"transforms_{s}.json").is_file() for s in ("train", "val")):
        raise InputError(subject.run, f"it was trained on several people ({folder})", whom)
    return folder


def _own(subject: Subject, places: Sequence[Path]) -> list[Path]:
    """The folders that it can draw: every one, or of a run that has learnt one person that person's, which may have moved."""
    learnt = subject.learnt
    if learnt is None or len(places) == 1:
        return list(places)
    fitting = [p for p in places if p.resolve() == learnt.resolve()] or [p for p in places if p.resolve().name == learnt.name]
    if not fitting:
        raise InputError(subject.name, f"it has learnt {learnt}, which is none of the people given", f"add --data {learnt}")
    return fitting


def distinct(places: Sequence[Path]) -> dict[Path, str]:
    """Folders by what they are called: their own name, with those of the folders above where two have one name."""
    out: dict[Path, str] = {}
    for place in (p.resolve() for p in places):
        label, above = place.name, list(place.parents)
        while label in (taken for other, taken in out.items() if other != place) and above:
            label = f"{above.pop(0).name}-{label}"
        out[place] = label
    return out


def _labelled(found: Sequence[tuple[Subject, Path]]) -> list[tuple[Subject, Path]]:
    """The same with labels that keep apart those who are judged on one person."""
    out = []
    for subject, place in found:
        beside = [s for s, other in found if other == place]
        runs = distinct([s.run for s in beside if s.run])
        drivers = distinct([s.driver.run for s in beside if s.driver and s.driver.run])
        label = runs[subject.run.resolve()] if subject.run else subject.method
        if subject.driver is not None:
            driver = subject.driver
            label += DRIVEN + (drivers[driver.run.resolve()] if driver.run else driver.method)
        out.append((replace(subject, label=label), place))
    return out
