"""How well a generator foretells the face of frames it never saw: against the mean face and the nearest frames of the training video.

    vivavoce train geneface_motion FOLDER
    python benchmarks/generator.py FOLDER/runs/geneface_motion

A table: correlation of the lips' gap with what was measured (for other spaces than landmarks, of the best told number), how far it
moves as a share of how far it did move, error of all numbers in standard deviations, trembling as a share of the true; then how far
the lips part in silence, and rows a second. Baselines hear the same features: the training frame whose window of speech is nearest
(in 64 principal directions), and the mean of the ten nearest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from vivavoce import speech
from vivavoce.data.person import Person
from vivavoce.method import Generator
from vivavoce.train import load_run
from vivavoce.types import RATE, Clip


def opening(code: Tensor, told: int) -> Tensor:  # [T,E] -> [T]
    """Height between the inner lips in cm, where the space is landmarks; else its best told number."""
    if code.shape[1] != 204:
        return code[:, told]
    points = code.unflatten(1, (68, 3))[..., 1]
    return (points[:, 61:64] - points[:, [67, 66, 65]]).mean(1)


def nearest(train: Clip, held: Clip, count: int) -> Tensor:  # -> [T,E]
    """Mean expression of the training rows that sound most alike."""
    assert train.speech is not None and held.speech is not None and train.motion is not None
    mean, spread = train.speech.mean((0, 1)), train.speech.std((0, 1)).clamp_min(1e-3)
    known, asked = (((s - mean) / spread).flatten(1) for s in (train.speech, held.speech))
    middle = known.mean(0)
    torch.manual_seed(0)
    directions = torch.pca_lowrank(known, min(64, len(known)), niter=3)[2]
    away = torch.cdist((asked - middle) @ directions, (known - middle) @ directions)
    return train.motion.expression[away.topk(count, largest=False).indices].mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--folder", type=Path, help="person folder; by itself the one of the run")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    method, about = load_run(options.run, options.device)
    assert isinstance(method, Generator)
    settings = dict(size=64, speech=method.speech, window=method.window, space=method.space)
    folder = options.folder or Path(about["folder"])
    fields = {"speech", "motion"}
    train, held = (p.clip(slice(0, len(p)), fields) for p in (Person(folder, split=s, **settings) for s in ("train", "val")))
    assert train.motion is not None and held.motion is not None and held.speech is not None
    truth, spread = held.motion.expression, train.motion.expression.std(0).clamp_min(1e-6)
    begun = time.perf_counter()
    with torch.no_grad():
        made = method.generate(held.to(options.device), method.start(Clip()))[0].expression.cpu()
    rate = len(made) / (time.perf_counter() - begun)
    weight = getattr(method, "weight", torch.ones(truth.shape[1]))
    told = int(weight.argmax())
    mean = train.motion.expression.mean(0).expand_as(truth)
    print(f"{folder.name}, {len(truth)} held-out frames, {method.space}\n\n| | gap r | moves | error | trembles |\n|---|---|---|---|---|")
    for name, code in {"mean face": mean, "nearest": nearest(train, held, 1), "10 nearest": nearest(train, held, 10), "made": made}.items():
        gaps = torch.stack([opening(code, told), opening(truth, told)])
        r = float(torch.corrcoef(gaps)[0, 1]) if float(gaps[0].std()) > 1e-6 else 0.0
        moves, error = float(gaps[0].std() / gaps[1].std()), float(((code - truth) / spread).square().mean().sqrt())
        trembles = float(code.diff(dim=0).abs().mean() / truth.diff(dim=0).abs().mean())
        print(f"| {name} | {r:.3f} | {moves:.2f} | {error:.3f} | {trembles:.2f} |")
    encoder = speech.load(method.speech)
    noise = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(5))
    for level in (0.0, 0.003, 0.03):
        rows = speech.windows(speech.encode(encoder, level * noise), *method.window)
        with torch.no_grad():
            quiet = method.generate(Clip(speech=rows).to(options.device), method.start(Clip()))[0].expression.cpu()
        still = opening(quiet, told)[8:-8]
        print(f"noise of {level}: moves {float(still.std() / opening(truth, told).std()):.3f} of speech's")
    print(f"{rate:.0f} rows a second")


if __name__ == "__main__":
    main()
