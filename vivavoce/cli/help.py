"""vivavoce train METHOD --help: the options of training and the method's own settings on one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import tyro

from vivavoce.cli.screen import grid, out
from vivavoce.cli.train import Train
from vivavoce.cli.words import option, parse


def wanted(words: Sequence[str]) -> str:
    """The method whose help these words of `vivavoce train` ask for; "" when they ask for none's. Raises InputError for a misspelt one."""
    from vivavoce import registry

    if not {"-h", "--help"} & set(words):
        return ""
    named = [word for word in words if word in registry.names()]
    if not named and not words[0].startswith("-"):
        registry.find(words[0])
    return named[0] if named else ""


def show(method: str, words: Sequence[str]) -> None:
    """The page: defaults are those of the preset that `words` name; then what each preset makes other."""
    from vivavoce import registry

    card = registry.find(method)
    preset = next((after for word, after in pairwise(words) if word == "--preset"), "")
    preset = next((word.partition("=")[2] for word in words if word.startswith("--preset=")), preset)
    config = registry.configure(method, preset)
    general = {field.name for field in dataclasses.fields(Train)}  # what both have is training's: it reads the words first
    fixed = [
        (field.name, tyro.conf.Fixed[Any], dataclasses.field(default=getattr(config, field.name)))  # type: ignore[misc]
        for field in dataclasses.fields(config)
        if field.name in general
    ]
    kind: Any = dataclasses.make_dataclass(card.config.__name__, fixed, bases=(card.config,)) if fixed else card.config
    parts: list[tuple[str, Any]] = [("training", Train), (method, kind)]
    page: Any = dataclasses.make_dataclass("Page", parts)
    page.__doc__ = f"{card.summary}\n\nTrained on a person folder, a folder of them, or data sets."
    default = page(Train(method, preset=preset), kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)}))
    try:
        parse(tyro.conf.OmitArgPrefixes[tyro.conf.SuppressFixed[page]], ["--help"], "vivavoce train", default=default)  # type: ignore[misc]
    except SystemExit:
        presets = {name: registry.configure(method, name) for name in card.cls.presets}
        table = grid("setting", "by itself", *presets)
        for field in dataclasses.fields(card.config):
            values = [str(getattr(one, field.name)) for one in (card.config(), *presets.values())]
            if len(set(values)) > 1:
                table.add_row(option(field.name), *values)
        if table.rows:
            out.print("What --preset makes other:", highlight=False)
            out.print(table)
