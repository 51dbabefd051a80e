"""vivavoce train."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivavoce.cli import ranges
from vivavoce.cli.prepare import faces_of, shown
from vivavoce.cli.screen import bar, out
from vivavoce.cli.words import Data, Folders, Name, Place, option, parse
from vivavoce.how import How
from vivavoce.method import Method
from vivavoce.registry import Card
from vivavoce.types import InputError, Source


@dataclass
class Train(How):
    """Train a method on a person folder, a folder of them, or data sets. Its own settings: vivavoce train METHOD --help."""

    method: Name  # one of: vivavoce list
    folder: Folders = ()  # made by vivavoce prepare
    data: tuple[Data, ...] = ()  # data sets instead, for example lrs2:/data/lrs2; vivavoce list --data names them
    out: Place = None  # run folder; default: FOLDER/runs/METHOD; a run found there goes on
    preset: str = ""  # named settings of the method: vivavoce train METHOD --help shows them
    speech: str = ""  # speech encoder; default: the method's
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: Train, rest: Sequence[str]) -> None:
    growing()
    from vivavoce import registry, train
    from vivavoce.data.corpus import person_folders
    from vivavoce.data.faces import packed
    from vivavoce.run import pick_device

    if Path(o.method).is_dir() and o.method not in registry.names():
        raise InputError(o.method, "is a folder where METHOD is wanted", f"write: vivavoce train METHOD {o.method}")
    card = registry.find(o.method)
    if card.cls.loss is Method.loss:
        remedy = f"use it: vivavoce run SOURCE --audio FILE --renderer {o.method}"
        raise InputError(o.method, "is not trained: it has nothing to learn", remedy)
    plain = registry.configure(o.method, o.preset)
    config = parse(card.config, rest, f"vivavoce train {o.method}", default=plain, beside=(Train,))
    ranges.check(config, ranges.of_settings(card.config(), [registry.configure(o.method, preset) for preset in card.cls.presets]))
    if len(o.folder) + bool(o.data) != 1:
        wrong = "too many: wants one FOLDER, or --data NAME:PATH" if o.folder else "missing: FOLDER, or --data NAME:PATH"
        raise InputError(f"vivavoce train {o.method}", wrong, f"see: vivavoce train {o.method} --help")
    folders = _prepared(card, config, o.data) if o.data else person_folders(o.folder[0]) or list(filter(packed, o.folder))
    if not folders:
        raise InputError(o.folder[0], "no prepared person folder", f"run: vivavoce prepare VIDEO --folder {o.folder[0]}")
    home = folders[0] if o.data else o.folder[0]
    method = built(card, config, plain)
    speech = o.speech or method.speech
    size = getattr(config, "size", None) or None
    run = o.out or home / "runs" / o.method
    extra: dict[str, Any] = {"folder": str(home.resolve()), "size": size, "split": "train", "speech": speech}
    extra |= {"data": list(o.data)} if o.data else {}
    with train.ranks.joined(pick_device(o.device)) as device:
        window = method.training_window or method.window
        options: dict[str, Any] = {"size": size, "speech": speech or "whisper", "window": window, "device": device}
        options["space"] = method.space or "blendshapes"
        source = _source(folders, "train", options)
        try:
            held = _source(folders, "val", options)
        except InputError:  # an older repository's folder may keep nothing back; it trains all the same
            held = None
        progress, move = bar(f"train {o.method}")
        with progress:
            train.train(
                o.method, source, run, config,
                preset=o.preset, speech=speech, device=device, extra=extra, progress=move, held=held, how=o,
            )  # fmt: skip
        if train.ranks.first():
            further = f"; hear it: vivavoce run {run} --audio FILE; judge it: vivavoce eval {run}" if card.kind == "renderer" else ""
            out.print(f"trained {run}{further}")


def growing() -> None:
    """Let the pieces that torch takes of a GPU's memory grow, unless the user has told it how to take them.

    Where the number of samples changes from step to step, pieces of fixed lengths leave holes: a radiance field that needs 14 GB held 59.
    To be called before torch takes the first. Windows' driver, which Linux beside Windows uses too, has no such pieces.
    """
    told = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    if sys.platform == "linux" and "microsoft" not in platform.release().lower() and not told:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def built(card: Card, config: Any, plain: Any) -> Method:
    """A new method. Raises InputError where the settings that differ from `plain` do not go together."""
    try:
        return card.cls(config)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        changed = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(plain, f.name)]
        if not changed:
            raise
        told = " ".join(f"{option(name)} {getattr(config, name)}" for name in changed)
        usual = ", ".join(f"{name} {getattr(plain, name)}" for name in changed)
        raise InputError(
            told, f"{card.name} cannot be built so ({error})", f"usual: {usual}; see: vivavoce train {card.name} --help"
        ) from error


def _prepared(card: Card, config: Any, data: Sequence[str]) -> list[Path]:
    """The folders of the data sets' faces, as large as the method draws them; made where they are not yet.

    Of processes that train together the first makes them and the others wait. Raises InputError for a method that learns from more
    than faces, before anything is made.
    """
    from vivavoce.data.faces import HOLDS
    from vivavoce.data.shards import whole
    from vivavoce.prepare.corpus import place_of
    from vivavoce.prepare.faces import side_for

    if lost := sorted((card.cls.needs | card.cls.loss_needs) - set(HOLDS)):
        cause = f"needs {', '.join(lost)}, which faces of a data set do not hold"
        raise InputError(card.name, cause, "prepare its videos one by one: vivavoce prepare VIDEO")
    side = side_for(getattr(config, "side", 0))
    places = [place_of(one, side) for one in data]
    for one, place in zip(data, places, strict=True):
        while whole(place) is None and os.environ.get("RANK", "0") != "0":
            time.sleep(1)
        if whole(place) is None:
            out.print(f"{one} is not prepared yet: its faces go to {place}", highlight=False)
            shown(faces_of(one, place, None, side, None))
    return places


def _source(folders: list[Path], split: str, options: dict[str, Any]) -> Source:
    from vivavoce.data.corpus import Corpus
    from vivavoce.data.faces import Faces, packed
    from vivavoce.data.person import Person

    if packed(folders[0]):
        return Faces(folders, split, options["window"])
    return Person(folders[0], split=split, **options) if len(folders) == 1 else Corpus(folders, split=split, **options)
