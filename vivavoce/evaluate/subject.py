"""Who is judged: a run folder, a method that needs no training, or a renderer that a generator drives; and on what rows of a folder."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vivavoce import __version__, registry
from vivavoce.data.person import Person
from vivavoce.method import Generator, Method, Renderer
from vivavoce.train import load_run
from vivavoce.types import InputError

MEASURED = 1  # counts up when a figure is computed in another way: older results are then made anew
SMALLEST = 32  # px: LPIPS sees nothing in less
HASH = 12  # hex digits of a hash that are shown
PORTRAIT = "portrait"  # the family that speaks from one picture, and whose heads move relative to it
DRIVEN = "+"  # between a renderer and the generator that drives it
PLAIN = "face_warp"  # the renderer that a generator drives where none is named: it needs no training

Missed = Callable[[str, Exception], object]  # who is not judged, and why


@dataclass(frozen=True)
class Subject:
    """A renderer to be judged."""

    label: str  # in tables and file names
    method: str
    preset: str
    run: Path | None  # None: a method that works as it comes
    weights: str  # hash of model.safetensors; of a method as it comes the version of vivavoce
    about: dict[str, Any]  # config.json
    driver: Subject | None = None  # the generator that makes the motion, of the test video's sound; None: motion is as measured

    @property
    def card(self) -> registry.Card:
        return registry.find(self.method)

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.run or self.method) + (f"{DRIVEN}{self.driver.name}" if self.driver else "")

    @property
    def all_weights(self) -> str:
        """Of the renderer, and of who drives it where that is another's."""
        return DRIVEN.join(dict.fromkeys([self.weights, self.driver.weights] if self.driver else [self.weights]))

    @property
    def reads(self) -> list[str]:
        """Clip fields that it is given for each frame."""
        own = self.card.cls.needs
        return sorted((own - {"motion"}) | self.driver.card.cls.needs if self.driver else own)

    @property
    def learnt(self) -> Path | None:
        """The folder of the one person that it can draw; None where the identity is not in its weights."""
        cls = self.card.cls
        if self.run is None or (issubclass(cls, Renderer) and cls.source_needs) or "frames" in cls.needs:
            return None
        return Path(str(self.about.get("folder", "")))

    def load(self, device: str) -> Renderer:
        """The renderer, ready to draw. Raises InputError for a damaged run, or weights that cannot be had."""
        method = self._method(device)
        assert isinstance(method, Renderer)
        return method

    def drives(self, device: str) -> Generator:
        """The generator, ready to speak. Raises InputError likewise."""
        method = self._method(device)
        assert isinstance(method, Generator)
        return method

    def _method(self, device: str) -> Method:
        if self.run is not None:
            method: Method = load_run(self.run, device)[0]
        else:
            shipped: Callable[[int], Method] | None = getattr(self.card.cls, "shipped", None)
            method = shipped(0) if shipped else registry.create(self.method)
        return method.to(device).eval()

    def space(self) -> str:
        """The motion space that it reads or makes."""
        return self.card.cls.space if self.run is None else registry.create(self.method, **self.about["config"]).space

    def costs(self) -> dict[str, float | None]:
        """What making it took, as far as the run folder tells."""
        if self.run is None:
            return {"minutes": 0.0, "steps": 0.0, "megabytes": 0.0}
        out: dict[str, float | None] = {"megabytes": (self.run / "model.safetensors").stat().st_size / 1e6}
        rows: list[dict[str, str]] = []
        if (self.run / "log.csv").is_file():
            with (self.run / "log.csv").open(newline="") as file:
                rows = list(csv.DictReader(file, restval=""))
        try:
            out |= {"steps": float(rows[-1]["step"]) + 1, "minutes": float(rows[-1]["seconds"]) / 60}
            out["gigabytes"] = max((float(r["gpu_gigabytes"]) for r in rows if r.get("gpu_gigabytes")), default=None)
        except (ValueError, LookupError):  # damaged: the table leaves it blank
            pass
        return out


@dataclass(frozen=True)
class Protocol:
    """What a figure belongs to. Two figures compare when theirs are equal."""

    split: str
    first: int  # frame numbers of the video
    last: int
    count: int
    height: int
    width: int
    measured: int = MEASURED

    def __str__(self) -> str:
        return f"{self.split}, {self.count} frames {self.first}-{self.last}, {self.width} x {self.height} px, v{self.measured}"

    def against(self, other: Protocol) -> str:
        """In what two differ, in words; "" when they compare."""
        mine, theirs = asdict(self), asdict(other)
        names = {"split": "split", "first": "frames", "last": "frames", "count": "frames", "height": "frame size", "width": "frame size"}
        return ", ".join(dict.fromkeys(names.get(k, "version of the measurement") for k in mine if mine[k] != theirs[k]))


def subjects(runs: Sequence[str | Path], missed: Missed | None = None) -> list[Subject]:
    """What was named on the command line, each once.

    Raises InputError for a name that is nothing; for what is there and cannot be judged too, where nobody asks what was `missed`.
    """
    if not runs:
        raise InputError("vivavoce eval", "no run is given", "give run folders: vivavoce eval FOLDER/runs/METHOD")
    found: dict[str, Subject] = {}
    for run in map(str, runs):
        try:
            one = _subject(run)
        except InputError as error:
            if missed is None or not all(_there(part) for part in _parts(run)):
                raise
            missed(run, error)
            continue
        found.setdefault(str(one.run.resolve()) if one.run and not one.driver else one.name, one)
    return list(found.values())


def _there(name: str) -> bool:
    return Path(name).exists() or name in registry.names()


def _parts(run: str) -> list[str]:
    """RENDERER+GENERATOR in two; everything else as it is."""
    return [run] if _there(run) or DRIVEN not in run else run.rsplit(DRIVEN, 1)


def _subject(run: str) -> Subject:
    """Raises InputError for what cannot be judged."""
    first, *rest = (_named(part) for part in _parts(run))
    kind = first.card.kind
    if rest and (kind != "renderer" or rest[0].card.kind != "generator"):
        raise InputError(run, "not a renderer and the generator that drives it", f"give RENDERER{DRIVEN}GENERATOR: vivavoce list")
    if not rest and kind == "generator":
        plain = _named(PLAIN)
        if first.space() != plain.space():
            cause = f"a run of {first.method}: it makes motion and draws no frames"
            remedy = f"give it with a renderer that reads {first.space()!r}: RENDERER{DRIVEN}{run}"
            raise InputError(run, cause, remedy)
        first, rest = plain, [first]
    if not rest:
        return first
    driver = rest[0]
    if "motion" not in first.card.cls.needs:
        raise InputError(run, f"nothing drives {first.method}: it hears the sound itself", f"give it alone: {first.name}")
    if first.space() != driver.space():
        cause = f"motion spaces differ: {driver.method} makes {driver.space()!r}, {first.method} reads {first.space()!r}"
        raise InputError(run, cause, "choose two of one space: vivavoce list")
    return replace(first, label=f"{first.label}{DRIVEN}{driver.label}", driver=driver)


def _named(run: str) -> Subject:
    """A run folder or a method that works as it comes, whatever its kind."""
    path = Path(run)
    if not path.exists() and run in registry.names():
        card = registry.find(run)
        shipped: Callable[[int], Method] | None = getattr(card.cls, "shipped", None)
        if card.kind == "expert":
            raise _expert(run, "RUN")
        if shipped is None and card.cls.loss is not Method.loss:
            given = f"RENDERER{DRIVEN}RUN" if card.kind == "generator" else "the run folder"
            raise InputError(run, "it has to be trained first", f"run: vivavoce train {run} FOLDER, and give {given}")
        if shipped is not None:
            shipped(0)  # weights that cannot be had are told before anybody's work begins
        return Subject(run, run, "", None, f"vivavoce {__version__}", {})
    if not path.exists():
        raise InputError(run, "no such run folder", "train it: vivavoce train METHOD FOLDER")
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise _no_run(path)
    try:
        about = json.loads((path / "config.json").read_text("utf-8"))
        method, preset = str(about["method"]), str(about.get("preset", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path / "config.json", f"the run cannot be read ({error})", "train it again: vivavoce train") from error
    if registry.find(method).kind == "expert":
        raise _expert(run, run)
    with (path / "model.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()[:HASH]
    return Subject(path.resolve().name, method, preset, path, weights, about)


def _expert(name: str, run: str) -> InputError:
    return InputError(name, "it judges lips and draws no frames", f"let it judge the others: --expert {run}")


def _no_run(path: Path) -> InputError:
    """What to give in place of a path that is no run folder."""
    if any((path / f"transforms_{split}.json").is_file() for split in ("train", "val")):
        runs = sorted(str(f.parent) for f in path.glob("runs/*/config.json") if (f.parent / "model.safetensors").is_file())
        remedy = f"give a run of this person: vivavoce eval {' '.join(runs)}" if runs else f"train one: vivavoce train METHOD {path}"
        return InputError(path, "is a person folder where a run is wanted", f"{remedy}; or: vivavoce eval {PLAIN} --data {path}")
    if (path / "config.json").is_file():
        return InputError(path, "no weights yet (model.safetensors is not there)", "let its training end: vivavoce train, the same command")
    return InputError(path, "not a run folder (config.json and model.safetensors are needed)", "train it again: vivavoce train")


def people(subject: Subject, folder: Path, split: str, size: int | None, device: str) -> tuple[Person, Person]:
    """The rows as the method reads them, and the same with the original frames. Raises InputError."""
    like = subject.card.cls if subject.run is None else registry.create(subject.method, **subject.about["config"])
    speech = str(subject.about.get("speech") or like.speech or "whisper")
    options: dict[str, Any] = {"size": size or subject.about.get("size"), "split": split, "speech": speech, "window": like.window}
    options["space"] = like.space or "blendshapes"
    return Person(folder, **options, device=device), Person(folder, **options, target="original", device=device)


def protocol(person: Person, frames: int) -> Protocol:
    """Of the first `frames` rows (0: all). Raises InputError where there are fewer than two, or too small ones."""
    rows = person.rows[:frames] if frames else person.rows
    if len(rows) < 2:
        cause = f"{len(rows)} frame of split {person.split!r}: nothing moves in it"
        raise InputError(person.folder, cause, "take more: --split all, or prepare a longer video")
    if min(person.size) < SMALLEST:
        cause = f"frames of {person.size[1]} x {person.size[0]} px are too small to be judged"
        raise InputError(person.folder, cause, f"give --size {SMALLEST} or more")
    return Protocol(person.split, int(rows[0]), int(rows[-1]), len(rows), *person.size)


def prepared(folder: Path) -> str:
    """A short hash of how a folder was prepared: results on one person with two of them compare roughly only."""
    parts = [path.read_bytes() for name in ("train", "val") if (path := folder / f"transforms_{name}.json").is_file()]
    if (folder / "clip.json").is_file():
        made = json.loads((folder / "clip.json").read_text("utf-8")).get("artefacts", {})
        parts += [str(made[k].get("digest")).encode() for k in ("frames", "parsing", "background", "torso", "body") if k in made]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:8]


def machine(device: str) -> str:
    """What draws, in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "CPU"
    if Path("/proc/cpuinfo").is_file():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)}, {model}"
