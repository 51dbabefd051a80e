"""Who is judged: a run folder, or a method that needs no training; and on what: rows of a person's folder."""

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
from vivavoce.method import Method, Renderer
from vivavoce.train import load_run
from vivavoce.types import InputError

MEASURED = 1  # counts up when a figure is computed in another way: older results are then made anew
SMALLEST = 32  # px: LPIPS sees nothing in less
HASH = 12  # hex digits of a hash that are shown
OTHERS = {"generator": "it makes motion and draws no frames", "expert": "it judges lips and draws no frames"}


@dataclass(frozen=True)
class Subject:
    """A renderer to be judged."""

    label: str  # in tables and file names
    method: str
    preset: str
    run: Path | None  # None: a method that works as it comes
    weights: str  # hash of model.safetensors; of a method as it comes the version of vivavoce
    about: dict[str, Any]  # config.json

    @property
    def card(self) -> registry.Card:
        return registry.find(self.method)

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.run or self.method)

    def load(self, device: str) -> Renderer:
        """The method, ready to draw. Raises InputError for a damaged run."""
        if self.run is not None:
            method: Method = load_run(self.run, device)[0]
        else:
            shipped: Callable[[int], Method] | None = getattr(self.card.cls, "shipped", None)
            method = shipped(0) if shipped else registry.create(self.method)
        assert isinstance(method, Renderer)
        return method.to(device).eval()

    def costs(self) -> dict[str, float | None]:
        """What making it took, as far as the run folder tells."""
        if self.run is None:
            return {"minutes": 0.0, "steps": 0.0, "megabytes": 0.0}
        last: list[str] = []
        if (self.run / "log.csv").is_file():
            with (self.run / "log.csv").open(newline="") as file:
                last = (list(csv.reader(file)) or [[]])[-1]
        try:
            steps, minutes = float(last[0]) + 1, float(last[1]) / 60
        except (ValueError, IndexError):
            steps, minutes = None, None
        return {"minutes": minutes, "steps": steps, "megabytes": (self.run / "model.safetensors").stat().st_size / 1e6}


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


def subjects(runs: Sequence[str | Path]) -> list[Subject]:
    """What was named on the command line, each with a label of its own. Raises InputError for what cannot be judged."""
    if not runs:
        raise InputError("vivavoce eval", "no run is given", "give run folders: vivavoce eval FOLDER/runs/METHOD")
    found = [_subject(str(run)) for run in runs]
    labels = distinct([one.run for one in found if one.run is not None])
    named = {one.name: one if one.run is None else replace(one, label=labels[one.run.resolve()]) for one in found}
    return list({(one.run or Path(one.method)).resolve(): one for one in named.values()}.values())


def distinct(places: Sequence[Path]) -> dict[Path, str]:
    """Folders by what they are called: their own name, with those of the folders above where two have one name."""
    out: dict[Path, str] = {}
    for place in (p.resolve() for p in places):
        label, above = place.name, list(place.parents)
        while label in (taken for other, taken in out.items() if other != place) and above:
            label = f"{above.pop(0).name}-{label}"
        out[place] = label
    return out


def _subject(run: str) -> Subject:
    path = Path(run)
    if not path.exists() and run in registry.names():
        card = _renderer(run, run)
        if getattr(card.cls, "shipped", None) is None and card.cls.loss is not Method.loss:
            raise InputError(run, "it has to be trained first", f"run: vivavoce train {run} FOLDER, and give the run folder")
        return Subject(run, run, "", None, f"vivavoce {__version__}", {})
    if not path.exists():
        raise InputError(run, "no such run folder", "train it: vivavoce train METHOD FOLDER")
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise InputError(run, "not a run folder (config.json and model.safetensors are needed)", "train it again: vivavoce train")
    try:
        about = json.loads((path / "config.json").read_text("utf-8"))
        method, preset = str(about["method"]), str(about.get("preset", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path / "config.json", f"the run cannot be read ({error})", "train it again: vivavoce train") from error
    _renderer(method, run)
    with (path / "model.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()[:HASH]
    return Subject(path.resolve().name, method, preset, path, weights, about)


def _renderer(method: str, run: str) -> registry.Card:
    card = registry.find(method)
    if card.kind != "renderer":
        raise InputError(run, f"a run of {method}: {OTHERS[card.kind]}", "give runs of renderers: vivavoce list")
    return card


def folder_of(subject: Subject) -> Path:
    """The person folder that a run was trained on. Raises InputError when it has gone, or was no person's."""
    whom = f"say on whom: vivavoce eval {subject.name} --data FOLDER"
    if subject.run is None:
        raise InputError(subject.method, "it was not trained on anybody", whom)
    folder = Path(str(subject.about.get("folder", "")))
    if "folder" not in subject.about or not folder.exists():
        raise InputError(subject.run, f"the folder that it was trained on is not there ({folder})", whom)
    if not any((folder / f"transforms_{s}.json").is_file() for s in ("train", "val")):
        raise InputError(subject.run, f"it was trained on several people ({folder})", whom)
    return folder


def people(subject: Subject, folder: Path, split: str, size: int | None, device: str) -> tuple[Person, Person]:
    """The rows as the method reads them, and the same with the original frames. Raises InputError."""
    if not folder.is_dir():
        raise InputError(folder, "no such person folder", "run: vivavoce prepare VIDEO")
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
