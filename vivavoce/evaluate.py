"""A trained run against frames it never saw: a table, a contact sheet, and the ground-truth row beside it.

Protocols, always named beside the figures:

* `synthesised`: the whole frame is made by the method (head, torso, background); pose and eyes come from the test video, as
  everywhere in the field; the reference is the original frame.
* `synthesised, plate`: the same frames against the lineage's reference (`gt_imgs`: the original with the background plate
  pasted), which asks nobody to guess a background that moves.
* `pasted`: the ground truth is put back outside the head. Most published tables do this; the figures are not comparable.
* `ground truth`: the folder's own target frames (plate pasted, re-encoded) against the original frames: what a perfect
  method could reach.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivavoce.data.person import Person
from vivavoce.face import regions
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import write_image
from vivavoce.method import Renderer
from vivavoce.metrics.lmd import lmd
from vivavoce.metrics.psnr import psnr
from vivavoce.metrics.ssim import ssim
from vivavoce.nn.perceptual import Perceptual
from vivavoce.train import load_run
from vivavoce.types import InputError

log = logging.getLogger(__name__)

SHEET_ROWS = 6
BLOCK = 8


@dataclass
class Row:
    """Figures of one protocol, mean over the frames. `lmd` in px at the evaluated size; `lpips` with AlexNet, NaN where its weights
    cannot be had; `mouth` is the correlation of measured lip opening with the original's over time."""

    protocol: str
    frames: int
    psnr: float
    ssim: float
    lpips: float
    lmd: float
    mouth: float
    lost: int  # frames where no face was found in the picture made


@dataclass
class _Sums:
    psnr: list[Tensor] = field(default_factory=list)
    ssim: list[Tensor] = field(default_factory=list)
    lpips: list[Tensor] = field(default_factory=list)
    made: list[Face | None] = field(default_factory=list)


def evaluate(
    run: str | Path,
    folder: str | Path | None = None,
    *,
    split: str = "val",
    size: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Evaluate a trained run on a person folder's held-out frames.

    Writes `eval.csv`, `eval.md`, `eval.json` and `eval.png` (original, ours, difference) into `out` (the run folder by default).
    Raises InputError when the run is not a renderer trained on one person.
    """
    method, about = load_run(run, device)
    if not isinstance(method, Renderer) or "folder" not in about:
        raise InputError(run, "only a renderer trained on a person folder can be evaluated so far", "see: vivavoce list")
    folder = Path(folder or about["folder"])
    options: dict[str, Any] = {"size": size or about.get("size"), "split": split, "speech": method.speech, "window": method.window}
    options["space"] = method.space or "blendshapes"
    source = Person(folder, **options, device=device)
    truth = Person(folder, **options, target="original", device=device)
    landmarker, judge = Landmarker(), _judge(device)
    sums = {name: _Sums() for name in ("synthesised", "synthesised, plate", "pasted", "ground truth")}
    real: list[Face | None] = []
    sheet: list[Tensor] = []
    shown = set(torch.linspace(0, len(source) - 1, SHEET_ROWS).long().tolist())
    for at, made, plate, original, labels in _rendered(method, source, truth):
        head = ((labels == regions.HEAD) | (labels == regions.HAIR) | (labels >= regions.INNER_MOUTH))[:, None].to(made)
        versions = {
            "synthesised": (made, original),
            "synthesised, plate": (made, plate),
            "pasted": (made * head + original * (1 - head), original),
            "ground truth": (plate, original),
        }
        faces: dict[int, list[Face | None]] = {}  # by picture: the first two are the same
        looks = {id(p): judge.features(p) for p in (made, plate, original, versions["pasted"][0])} if judge is not None else {}
        for name, (frames, reference) in versions.items():
            sums[name].psnr.append(psnr(frames, reference).cpu())
            sums[name].ssim.append(ssim(frames, reference).cpu())
            if judge is not None:
                sums[name].lpips.append(judge.distance(looks[id(frames)], looks[id(reference)]).cpu())
            sums[name].made += faces[id(frames)] if id(frames) in faces else faces.setdefault(id(frames), _faces(landmarker, frames))
        real += _faces(landmarker, original)
        for i in range(len(made)):
            if at + i in shown:
                sheet.append(torch.cat([original[i], made[i], ((made[i] - original[i]).abs() * 3).clamp(max=1)], 2).cpu())
        if progress is not None:
            progress(at + len(made), len(source))
    rows = [_row(name, s, real) for name, s in sums.items()]
    _write(Path(out or run), rows, about, folder, split, source.size, sheet)
    return rows


def _rendered(method: Renderer, source: Person, truth: Person) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    identity = method.encode(source.clip([0], method.source_needs)) if method.source_needs else None
    for at in range(0, len(source), BLOCK):
        rows = range(at, min(at + BLOCK, len(source)))
        clip = source.clip(list(rows), method.needs)
        with torch.no_grad():
            made = method.render(identity, clip)
        beside = source.clip(list(rows), {"frames", "labels"})
        original = truth.clip(list(rows), {"frames"}).frames
        assert beside.frames is not None and beside.labels is not None and original is not None
        yield at, made, beside.frames, original, beside.labels


def _judge(device: str | torch.device) -> Perceptual | None:
    """LPIPS, or None, and a line in the log, where its weights cannot be had."""
    try:
        return Perceptual.pretrained("alexnet", device)
    except InputError as error:
        log.warning("LPIPS is left out: %s", error)
        return None


def _faces(landmarker: Landmarker, frames: Tensor) -> list[Face | None]:  # [T,3,H,W]
    pictures = (frames * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = [landmarker(picture) for picture in pictures]
    return [max(f, key=lambda face: face.score) if f else None for f in found]


def _row(name: str, sums: _Sums, real: list[Face | None]) -> Row:
    both = [(m, r) for m, r in zip(sums.made, real, strict=True) if m is not None and r is not None]
    made = torch.stack([torch.as_tensor(m.landmarks68) for m, _ in both]) if both else torch.zeros(0, 68, 2)
    true = torch.stack([torch.as_tensor(r.landmarks68) for _, r in both]) if both else torch.zeros(0, 68, 2)
    openings = torch.tensor([[m.mouth_open, r.mouth_open] for m, r in both]).T if len(both) > 2 else torch.zeros(2, 3)
    correlation = float(torch.corrcoef(openings)[0, 1]) if float(openings.std(1).min()) > 0 else 0.0
    lost = sum(m is None for m in sums.made)
    distance = float(lmd(made, true).mean()) if both else float("nan")
    quality, structure, looks = (float(torch.cat(v).mean()) if v else float("nan") for v in (sums.psnr, sums.ssim, sums.lpips))
    return Row(name, len(real), quality, structure, looks, distance, correlation, lost)


def _write(out: Path, rows: list[Row], about: dict[str, Any], folder: Path, split: str, size: tuple[int, int], sheet: list[Tensor]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    keys = list(vars(rows[0]))
    with (out / "eval.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(keys)
        table.writerows([[vars(r)[k] for k in keys] for r in rows])
    (out / "eval.md").write_text(markdown(rows, f"{about['method']} on {folder.name}, split {split}, {size[1]} x {size[0]} px"))
    facts = {"method": about["method"], "preset": about["preset"], "person": folder.name, "split": split, "size": size}
    (out / "eval.json").write_text(
        json.dumps({**facts, "rows": [{k: None if v != v else v for k, v in vars(r).items()} for r in rows]}, indent=2)
    )
    if sheet:
        write_image(out / "eval.png", torch.cat(sheet, 1))


def markdown(rows: list[Row], title: str) -> str:
    """The table as people paste it into an issue."""
    lines = [
        f"**{title}**",
        "",
        "| protocol | frames | PSNR dB | SSIM | LPIPS | LMD px | mouth r | faces lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.protocol} | {r.frames} | {r.psnr:.2f} | {r.ssim:.4f} | {r.lpips:.4f} | {r.lmd:.2f} | {r.mouth:.2f} | {r.lost} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"
