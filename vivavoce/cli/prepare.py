"""vivavoce prepare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vivavoce.cli.screen import bar, err, grid, out, said
from vivavoce.cli.words import Number, Place, Word
from vivavoce.types import InputError

if TYPE_CHECKING:
    from vivavoce.prepare.corpus import Made

Videos = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO ...")]
Set = Annotated[str | None, tyro.conf.arg(metavar="NAME:PATH")]
Address = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[ADDRESS]")]


@dataclass
class Prepare:
    """Video -> person folder: audio, speech features, frames, landmarks, parsing, background, torso, tracking, cameras.

    With --data a data set of many people -> shards of their faces, for dubbing.
    """

    videos: Videos  # the video, or an existing person folder to go on with; several, or a folder of videos
    data: Set = None  # instead of videos a data set, for example lrs2:/data/lrs2; vivavoce list --data names them
    folder: Place = None  # where to; default: beside the video or data set, with its name; of several videos the folder of their folders
    task: Number = None  # run this task (1-9, as in the AD-NeRF lineage) and what it needs
    only: Word = None  # run the step of this name and what it needs
    tracker: Word = None  # head tracker; default: as the folder was made, or mesh
    speech: tuple[str, ...] = ()  # speech encoders whose features are written; default: as the folder was made, or whisper
    parser: Word = None  # permissive, or bisenet (weights for research only); default: as the folder was made, or permissive
    commercial_only: bool = False  # refuse weights whose terms exclude commercial use
    size: Number = None  # side of the frames, px, when the video has to be cut; default: as the folder was made, or 512; of a data set 112
    force: bool = False  # go on with a clip that the checks refuse
    jobs: Number = None  # videos prepared at once; default: a quarter of the cores; of a data set all of them
    ray: Address = None  # videos or a data set on the Ray cluster there; without an address here (needs: pip install 'vivavoce[ray]')


def do(o: Prepare) -> int:
    from vivavoce.prepare.many import videos_of

    if not o.videos and o.data is None:
        raise InputError("vivavoce prepare", "missing: VIDEO, or --data NAME:PATH", "see: vivavoce prepare --help")
    if o.jobs is not None and o.jobs < 1:
        raise InputError(f"--jobs {o.jobs}", "is no number of videos", "give 1 or more")
    if o.ray is not None and (len(o.ray) > 1 or any(Path(a).exists() for a in o.ray)):
        raise InputError(f"--ray {' '.join(o.ray)}", "is no address of a cluster", "put the videos before --ray")
    if o.commercial_only:
        os.environ["VIVAVOCE_COMMERCIAL_ONLY"] = "1"  # for the processes begun from here as well
    options: dict[str, Any] = {name: getattr(o, name) for name in ("task", "only", "tracker", "parser", "size")}
    options["speech"] = list(o.speech) or None
    options["force"] = o.force or None
    if o.data is not None:
        return _data(o, o.data, [name for name, value in options.items() if value is not None and name != "size"])
    videos = videos_of(o.videos)
    if len(videos) > 1 or videos != list(o.videos) or o.ray is not None:
        return _several(o, videos, options)
    _one(videos[0], o.folder, options)
    return 0


def _data(o: Prepare, data: str, others: list[str]) -> int:
    from vivavoce.prepare.faces import LEAST_SIDE, SIDE

    if o.videos or others:
        word = o.videos[0] if o.videos else f"--{others[0]}"
        raise InputError(word, "does not go with --data", "of a data set faces are cut out, no more: --folder, --size, --jobs, --ray")
    side = SIDE if o.size is None else o.size
    if side < LEAST_SIDE:
        raise InputError(f"--size {side}", "is too small for a face", f"give {LEAST_SIDE} or more")
    shown(faces_of(data, o.folder, o.jobs, side, "".join(o.ray) if o.ray is not None else None))
    return 0


def faces_of(data: str, folder: Path | None, jobs: int | None, side: int, cluster: str | None) -> Made:
    """The data set's shards, made where they are wanting, with a bar; raises InputError as `corpus.corpus` does."""
    from vivavoce.prepare.corpus import corpus

    progress, move = bar(data.partition(":")[0])

    def report(done: int, total: int, bad: int) -> None:
        move(done, total, {"of no use": bad} if bad else {})

    with progress:
        return corpus(data, folder, jobs, side, report, cluster)


def shown(made: Made) -> None:
    """What became of a data set."""
    table = grid("split", "clips", "identities", "minutes")
    for split, row in made.index["splits"].items():
        table.add_row(split, str(row["clips"]), str(row["identities"]), f"{row['seconds'] / 60:.1f}")
    out.print(table)
    if made.broken:
        err.print(f"vivavoce: {len(made.broken)} of {made.index['clips']} clips are of no use: {made.folder / 'broken.csv'}", style="red")
    size = f"{len(made.index['shards'])} shards, {made.index['bytes'] / 2**20:.0f} MB; terms: {made.index['terms']}"
    out.print(f"prepared {made.folder}: {size}", highlight=False)


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
        out.print(f"report: {made / 'report.html'}: {summary(Folder(made))}", highlight=False)


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
        end = said(one.error, "red") if one.error else one.folder
        table.add_row(Path(one.video).name, str(one.frames or ""), f"{one.seconds:.0f}", end)
    out.print(table)
    failed = [one for one in found if one.error]
    if failed:
        err.print(f"vivavoce: {len(failed)} of {len(found)} videos could not be prepared", style="red")
    return 0 if not failed else 1 if any(one.ours for one in failed) else 2
