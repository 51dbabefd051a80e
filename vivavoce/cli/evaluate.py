"""vivavoce eval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vivavoce.cli.screen import bar, grid, out
from vivavoce.cli.words import Number, Place, RunFolder


@dataclass
class Eval:
    """Held-out figures of a trained run: synthesised, pasted and the ground-truth row, with a contact sheet."""

    run: RunFolder  # made by vivavoce train
    folder: Place = None  # person folder; default: the one it was trained on
    split: Literal["val", "train", "all"] = "val"  # val: the last 1/11 of the video, never trained on
    size: Number = None  # longest side, px; default: as trained
    out: Place = None  # where the tables go; default: the run folder
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: Eval) -> None:
    from vivavoce.evaluate import evaluate
    from vivavoce.run import pick_device

    progress, move = bar("eval")
    with progress:
        rows = evaluate(o.run, o.folder, split=o.split, size=o.size, out=o.out, device=pick_device(o.device), progress=move)
    table = grid("protocol", "frames", "PSNR dB", "SSIM", "LPIPS", "LMD px", "mouth r", "faces lost")
    for r in rows:
        table.add_row(
            r.protocol, str(r.frames), f"{r.psnr:.2f}", f"{r.ssim:.4f}", f"{r.lpips:.4f}", f"{r.lmd:.2f}", f"{r.mouth:.2f}", str(r.lost)
        )
    out.print(table)
    out.print(f"tables and contact sheet: {o.out or o.run}")
