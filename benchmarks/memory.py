"""Peak memory of `prepare` and `run` on a video of 1 minute and of 10 minutes: they must be equal.

    python benchmarks/memory.py VIDEO RUN [--minutes 1 10] [--work FOLDER] [--only run] [--size 512]

VIDEO is a talking head (played to and fro to reach the length), RUN a trained run or a portrait. Prints a table; each
command is a process of its own, and the figure is the operating system's peak resident set of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from vivavoce.media import Writer, audio, frames
from vivavoce.types import FPS, RATE


def lengthen(video: Path, minutes: float, out: Path) -> None:
    """The video repeated until it is so long, sound and picture together."""
    if out.is_file():
        return
    sound = audio(video).numpy()
    count = round(minutes * 60 * FPS)
    first = next(iter(frames(video)))
    tiled = np.resize(sound, count * RATE // FPS)
    with Writer(out, first.shape[:2], FPS, iter([torch.from_numpy(tiled)])) as writer:
        done = 0
        while done < count:
            for picture in frames(video):
                writer.write(picture[None])
                done += 1
                if done == count:
                    break


def _child(command: list[str], answer: multiprocessing.Queue[tuple[int, float, float]]) -> None:
    begun = time.perf_counter()
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    answer.put((code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, time.perf_counter() - begun))


def peak(command: list[str]) -> tuple[float, float]:
    """Peak resident set in MiB and wall seconds of a command. Raises SystemExit when it fails."""
    answer: multiprocessing.Queue[tuple[int, float, float]] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_child, args=(command, answer))
    process.start()
    code, size, seconds = answer.get()
    process.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return size, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, nargs=2, default=[1, 10])
    parser.add_argument("--work", type=Path, default=Path("out/memory"))
    parser.add_argument("--only", choices=("prepare", "run"))
    parser.add_argument("--size", type=int, default=0, help="of the frames that run makes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    verb = [sys.executable, "-m", "vivavoce.cli"]
    table: dict[str, list[tuple[float, float]]] = {name: [] for name in ("prepare", "run") if options.only in (None, name)}
    for minutes in options.minutes:
        video = options.work / f"{minutes:g}min.mp4"
        lengthen(options.video, minutes, video)
        said, size = str(options.work / f"said{minutes:g}.mp4"), str(options.size)
        commands = {
            "prepare": ["prepare", str(video), "--folder", str(options.work / f"{minutes:g}min")],
            "run": ["run", str(options.run), "--audio", str(video), "--out", said, "--size", size],
        }
        for name, peaks in table.items():
            peaks.append(peak([*verb, *commands[name]]))
    short, long = options.minutes
    print(f"{os.cpu_count()} cores")
    print(f"| verb | {short:g} min MiB | {long:g} min MiB | ratio | {short:g} min s | {long:g} min s |\n|---|---|---|---|---|---|")
    for name, ((a, sa), (b, sb)) in table.items():
        print(f"| {name} | {a:.0f} | {b:.0f} | {b / a:.2f} | {sa:.0f} | {sb:.0f} |")


if __name__ == "__main__":
    main()
