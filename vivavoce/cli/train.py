"""vivavoce train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vivavoce.cli.screen import bar, out
from vivavoce.cli.words import Folder, Name, Place, parse
from vivavoce.types import InputError


@dataclass
class Train:
    """Train a method on a person folder (or a folder of them). Any setting of the method may follow: vivavoce list METHOD."""

    method: Name  # one of: vivavoce list
    folder: Folder  # made by vivavoce prepare
    out: Place = None  # run folder; default: FOLDER/runs/METHOD; a run found there goes on
    preset: str = ""  # named settings of the method: vivavoce list METHOD
    speech: str = ""  # speech encoder; default: the method's
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: Train, rest: Sequence[str]) -> None:
    from vivavoce import registry, train
    from vivavoce.data.corpus import Corpus, person_folders
    from vivavoce.data.person import Person
    from vivavoce.run import pick_device

    card = registry.find(o.method)
    config = parse(card.config, rest, f"vivavoce train {o.method}", default=registry.configure(o.method, o.preset), beside=(Train,))
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
