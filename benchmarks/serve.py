"""What the queue costs beside `run` itself, how late live pictures come, and how many faces speak live at once.

    python benchmarks/serve.py PORTRAIT WAV [--device cpu] [--seconds 10] [--sessions 1 2 4] [--renderer face_warp]

films: the same sound made into a film by `vivavoce.run.speak` and by an order in the queue (uploads checked and kept, hidden mark,
metadata), in turns; the time of the second over that of the first is what the server costs.

live: n sessions hear the same sound at its own pace, 40 ms a piece. The delay of picture k is from the moment its last sample was given
to the moment its JPEG is there; what the method must hear beyond it (lookahead) is told beside it, for no computer shortens that. A
session keeps up when its delay in the last second is no more than 200 ms above that of its first.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from vivavoce import run
from vivavoce.media import audio
from vivavoce.serve import live
from vivavoce.serve.jobs import ENDED, Jobs, Order
from vivavoce.serve.uploads import Limits
from vivavoce.types import FPS, HOP, RATE

ROUNDS = 3
BEHIND = 0.2  # s


def films(portrait: Path, sound: Path, device: str, renderer: str, folder: Path) -> None:
    jobs = Jobs(folder / "work", device=device)
    times: dict[str, list[float]] = {"run": [], "serve": []}
    for number in range(ROUNDS + 1):
        begun = time.perf_counter()
        report = run.speak(portrait, sound, folder / "film.mp4", run.Options(renderer=renderer, device=device))
        times["run"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        streams = [io.BytesIO(path.read_bytes()) for path in (portrait, sound)]
        job = jobs.add(Order(streams[0], audio=streams[1], consent=True, wishes={"renderer": renderer}))
        while job.state not in ENDED:
            time.sleep(0.02)
        times["serve"].append(time.perf_counter() - begun)
        assert job.state == "done" and job.done == report.frames, job.error
        if not number:
            times = {name: [] for name in times}  # compiled now
    jobs.close()
    plain, served = (float(np.median(times[name])) for name in ("run", "serve"))
    print(f"films: {report.frames} frames; run {plain:.2f} s, serve {served:.2f} s: {served / plain:.3f} times as long")


def delays(session: live.Session, samples: np.ndarray) -> np.ndarray:  # int16 [n] -> s [frames]
    """Of each picture, while the sound is given at its own pace."""
    given, shown = [], []
    speaking = threading.Thread(target=session.speak, args=(lambda _: shown.append(time.perf_counter()),))
    speaking.start()
    begun = time.perf_counter()
    for start in range(0, len(samples), HOP):
        wait = begun + (start + HOP) / RATE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        given.append(begun + (start + HOP) / RATE)  # when a microphone would have given it, however late we are
        session.hear(samples[start : start + HOP].tobytes())
    session.hear(None)
    speaking.join()
    return np.array(shown) - np.array(given)


def sessions(count: int, portrait: Path, samples: np.ndarray, device: str, renderer: str) -> None:
    stage = live.Stage({}, Limits(live=count), device)
    begun = time.perf_counter()
    every = [stage.session({"renderer": renderer}, portrait.read_bytes()) for _ in range(count)]
    loaded = (time.perf_counter() - begun) / count
    late: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda s=s: late.append(delays(s, samples))) for s in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = sum(bool(np.median(d[-FPS:]) < np.median(d[:FPS]) + BEHIND) for d in late)
    ahead, usual, most = every[0].talker.lookahead, *(1000 * np.percentile(np.concatenate(late), [50, 95]))
    print(
        f"live: {count} sessions: {kept} keep up; delay median {usual:.0f} ms, 95th percentile {most:.0f} ms"
        f" (of it lookahead {ahead:.0f} ms); first picture {1000 * max(d[0] for d in late):.0f} ms; ready after {loaded:.1f} s each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portrait", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--renderer", default="face_warp")
    options = parser.parse_args()
    device = run.pick_device(options.device)
    heard = audio(options.sound).numpy()
    samples = np.resize((heard * 32767).astype("<i2"), int(options.seconds * RATE) // HOP * HOP)
    with tempfile.TemporaryDirectory() as folder:
        films(options.portrait, options.sound, device, options.renderer, Path(folder))
    for count in options.sessions:
        sessions(count, options.portrait, samples, device, options.renderer)


if __name__ == "__main__":
    main()
