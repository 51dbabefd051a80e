"""Video -> person folder: one file = one step = one artefact, resumable and verified.

A module of this package that defines `STEP` is a step; nothing lists them. Each runs after those it reads, beside others. A step
is skipped when its record in clip.json has the same version, inputs and options and its outputs verify. Otherwise:

* begun by a killed run, or some files lost: it runs again and keeps the files that are whole (they are only ever renamed into place);
* version, inputs or options changed: its outputs are removed first;
* files nobody recorded (made by hand or by another tool): used when they verify, never overwritten.

An artefact changed by hand that still verifies is kept, and the steps after it run again.
"""

from __future__ import annotations

import errno
import importlib
import pkgutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivavoce import files, heap
from vivavoce.media import probe
from vivavoce.prepare import inherit
from vivavoce.prepare.choices import check
from vivavoce.prepare.folder import Folder, Options
from vivavoce.prepare.schedule import overlapped
from vivavoce.turns import one_thread_each
from vivavoce.types import FPS, InputError

__all__ = ["Folder", "Options", "Progress", "Step", "prepare", "steps"]

Progress = Callable[[int, int], None]  # done, total: what a step reports
Report = Callable[[str, int, int], None]  # step, done, total: what the caller of `prepare` hears

VIDEO = "video"  # the one input that is no step


@dataclass(frozen=True)
class Step:
    """One artefact and how it is made.

    `run` writes its files through `folder.whole` and keeps those that are already there; `verify` raises InputError when
    the outputs are not complete and sane, and is cheap enough to be asked every time.
    """

    name: str
    task: int  # 1..9 as in the AD-NeRF lineage, 0 for what the lineage does elsewhere
    version: int  # raise it when the same inputs give other outputs
    inputs: tuple[str, ...]  # names of steps, or "video"
    outputs: tuple[str, ...]  # glob patterns inside the folder
    run: Callable[[Folder, Progress], None]
    verify: Callable[[Folder], None]
    options: tuple[str, ...] = field(default=())  # fields of Options that change the outputs
    ready: Callable[[], bool] = lambda: True  # False: left out unless it is asked for by name, as its weights are not on this machine


def steps() -> list[Step]:
    """Every step, each after those it reads. Raises ValueError when two have one name or inputs run in a circle."""
    found: dict[str, Step] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        step = getattr(importlib.import_module(f"{__name__}.{module}"), "STEP", None)
        if isinstance(step, Step):
            if step.name in found:
                raise ValueError(f"two steps are called {step.name}")
            found[step.name] = step
    return ordered(found.values())


def ordered(unordered: Iterable[Step]) -> list[Step]:
    """Each step after those it reads; among free ones, by task."""
    left = sorted(unordered, key=lambda s: (s.task or 10, s.name))
    out: list[Step] = []
    done = {VIDEO}
    while left:
        free = next((s for s in left if set(s.inputs) <= done), None)
        if free is None:
            raise ValueError(f"steps wait for each other or for a step that is not there: {', '.join(s.name for s in left)}")
        left.remove(free)
        out.append(free)
        done.add(free.name)
    return out


def asked(every: Sequence[Step], task: int | None, only: str | Sequence[str] | None) -> set[str]:
    """The steps asked for by name; none: all. Raises InputError for a number or name that is not there."""
    names = {only} if isinstance(only, str) else set(only or ())
    for name in names - {s.name for s in every}:
        raise InputError(f"--only {name}", "no such step", f"choose from: {', '.join(s.name for s in every)}")
    if task is not None and task >= 0:
        numbered = {s.name for s in every if s.task == task}
        if not numbered:
            raise InputError(f"--task {task}", "no such task", f"choose from: {', '.join(f'{s.task} {s.name}' for s in every)}")
        names |= numbered
    return names


def chosen(every: Sequence[Step], named: Collection[str]) -> list[Step]:
    """The steps named (none: all that are ready) and all they read, in order."""
    if not named:
        return [s for s in every if s.ready()]
    names = set(named)
    for step in reversed(every):
        if step.name in names:
            names |= set(step.inputs)
    return [s for s in every if s.name in names]


def recipe(step: Step, folder: Folder) -> dict[str, Any]:
    """What the outputs follow from: version, options and the present state of every input."""
    records = folder.clip.get("artefacts", {})
    inputs = {i: folder.clip["video"]["sha256"][:32] if i == VIDEO else records[i]["digest"] for i in step.inputs}
    options = {o: _plain(getattr(folder.options, o)) for o in step.options}
    return {"step": step.name, "version": step.version, "inputs": inputs, "options": options}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _whole(step: Step, folder: Folder) -> InputError | None:
    try:
        step.verify(folder)
    except InputError as e:
        return e
    return None


def _remove(step: Step, folder: Folder) -> None:
    for path in folder.outputs(step.outputs):
        path.unlink()


def bring(step: Step, folder: Folder, progress: Progress) -> bool:
    """Make the artefact be there and be right. True when the step had to run. Raises InputError when it cannot be."""
    wanted = recipe(step, folder)
    record = folder.clip.get("artefacts", {}).get(step.name)
    if record is None and (found := folder.outputs(step.outputs)):
        wrong = _whole(step, folder)
        if wrong is None:
            folder.record(step.name, {**wanted, "digest": folder.digest(step.outputs), "done": True})
            return False
        if "inherited" not in folder.clip:
            cause = f"was not made by this program and does not fit ({wrong.cause})"
            raise InputError(found[0], cause, "move it away, or prepare into another folder with --folder")
        record = {**wanted, "done": False}  # an older repository's: what it lacks is added
    same = record is not None and {k: record.get(k) for k in wanted} == wanted
    if record is not None and same and record["done"] and _whole(step, folder) is None:
        if (now := folder.digest(step.outputs)) != record["digest"]:
            folder.record(step.name, {**record, "digest": now})
        return False
    if not same:
        _remove(step, folder)
    folder.record(step.name, {**wanted, "digest": "", "done": False})
    begun = time.monotonic()
    step.run(folder, progress)
    if _whole(step, folder):  # files kept from an earlier run may be what is wrong: once more from nothing
        _remove(step, folder)
        step.run(folder, progress)
        step.verify(folder)
    seconds = round(time.monotonic() - begun, 2)
    folder.record(step.name, {**wanted, "digest": folder.digest(step.outputs), "done": True, "seconds": seconds})
    return True


def place(video: Path, folder: str | Path | None) -> tuple[Path | None, Path]:
    """The video (None when a person folder was given) and the folder that is meant."""
    if video.is_dir():
        return None, Path(folder) if folder is not None else video
    if not video.exists():
        raise InputError(video, "no such file", "give a video, or a folder that was prepared before")
    if folder is not None:
        return video, Path(folder)
    return video, video.parent if video.parent.resolve().name == video.stem else video.with_suffix("")


def admit(video: Path, wanted: Collection[str]) -> None:
    """Look at a video before a folder is made for it. Raises InputError for one that its header tells to be of no use."""
    info = probe(video)
    if not all(info.size):
        raise InputError(video, "holds sound alone, no pictures", "give a video of a person speaking")
    if info.audio_codec is None and "audio" in wanted:
        raise InputError(video, "holds no sound", "give a video of a person speaking, with its sound")
    if 0 < info.frames < FPS:
        raise InputError(video, f"lasts {info.duration:.2f} s", "give a video of a second at least, better of a minute or more")


def prepare(
    video: str | Path,
    folder: str | Path | None = None,
    task: int | None = None,
    only: str | Sequence[str] | None = None,
    tracker: str | None = None,
    speech: Sequence[str] | None = None,
    progress: Report | None = None,
    size: int | None = None,
    force: bool | None = None,
    parser: str | None = None,
) -> Path:
    """Make (or finish, or bring up to date) the person folder of a video; gives the folder.

    `video`: a video file, or a folder prepared before. `folder`: where to; default: a folder named as the video, beside it.
    `task`, `only`: these steps and what they read; default: all. `tracker`, `speech`, `size`, `force`, `parser`: see `Options`; None = as
    the folder was made, or the default. `progress(step, done, total)` is called as the work goes on.
    Raises InputError for a video or folder that cannot be used, a full disk, or a folder another run is at work in.
    """
    heap.one_heap()  # before a video is opened: its decoder's threads would each begin a heap
    source, at = place(Path(video), folder)
    every = steps()
    named = asked(every, task, only)
    wanted = chosen(every, named)
    check(tracker, speech, size, parser)
    if source is not None:
        admit(source, {s.name for s in wanted})
    try:
        where = Folder(at)
        with where.lock():
            try:
                _work(where, source, wanted, named, where.options_for(tracker, speech, size, force, parser), progress)
            except InputError:
                if source is not None:
                    where.abandon(source)  # while the folder is ours: another run may be waiting for it
                raise
    except OSError as e:
        if files.full(e):
            raise InputError(at, "the disk is full", "make room and run the same command again: it goes on where it stopped") from e
        if isinstance(e, PermissionError | NotADirectoryError | FileExistsError) or e.errno == errno.EROFS:
            raise InputError(e.filename or at, f"cannot be used ({e.strerror})", "choose another place with --folder") from e
        raise
    return at


def _work(
    folder: Folder, source: Path | None, wanted: Sequence[Step], named: Collection[str], options: Options, progress: Report | None
) -> None:
    """Bring every step asked for, in a folder that is locked."""
    if source is not None:
        folder.adopt(source)
    if inherit.is_older(folder):
        inherit.inherit(folder, steps())
    if source is None and not folder.video.exists():
        raise InputError(folder.video, "the folder's video is gone", f"run: vivavoce prepare VIDEO --folder {folder.path}")
    folder.choose(options)

    def act(step: Step, check: Callable[[], None]) -> None:
        def tell(done: int, total: int) -> None:
            check()
            if progress is not None:
                progress(step.name, done, total)

        tell(0, 0)
        bring(step, folder, tell)
        tell(1, 1)

    with heap.trimmed(), one_thread_each():
        overlapped(inherit.left(folder, wanted, named), act)
