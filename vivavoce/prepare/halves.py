"""The sound of the training and of the held-out frames, `aud_train.wav` and `aud_novel.wav`, as GaussianTalker and EGSTalker expect."""

from __future__ import annotations

from vivavoce.media import write_audio
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.audio import lasts, span


def parts(folder: Folder) -> dict[str, tuple[int, int]]:
    """First frame and end of each file."""
    return {"aud_train.wav": (0, folder.split), "aud_novel.wav": (folder.split, folder.frames)}


def run(folder: Folder, progress: Progress) -> None:
    """Write both files."""
    for name, (first, last) in parts(folder).items():
        with folder.whole(name) as part:
            write_audio(part, span(folder.file("aud.wav"), first, last, progress))


def verify(folder: Folder) -> None:
    """Form and length."""
    for name, (first, last) in parts(folder).items():
        lasts(folder.file(name), last - first, f"run: vivavoce prepare {folder.path} --only halves")


STEP = Step("halves", 0, 1, ("audio", "shots"), ("aud_train.wav", "aud_novel.wav"), run, verify)
