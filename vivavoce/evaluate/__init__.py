"""Trained runs against frames they never saw: one table for methods x people x protocol, with the ground-truth row beside them.

Three versions of every figure, never mixed (`columns.VERSIONS`): the frame made whole against the original, the same against the
plate, and the original pasted outside the head. Head pose, eyes and the body's place come from the test video, as everywhere in the
field; what else a method is given for each frame stands in the column "reads".

Frames are drawn, measured and thrown away a few at a time. What one run did on one person is kept as a folder (`result.py`), so a
run that was judged is not judged again, and tables are made anew from the folders of several machines without drawing anything.
What cannot be judged is told with its reason, and the others are judged nevertheless.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from vivavoce import heap
from vivavoce.data.person import Person
from vivavoce.evaluate import result as results_of
from vivavoce.evaluate.block import blocks
from vivavoce.evaluate.columns import BY_KEY, shown
from vivavoce.evaluate.driven import Driven
from vivavoce.evaluate.measure import Judges, Measure, face_boxes, heard
from vivavoce.evaluate.pictures import Album
from vivavoce.evaluate.relative import relative
from vivavoce.evaluate.result import FILE, Result, finite, gathered, newest
from vivavoce.evaluate.subject import PORTRAIT, Missed, Protocol, Subject, machine, people, prepared, protocol, subjects
from vivavoce.evaluate.table import compare, notes, write
from vivavoce.evaluate.whom import distinct, pairs
from vivavoce.face import regions
from vivavoce.method import Renderer
from vivavoce.types import InputError

__all__ = ["BY_KEY", "Options", "Result", "blocks", "evaluate", "gathered", "newest", "notes", "shown", "write"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # frames done, frames in all
HEARD = {"speech", "audio"}


@dataclass(frozen=True)
class Options:
    """How to judge, the same for every run."""

    split: str = "val"  # "val", "train" or "all"
    size: int | None = None  # longest side, px; None: as each run was trained
    frames: int = 0  # only the first so many; 0: all
    device: str = "cpu"
    identity: str = "sface"  # network of CSIM
    fid: bool = False
    fvd: str = ""  # file of the video network
    expert: str = ""  # a run of lip_expert, or the authors' file
    machine: str = ""  # what to call this machine; "": by its processor
    again: bool = False  # judge also what was judged before
    apart: bool = False  # protocols may differ: a table for each


@dataclass(frozen=True)
class _Plan:
    """One run on one person."""

    subject: Subject
    folder: Path
    name: str  # of the person
    protocol: Protocol
    prepared: str  # hash of the folder


def evaluate(
    runs: Sequence[str | Path],
    folders: Sequence[str | Path] = (),
    options: Options | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    missed: Missed | None = None,
) -> list[Result]:
    """Judge runs, each on the person it was trained on, or on those of the folders given that it can draw.

    Args:
        runs: run folders, names of methods that need no training, RENDERER+GENERATOR; a generator of scores alone drives `face_warp`.
        folders: person folders; none: each run's own.
        out: where results are kept; None: in each run's folder.
        missed: told who is not judged and why; None: the first such reason is raised.
    Raises:
        InputError: a run or folder that is not there, protocols that differ on one person; without `missed` a run that cannot be judged.
    """
    options = options or Options()
    heap.keep()
    found = pairs(subjects(runs, missed), folders, missed)
    names = distinct([folder for _, folder in found])
    plans = []
    for subject, folder in found:
        with _going_on(f"{subject.label} on {names[folder.resolve()]}", missed):
            plans.append(_plan(subject, folder, names[folder.resolve()], options))
    if not options.apart:
        compare([(p.subject.label, p.name, p.protocol) for p in plans])
    total, before = sum(p.protocol.count for p in plans), 0
    judges: Judges | None = None
    made = []
    for plan in plans:
        old = None if options.again else _found(plan, options, out)
        if old is None and judges is None:  # what judges all is needed by all
            judges = Judges.summon(options.device, options.identity, options.fid, options.fvd, options.expert)
        with _going_on(f"{plan.subject.label} on {plan.name}", missed):
            if old is None:
                assert judges is not None
                old = _judge(plan, judges, options, out, lambda done, before=before: progress and progress(before + done, total))  # type: ignore[misc]
            made.append(old)
        before += plan.protocol.count
        if progress is not None:
            progress(before, total)
    return made


@contextmanager
def _going_on(who: str, missed: Missed | None) -> Iterator[None]:
    """What breaks inside is told where somebody asks, and raised where nobody does: hours of others' work are not lost by one."""
    try:
        yield
    except Exception as error:
        if missed is None:
            raise
        if not isinstance(error, InputError):
            log.warning("%s is not judged", who, exc_info=error)
        missed(who, error)


def _plan(subject: Subject, folder: Path, name: str, options: Options) -> _Plan:
    rows = Person(folder, size=options.size or subject.about.get("size"), split=options.split)
    return _Plan(subject, folder, name, protocol(rows, options.frames), prepared(folder))


def _asked(options: Options) -> dict[str, str]:
    files = {"fvd": Path(options.fvd).name, "expert": Path(options.expert).name}
    return {"identity": options.identity, "fid": "yes" if options.fid else "", **files}


def _homes(plan: _Plan, out: str | Path | None) -> list[Path]:
    """Folders in which the result may lie; a new one goes to the first."""
    homes = [Path(out) / "results"] if out is not None else []
    return [*homes, plan.subject.run / "eval" if plan.subject.run is not None else Path("eval") / "results"]


def _found(plan: _Plan, options: Options, out: str | Path | None) -> Result | None:
    """The result of the same weights under the same protocol, when there is one; in the run's own folder whatever it was called then."""
    subject, asked = plan.subject, _asked(options)
    wanted = (subject.method, subject.all_weights, subject.reads, plan.protocol, plan.prepared)
    for home in _homes(plan, out):
        for file in sorted(home.glob(f"*-{_tail(plan.protocol)}/{FILE}")):
            try:
                old = results_of.load(file.parent)
            except InputError:  # of an older version, or damaged: made anew
                continue
            own = subject.run is not None and home.parent == subject.run
            if not own and old.label != subject.label:
                continue
            enough = all(old.asked.get(k) == v for k, v in asked.items() if v)
            if enough and (old.method, old.weights, old.reads, old.protocol, old.prepared) == wanted:
                return replace(old, label=subject.label, person=plan.name)
    return None


def _tail(p: Protocol) -> str:
    return f"{p.split}-{p.count}-{p.width}x{p.height}"


def _judge(plan: _Plan, judges: Judges, options: Options, out: str | Path | None, progress: Callable[[int], object]) -> Result:
    """Draw and measure one run on one person."""
    subject, count = plan.subject, plan.protocol.count
    person, truth = people(subject, plan.folder, options.split, options.size, options.device)
    method = subject.load(options.device)
    driven = Driven(subject.driver, plan.folder, options.split, count, options.device) if subject.driver else None
    home = _homes(plan, out)[0] / f"{subject.label}-{plan.name}-{_tail(plan.protocol)}"
    part = home.with_name(f"{home.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(home.parent, f"cannot be written ({error.strerror or error})", "choose another place: --out FOLDER") from error
    sound = heard(person, count)
    pasted_only = "frames" in method.needs
    places = face_boxes(person, count) if judges.syncnet is not None or judges.expert is not None else None
    measure = Measure(judges, count, pasted_only, sound, places)
    spent = _Clock(options.device)
    with Album(part, count, person.size, sound) as album:
        for at, streams, joined in _drawn(subject, method, driven, (person, truth), count, spent):
            measure.add(at, streams, joined)
            album.add(at, streams["original"], streams["pasted" if pasted_only else "made"])
            progress(at + len(joined))
    made, true = measure.figures()
    result = Result(
        label=subject.label, method=subject.method, preset=subject.preset, family=subject.card.family,
        person=plan.name, weights=subject.all_weights, protocol=plan.protocol, reads=subject.reads,
        told=not HEARD & set(subject.reads), made={k: finite(v) for k, v in made.items()}, truth={k: finite(v) for k, v in true.items()},
        costs={**subject.costs(), "fps": spent.rate()}, notes=measure.notes(person.size, made),
        machine=options.machine or machine(options.device), date=date.today().isoformat(), prepared=plan.prepared,
        asked=_asked(options), driver=subject.driver.label if subject.driver else "", learnt=_stranger(plan), place=home,
    )  # fmt: skip
    results_of.save(result, part)
    results_of.into_place(part, home)
    return result


def _stranger(plan: _Plan) -> str:
    """Name of the person that a run has learnt, where it is judged on another folder than its own."""
    learnt = plan.subject.learnt
    return "" if learnt is None or learnt.resolve() == plan.folder.resolve() or learnt.name == plan.folder.resolve().name else learnt.name


def _drawn(
    subject: Subject, method: Renderer, driven: Driven | None, of: tuple[Person, Person], count: int, spent: _Clock
) -> Iterator[tuple[int, dict[str, Tensor], list[bool]]]:
    """(first row, frames of every stream, whether each follows the one before), a few rows at a time.

    Raises InputError for frames of another size, or with values that are not numbers.
    """
    person, truth = of
    identity = method.encode(person.clip([0], method.source_needs)) if method.source_needs else None
    numbers = person.rows[:count].tolist()
    follows = [False, *(b == a + 1 for a, b in pairwise(numbers))]
    block = 8 if torch.device(spent.device).type == "cuda" else 2  # more are no faster on a CPU, and take more memory
    for at in range(0, len(numbers), block):
        rows = range(at, min(at + block, len(numbers)))
        clip = person.clip(rows, method.needs)
        if subject.card.family == PORTRAIT and clip.motion is not None:
            first = person.clip([0], {"motion"}).motion
            assert first is not None
            clip = replace(clip, motion=relative(clip.motion, first))
        if driven is not None and clip.motion is not None:
            clip = replace(clip, motion=driven(clip.motion, at))
        with torch.no_grad(), spent.on(len(rows)):
            made = method.render(identity, clip).float()
        beside, original = person.clip(rows, {"frames", "labels"}), truth.clip(rows, {"frames"}).frames
        assert beside.frames is not None and beside.labels is not None and original is not None
        if made.shape != original.shape:
            cause = f"it draws {made.shape[-1]} x {made.shape[-2]} px, the frames are {original.shape[-1]} x {original.shape[-2]} px"
            raise InputError(subject.name, cause, "choose the --size that it draws")
        broken = ~torch.isfinite(made).flatten(1).all(1)
        if bool(broken.any()):
            number = numbers[at + int(broken.nonzero()[0])]
            raise InputError(subject.name, f"frame {number} holds values that are not numbers", "train it again, with a lower --rate")
        made = made.clamp(0, 1)
        labels = beside.labels
        head = ((labels == regions.HEAD) | (labels == regions.HAIR) | (labels >= regions.INNER_MOUTH))[:, None].to(made)
        streams = {"made": made, "original": original, "plate": beside.frames, "pasted": made * head + original * (1 - head)}
        yield at, streams, follows[at : rows.stop]


class _Clock:
    """Time spent drawing; the first block, in which kernels are compiled, is left out where there are others."""

    def __init__(self, device: str) -> None:
        self.device, self.blocks = device, list[tuple[int, float]]()

    @contextmanager
    def on(self, frames: int) -> Iterator[None]:
        self._wait()
        begun = time.perf_counter()
        yield
        self._wait()
        self.blocks.append((frames, time.perf_counter() - begun))

    def _wait(self) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    def rate(self) -> float:
        """Frames a second."""
        counted = self.blocks[1:] or self.blocks
        return sum(n for n, _ in counted) / max(sum(s for _, s in counted), 1e-9)
