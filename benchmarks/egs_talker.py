"""Speed of egs_talker and its family: training steps, frames drawn, and audio file to pixels.

    python benchmarks/egs_talker.py --device cpu --folder PERSON [--method egs_talker] [--preset cpu] [--size 512] [--run RUN] [--steps 40]

PERSON is a prepared person folder. Without --run the head is an untrained one of the preset (as many Gaussians as at the
start of training); with it the trained one. Every figure is wall time between two synchronised clocks. On CUDA frames are drawn both
with CUDA graphs and without; training stands beside a plain loop: as many Gaussians, pixels and rows a step, L1 and SSIM, no
deformation, no torso, drawn by our splats and, where it is installed, by gsplat's own `rasterization`.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from timing import seconds
from torch import Tensor

from vivavoce import losses, registry, speech, train
from vivavoce.data.person import Person
from vivavoce.media import audio
from vivavoce.method import Method, Renderer
from vivavoce.render import splats
from vivavoce.talker import Talker
from vivavoce.types import HOP, Camera, Clip


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
    plain(method, clips, steps)


def by_gsplat(parts: list[Tensor], camera: Camera, size: tuple[int, int]) -> Tensor:  # -> [T,3,H,W]
    """As one would use gsplat: its own function, colours as they are."""
    from gsplat import rasterization

    means, quaternions, scales, opacities, colours = parts
    lenses = torch.zeros(len(camera), 3, 3, device=means.device)
    lenses[:, 0, 0], lenses[:, 1, 1], lenses[:, 2, 2] = camera.focal[:, 0], camera.focal[:, 1], 1.0
    lenses[:, :2, 2] = camera.center
    view = torch.linalg.inv(camera.pose)
    image, _, _ = rasterization(means, quaternions, scales, opacities, colours, view, lenses, size[1], size[0], packed=False)
    return image.permute(0, 3, 1, 2)


def plain(method: Any, clips: list[Clip], steps: int) -> None:
    """Steps a second of a still set of Gaussians before black, by our splats and by gsplat."""
    g = method.avatar.gaussians
    parts = [p.detach().clone().requires_grad_() for p in (g.means, g.quaternions, g.log_scales, g.logits, g.colours)]
    optimizer = torch.optim.Adam(parts, 1e-4, eps=1e-15, fused=True)
    ways: dict[str, Any] = {"our splats": lambda parts, camera, size: splats.render(*parts, camera, size).image}
    if importlib.util.find_spec("gsplat") and g.means.is_cuda:
        ways["gsplat"] = by_gsplat
    for name, draw in ways.items():
        turn = iter(range(10**9))

        def step(draw: Any = draw, turn: Any = turn) -> None:
            clip = clips[next(turn) % len(clips)]
            assert clip.frames is not None and clip.camera is not None
            means, quaternions, scales, logits, colours = parts
            shown = [means, quaternions, scales.exp(), logits.sigmoid(), colours]
            frames = draw(shown, clip.camera, (clip.frames.shape[2], clip.frames.shape[3]))
            optimizer.zero_grad(set_to_none=True)
            (0.8 * losses.l1(frames, clip.frames) + 0.2 * losses.dssim(frames, clip.frames, 8, 0, 4)).backward()
            optimizer.step()

        taken = seconds(step, g.means.device, steps)
        print(
            f"plain loop, {len(parts[0])} Gaussians, {name}: {taken * 1e3:7.1f} ms a step of {len(clips[0])} rows, {1 / taken:6.1f} steps/s"
        )


def drawing(method: Any, person: Person, device: torch.device, times: int) -> None:
    """Frames a second at batch 1 and 8, and where the time of one frame goes."""
    method.to(device).eval()
    with torch.no_grad():
        heard = method.encode()
        for rows in (1, 8):
            clip = person.clip(list(range(min(rows, len(person)))), method.needs).to(device)
            for method.avatar.replay.on in both(device):
                taken = seconds(lambda clip=clip: method.render(heard, clip), device, max(times, 5))  # type: ignore[misc]
                how = f"drawing, batch {rows}{way(method, device)}"
                print(f"{how}: {taken / len(clip) * 1e3:7.2f} ms a frame, {len(clip) / taken:7.1f} frames/s")
                if method.avatar.replay.on and device.type == "cuda":
                    method.avatar.replay.on = False
                    plain_frames = method.render(heard, clip)
                    method.avatar.replay.on = True
                    print(f"  largest difference to frames without a graph: {(method.render(heard, clip) - plain_frames).abs().max():.1e}")
                elif not method.avatar.replay.on:
                    eager = taken
            taken = eager
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


def both(device: torch.device) -> tuple[bool, ...]:
    """Without CUDA graphs, then with them, where there are any."""
    return (False, True) if device.type == "cuda" else (False,)


def way(method: Any, device: torch.device) -> str:
    return "" if device.type != "cuda" else f", {'with' if method.avatar.replay.on else 'without'} CUDA graphs"


def speaking(method: Any, person: Person, folder: Path, device: torch.device, length: float) -> None:
    """Audio file in, pixels out, with the encoder the method hears; frames are brought back to the CPU as bytes."""
    encoder = speech.load(method.speech, device)
    for block, graphs in ((block, graphs) for block in (1, 8) for graphs in both(device)):
        method.avatar.replay.on = graphs
        talker = Talker(method, person, {method.speech: encoder}, block=block)
        taken = []
        for _ in range(3):
            begun = time.perf_counter()
            sound = audio(folder / "aud.wav")[: int(length * 25) * HOP]
            count = sum(len((frames * 255).round().byte().cpu()) for frames in talker.stream([sound]))
            taken.append(time.perf_counter() - begun)
        how = f"audio file to pixels, batch {block}{way(method, device)}"
        print(f"{how}: {count} frames in {min(taken):.2f} s, {count / min(taken):.1f} frames/s")
        stages = talker.seconds  # of all three times
        print("  " + ", ".join(f"{name} {1e3 * spent / 3 / count:.2f}" for name, spent in stages.items()) + " ms a frame")


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
