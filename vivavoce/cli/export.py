"""vivavoce export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vivavoce.cli.screen import out
from vivavoce.cli.words import Folder, Place

MESHES = ("glb", "obj")


@dataclass
class Export:
    """A prepared folder in the exact form that an older repository reads; or a trained run's head as a mesh."""

    folder: Folder  # made by vivavoce prepare; for glb and obj a run folder of a method that draws a mesh
    # whose: ad-nerf, rad-nerf, er-nerf, r2-talker, geneface, gaussiantalker, egstalker, talkinggaussian, instag, synctalk, dyntet;
    # of a run: glb (a film that plays in a browser), obj (a file a frame)
    layout: str
    out: Place = None  # where to; default: FOLDER-LAYOUT, for a run the folder mesh in it
    split: Literal["val", "train", "all"] = "val"  # glb, obj: frames whose movement is written
    frames: int = 250  # glb, obj: of them at most
    texture: int = 1024  # glb, obj: side of the texture, px


def do(o: Export) -> None:
    if o.layout in MESHES:
        from vivavoce.cli.mesh import write

        place, error = write(o.folder, o.layout, o.out, o.split, o.frames, o.texture)
        out.print(f"exported {place}: vertices within {1e3 * error:.2f} mm")
        return
    from vivavoce.prepare.export import export

    out.print(f"exported {export(o.folder, o.layout, o.out)}")
