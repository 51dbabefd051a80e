"""Seconds of each task of `prepare`, frames a second and peak memory, for clips of the lengths asked, made by repeating one.

    python benchmarks/prepare.py VIDEO [--minutes 1 3] [--frames 8000] [--only torso body] [--speech whisper] [--cores 16] [--out table.csv]

The recording is repeated (packets are copied, nothing is encoded anew) until it is as long as asked. Each length runs in a
process of its own. Peak memory is that of the process and all its workers together: the sum of their proportional set sizes
(each shared page counted once), looked at five times a second; where the system does not tell it, the kernel's ru_maxrss.
Tasks run side by side, so their seconds add up to more than the whole takes. The column beside them is what the
preprocessing of the AD-NeRF lineage is said to take for 8000 frames on a machine with a GPU of 16 GB (its own estimate).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import av

THEIRS = {1: 5, 2: 90, 3: 60, 4: 180, 5: 5, 6: 180, 7: 180, 8: 120, 9: 5}  # s for 8000 frames, by task
THEIR_TOTAL = "780 to 900"


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


def family(root: int) -> list[int]:
    """A process and all that come from it."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):  # it has ended
                continue
    found, ahead = [], [root]
    while ahead:
        found.append(ahead.pop())
        ahead += [pid for pid, parent in parents.items() if parent == found[-1]]
    return found


def held(root: int, spent: dict[int, float]) -> float:
    """MB of memory that a process and all that come from it hold now; `spent` takes each one's seconds of CPU so far."""
    total = 0
    for pid in family(root):
        try:
            times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            spent[pid] = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, IndexError):
            continue
    return total / 1024


def watched(command: list[str]) -> tuple[dict[str, object], tuple[float, float], float]:
    """The last line of a command's output, read as JSON; of it and its workers the peak memory, MB, with the second at which it
    was seen, and the seconds of CPU."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, spent, done, begun = (0.0, 0.0), dict[int, float](), threading.Event(), time.monotonic()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, (held(run.pid, spent), time.monotonic() - begun))

    watch = threading.Thread(target=look)
    if Path("/proc/self/smaps_rollup").exists():
        watch.start()
    out, _ = run.communicate()
    done.set()
    if watch.ident:
        watch.join()
    if run.returncode:
        sys.exit(run.returncode)
    found = json.loads(out.splitlines()[-1])
    return found, peak if peak[0] else (found["maxrss"], 0.0), sum(spent.values())


def measure(video: Path, folder: Path, only: list[str] | None, speech: list[str] | None) -> None:
    """Prepare here and print what it took as one line of JSON."""
    from vivavoce.prepare import Folder, prepare

    begun: dict[str, float] = {}
    ended: dict[str, float] = {}

    def report(step: str, done: int, total: int) -> None:
        begun.setdefault(step, time.perf_counter())
        ended[step] = time.perf_counter()

    start = time.perf_counter()
    prepare(video, folder, only=only, speech=speech, progress=report, force=True)
    total = time.perf_counter() - start
    steps = {s: [round(begun[s] - start, 2), round(ended[s] - begun[s], 2)] for s in begun}
    maxrss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"frames": Folder(folder).frames, "total": total, "maxrss": maxrss, "steps": steps}))


def shown(found: dict[str, object], peak: tuple[float, float], spent: float, cores: str) -> list[dict[str, object]]:
    """The table of one length as Markdown; its rows."""
    from vivavoce.prepare import steps

    frames, total = int(str(found["frames"])), float(str(found["total"]))
    known = {s.name: s.task for s in steps()}
    memory, each = f"{peak[0]:.0f} MB (at {peak[1]:.0f} s)", f"{1000 * spent / frames:.0f} ms of one core a frame"
    told = f"{total:.0f} s, {frames / total:.0f} a second, {memory}, {each}"
    print(f"\n{frames} frames ({frames / 1500:.1f} min) on {cores} cores: {told}\n")
    print("| task | step | begins at s | s | ms a frame | frames a second | lineage, s for 8000 frames |\n|---|---|---|---|---|---|---|")
    rows = []
    for name, (start, seconds) in sorted(dict(found["steps"]).items(), key=lambda item: known.get(item[0]) or 10):  # type: ignore[call-overload]
        task = known.get(name) or 0
        rate = f"{frames / seconds:.0f}" if seconds > 0.05 else ""
        print(f"| {task or ''} | {name} | {start:.1f} | {seconds:.1f} | {1000 * seconds / frames:.2f} | {rate} | {THEIRS.get(task, '')} |")
        rows.append({"frames": frames, "cores": cores, "task": task, "step": name, "begins": start, "seconds": seconds})
    print(f"| | together | | {total:.1f} | {1000 * total / frames:.2f} | {frames / total:.0f} | {THEIR_TOTAL} |", flush=True)
    whole = {"frames": frames, "cores": cores, "step": "together", "begins": 0, "seconds": total, "peak_mb": round(peak[0]), "cpu_s": spent}
    return [whole, *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[])
    parser.add_argument("--frames", type=int, nargs="+", default=[])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--speech", nargs="+")
    parser.add_argument("--cores", type=int, help="use so many; default: all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set: measure here
    o = parser.parse_args()
    if o.folder is not None:
        measure(o.video, o.folder, o.only, o.speech)
        return
    if o.cores:
        os.environ["VIVAVOCE_CORES"] = str(o.cores)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: o.cores])
    from vivavoce.prepare.parallel import cores

    rows: list[dict[str, object]] = []
    for seconds in [60 * m for m in o.minutes] + [f / 25 for f in o.frames] or [60.0, 180.0]:
        with tempfile.TemporaryDirectory() as place:
            video = repeated(o.video, Path(place) / "long.mp4", seconds)
            more = [part for name in ("only", "speech") if getattr(o, name) for part in (f"--{name}", *getattr(o, name))]
            found, peak, spent = watched([sys.executable, __file__, str(video), "--folder", f"{place}/person", *more])
        rows += shown(found, peak, spent, str(cores()))
    if o.out is not None:
        with open(o.out, "w", newline="") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
