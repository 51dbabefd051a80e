"""Speed of dyntet: training steps of each phase, frames drawn part by part, coefficients or audio to pixels; against plain torch.

    python benchmarks/dyntet.py --folder PERSON [--device cuda] [--preset full] [--run RUN] [--generator RUN] [--size 512]

PERSON is a prepared person folder. Without --run the head that is drawn is an untrained one, after `--carve` steps of training and with its
triangles kept; what it costs to draw depends on their number and on the pixels it covers, not on what it learned. "coefficients
to pixels" is the whole Talker with the folder's own coefficients played back, frames brought to the CPU as bytes; with --generator a
run of the space bfm makes them from the folder's sound. Figures are medians of wall times between two synchronised clocks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import seconds

from vivavoce import registry, speech, train
from vivavoce.data.person import Person
from vivavoce.data.playback import playback
from vivavoce.face.morphable import normals
from vivavoce.media import audio
from vivavoce.method import Generator
from vivavoce.methods.dyntet import DynTet
from vivavoce.nn.viewing import seen
from vivavoce.render import mesh
from vivavoce.talker import Talker
from vivavoce.types import HOP, Clip

AIM = 200.0  # frames a second at 512 px


def milliseconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    return 1e3 * seconds(work, device, times)


def training(preset: str, folder: Path, device: torch.device, carve: int, times: int, size: int | None) -> DynTet:
    """Milliseconds a step in the three phases, clips already in memory, and what the whole training takes by that."""
    method = registry.create("dyntet", preset, **({"size": size} if size else {}))
    assert isinstance(method, DynTet)
    config = method.config
    person = Person(folder, size=config.size, split="train", window=method.window, space="bfm", device=device)
    torch.manual_seed(0)
    begun = time.perf_counter()
    method.setup(train.OnCpu(person))
    print(f"  setup at {person.size}: {time.perf_counter() - begun:.1f} s")
    method.to(device).train()
    optimizers, needs = method.optimizers(), method.needs | method.loss_needs
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(person), (config.batch,), generator=generator) for _ in range(4)]
    clips = [person.clip(some, needs).to(device) for some in rows]
    begun = time.perf_counter()
    for step in range(min(carve, config.fix)):
        method.update(clips[step % 4], step, optimizers)
    print(f"  first {min(carve, config.fix)} steps: {time.perf_counter() - begun:.1f} s")
    whole = 0.0
    phases = {"triangles cut anew": (0, config.fix), "guided": (config.fix, config.guided), "free": (config.guided, config.steps)}
    for phase, (first, last) in phases.items():
        turn = iter(range(10**9))
        taken = milliseconds(lambda first=first, turn=turn: method.update(clips[next(turn) % 4], first, optimizers), device, times)  # type: ignore[misc]
        whole += taken * (last - first) / 1e3
        print(f"  {phase:<20}{taken:8.1f} ms a step of {config.batch} frames, {last - first} steps")
    read = milliseconds(lambda: person.clip(rows[0], needs).to(device), device, times)
    slow = whole + read * config.steps / 1e3
    print(f"  reading the clip of a step {read:.1f} ms; all {config.steps} steps {whole:.0f} s, {slow:.0f} s with reading")
    return method


@torch.no_grad()
def drawing(method: DynTet, person: Person, device: torch.device, times: int) -> None:
    """Milliseconds a frame in batches of 1 and 8, and of each part."""
    method.to(device).eval()
    shape = method.encode()
    print(f"  {len(shape.surface.faces)} triangles, {len(method.head.points)} vertices of the grid, {person.size[1]} x {person.size[0]} px")
    for rows in (1, 8):
        clip = person.clip(torch.arange(rows), method.needs).to(device)
        taken = milliseconds(lambda clip=clip: method.render(shape, clip), device, times) / rows  # type: ignore[misc]
        print(f"  batch {rows}: {taken:7.2f} ms a frame, {1e3 / taken:7.1f} frames/s, {1e3 / taken / AIM:.2f} of the aim")
        for part, work in parts(method, clip, person.size).items():
            print(f"    {part:<28}{milliseconds(work, device, times) / rows:7.2f} ms")


def parts(method: DynTet, clip: Clip, size: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """What a frame is made of; each part from what those before it made."""
    assert clip.camera is not None and clip.body is not None
    camera, body, shape = clip.camera, clip.body, method.encode()
    pose = method.viewing.code(camera)
    standard, frame = method._told(clip, pose)
    vertices = method.head.moved(shape, standard, frame)[0]
    target, faces = seen(vertices, camera), shape.surface.faces
    number = mesh.rasterize(target, faces, size)
    pixels = mesh.covered(target, faces, number)
    at = torch.stack([pixels.place % size[1], pixels.place // size[1]], 1) + 0.5
    rest, normal = method.head.unit(mesh.carry(shape.rest, pixels)), mesh.carry(normals(vertices, faces), pixels)
    colour = torch.cat([method.skin.seen(rest, frame, pixels.row, normal, at, camera)[0], torch.ones_like(rest[:, :1])], 1)
    picture = mesh.paint(colour, pixels, len(pose))
    return {
        "identity (once)": method.encode,
        "what tells the frame": lambda: method._told(clip, method.viewing.code(camera)),
        "vertices": lambda: seen(method.head.moved(shape, standard, frame)[0], camera),
        "triangle of each pixel": lambda: mesh.rasterize(target, faces, size),
        "list of pixels": lambda: mesh.covered(target, faces, number),
        "normals, places": lambda: (mesh.carry(shape.rest, pixels), mesh.carry(normals(vertices, faces), pixels)),
        "texture": lambda: method.skin.grid(rest),
        "colours (and texture)": lambda: method.skin.seen(rest, frame, pixels.row, normal, at, camera),
        "picture": lambda: mesh.paint(colour, pixels, len(pose)),
        "outlines": lambda: mesh.antialias(picture, target, faces, shape.linked, number),
        "outlines, plain torch": lambda: mesh.antialias(picture, target, faces, shape.linked, number, "torch"),
        "torso and background": lambda: method.torso(pose, body, size),
    }


def speaking(method: DynTet, person: Person, folder: Path, run: Path | None, device: torch.device, length: float) -> None:
    """The folder's sound in, pixels out."""
    made: Generator = playback(folder, folder, "bfm")
    if run is not None:
        loaded, _ = train.load_run(run, device)
        assert isinstance(loaded, Generator)
        made = loaded
    talker = Talker(method, person, {made.speech: speech.load(made.speech, device)}, made)
    taken, count = [], 0
    for _ in range(2):
        begun = time.perf_counter()
        sound = audio(folder / "aud.wav")[: int(length * 25) * HOP]
        count = sum(len((frames * 255).round().byte().cpu()) for frames in talker.stream([sound]))
        taken.append(time.perf_counter() - begun)
    name = "audio" if run is not None else "coefficients"
    print(f"  {name} to pixels: {count} frames in {min(taken):.2f} s, {count / min(taken):.1f} frames/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", default="")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--carve", type=int, default=100)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    device = torch.device(options.device)
    preset = options.preset or ("full" if device.type == "cuda" else "small")
    print(f"{preset} on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.run:
        method, _ = train.load_run(options.run, device)
        assert isinstance(method, DynTet), "give a run of dyntet"
    else:
        method = training(preset, options.folder, device, options.carve, options.times, options.size)
    person = Person(options.folder, size=options.size or method.config.size, split="val", space="bfm")
    drawing(method, person, device, options.times)
    if options.seconds:
        speaking(method, person, options.folder, options.generator, device, options.seconds)


if __name__ == "__main__":
    main()
