"""How fast dit_motion makes motion: a block, the share of real time, how soon the first frame can come; and training steps a second.

    python benchmarks/dit_motion.py [--device cuda] [--presets default live seed] [--seconds 10] [--train 20] [--out table.csv]

Random weights take as long as trained ones. The peer is the same work on torch's own nn.TransformerDecoder, of which seed 003 and JoyVASA
are made: as many layers of the same width, one pass an evaluation over the same rows with cross-attention to the same audio, in eval mode.
`ratio` is its time over ours (above 1: ours is faster). On a CPU processor time of one thread is measured: a busy machine does not count.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vivavoce import registry
from vivavoce.methods.dit_motion import DitMotion
from vivavoce.types import FPS, HOP, Clip, Motion


def clock(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def made(preset: str, device: str) -> DitMotion:
    method = registry.create("dit_motion", preset)
    assert isinstance(method, DitMotion)
    return method.to(device).eval()


@torch.no_grad()
def blocks(method: DitMotion, device: str, seconds: float) -> float:
    """Seconds a block, the first one left out."""
    size, count = method.config.block, max(2, round(seconds * FPS / method.config.block))
    speech = torch.rand(1, sum(method.window), method.config.speech_dim, device=device).expand(size, -1, -1)
    _, state = method.generate(Clip(speech=speech), method.start(Clip()))
    begun = clock(device)
    for _ in range(count):
        _, state = method.generate(Clip(speech=speech), state)
    return (clock(device) - begun) / count


@torch.no_grad()
def peer(method: DitMotion, device: str, seconds: float) -> float:
    """The evaluations of a block on torch's decoder."""
    c = method.config
    layer = nn.TransformerDecoderLayer(c.width, c.heads, c.hidden, activation="gelu", batch_first=True)
    net = nn.TransformerDecoder(layer, c.layers).to(device).eval()
    passes, rows = 1 if c.guidance == 1 else 2, c.context + c.block + c.ahead
    tokens, audio = (torch.randn(passes, rows, c.width, device=device) for _ in range(2))
    near = ~torch.eye(rows, dtype=torch.bool, device=device)
    net(tokens, audio, memory_mask=near)
    count = max(2, round(seconds * FPS / c.block))
    begun = clock(device)
    for _ in range(count * c.evaluations):
        net(tokens, audio, memory_mask=near)
    return (clock(device) - begun) / count


def training(preset: str, device: str, steps: int) -> float:
    """Steps a second."""
    method = made(preset, device).train()
    c = method.config
    rows = c.batch * c.window_rows
    motion = Motion(*(torch.randn(rows, n, device=device) * 0.1 for n in (3, 3, 1, c.expression)), c.space)
    points = torch.randn(rows, c.identity // 3, 3, device=device) if c.identity else None
    speech = torch.rand(rows, 2, c.speech_dim, device=device)
    clip = Clip(speech=speech, audio=torch.randn(rows, HOP, device=device) * 0.01, motion=motion, points=points)
    optimizers = method.optimizers()
    for step in range(2):
        method.update(clip, step, optimizers)
    begun = clock(device)
    for step in range(steps):
        method.update(clip, step, optimizers)
    return steps / (clock(device) - begun)


def measure(preset: str, device: str, seconds: float, steps: int) -> dict[str, Any]:
    method = made(preset, device)
    c = method.config
    own, other = blocks(method, device, seconds), peer(method, device, seconds)
    return {
        "preset": preset,
        "parameters M": round(sum(p.numel() for p in method.parameters()) / 1e6, 2),
        "rows a block": c.block,
        "ms a block": round(1000 * own, 2),
        "share of real time": round(own * FPS / c.block, 4),
        "hears ahead ms": 20 * method.window[1],
        "peer ms": round(1000 * other, 2),
        "ratio": round(other / own, 2),
        "training steps a second": round(training(preset, device, steps), 2) if steps else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--presets", nargs="+", default=["default", "live", "seed"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--train", type=int, default=5)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    if o.device == "cpu":
        torch.set_num_threads(1)
    rows = []
    for preset in o.presets:
        rows.append(measure(preset, o.device, o.seconds, o.train))
        print(rows[-1], flush=True)
    if o.out is not None:
        with o.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
