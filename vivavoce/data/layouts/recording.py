"""What a data set holds: recordings of speaking faces, and a layout, which finds them in a vendor's folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vivavoce.types import InputError

FILMS = (".mp4", ".mpg", ".mpeg", ".mov", ".avi", ".mkv", ".webm", ".flv", ".m4v", ".wmv", ".ts")
SOUNDS = (".wav", ".m4a", ".flac", ".mp3", ".aac", ".ogg", ".opus")
GRID_UNIT = 25_000  # of an .align file's numbers in a second
LISTED = 6  # names told of what is there instead


@dataclass(frozen=True)
class Recording:
    """One clip of one person, as its data set tells of it. Nothing of it is opened yet."""

    id: str  # unique in its data set, parts divided by /
    video: str  # a film, or a folder of numbered pictures, 25 a second
    identity: str  # who, as far as the data set tells people apart
    audio: str = ""  # "": in the film
    split: str = ""  # train, val or test; "": the data set does not say
    text: str = ""  # what is said, or the label
    script: str = ""  # file with what is said: LRS's .txt, GRID's .align
    labels: dict[str, str] = field(default_factory=dict)  # emotion, level, view, ...
    span: tuple[float, float] | None = None  # s of the film; None: all of it
    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1 of the face, in a picture of size `box_of`
    box_of: tuple[float, float] = (1.0, 1.0)  # height, width; width 0: as wide as the film is at that height
    landmarks: str = ""  # folder with <n>.lms or landmarks.npy beside the pictures
    speaker: bool = False  # the vendor has cut it to the one who speaks: whoever is alone on the screen is


@dataclass(frozen=True)
class Layout:
    """A vendor's way of laying out its files. `read` raises InputError when a folder is not laid out so."""

    name: str
    expects: str  # paths below the folder that is given
    identity: str  # what stands for a person
    split: str  # where train, val and test come from
    terms: str  # of use, in a few words
    read: Callable[[Path], list[Recording]]
    aliases: tuple[str, ...] = ()
    speaker: bool = False  # of all its recordings


def refused(root: Path, title: str, wanted: str) -> InputError:
    """The folder is not what it was said to be: what was looked for, and what is there."""
    there = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if not p.name.startswith(".")) if root.is_dir() else []
    rest = f" and {len(there) - LISTED} more" if len(there) > LISTED else ""
    shown = ", ".join(there[:LISTED]) + rest or "nothing"
    return InputError(root, f"does not look like {title}: no {wanted} (there is: {shown})", "see: vivavoce list --data")


def films(folder: Path, pattern: str = "*") -> list[Path]:
    """Films whose path below the folder is of the pattern, sorted; hidden ones left out."""
    found = (p for p in folder.glob(pattern) if p.suffix.lower() in FILMS and not p.name.startswith("."))
    return sorted(found)


def beside(path: Path, kinds: tuple[str, ...]) -> str:
    """A file of the same name and one of the endings, or ""."""
    return next((str(path.with_suffix(kind)) for kind in kinds if path.with_suffix(kind).is_file()), "")


def listed(folders: tuple[Path, ...]) -> Iterator[tuple[str, str]]:
    """(split, first word) of each line of train.txt, val.txt and test.txt in the first folder that has one of them.

    Further words of a line are remarks: LRS2's test list has such.
    """
    for folder in folders:
        there = [split for split in ("train", "val", "test") if (folder / f"{split}.txt").is_file()]
        for split in there:
            for line in (folder / f"{split}.txt").read_text("utf-8", "replace").splitlines():
                if line.split():
                    yield split, line.split()[0]
        if there:
            return


def said(recording: Recording) -> tuple[str, list[tuple[str, float, float]]]:
    """What is said, and (word, start, end) in seconds where the script tells of it.

    LRS: a line "Text: ...", and in long clips rows under "WORD START END ASDSCORE". GRID: rows "start end word" in 1/25000 s.
    """
    if not recording.script:
        return recording.text, []
    lines = Path(recording.script).read_text("utf-8", "replace").splitlines()
    if recording.script.endswith(".align"):
        rows = [line.split() for line in lines if len(line.split()) == 3]
        words = [(w, int(a) / GRID_UNIT, int(b) / GRID_UNIT) for a, b, w in rows if w not in ("sil", "sp")]
        return recording.text or " ".join(w for w, _, _ in words), words  # the file's name spells better than some .align do
    text = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("text:")), recording.text)
    begin = next((k for k, line in enumerate(lines) if re.match(r"WORD\s+START\s+END", line)), len(lines))
    spoken = [line.split() for line in lines[begin + 1 :] if len(line.split()) >= 3]
    return text, [(row[0], float(row[1]), float(row[2])) for row in spoken]
