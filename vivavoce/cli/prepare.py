"""vivavoce prepare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vivavoce.cli.screen import bar, out
from vivavoce.cli.words import Number, Place, Video, Word


@dataclass
class Prepare:
    """Video -> person folder: audio, speech features, frames, landmarks, parsing, background, torso, tracking, cameras."""

    video: Video  # the video, or an existing person folder to go on with
    folder: Place = None  # where to; default: beside the video, with its name
    task: Number = None  # run this task (1-9, as in the AD-NeRF lineage) and what it needs
    only: Word = None  # run the step of this name and what it needs
    tracker: Word = None  # head tracker; default: as the folder was made, or mesh
    speech: tuple[str, ...] = ()  # speech encoders whose features are written; default: as the folder was made, or whisper
    size: Number = None  # side of the frames, px, when the video has to be cut; default: as the folder was made, or 512


def do(o: Prepare) -> None:
    from vivavoce.prepare import prepare

    bars: dict[str, Any] = {}
    progress, _ = bar("prepare")
    progress.remove_task(progress.task_ids[0])

    def report(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = progress.add_task(step, total=total, note="")
        progress.update(bars[step], completed=done, total=total)

    with progress:
        folder = prepare(o.video, o.folder, o.task, o.only, o.tracker, o.speech or None, size=o.size, progress=report)
    out.print(f"prepared {folder}")
