"""vivavoce list."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vivavoce.cli.screen import grid, out, said
from vivavoce.cli.words import Name


@dataclass
class List:
    """The methods: name, family, paper, licence; or one method's settings and presets; or the data sets."""

    method: Name = ""  # show this method's settings
    data: bool = False  # the data sets that --data NAME:PATH knows, and what each expects to find
    markdown: bool = False  # as a table for a document


def do(o: List) -> None:
    from vivavoce import registry

    if o.data:
        _data(o.markdown)
        return
    if o.method:
        card = registry.find(o.method)
        table = grid("setting", *(card.cls.presets))
        configs = [registry.configure(o.method, p) for p in card.cls.presets]
        for f in dataclasses.fields(card.config):
            table.add_row(f.name, *(str(getattr(c, f.name)) for c in configs))
        for line in (card.summary, f"paper: {card.paper}", f"original: {card.origin} ({card.license})"):
            out.print(line, highlight=False)
        out.print(table)
        return
    cards = [registry.find(name) for name in registry.names()]
    if o.markdown:
        head = ("method", "kind", "family", "presets", "what it is", "paper", "licence of the original")
        _table(head, [(f"`{c.name}`", c.kind, c.family, ", ".join(c.cls.presets), c.summary, c.paper, c.license) for c in cards])
        return
    table = grid("method", "kind", "family", "presets", "what it is")
    for c in cards:
        table.add_row(c.name, c.kind, c.family, ", ".join(c.cls.presets), c.summary)
    out.print(table)


def _data(markdown: bool) -> None:
    from vivavoce.data.layouts import LAYOUTS

    head = ("data set", "below the path", "a person is", "split", "terms")
    if markdown:
        _table(head, [(f"`{one.name}`", f"`{one.expects}`", one.identity, one.split, one.terms) for one in LAYOUTS.values()])
        return
    for one in LAYOUTS.values():  # no table: it would cut the paths
        out.print(said(f"{one.name:<11}", "bold") + one.expects, highlight=False)
        out.print(f"{'':<11}a person is: {one.identity}; split: {one.split}; terms: {one.terms}", highlight=False)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    for row in (head, ("---",) * len(head), *rows):
        out.print("| " + " | ".join(row) + " |", highlight=False)
