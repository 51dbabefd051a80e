"""Speed of egs_talker: training steps, frames drawn, and audio file to pixels.

    python benchmarks/egs_talker.py --device cpu --folder PERSON [--preset cpu] [--size 512] [--run RUN] [--steps 40]

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
from vivavoce.methods.egs_talker import EgsTalker
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


def training(preset: str, folder: Path, device: torch.device, steps: int) -> None:
    """Steps a second in both stages, clips already in memory."""
    method = registry.create("egs_talker", preset)
    assert isinstance(method, EgsTalker)
    person = Person(folder, size=method.config.size, split="train", window=method.window)
    begun = time.perf_counter()
    torch.manual_seed(0)
    method.setup(person)
    print(f"setup of {len(method.avatar.gaussians)} Gaussians at {person.size}: {time.perf_counter() - begun:.1f} s")
    method.to(device).train()
    optimizers, needs = method.optimizers(), method.needs | method.loss_needs
    begun = time.perf_counter()
    clips = [person.clip(train.draw(len(person), method.config, step), needs) for step in range(4)]
    print(f"reading a step of {method.config.batch} rows: {(time.perf_counter() - begun) / 4 * 1e3:.1f} ms (done ahead by a thread)")
    clips = [clip.to(device) for clip in clips]
    for name, at in (("still head", 1), ("moving head", method.config.coarse + 1)):
        turn = iter(range(10**9))
        taken = seconds(lambda at=at, turn=turn: method.update(clips[next(turn) % 4], at, optimizers), device, steps)  # type: ignore[misc]
        print(f"training, {name}: {taken * 1e3:7.1f} ms a step of {method.config.batch} rows, {1 / taken:6.1f} steps/s")


def drawing(method: EgsTalker, person: Person, device: torch.device, times: int) -> None:
    """Frames a second at batch 1 and 8, and where the time of one frame goes."""
    method.to(device).eval()
    with torch.no_grad():
        heard = method.encode()
        for rows in (1, 8):
            clip = person.clip(list(range(min(rows, len(person)))), method.needs).to(device)
            taken = seconds(lambda clip=clip: method.render(heard, clip), device, times)  # type: ignore[misc]
            print(f"drawing, batch {rows}: {taken / len(clip) * 1e3:7.2f} ms a frame, {len(clip) / taken:7.1f} frames/s")
        clip = person.clip([0], method.needs).to(device)
        assert clip.camera is not None and clip.body is not None
        camera, body = clip.camera, clip.body
        code = method.avatar.code(camera)
        head, _ = method.moved(heard, clip, code)
        parts: dict[str, Callable[[], Any]] = {
            "torso and background": lambda: method.avatar.torso(code, body, person.size),
            "deformation": lambda: method.moved(heard, clip, code),
            "splats": lambda: splats.render(*head, camera, person.size),
        }
        for name, work in parts.items():
            print(f"  {name:<22}{seconds(work, device, times) * 1e3:7.2f} ms")


def speaking(method: EgsTalker, person: Person, folder: Path, device: torch.device, length: float) -> None:
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
    parser.add_argument("--preset", default="")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    device = torch.device(options.device)
    preset = options.preset or ("full" if device.type == "cuda" else "cpu")
    print(f"egs_talker --preset {preset} on {device}, splats by {splats.choose(device)}, torch {torch.__version__}")
    training(preset, options.folder, device, options.steps)
    window = EgsTalker.window
    person = Person(options.folder, size=options.size, split="val", window=window)
    if options.run:
        method, _ = train.load_run(options.run, device)
    else:
        method = registry.create("egs_talker", preset)
        method.setup(person)
    assert isinstance(method, EgsTalker)
    drawing(method, person, device, options.steps)
    speaking(method.to(device), person, options.folder, device, options.seconds)


if __name__ == "__main__":
    main()
