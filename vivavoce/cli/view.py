"""vivavoce view."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vivavoce.cli.screen import out
from vivavoce.cli.words import File, RunFolder


@dataclass
class View:
    """A trained head in the browser: turn it, shut its eyes, wind its speech; or its Gaussians as a .ply file."""

    run: RunFolder  # of a method of the Gaussian or radiance-field family
    audio: File = None  # what to say: any audio or video file; default: what was said in the film
    ply: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None  # write the head at rest here, for splat viewers, and stop
    size: int = 0  # longest side of the film's pictures, px; 0: as trained
    host: str = "127.0.0.1"  # 0.0.0.0 lets other machines in
    port: int = 8080  # where the browser finds it
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: View) -> None:
    from vivavoce import viewer
    from vivavoce.cli.run import given
    from vivavoce.run import pick_device

    if o.ply is not None:
        out.print(f"{o.ply}: {viewer.export(o.run, o.ply)} Gaussians")
        return
    stage = viewer.load(o.run, given(o.audio) if o.audio else None, o.size, pick_device(o.device))
    shown = viewer.Viewer(stage, o.host, o.port)
    out.print(f"http://{o.host}:{shown.server.get_port()} shows {o.run}; stop with Ctrl-C")
    try:
        while True:
            time.sleep(1)
    finally:
        shown.close()
