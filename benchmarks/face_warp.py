"""Frames a second of face_warp: the warp alone, the whole render at 512 x 512, and a portrait's whole run.

    python benchmarks/face_warp.py [--device cuda] [--portrait PICTURE] [--audio WAV]

Without --portrait a painted canonical face stands in (the speed does not depend on the picture). With --portrait and
--audio the whole path is timed as well: audio file in, full pictures out, nothing written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vivavoce.face import mesh
from vivavoce.face.pose import FLIP
from vivavoce.methods.face_warp import Config, FaceWarp
from vivavoce.render import warp
from vivavoce.types import RATE, Clip, Motion

SIZE, ROWS = 512, 64


def stand_in() -> Clip:
    """A face of ordinary size in a crop of noise."""
    torch.manual_seed(0)
    vertices = torch.from_numpy(mesh.vertices())
    points = 1300 * vertices * torch.tensor(FLIP) + torch.tensor([SIZE / 2, SIZE / 2, 0])
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 32, 32), (SIZE, SIZE), mode="bilinear")
    return Clip(frames=picture, points=torch.cat([points, points[:10]])[None], units=torch.zeros(1, 52))


def movement() -> Motion:
    """A head that turns while it talks and blinks."""
    torch.manual_seed(0)
    scores = 0.4 * torch.rand(ROWS, 52)
    return Motion(0.1 * torch.randn(ROWS, 3), torch.zeros(ROWS, 3), torch.ones(ROWS, 1), scores)


def rate(run: Callable[[], object], frames: int, device: torch.device) -> float:
    """Frames a second, best of five."""
    run()
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return frames / best


def talk(picture: Path, audio: Path, device: torch.device) -> None:
    """The path of `vivavoce run`, without the encoder of the video."""
    from vivavoce import media, speech
    from vivavoce.data.portrait import Portrait
    from vivavoce.methods.speech_motion import SpeechMotion
    from vivavoce.talker import Talker

    begun = time.perf_counter()
    portrait, sound = Portrait(picture), media.audio(audio)
    generator = SpeechMotion.shipped().to(device)
    talker = Talker(FaceWarp(Config()).to(device), portrait, {"whisper": speech.load("whisper", device)}, generator, portrait.paste)
    ready = time.perf_counter()
    count = 0
    for frames in talker.stream(sound.split(RATE)):
        if not count:
            first = time.perf_counter()
        count += len(frames)
    done = time.perf_counter()
    print(f"portrait {portrait.full[1]}x{portrait.full[0]}, crop {portrait.size[0]}: ready in {ready - begun:.2f} s")
    print(f"first frame after {first - ready:.2f} s; {count} frames in {done - ready:.2f} s: {count / (done - ready):.1f} frames a second")
    print("seconds by stage:", {stage: round(taken, 2) for stage, taken in talker.seconds.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--portrait", type=Path)
    parser.add_argument("--audio", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    source, motion = stand_in().to(device), movement().to(device)
    method = FaceWarp(Config())
    begun = time.perf_counter()
    identity = method.encode(source)
    print(f"{device}, {torch.get_num_threads()} threads; encode (first call, kernels compiled) {time.perf_counter() - begun:.2f} s")
    for backend in ("numba", "torch") if device.type == "cpu" else ("torch",):
        count = 8 if device.type == "cpu" and backend == "torch" else ROWS
        target = identity.points.expand(count, -1, -1) + torch.randn(count, 1, 3, device=device)

        def alone(target: Tensor = target, backend: str = backend) -> object:
            return warp.warp(identity.picture, identity.points[:, :2], target, identity.triangles, (SIZE, SIZE), backend)

        print(f"warp alone, {backend}, {SIZE} x {SIZE}: {rate(alone, count, device):.1f} frames a second")
    for block in (1, 8):
        cut = [Clip(motion=motion[i : i + block]) for i in range(0, ROWS, block)]
        speed = rate(lambda cut=cut: [method.render(identity, c) for c in cut], ROWS, device)  # type: ignore[misc]
        print(f"render, {block} rows at once: {speed:.1f} frames a second")
    if options.portrait and options.audio:
        talk(options.portrait, options.audio, device)


if __name__ == "__main__":
    main()
