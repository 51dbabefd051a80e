"""Speed of egs_talker and its family: training steps, frames drawn, and audio file to pixels.

    python benchmarks/egs_talker.py --device cpu --folder PERSON [--method egs_talker] [--preset cpu] [--size 512] [--run RUN] [--steps 40]

PERSON is a prepared person folder. Without --run the head is an untrained one of the preset (as many Gaussians as at the
start of training); with it the trained one. Every figure is wall time between two synchronised clocks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vivavoce import registry, speech, train
from vivavoce.data.person import Person
from vivavoce.media import audio
from vivavoce.method import Method, Renderer
from vivavoce.render import splats
from vivavoce.talker import Talker
from vivavoce.types import HOP


def seconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    """Median wall time of one call, after two calls that compile and fill caches."""
    taken = []
    for turn in range(times + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= 2:
            taken.append(time.perf_counter() - begun)
    return sorted(taken)[len(taken) // 2]


def training(name: str, preset: str, folder: Path, device: torch.device, steps: int) -> None:
    """Steps a second in both stages, clips already in memory."""
    method: Any = registry.create(name, preset)
    person = Person(folder, size=method.config.size, split="train", window=method.window)
    begun = time.perf_counter()
    torch.manual_seed(0)
    method.setup(person)
    print(f"setup of {len(method.avatar.gaussians)} Gaussians at {person.size}: {time.perf_counter() - begun:.1f} s")
    method.to(device).train()
    optimizers, needs = method.optimizers(), method.needs | method.loss_needs
    begun = time.perf_counter()
    clips = [person.clip(train.draw(person, method.config, step), needs) for step in range(4)]
    print(f"reading a step of {method.config.batch} rows: {(time.perf_counter() - begun) / 4 * 1e3:.1f} ms (done ahead by a thread)")
    clips = [clip.to(device) for clip in clips]
    for stage, at in (("still head", 1), ("moving head", method.config.coarse + 1)):
        turn = iter(range(10**9))
        taken = seconds(lambda at=at, turn=turn: method.update(clips[next(turn) % 4], at, optimizers), device, steps)  # type: ignore[misc]
        print(f"training, {stage}: {taken * 1e3:7.1f} ms a step of {method.config.batch} rows, {1 / taken:6.1f} steps/s")


def drawing(method: Any, person: Person, device: torch.device, times: int) -> None:
    """Frames a second at batch 1 and 8, and where the time of one frame goes."""
    method.to(device).eval()
    with torch.no_grad():
        heard = method.encode()
        for rows in (1, 8):
            clip = person.clip(list(range(min(rows, len(person)))), method.needs).to(device)
            taken = seconds(lambda clip=clip: method.render(heard, clip), device, times)  # type: ignore[misc]
            print(f"drawing, batch {rows}: {taken / len(clip) * 1e3:7.2f} ms a frame, {len(clip) / taken:7.1f} frames/s")
            assert clip.camera is not None and clip.body is not None
            camera, body, code = clip.camera, clip.body, method.avatar.code(clip.camera)
            head = method.rest()
            still = type(head)(*(part.expand(len(clip), *part.shape[1:]).contiguous() for part in head))
            parts = {
                "torso and background": seconds(lambda c=code, b=body: method.avatar.torso(c, b, person.size), device, times),  # type: ignore[misc]
                "splats, head at rest": seconds(lambda s=still, c=camera: splats.render(*s, c, person.size), device, times),  # type: ignore[misc]
            }
            parts["deformation (the rest)"] = taken - sum(parts.values())
            for name, part in parts.items():
                print(f"  {name:<24}{part / len(clip) * 1e3:7.2f} ms a frame")


def speaking(method: Renderer, person: Person, folder: Path, device: torch.device, length: float) -> None:
    """Audio file in, pixels out, with the encoder the method hears; frames are brought back to the CPU as bytes."""
    encoder = speech.load(method.speech, device)
    for block in (1, 8):
        talker = Talker(method, person, {method.speech: encoder}, block=block)
        taken = []
        for _ in range(2):
            begun = time.perf_counter()
            sound = audio(folder / "aud.wav")[: int(length * 25) * HOP]
            count = sum(len((frames * 255).round().byte().cpu()) for frames in talker.stream([sound]))
            taken.append(time.perf_counter() - begun)
        print(f"audio file to pixels, batch {block}: {count} frames in {min(taken):.2f} s, {count / min(taken):.1f} frames/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--method", default="egs_talker")
    parser.add_argument("--preset", default="")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    device = torch.device(options.device)
    preset = options.preset or ("full" if device.type == "cuda" else "cpu")
    print(f"{options.method} --preset {preset} on {device}, splats by {splats.choose(device)}, torch {torch.__version__}")
    training(options.method, preset, options.folder, device, options.steps)
    made: Method = train.load_run(options.run, device)[0] if options.run else registry.create(options.method, preset)
    assert isinstance(made, Renderer)
    method = made
    person = Person(options.folder, size=options.size, split="val", window=method.window)
    if not options.run:
        method.setup(person)
    drawing(method, person, device, options.steps)
    speaking(method.to(device), person, options.folder, device, options.seconds)


if __name__ == "__main__":
    main()
