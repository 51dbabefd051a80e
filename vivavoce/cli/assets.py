"""vivavoce assets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vivavoce.cli.screen import grid, out, said
from vivavoce.cli.words import Names


@dataclass
class Assets:
    """External files: list, fetch, verify, licenses."""

    action: Annotated[Literal["list", "fetch", "verify", "licenses"], tyro.conf.Positional] = "list"  # what to do
    names: Names = ()  # which; default: fetch takes what the default chain needs, the others take all
    again: bool = False  # fetch even what is here
    offline: bool = False  # use nothing but the cache and $VIVAVOCE_ASSETS
    commercial_only: bool = False  # refuse (or leave out) files whose terms exclude commercial use


def do(o: Assets) -> int:
    from vivavoce import assets
    from vivavoce.catalogue import DEFAULT

    if o.action == "fetch":
        for name in o.names or DEFAULT:
            path = assets.fetch(name, offline=o.offline or None, commercial_only=o.commercial_only or None, again=o.again)
            out.print(f"{name}: {path}", highlight=False)
        return 0
    for name in o.names:
        assets.asset(name)
    if o.action == "licenses":
        table = grid("name", "licence of the weights", "commercial use", "what for")
        for asset in assets.licenses(o.commercial_only or None):
            if not o.names or asset.name in o.names:
                table.add_row(asset.name, asset.license, "yes" if asset.commercial else said("no", "red"), asset.what)
        out.print(table)
        return 0
    states = assets.verify(o.names or None) if o.action == "verify" else assets.listing()
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    for s in states:  # no table: it would cut the paths
        a = s.asset
        if (not o.names or a.name in o.names) and (a.commercial or not o.commercial_only):
            size = f", {a.size / 1e6:.1f} MB" if a.size else ""
            out.print(f"{a.name:<28}", said(s.state, colours[s.state]), size, "" if a.commercial else ", no commercial use", sep="")
            for text in filter(None, (a.what, s.text or str(s.path or ""))):
                out.print(f"    {text}", highlight=False)
    return int(o.action == "verify" and any(s.state == "broken" for s in states))
