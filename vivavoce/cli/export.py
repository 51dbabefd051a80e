"""vivavoce export."""

from __future__ import annotations

from dataclasses import dataclass

from vivavoce.cli.screen import out
from vivavoce.cli.words import Folder, Place


@dataclass
class Export:
    """A prepared folder in the exact form that an older repository reads."""

    folder: Folder  # made by vivavoce prepare
    layout: (
        str  # whose: ad-nerf, rad-nerf, er-nerf, r2-talker, geneface, gaussiantalker, egstalker, talkinggaussian, instag, synctalk, dyntet
    )
    out: Place = None  # where to; default: FOLDER-LAYOUT


def do(o: Export) -> None:
    from vivavoce.prepare.export import export

    out.print(f"exported {export(o.folder, o.layout, o.out)}")
