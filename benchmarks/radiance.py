"""Speed of the radiance-field methods: setup, training steps of each stage, frames drawn and where their time goes, samples, audio file
to pixels; against the plain torch back ends, in time and in the picture.

    python benchmarks/radiance.py --folder PERSON [--device cuda] [--methods rad_nerf,er_nerf] [--preset full] [--run RUN] [--size 512]

PERSON is a prepared person folder. Without --run a head is an untrained one after `--carve` steps of training, which leave some of the
empty space; with it the trained one (then the method is the run's). Every figure is the median wall time between two synchronised clocks.
A part that fails is told, and the rest goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timing import seconds
from torch import Tensor

from vivavoce import registry, speech, train
from vivavoce.data.person import Person
from vivavoce.media import audio
from vivavoce.method import Renderer
from vivavoce.nn import grid
from vivavoce.render import rays
from vivavoce.render.rays import shade
from vivavoce.talker import Talker
from vivavoce.types import HOP, Clip

PUBLISHED = {"ad_nerf": 0.13, "rad_nerf": 32.0, "er_nerf": 34.0}  # frames a second at 512 px, in the papers' own tables


@contextmanager
def oracle(*rooms: Any) -> Iterator[None]:
    """Rooms by their plain torch back ends."""
    before = [room.choose for room in rooms]
    for room in rooms:
        room.choose = lambda *_: "torch"
    try:
        yield
    finally:
        for room, choose in zip(rooms, before, strict=True):
            room.choose = choose


def attempt(label: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; a failure is told in a line."""
    try:
        return work()
    except Exception as error:  # a benchmark that ends at its first failure wastes a machine
        print(f"    {label}: {type(error).__name__}: {error}", flush=True)
        return None


def opened(folder: Path, method: Renderer, size: int, split: str, device: torch.device | str) -> Person:
    spaces = {"space": method.space} if method.space else {}
    return Person(folder, size=size, split=split, window=method.window, device=device, **spaces)


def training(name: str, preset: str, folder: Path, device: torch.device, carve: int, steps: int, size: int | None) -> Renderer:
    """Setup, and milliseconds of a step in the three stages, clips already in memory; gives the method after `carve` steps."""
    method = registry.create(name, preset, **({"size": size} if size else {}))
    assert isinstance(method, Renderer)
    person = opened(folder, method, method.config.size, "train", device)
    torch.manual_seed(0)
    begun = time.perf_counter()
    method.setup(train.OnCpu(person))
    print(f"  setup at {person.size}: {time.perf_counter() - begun:.1f} s, {torch.get_num_threads()} threads", flush=True)
    method.to(device).train()
    optimizers, needs, config = method.optimizers(), method.needs | method.loss_needs, method.config
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(person), (config.batch,), generator=generator) for _ in range(8)]
    begun = time.perf_counter()
    clips = [person.clip(some, needs).to(device) for some in rows]
    print(f"  a clip of {config.batch} rows, decoded: {(time.perf_counter() - begun) / len(rows) * 1e3:.0f} ms", flush=True)
    begun = time.perf_counter()
    for step in range(carve):
        method.update(clips[step % len(clips)], step, optimizers)
    share = method.room.occupancy.share
    print(f"  first {carve} steps: {time.perf_counter() - begun:.1f} s; occupied cells: {share:.1%}", flush=True)
    marched: list[rays.Samples] = []  # of the last step
    march = rays.march

    def noted(*args: Any, **named: Any) -> rays.Samples:
        marched[:] = [march(*args, **named)]
        return marched[0]

    rays.march = noted
    stages = {"head": carve, "lips": int(config.lips_from * config.steps) + 1, "torso": int(config.torso_from * config.steps) + 1}
    state = {key: value.clone() for key, value in method.state_dict().items()}
    for stage, at in stages.items():
        turn = iter(range(10**9))
        # odd step numbers: without the look at the cells
        work = lambda at=at, turn=turn: method.update(clips[next(turn) % len(clips)], at | 1, optimizers)  # noqa: E731
        taken = attempt(stage, lambda work=work: seconds(work, device, steps))  # type: ignore[misc]
        with torch.autocast(device.type, torch.bfloat16):
            half = attempt(f"{stage}, bf16", lambda work=work: seconds(work, device, steps))  # type: ignore[misc]
        if taken and half:
            samples, length = len(marched[0]), len(marched[0].starts) - 1
            beside = f"{samples} samples of {length} rays, {1 / taken:6.1f} steps/s; with --precision bf16 {half * 1e3:.1f} ms"
            print(f"  training, {stage:<6}{taken * 1e3:8.1f} ms a step of {beside}", flush=True)
    rays.march = march
    method.load_state_dict(state)  # the steps of a stage far ahead are no part of a training
    if device.type == "cuda":
        print(f"  peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
        torch.cuda.reset_peak_memory_stats()
    return method


def drawing(name: str, method: Renderer, person: Person, device: torch.device, times: int) -> None:
    """Frames a second, where the time of a frame goes, its samples, and what plain torch takes and draws."""
    method.to(device).eval()
    with torch.no_grad():
        identity = method.encode(Clip())
        for rows in (1, 4):
            clip = person.clip(torch.arange(rows), method.needs).to(device)
            taken = attempt(f"batch {rows}", lambda clip=clip: seconds(lambda: method.render(identity, clip), device, times))  # type: ignore[misc]
            if not taken:
                continue
            beside = f", {len(clip) / taken / PUBLISHED[name]:.1f} x the published {PUBLISHED[name]}" if name in PUBLISHED else ""
            print(f"  drawing, batch {rows}: {taken / rows * 1e3:7.2f} ms a frame, {rows / taken:7.1f} frames/s{beside}", flush=True)
        clip = person.clip([0], method.needs).to(device)
        attempt("parts", lambda: parts(method, clip, person.size, device, times))
        print("  against plain torch in float32, this frame:", flush=True)
        frame = method.render(identity, clip)
        for label, rooms in (("networks", [shade]), ("networks and grids", [shade, grid]), ("everything", [shade, grid, rays])):
            with oracle(*rooms):
                slow = attempt(label, lambda: seconds(lambda: method.render(identity, clip), device, max(times // 8, 1)))
                other = attempt(label, lambda: method.render(identity, clip))
            if slow is not None and other is not None:
                away = (frame - other).abs()
                beside = f"largest difference {float(away.max()):.5f}, mean {float(away.mean()):.7f}"
                print(f"    {label:<22}{slow * 1e3:8.2f} ms, {beside}", flush=True)


def parts(method: Renderer, clip: Clip, size: tuple[int, int], device: torch.device, times: int) -> None:
    """Milliseconds of the parts of one frame, and the samples it takes."""
    assert clip.camera is not None and clip.body is not None
    camera, body, room = clip.camera, clip.body, method.room
    told, asked = method.tell(clip), []
    scene = method.still(told) if hasattr(method, "still") else None
    origins, directions = (part[0] for part in rays.cast(camera, size))
    look = room.asked(method, told, directions, scene)
    ends = rays.box(origins, directions, room.occupancy.low, room.occupancy.high)

    def kept(positions: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        asked.append((positions, ray))
        return look(positions, ray)

    lines = origins, directions, *ends
    seen = room.traced(lines, kept)
    positions, ray = (torch.cat(part) for part in zip(*asked, strict=True))
    hit = int((seen.opacity > 0.01).sum())
    count = f"{len(positions)} samples in {len(asked)} calls, {len(positions) / max(hit, 1):.1f} for each of {hit} rays that hit"
    print(f"    {count}; {float((seen.opacity > 0.99).float().sum()) / max(hit, 1):.0%} of them opaque", flush=True)
    nothing = positions.new_zeros(len(positions)), positions.new_zeros(len(positions), 3)

    def blank(positions: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        return nothing[0][: len(ray)], nothing[1][: len(ray)]

    inside = room.inside(positions)
    grids = [module for module in method.modules() if isinstance(module, grid.Grid | grid.TriPlane)]
    grids = [module for module in grids if not any(module is not other and module in list(other.modules()) for other in grids)]
    works: dict[str, Callable[[], Any]] = {
        "condition": lambda: method.tell(clip),
        "rays and box": lambda: rays.box(*(part[0] for part in rays.cast(camera, size)), room.occupancy.low, room.occupancy.high),
        "networks made ready": lambda: room.asked(method, told, directions, scene),
        "networks and grids": lambda: [look(place, number) for place, number in zip(positions.split(2**22), ray.split(2**22))],
        **{
            f"grid {k} alone": lambda module=module: module(inside[:, : module.layout.dims] if isinstance(module, grid.Grid) else inside)
            for k, module in enumerate(grids)
        },
        "march, nothing stops": lambda: room.traced(lines, blank),
        "head": lambda: room.head(method, told, camera, size),
        "torso and background": lambda: room.torso(room.code(camera), body, size),
    }
    for part, work in works.items():
        taken = attempt(part, lambda work=work: seconds(work, device, times))  # type: ignore[misc]
        if taken is not None:
            print(f"    {part:<22}{taken * 1e3:8.2f} ms", flush=True)


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
    parser.add_argument("--methods", default="er_nerf,r2_talker,rad_nerf")
    parser.add_argument("--preset", default="")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--carve", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    device = torch.device(options.device)
    preset = options.preset or ("full" if device.type == "cuda" else "cpu")
    names = f"grids by {grid.choose(device)}, rays by {rays.choose(device)}, networks by {shade.choose(device)}"
    print(f"{preset} on {device}, {names}, torch {torch.__version__}", flush=True)
    for name in options.methods.split(","):
        if options.run:
            method, about = train.load_run(options.run, device)
            name = str(about["method"])
        else:
            print(name, flush=True)
            settings = (preset, options.folder, device, options.carve, options.steps, options.size)
            method = attempt(name, lambda name=name, settings=settings: training(name, *settings))  # type: ignore[misc]
            if method is None:
                continue
        print(f"{name}, drawn", flush=True)
        assert isinstance(method, Renderer)
        person = opened(options.folder, method, options.size or method.config.size, "val", device)
        drawing(name, method, person, device, options.steps)
        if options.seconds and method.speech:
            attempt("audio file to pixels", lambda p=person, m=method: speaking(m.to(device), p, options.folder, device, options.seconds))  # type: ignore[misc]  # fmt: skip
        if options.run:
            break


if __name__ == "__main__":
    main()
