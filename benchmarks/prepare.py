"""Wall time of each step of `prepare`, and its peak memory for one minute and for ten of the same recording.

    python benchmarks/prepare.py VIDEO [--minutes 1 10] [--only units audio speech] [--threads 2] [--out table.csv]

The recording is repeated (packets are copied, nothing is encoded anew) until it is as long as asked. Each length runs in a
process of its own, so the peak is that length's. Peak memory is the kernel's account of the process (ru_maxrss).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av


def repeated(source: Path, target: Path, seconds: float) -> Path:
    """The recording over and over until it is that long."""
    with av.open(str(target), "w") as out:
        with av.open(str(source)) as once:
            video, sound = once.streams.video[0], once.streams.audio[0]
            tracks = {s.index: out.add_stream_from_template(s) for s in (video, sound)}
            length = max(float(s.duration * s.time_base) for s in (video, sound))
            length = math.ceil(25 * length) / 25  # whole frames
        at, last = 0.0, {}
        while at < seconds:
            with av.open(str(source)) as once:
                for packet in once.demux(*tracks):
                    if packet.dts is None or at + float(packet.dts * packet.time_base) >= seconds:
                        continue
                    shift = round(at / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if packet.dts <= last.get(packet.stream_index, -math.inf):  # where two rounds meet
                        continue
                    last[packet.stream_index] = packet.dts
                    packet.stream = tracks[packet.stream_index]
                    out.mux(packet)
            at += length
    return target


def measure(video: Path, folder: Path, only: list[str] | None, threads: int) -> None:
    """Prepare here and print what it took as one line of JSON."""
    import torch

    from vivavoce.prepare import Folder, prepare

    torch.set_num_threads(threads)
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    peak: dict[str, float] = {}

    def report(step: str, done: int, total: int) -> None:
        begun.setdefault(step, time.perf_counter())
        ended[step] = time.perf_counter()
        peak[step] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    start = time.perf_counter()
    prepare(video, folder, only=only, progress=report)
    steps = {s: [round(ended[s] - begun[s], 2), round(peak[s])] for s in begun}
    print(json.dumps({"frames": Folder(folder).frames, "total": round(time.perf_counter() - start, 1), "steps": steps}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set: measure here
    o = parser.parse_args()
    if o.folder is not None:
        measure(o.video, o.folder, o.only, o.threads)
        return
    rows = []
    for minutes in o.minutes:
        with tempfile.TemporaryDirectory() as place:
            video = repeated(o.video, Path(place) / "long.mp4", 60 * minutes)
            only = ["--only", *o.only] if o.only else []
            call = [sys.executable, __file__, str(video), "--folder", f"{place}/person", "--threads", str(o.threads), *only]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
        print(f"{minutes:g} min, {found['frames']} frames: {found['total']} s")
        for step, (seconds, peak) in found["steps"].items():
            print(f"  {step:<12} {seconds:8.1f} s {1000 * seconds / found['frames']:7.2f} ms a frame   peak so far {peak} MB")
            rows.append({"minutes": minutes, "frames": found["frames"], "step": step, "seconds": seconds, "peak_mb": peak})
    if o.out is not None:
        with open(o.out, "w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
