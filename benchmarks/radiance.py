"""Speed of the radiance-field methods: training steps of each stage, frames drawn, audio file to pixels; against the plain torch back ends.

    python benchmarks/radiance.py --folder PERSON [--device cuda] [--methods rad_nerf,er_nerf] [--preset full] [--run RUN] [--size 512]

PERSON is a prepared person folder. Without --run a head is an untrained one after `--carve` steps of training, which leave some of the
empty space; with it the trained one (then the method is the run's). Every figure is the median wall time between two synchronised clocks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vivavoce import registry, speech, train
from vivavoce.data.person import Person
from vivavoce.media import audio
from vivavoce.method import Renderer
from vivavoce.nn import grid
from vivavoce.render import rays
from vivavoce.talker import Talker
from vivavoce.types import HOP, Clip

PUBLISHED = {"ad_nerf": 0.13, "rad_nerf": 32.0, "er_nerf": 34.0}  # frames a second at 512 px, in the papers' own tables


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


@contextmanager
def oracle() -> Iterator[None]:
    """Grids and rays by their plain torch back ends."""
    before = grid.choose, rays.choose
    grid.choose = rays.choose = lambda *_: "torch"
    try:
        yield
    finally:
        grid.choose, rays.choose = before


def training(name: str, preset: str, folder: Path, device: torch.device, carve: int, steps: int, size: int | None) -> Renderer:
    """Steps a second in the three stages, clips already in memory; gives the method after `carve` steps."""
    method = registry.create(name, preset, **({"size": size} if size else {}))
    assert isinstance(method, Renderer)
    person = Person(folder, size=method.config.size, split="train", window=method.window, device=device)
    torch.manual_seed(0)
    begun = time.perf_counter()
    method.setup(_OnCpu(person))
    print(f"  setup at {person.size}: {time.perf_counter() - begun:.1f} s")
    method.to(device).train()
    optimizers, needs, config = method.optimizers(), method.needs | method.loss_needs, method.config
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(person), (config.batch,), generator=generator) for _ in range(4)]
    clips = [person.clip(some, needs).to(device) for some in rows]
    begun = time.perf_counter()
    for step in range(carve):
        method.update(clips[step % 4], step, optimizers)
    print(f"  first {carve} steps: {time.perf_counter() - begun:.1f} s; occupied cells: {method.room.occupancy.share:.1%}")
    later = {"head": carve, "lips": int(config.lips_from * config.steps) + 1, "torso": int(config.torso_from * config.steps) + 1}
    for stage, at in later.items():
        turn = iter(range(10**9))
        # odd step numbers: without the look at the cells
        work = lambda at=at, turn=turn: method.update(clips[next(turn) % 4], at | 1, optimizers)  # noqa: E731
        taken = seconds(work, device, steps)
        print(f"  training, {stage:<6}{taken * 1e3:8.1f} ms a step of {config.rays} rays, {1 / taken:6.1f} steps/s")
    return method


class _OnCpu:
    """The source as `setup` sees it."""

    def __init__(self, source: Person) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def clip(self, rows: Any, needs: Any = None) -> Clip:
        return self.source.clip(rows, needs).to("cpu")


def drawing(name: str, method: Renderer, person: Person, device: torch.device, times: int) -> None:
    """Frames a second, where the time goes, and what the plain torch back ends would take."""
    method.to(device).eval()
    with torch.no_grad():
        identity = method.encode(Clip())
        for rows in (1, 4):
            clip = person.clip(torch.arange(rows), method.needs).to(device)
            taken = seconds(lambda clip=clip: method.render(identity, clip), device, times)  # type: ignore[misc]
            beside = f", {len(clip) / taken / PUBLISHED[name]:.1f} x the published {PUBLISHED[name]}" if name in PUBLISHED else ""
            print(f"  drawing, batch {rows}: {taken / len(clip) * 1e3:7.2f} ms a frame, {len(clip) / taken:7.1f} frames/s{beside}")
        clip = person.clip([0], method.needs).to(device)
        assert clip.camera is not None and clip.body is not None
        camera, body, room = clip.camera, clip.body, method.room
        told = method.tell(clip)
        parts: dict[str, Callable[[], Any]] = {
            "condition": lambda: method.tell(clip),
            "head": lambda: room.head(method, told, camera, person.size),
            "torso and background": lambda: room.torso(room.code(camera), body, person.size),
        }
        for part, work in parts.items():
            print(f"    {part:<22}{seconds(work, device, times) * 1e3:7.2f} ms")
        with oracle():
            slow = seconds(lambda: room.head(method, told, camera, person.size), device, max(times // 8, 1))
        print(f"    {'head, torch back ends':<22}{slow * 1e3:7.2f} ms")


def speaking(method: Renderer, person: Person, folder: Path, device: torch.device, length: float) -> None:
    """Audio file in, pixels out, with the encoder the method hears; frames are brought back to the CPU as bytes."""
    talker = Talker(method, person, {method.speech: speech.load(method.speech, device)})
    taken, count = [], 0
    for _ in range(2):
        begun = time.perf_counter()
        sound = audio(folder / "aud.wav")[: int(length * 25) * HOP]
        count = sum(len((frames * 255).round().byte().cpu()) for frames in talker.stream([sound]))
        taken.append(time.perf_counter() - begun)
    print(f"  audio file to pixels: {count} frames in {min(taken):.2f} s, {count / min(taken):.1f} frames/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", default="rad_nerf,er_nerf,ad_nerf,dfrf")
    parser.add_argument("--preset", default="")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--carve", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    device = torch.device(options.device)
    preset = options.preset or ("full" if device.type == "cuda" else "cpu")
    print(f"{preset} on {device}, grids by {grid.choose(device)}, rays by {rays.choose(device)}, torch {torch.__version__}")
    for name in options.methods.split(","):
        if options.run:
            method, about = train.load_run(options.run, device)
            name = str(about["method"])
        else:
            print(name)
            method = training(name, preset, options.folder, device, options.carve, options.steps, options.size)
        print(f"{name}, drawn")
        assert isinstance(method, Renderer)
        size = options.size or method.config.size
        person = Person(options.folder, size=size, split="val", window=method.window)
        drawing(name, method, person, device, options.steps)
        if options.seconds:
            speaking(method.to(device), person, options.folder, device, options.seconds)
        if options.run:
            break


if __name__ == "__main__":
    main()
