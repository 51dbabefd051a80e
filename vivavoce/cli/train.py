"""vivavoce train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivavoce.cli.screen import bar, out
from vivavoce.cli.words import Folder, Name, Place, parse
from vivavoce.how import How
from vivavoce.types import InputError, Source


@dataclass
class Train(How):
    """Train a method on a person folder (or a folder of them). Any setting of the method may follow: vivavoce list METHOD."""

    method: Name  # one of: vivavoce list
    folder: Folder  # made by vivavoce prepare
    out: Place = None  # run folder; default: FOLDER/runs/METHOD; a run found there goes on
    preset: str = ""  # named settings of the method: vivavoce list METHOD
    speech: str = ""  # speech encoder; default: the method's
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: Train, rest: Sequence[str]) -> None:
    from vivavoce import registry, train
    from vivavoce.data.corpus import person_folders
    from vivavoce.data.faces import packed
    from vivavoce.run import pick_device

    card = registry.find(o.method)
    config = parse(card.config, rest, f"vivavoce train {o.method}", default=registry.configure(o.method, o.preset), beside=(Train,))
    folders = person_folders(o.folder) or ([o.folder] if packed(o.folder) else [])
    if not folders:
        raise InputError(o.folder, "no prepared person folder", f"run: vivavoce prepare VIDEO --folder {o.folder}")
    method = card.cls(config)
    speech = o.speech or method.speech
    size = getattr(config, "size", None) or None
    run = o.out or o.folder / "runs" / o.method
    extra = {"folder": str(o.folder.resolve()), "size": size, "split": "train", "speech": speech}
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


def _source(folders: list[Path], split: str, options: dict[str, Any]) -> Source:
    from vivavoce.data.corpus import Corpus
    from vivavoce.data.faces import Faces, packed
    from vivavoce.data.person import Person

    if packed(folders[0]):
        return Faces(folders[0], split, options["window"])
    return Person(folders[0], split=split, **options) if len(folders) == 1 else Corpus(folders, split=split, **options)
