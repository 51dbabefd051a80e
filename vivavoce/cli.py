"""The command line: verb -> function; nothing else. The only file that prints."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import logging
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from vivavoce import __version__
from vivavoce.types import InputError

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True, highlight=False)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # however a disk says so

# Help reads better with a word for what goes there than with tyro's `{None}|PATH`.
Video = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...")]
File = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Place = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
Word = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


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


@dataclass
class Run:
    """Make the source speak: a portrait, a person's video, a person folder or a trained run."""

    source: Source  # picture, video, person folder, run folder, or a sample of: vivavoce assets list
    audio: File = None  # what to say: any audio or video file, or a sample of: vivavoce assets list
    text: str = ""  # what to say, in words (needs the extra: pip install 'vivavoce[tts]')
    out: Path = Path("out.mp4")  # .mp4, .mov or .mkv; a preview picture goes beside it
    renderer: str = "face_warp"  # method for a portrait, or a run folder
    generator: str = "speech_motion"  # speech -> motion, or a run folder
    size: int = 0  # longest side, px; 0: as trained, or as the picture
    face: int = 0  # which face of a portrait, from the left; 0: the only one
    pose: Literal["source", "generator"] = "source"  # whose head pose a trained person follows
    block: int = 8  # frames rendered at once
    seed: int = 0  # of the idle motion: blinks, small turns of the head
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


@dataclass
class Eval:
    """Held-out figures of a trained run: synthesised, pasted and the ground-truth row, with a contact sheet."""

    run: RunFolder  # made by vivavoce train
    folder: Place = None  # person folder; default: the one it was trained on
    split: Literal["val", "train", "all"] = "val"  # val: the last 1/11 of the video, never trained on
    size: Number = None  # longest side, px; default: as trained
    out: Place = None  # where the tables go; default: the run folder
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


@dataclass
class List:
    """The methods: name, family, paper, licence; or one method's settings and presets."""

    method: Name = ""  # show this method's settings
    markdown: bool = False  # as a table for a document


@dataclass
class Assets:
    """External files: list, fetch, verify, licenses."""

    action: Annotated[Literal["list", "fetch", "verify", "licenses"], tyro.conf.Positional] = "list"  # what to do
    names: Names = ()  # which; default: fetch takes what the default chain needs, the others take all
    again: bool = False  # fetch even what is here
    offline: bool = False  # use nothing but the cache and $VIVAVOCE_ASSETS
    commercial_only: bool = False  # refuse (or leave out) files whose terms exclude commercial use


@dataclass
class Doctor:
    """What works on this machine and what to do about the rest."""


@dataclass
class Train:
    """Train a method on a person folder (or a folder of them). Any setting of the method may follow: vivavoce list METHOD."""

    method: Name  # one of: vivavoce list
    folder: Folder  # made by vivavoce prepare
    out: Place = None  # run folder; default: FOLDER/runs/METHOD; a run found there goes on
    preset: str = ""  # named settings of the method: vivavoce list METHOD
    speech: str = ""  # speech encoder; default: the method's
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def grid(first: str, *heads: str) -> Table:
    """An empty table; the first column is never cut, for it is what one types next."""
    return Table(Column(first, no_wrap=True, overflow="fold"), *heads, box=SIMPLE_HEAD)


def bar(label: str) -> tuple[Progress, Callable[..., None]]:
    """A progress bar and the function that moves it: (done, total, *anything)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=err, disable=not err.is_terminal)
    task = progress.add_task(label, total=None, note="")

    def move(done: int, total: int, *rest: Any) -> None:
        note = " ".join(f"{k} {v:.4f}" for k, v in rest[0].items()) if rest and isinstance(rest[0], dict) else ""
        progress.update(task, completed=done, total=total, note=note[:60])

    return progress, move


def do_prepare(o: Prepare) -> None:
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


def do_train(o: Train, rest: Sequence[str]) -> None:
    from vivavoce import registry, train
    from vivavoce.data.corpus import Corpus, person_folders
    from vivavoce.data.person import Person
    from vivavoce.run import pick_device

    card = registry.find(o.method)
    config = parse(card.config, rest, f"vivavoce train {o.method}", default=registry.configure(o.method, o.preset))
    folders = person_folders(o.folder)
    if not folders:
        raise InputError(o.folder, "no prepared person folder", f"run: vivavoce prepare VIDEO --folder {o.folder}")
    device = pick_device(o.device)
    method = card.cls(config)
    speech = o.speech or method.speech
    size = getattr(config, "size", None) or None
    options: dict[str, Any] = {"size": size, "split": "train", "speech": speech or "whisper", "window": method.window, "device": device}
    source = Person(folders[0], **options) if len(folders) == 1 else Corpus(folders, **options)
    run = o.out or o.folder / "runs" / o.method
    extra = {"folder": str(o.folder.resolve()), "size": size, "split": "train", "speech": speech}
    progress, move = bar(f"train {o.method}")
    with progress:
        train.train(o.method, source, run, config, preset=o.preset, speech=speech, device=device, extra=extra, progress=move)
    out.print(f"trained {run}; hear it: vivavoce run {run} --audio FILE; judge it: vivavoce eval {run}")


def given(text: str) -> Path:
    """A file the user named, or the catalogued sample of that name where no such file is."""
    from vivavoce import assets
    from vivavoce.catalogue import CATALOGUE

    path = Path(text)
    return assets.path(text) if text.startswith("sample_") and text in CATALOGUE and not path.exists() else path


def do_run(o: Run) -> None:
    from vivavoce.run import Options, speak

    if (o.audio is None) == (not o.text):
        raise InputError("vivavoce run", "it must be told what to say", "give --audio FILE or --text WORDS, one of them")
    source = given(o.source)
    if o.audio is None:
        from vivavoce.tts import say

        audio = say(o.text, o.out.with_suffix(".wav"))
    else:
        audio = given(o.audio)
    known = {f.name for f in dataclasses.fields(Options)}
    options = Options(**{k: v for k, v in vars(o).items() if k in known})
    progress, move = bar("run")
    with progress:
        report = speak(source, audio, o.out, options, move)
    for note in report.notes:
        err.print(f"note: {note}", style="yellow")
    times = ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items())
    rate = report.frames / max(report.seconds["total"] - report.seconds["load"], 1e-9)
    out.print(f"{report.out}: {report.frames} frames, {rate:.0f} a second after loading ({times}); preview: {report.preview}")


def do_eval(o: Eval) -> None:
    from vivavoce.evaluate import evaluate
    from vivavoce.run import pick_device

    progress, move = bar("eval")
    with progress:
        rows = evaluate(o.run, o.folder, split=o.split, size=o.size, out=o.out, device=pick_device(o.device), progress=move)
    table = grid("protocol", "frames", "PSNR dB", "SSIM", "LMD px", "mouth r", "faces lost")
    for r in rows:
        table.add_row(r.protocol, str(r.frames), f"{r.psnr:.2f}", f"{r.ssim:.4f}", f"{r.lmd:.2f}", f"{r.mouth:.2f}", str(r.lost))
    out.print(table)
    out.print(f"tables and contact sheet: {o.out or o.run}")


def do_list(o: List) -> None:
    from vivavoce import registry

    if o.method:
        card = registry.find(o.method)
        table = grid("setting", *(card.cls.presets))
        configs = [registry.configure(o.method, p) for p in card.cls.presets]
        for f in dataclasses.fields(card.config):
            table.add_row(f.name, *(str(getattr(c, f.name)) for c in configs))
        for line in (card.summary, f"paper: {card.paper}", f"original: {card.origin} ({card.license})"):
            out.print(line, markup=False, highlight=False)
        out.print(table)
        return
    cards = [registry.find(name) for name in registry.names()]
    if o.markdown:
        head = ("method", "kind", "family", "presets", "what it is", "paper", "licence of the original")
        rows = [(f"`{c.name}`", c.kind, c.family, ", ".join(c.cls.presets), c.summary, c.paper, c.license) for c in cards]
        for row in (head, ("---",) * len(head), *rows):
            out.print("| " + " | ".join(row) + " |", markup=False, highlight=False)
        return
    table = grid("method", "kind", "family", "presets", "what it is")
    for c in cards:
        table.add_row(c.name, c.kind, c.family, ", ".join(c.cls.presets), c.summary)
    out.print(table)


def do_assets(o: Assets) -> int:
    from vivavoce import assets
    from vivavoce.catalogue import DEFAULT

    if o.action == "fetch":
        for name in o.names or DEFAULT:
            path = assets.fetch(name, offline=o.offline or None, commercial_only=o.commercial_only or None, again=o.again)
            out.print(f"{name}: {path}", markup=False, highlight=False)
        return 0
    for name in o.names:
        assets.asset(name)
    if o.action == "licenses":
        table = grid("name", "licence of the weights", "commercial use", "what for")
        for asset in assets.licenses(o.commercial_only or None):
            if not o.names or asset.name in o.names:
                table.add_row(asset.name, asset.license, "yes" if asset.commercial else "[red]no[/]", asset.what)
        out.print(table)
        return 0
    table = grid("name", "", "MB", "commercial use", "what for", "where")
    states = assets.verify(o.names or None) if o.action == "verify" else assets.listing()
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    for s in states:
        a = s.asset
        if (not o.names or a.name in o.names) and (a.commercial or not o.commercial_only):
            mark = f"[{colours[s.state]}]{s.state}[/]"
            table.add_row(a.name, mark, f"{a.size / 1e6:.1f}", "yes" if a.commercial else "[red]no[/]", a.what, s.text or str(s.path or ""))
    out.print(table)
    return int(o.action == "verify" and any(s.state == "broken" for s in states))


def do_doctor(o: Doctor) -> int:
    from vivavoce.doctor import examine

    findings = examine()
    table = grid("area", "", "finding", "what to do")
    for f in findings:
        table.add_row(f.area, "[green]ok[/]" if f.ok else "[red]no[/]", f.text, f.remedy)
    out.print(table)
    return 0


VERBS: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "prepare": (Prepare, do_prepare),
    "train": (Train, do_train),
    "run": (Run, do_run),
    "eval": (Eval, do_eval),
    "list": (List, do_list),
    "assets": (Assets, do_assets),
    "doctor": (Doctor, do_doctor),
}


def overview() -> str:
    """The verbs with the first line of each."""
    lines = [f"  {verb:<8} {(kind.__doc__ or '').splitlines()[0]}" for verb, (kind, _) in VERBS.items()]
    return "\n".join(["usage: vivavoce VERB ... (vivavoce VERB --help tells more)", "", *lines])


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb. Exit code 0: done; 2: bad input, told in one line; 1: a fault of ours, with the path of a report."""
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help", "help"):
        out.print(overview(), highlight=False)
        return 0 if words else 2
    if words[0] == "--version":
        out.print(__version__, highlight=False)
        return 0
    logging.basicConfig(format="vivavoce: %(message)s", level=logging.WARNING)
    try:
        return _dispatch(words[0], words[1:])
    except KeyboardInterrupt:
        err.print("vivavoce: stopped; the same command goes on where it was")
        return 130
    except SystemExit as stop:  # tyro has printed its help
        return int(stop.code or 0) if isinstance(stop.code, int | None) else 2
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """One line: what is wrong with the input, or where the report of a fault of ours lies. The exit code."""
    if isinstance(error, OSError) and error.errno in FULL:
        error = InputError(error.filename or "the disk", "is full", "make room and run the same command again")
    if isinstance(error, InputError):
        err.print(f"vivavoce: {' '.join(str(error).split())}", style="red", markup=False)
        return 2
    with tempfile.NamedTemporaryFile("w", prefix="vivavoce-", suffix=".log", delete=False) as log:
        log.writelines(traceback.format_exception(error))
    err.print(f"vivavoce: a fault of ours ({type(error).__name__}: {error}); details: {log.name}", style="red", markup=False)
    return 1


def _dispatch(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        raise InputError(verb, "no such verb", f"did you mean {near[0]}?" if near else f"choose from: {', '.join(VERBS)}")
    kind, act = VERBS[verb]
    if verb == "train":  # the method's own settings follow: its Config is parsed from what is left
        options, rest = parse(kind, words, f"vivavoce {verb}", more=True)
        return int(act(options, rest) or 0)
    return int(act(parse(kind, words, f"vivavoce {verb}")) or 0)


def parse(kind: Any, words: Sequence[str], prog: str, more: bool = False, default: Any = None) -> Any:
    """Options of a verb or a method from the words of the command line; with `more`, also the words left over.

    Raises InputError, in one line, for what tyro would answer with a box.
    """
    wanted = {"-h", "--help"} & set(words)
    if not more and not wanted:
        spelled((kind,) if default is None else (kind, Train), words, prog)
    settings: dict[str, Any] = {"return_unknown_args": True} if more else {}
    if default is not None:
        settings["default"] = default
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return tyro.cli(kind, args=list(words), prog=prog, **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│╭╮╰╯─ ") for line in said.getvalue().splitlines()]
        text = " ".join(line for line in lines if line).partition(" For full helptext")[0]
        cause = re.sub(r"^(Parsing error|Missing argument|Required options) ─* ?|^Value error |^Invalid choice ", "", text)
        cause = re.sub(r"Missing from .*?:", "missing:", cause.partition(" Argument helptext")[0]).replace(" (required)", "")
        raise InputError(prog, cause, f"see: {prog} --help") from None


def spelled(kinds: Sequence[Any], words: Sequence[str], prog: str) -> None:
    """Raises InputError for an option that none of `kinds` has, naming the nearest that one has."""
    known = {"--help"}
    for field in (f for kind in kinds for f in dataclasses.fields(kind)):
        name = field.name.replace("_", "-")
        known |= {f"--{name}"} | ({f"--no-{name}"} if isinstance(field.default, bool) else set())
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option != "--" and option not in known:
            near = difflib.get_close_matches(option, known, 1)
            raise InputError(f"{prog} {option}", "no such option", f"did you mean {near[0]}?" if near else f"see: {prog} --help")


if __name__ == "__main__":
    sys.exit(main())
