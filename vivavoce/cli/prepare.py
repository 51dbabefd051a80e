"""vivavoce prepare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.markup import escape

from vivavoce.cli.screen import bar, err, grid, out
from vivavoce.cli.words import Number, Place, Word
from vivavoce.types import InputError

Videos = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO ...")]
Address = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[ADDRESS]")]


@dataclass
class Prepare:
    """Video -> person folder: audio, speech features, frames, landmarks, parsing, background, torso, tracking, cameras."""

    videos: Videos  # the video, or an existing person folder to go on with; several, or a folder of videos
    folder: Place = None  # where to; default: beside the video, with its name; of several videos the folder of their folders
    task: Number = None  # run this task (1-9, as in the AD-NeRF lineage) and what it needs
    only: Word = None  # run the step of this name and what it needs
    tracker: Word = None  # head tracker; default: as the folder was made, or mesh
    speech: tuple[str, ...] = ()  # speech encoders whose features are written; default: as the folder was made, or whisper
    parser: Word = None  # permissive, or bisenet (weights for research only); default: as the folder was made, or permissive
    commercial_only: bool = False  # refuse weights whose terms exclude commercial use
    size: Number = None  # side of the frames, px, when the video has to be cut; default: as the folder was made, or 512
    force: bool = False  # go on with a clip that the checks refuse
    jobs: Number = None  # videos prepared at once; default: a quarter of the cores
    ray: Address = None  # several videos on the Ray cluster there; without an address on this machine (needs: pip install 'vivavoce[ray]')


def do(o: Prepare) -> int:
    from vivavoce.prepare.many import videos_of

    if not o.videos:
        raise InputError("vivavoce prepare", "missing: VIDEO", "see: vivavoce prepare --help")
    if o.jobs is not None and o.jobs < 1:
        raise InputError(f"--jobs {o.jobs}", "is no number of videos", "give 1 or more")
    if o.ray is not None and (len(o.ray) > 1 or any(Path(a).exists() for a in o.ray)):
        raise InputError(f"--ray {' '.join(o.ray)}", "is no address of a cluster", "put the videos before --ray")
    if o.commercial_only:
        os.environ["VIVAVOCE_COMMERCIAL_ONLY"] = "1"  # for the processes begun from here as well
    options: dict[str, Any] = {name: getattr(o, name) for name in ("task", "only", "tracker", "parser", "size")}
    options["speech"] = list(o.speech) or None
    options["force"] = o.force or None
    videos = videos_of(o.videos)
    if len(videos) > 1 or videos != list(o.videos) or o.ray is not None:
        return _several(o, videos, options)
    _one(videos[0], o.folder, options)
    return 0


def _one(video: Path, folder: Path | None, options: dict[str, Any]) -> None:
    from vivavoce.prepare import Folder, prepare
    from vivavoce.prepare.report import summary

    bars: dict[str, Any] = {}
    progress, _ = bar("prepare")
    progress.remove_task(progress.task_ids[0])

    def report(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = progress.add_task(step, total=total, note="")
        progress.update(bars[step], completed=done, total=total)

    with progress:
        made = prepare(video, folder, progress=report, **options)
    out.print(f"prepared {made}")
    if (made / "report.html").is_file():
        out.print(f"report: {made / 'report.html'}: {summary(Folder(made))}", highlight=False, markup=False)


def _several(o: Prepare, videos: Sequence[Path], options: dict[str, Any]) -> int:
    """All of them, a line of progress each while it runs; then a table. 2 when a video was of no use, 1 when the fault is ours."""
    from vivavoce.prepare import steps
    from vivavoce.prepare.many import prepare_many

    parts, lines, count = dict[int, dict[str, tuple[int, int]]](), dict[int, Any](), len(steps())
    progress, whole = bar("videos")
    done = 0

    def report(number: int, step: str, at: int, total: int) -> None:
        nonlocal done
        if not step:
            done += 1
            whole(done, len(videos))
            if number in lines:
                progress.remove_task(lines.pop(number))
            return
        if number not in lines:
            lines[number] = progress.add_task(videos[number].name[:30], total=count, note="")
        own = parts.setdefault(number, {})
        own[step] = (at, total)
        now = " ".join(f"{name} {100 * a // b}%" for name, (a, b) in own.items() if 0 < a < b)
        progress.update(lines[number], completed=sum(a >= b > 0 for a, b in own.values()), note=now[:60])

    with progress:
        whole(0, len(videos))
        if o.ray is not None:
            from vivavoce.prepare.cluster import prepare_on_ray

            found = prepare_on_ray(videos, o.folder, o.jobs, report, "".join(o.ray), **options)
        else:
            found = prepare_many(videos, o.folder, o.jobs, report, **options)
    table = grid("video", "frames", "seconds", "folder, or what is wrong")
    for one in found:
        said = f"[red]{escape(one.error)}[/]" if one.error else escape(one.folder)
        table.add_row(escape(Path(one.video).name), str(one.frames or ""), f"{one.seconds:.0f}", said)
    out.print(table)
    failed = [one for one in found if one.error]
    if failed:
        err.print(f"vivavoce: {len(failed)} of {len(found)} videos could not be prepared", style="red")
    return 0 if not failed else 1 if any(one.ours for one in failed) else 2
