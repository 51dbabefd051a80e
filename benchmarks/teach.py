"""Trains a method with every row of its data on the device, for so many seconds: no step waits for a picture to be read.

    python benchmarks/teach.py lip_expert FACES --out RUN --device cuda --seconds 150 --jitter 1 --set batch=64 rate=3e-4
    torchrun --nproc-per-node 2 benchmarks/teach.py dit_motion CORPUS/train --out RUN --preset large --steps 120 --set batch=512

The data are folders as `vivavoce train` takes them; the run is the same kind of run. `--seconds` measures the first steps and chooses as
many as fit. `--jitter` mirrors windows of faces, moves and stretches what is cut out, and changes brightness and colours: few people then
teach more. `--lift N` lets films that are not N frames long (GRID's are 75) come more often. Printed: steps a second, and the losses.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivavoce import registry
from vivavoce.data.corpus import Corpus, person_folders
from vivavoce.data.faces import Faces, packed
from vivavoce.how import How
from vivavoce.train import ranks, train
from vivavoce.types import Clip, InputError, Rows, Source

PART, TRIAL, WARM = 2000, 60, 20  # rows read at once; steps that tell the speed, and how many of them are left out
MOVED, STRETCHED, LIT, COLOURED = 0.03, 0.06, 0.25, 0.08  # of --jitter 1: of the crop's side, its size, brightness, each colour
GRID = 75  # frames of GRID's films


class Resident:
    """All rows of a source on a device; pictures as 8 bits.

    Args:
        source: gives the rows. needs: fields that are kept. jitter: how much windows of faces are changed, 0: not at all.
        window: rows of a training window, which are all changed alike. lift: times that films unlike GRID's come.
    """

    def __init__(self, source: Source, needs: Iterable[str], device: str, jitter: float = 0.0, window: int = 1, lift: int = 1) -> None:
        self.source, self.needs, self.device, self.jitter, self.window = source, frozenset(needs), device, jitter, window
        pieces, pictures = [], []
        for rows in torch.arange(len(source)).split(PART):
            clip = source.clip(rows, self.needs)
            if clip.frames is not None:
                pictures.append((clip.frames * 255).round().byte().to(device))
                clip = dataclasses.replace(clip, frames=None)
            pieces.append(clip.to(device))
        self.rest, self.pictures = Clip.cat(pieces), torch.cat(pictures) if pictures else None
        spans: Tensor = getattr(source, "spans", torch.tensor([[0, len(source)]]))
        self.spans = torch.cat([spans, *[spans[spans[:, 1] != GRID]] * (lift - 1)])

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """As of the source."""
        at = torch.arange(*rows.indices(len(self))) if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        there = at.to(self.device)
        clip = self.rest[there]
        if self.pictures is not None:
            clip = dataclasses.replace(clip, frames=self.pictures[there].float() / 255)
        return jittered(clip, self.jitter, self.window, int(at.sum())) if self.jitter and len(at) % self.window == 0 else clip


def jittered(clip: Clip, much: float, window: int, seed: int) -> Clip:
    """Every window of faces mirrored or not, cut out a little elsewhere, in another light; the sound as it is."""
    assert clip.frames is not None and clip.landmarks is not None
    pictures, generator = clip.frames, torch.Generator().manual_seed(seed)
    count, side = len(pictures) // window, pictures.shape[-1]

    def drawn(*shape: int) -> Tensor:  # -> [T,...] in -1..1, the same within a window
        values = 2 * torch.rand(count, *shape, generator=generator) - 1
        return values.repeat_interleave(window, 0).to(pictures.device)

    light = (1 + much * (LIT * drawn(1, 1, 1) + COLOURED * drawn(3, 1, 1))) * pictures + 0.3 * LIT * much * drawn(1, 1, 1)
    middle = clip.landmarks.mean(1, keepdim=True)
    places = middle + (clip.landmarks - middle) * (1 + much * STRETCHED * drawn(1, 2)) + much * MOVED * side * drawn(1, 2)
    mirrored = drawn() > 0
    turned = torch.stack([side - places[..., 0], places[..., 1]], -1)
    return dataclasses.replace(
        clip,
        frames=torch.where(mirrored[:, None, None, None], light.flip(3), light).clamp(0, 1),
        landmarks=torch.where(mirrored[:, None, None], turned, places),
    )


def read(method: Any, config: Any, folders: list[Path], split: str) -> Source:
    """The rows of a split, as `vivavoce train` reads them."""
    window = method.training_window or method.window
    if packed(folders[0]):
        return Faces(folders, split, window)
    people = [p for f in folders for p in person_folders(f)]
    size = getattr(config, "size", None) or None
    return Corpus(people, split=split, size=size, speech=method.speech, window=window, space=method.space or "blendshapes")


def speed(marks: list[tuple[int, float]]) -> float:
    """Steps a second, the first ones left out; marks are steps done and seconds."""
    begun = next((m for m in marks if m[0] >= marks[0][0] + WARM), marks[0]) if marks else (0, 0.0)
    return (marks[-1][0] - begun[0]) / (marks[-1][1] - begun[1]) if marks and marks[-1] != begun else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", default="")
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--jitter", type=float, default=0)
    parser.add_argument("--lift", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--average", type=float, default=0)
    parser.add_argument("--held", type=Path, nargs="*", default=[], help="folders to look at now and then; none: what the others keep back")
    parser.add_argument("--check", type=int, default=-1, help="steps between looks at the held-out rows; 0: never")
    parser.add_argument("--log-every", type=int, default=5)
    parser.add_argument("--save-every", type=float, default=60)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    o = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    config = registry.configure(o.method, o.preset)
    kinds = {f.name: type(getattr(config, f.name)) for f in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{k: kinds[k](v) for k, v in (pair.split("=", 1) for pair in o.set)})
    method = registry.find(o.method).cls(config)
    needs = method.needs | method.loss_needs
    with ranks.joined(o.device) as device:
        begun = time.perf_counter()
        window = int(getattr(config, "window_rows", 1))
        source = Resident(read(method, config, o.folders, "train"), needs, device, o.jitter, window, o.lift)
        held: Source | None = None
        if o.check:
            try:
                rows = read(method, config, o.held or o.folders, "all" if o.held else "val")
                held = Resident(rows, needs, device)
            except InputError:
                held = None
        print(f"{len(source)} rows in {len(source.spans)} pieces read in {time.perf_counter() - begun:.1f} s", flush=True)
        about = {"folder": str(o.folders[0].resolve()), "size": None, "split": "train", "speech": method.speech}
        marks: list[tuple[int, float]] = []

        def note(step: int, steps: int, losses: dict[str, float]) -> None:
            marks.append((step, time.perf_counter()))
            if len(marks) % max(1, steps // o.log_every // 40) == 0:
                print(f"{marks[-1][1] - begun:7.1f} s  {step:6d}", {k: round(v, 4) for k, v in losses.items()}, flush=True)

        def teach(steps: int, folder: Path, how: How, held: Source | None) -> None:
            own = dataclasses.replace(config, steps=steps)
            train(o.method, source, folder, own, preset=o.preset, device=device, extra=about, how=how, held=held, progress=note)

        steps = o.steps or int(config.steps)
        if o.seconds:
            with tempfile.TemporaryDirectory() as trial:
                teach(TRIAL, Path(trial) / "run", How(log_every=5, check_every=0, save_every=1e9, precision=o.precision), None)
            steps = max(100, int(speed(marks) * (o.seconds - (time.perf_counter() - begun))))
            print(f"{speed(marks):.1f} steps a second in the trial: {steps} steps", flush=True)
            marks.clear()
        how = How(log_every=o.log_every, check_every=o.check, save_every=o.save_every, precision=o.precision, average=o.average)
        teach(steps, o.out, how, held)
        if ranks.first():
            print(f"{ranks.count()} processes, {speed(marks):.2f} steps a second after the first {WARM}", flush=True)


if __name__ == "__main__":
    main()
