"""vivavoce eval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vivavoce.cli.screen import bar, grid, out
from vivavoce.cli.words import File, Number, Place, Word
from vivavoce.types import InputError

Runs = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
SHOWN = ("psnr", "ssim", "lpips", "lmd", "mouth", "lost")  # of all columns, on the screen
Places = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...")]


@dataclass
class Eval:
    """Held-out figures of trained runs in one table: synthesised, pasted and the ground-truth rows, with pictures and films."""

    runs: Runs = ()  # made by vivavoce train; a method that needs no training, with --data; RENDERER+GENERATOR
    data: Places = ()  # person folders; of several a run that has learnt one is judged on that one; default: its own
    split: Literal["val", "train", "all"] = "val"  # val: the last 1/11 of the video, never trained on
    size: Number = None  # longest side, px; default: as trained
    frames: int = 0  # only the first so many frames; 0: all
    out: Place = None  # where table and results go; default: the run folder of a single run, else ./eval
    again: bool = False  # judge also what was judged before
    apart: bool = False  # runs may differ in frame size or rows: a table for each protocol
    pictures: bool = False  # a sheet a person too, the same frames of all runs: eval.png, of several people or many runs eval-PERSON.jpg
    merge: Places = ()  # no drawing: the eval.json in these folders, of other machines; the table has them and the runs given
    identity: Literal["sface", "arcface"] = "sface"  # network of CSIM
    fid: bool = False  # FID too
    fvd: File = None  # FVD too, by this network: i3d_torchscript.pt
    expert: File = None  # sync too in the eyes of a lip expert, under its own name: a run of lip_expert, or lipsync_expert.pth
    machine: Word = None  # what the table calls this machine; default: its processor
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: Eval) -> None:
    from vivavoce import evaluate
    from vivavoce.run import pick_device

    results, missed = evaluate.gathered(o.merge) if o.merge else [], list[tuple[str, Exception]]()
    if o.runs or not o.merge:
        options = evaluate.Options(
            o.split, o.size, o.frames, pick_device(o.device), o.identity, o.fid, o.fvd or "", o.expert or "", o.machine or "",
            again=o.again, apart=o.apart,
        )  # fmt: skip
        progress, move = bar("eval")
        with progress:
            made = evaluate.evaluate(o.runs, o.data, options, o.out, move, lambda who, error: missed.append((who, error)))
        results = evaluate.newest([*results, *made])
    if not results:
        raise missed[0][1]
    lines = [_line(who, error) for who, error in missed]
    single = Path(o.runs[0]) if len(o.runs) == 1 and Path(o.runs[0]).is_dir() else Path("eval")
    written = evaluate.write(results, o.out or single, o.apart, o.pictures, lines)
    for block in evaluate.blocks(results):
        out.print(f"{block.person}, {block.version}: {block.protocol}", highlight=False)
        table = grid("method", *(evaluate.BY_KEY[k].title for k in SHOWN))
        for row in block.rows:
            table.add_row(
                row.result.name if row.result else row.title, *(evaluate.shown(evaluate.BY_KEY[k], row.figures.get(k)) for k in SHOWN)
            )
        out.print(table)
    for note in evaluate.notes(results, lines):
        out.print(f"  {note}", highlight=False)
    out.print(f"written: {' '.join(map(str, written))}", highlight=False)


def _line(who: str, error: Exception) -> str:
    """Who is not judged, and why."""
    if not isinstance(error, InputError):
        return f"{who}: it broke ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return str(error) if str(error).startswith((f"{who}:", f"{who} ")) else f"{who}: {error}"
