"""The command line: verb -> function; nothing else. The only file that prints."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vivavoce import __version__
from vivavoce.types import InputError

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True, highlight=False)
Arg = tyro.conf.Positional


@dataclass
class Prepare:
    """Video -> person folder: audio, speech features, frames, landmarks, parsing, background, torso, tracking, cameras."""

    video: Arg[Path]  # the video (or an existing person folder, to go on with it)
    folder: Path | None = None  # where to; default: beside the video, with its name
    task: int | None = None  # run this task (1-9, as in the AD-NeRF lineage) and what it needs
    only: str | None = None  # run the step of this name and what it needs
    tracker: str = "mesh"  # head tracker
    speech: tuple[str, ...] = ("whisper",)  # speech encoders whose features are written


@dataclass
class Run:
    """Make the source speak: SOURCE is a portrait, a person's video, a person folder or a trained run."""

    source: Arg[Path]
    audio: Path | None = None  # what to say: any audio or video file
    text: str = ""  # what to say, in words (needs the extra: pip install vivavoce[tts])
    out: Path = Path("out.mp4")
    renderer: str = "face_warp"  # method for a portrait, or a run folder
    generator: str = "speech_motion"  # speech -> motion, or a run folder
    size: int = 0  # longest side, px; 0: as trained, or as the picture
    face: int = 0  # which face of a portrait, from the left; 0: the only one
    pose: Literal["source", "generator"] = "source"  # whose head pose a trained person follows
    block: int = 8  # frames rendered at once
    seed: int = 0
    device: str = "auto"


@dataclass
class Eval:
    """Held-out figures of a trained run: synthesised, pasted and the ground-truth row, with a contact sheet."""

    run: Arg[Path]
    folder: Path | None = None  # person folder; default: the one it was trained on
    split: Literal["val", "train", "all"] = "val"
    size: int | None = None
    out: Path | None = None  # where the tables go; default: the run folder
    device: str = "auto"


@dataclass
class List:
    """The methods: name, family, paper, licence; or one method's settings and presets."""

    method: Arg[str] = ""


@dataclass
class Assets:
    """External files: list, fetch, verify, licenses."""

    action: Arg[Literal["list", "fetch", "verify", "licenses"]] = "list"
    names: Arg[tuple[str, ...]] = ()
    offline: bool = False  # use nothing but the cache and $VIVAVOCE_ASSETS
    commercial_only: bool = False  # refuse files whose licence forbids commercial use


@dataclass
class Doctor:
    """What works on this machine and what to do about the rest."""


@dataclass
class Train:
    """Train a method on a person folder (or a folder of them). Settings of the method follow: vivavoce list METHOD."""

    method: Arg[str]
    folder: Arg[Path]
    out: Path | None = None  # run folder; default: FOLDER/runs/METHOD
    preset: str = ""  # named settings of the method
    speech: str = ""  # speech encoder; default: the method's
    device: str = "auto"


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
        folder = prepare(o.video, o.folder, o.task, o.only, o.tracker, o.speech, report)
    out.print(f"prepared {folder}")


def do_train(o: Train, rest: Sequence[str]) -> None:
    from vivavoce import registry, train
    from vivavoce.data.corpus import Corpus, person_folders
    from vivavoce.data.person import Person
    from vivavoce.run import pick_device

    card = registry.find(o.method)
    prog = f"vivavoce train {o.method} FOLDER --preset {o.preset or '...'}"
    config = tyro.cli(card.config, args=list(rest), default=registry.configure(o.method, o.preset), prog=prog)
    folders = person_folders(o.folder)
    if not folders:
        raise InputError(o.folder, "no prepared person folder", f"run: vivavoce prepare VIDEO --folder {o.folder}")
    device = pick_device(o.device)
    method = card.cls(config)
    speech = o.speech or method.speech
    size = getattr(config, "size", None) or None
    options = {"size": size, "split": "train", "speech": speech or "whisper", "window": method.window, "device": device}
    source = Person(folders[0], **options) if len(folders) == 1 else Corpus(folders, **options)
    run = o.out or o.folder / "runs" / o.method
    extra = {"folder": str(o.folder.resolve()), "size": size, "split": "train", "speech": speech}
    progress, move = bar(f"train {o.method}")
    with progress:
        train.train(o.method, source, run, config, preset=o.preset, speech=speech, device=device, extra=extra, progress=move)
    out.print(f"trained {run}; hear it: vivavoce run {run} --audio FILE; judge it: vivavoce eval {run}")


def do_run(o: Run) -> None:
    from vivavoce.run import Options, speak

    if (o.audio is None) == (not o.text):
        raise InputError("vivavoce run", "say what to speak", "give --audio FILE or --text WORDS")
    audio = o.audio
    if audio is None:
        from vivavoce.tts import say

        audio = say(o.text, o.out.with_suffix(".wav"))
    known = {f.name for f in dataclasses.fields(Options)}
    options = Options(**{k: v for k, v in vars(o).items() if k in known})
    progress, move = bar("run")
    with progress:
        report = speak(o.source, audio, o.out, options, move)
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
    table = Table("protocol", "frames", "PSNR dB", "SSIM", "LMD px", "mouth r", "faces lost")
    for r in rows:
        table.add_row(r.protocol, str(r.frames), f"{r.psnr:.2f}", f"{r.ssim:.4f}", f"{r.lmd:.2f}", f"{r.mouth:.2f}", str(r.lost))
    out.print(table)
    out.print(f"tables and contact sheet: {o.out or o.run}")


def do_list(o: List) -> None:
    from vivavoce import registry

    if o.method:
        card = registry.find(o.method)
        table = Table("setting", *(card.cls.presets), title=f"{card.name}: {card.summary}", title_justify="left")
        configs = [registry.configure(o.method, p) for p in card.cls.presets]
        for f in dataclasses.fields(card.config):
            table.add_row(f.name, *(str(getattr(c, f.name)) for c in configs))
        out.print(table)
        return
    table = Table("method", "kind", "family", "presets", "paper", "licence of the original", "what it is")
    for card in map(registry.find, registry.names()):
        table.add_row(card.name, card.kind, card.family, ", ".join(card.cls.presets), card.paper, card.license, card.summary)
    out.print(table)


def do_assets(o: Assets) -> None:
    from vivavoce import assets

    if o.action == "fetch":
        for name in o.names or ("face_landmarker", "whisper_tiny_en"):
            path = assets.fetch(name, offline=o.offline or None, commercial_only=o.commercial_only or None)
            out.print(f"{name}: {path}")
    elif o.action == "verify":
        bad = [s for s in assets.verify(o.names or None)]
        for state in bad:
            out.print(state)
    else:
        for item in assets.listing():
            out.print(item)


def do_doctor(o: Doctor) -> int:
    from vivavoce.doctor import examine

    findings = examine()
    table = Table("area", "", "finding", "what to do")
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
    try:
        return _dispatch(words[0], words[1:])
    except InputError as error:
        err.print(f"vivavoce: {error}", style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        err.print("vivavoce: stopped; the same command goes on where it was")
        return 130
    except SystemExit as stop:  # tyro has printed its message
        return int(stop.code or 0) if isinstance(stop.code, int | None) else 2
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="vivavoce-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        err.print(f"vivavoce: a fault of ours ({type(error).__name__}: {error}); details: {log.name}", style="red", markup=False)
        return 1


def _dispatch(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        raise InputError(verb, "no such verb", f"did you mean {near[0]}?" if near else f"choose from: {', '.join(VERBS)}")
    kind, act = VERBS[verb]
    if verb == "train":  # the method's own settings follow: its Config is parsed from what is left
        options, rest = tyro.cli(kind, args=words, prog=f"vivavoce {verb}", return_unknown_args=True)
        return int(act(options, rest) or 0)
    return int(act(tyro.cli(kind, args=words, prog=f"vivavoce {verb}")) or 0)


if __name__ == "__main__":
    sys.exit(main())
