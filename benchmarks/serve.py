"""What the queue costs beside `run` itself, how late live pictures come, how many faces speak live at once, and ten minutes of one.

    python benchmarks/serve.py PORTRAIT WAV [--device cpu] [--seconds 10] [--sessions 1 2 4] [--renderer face_warp]
    python benchmarks/serve.py --device cuda --random --sessions 1 2 4 8 12 16     (no file is needed)
    python benchmarks/serve.py PORTRAIT --stream 10                                (sound: every wav of $VIVAVOCE_DATA/speech)

films: the same sound made into a film by `vivavoce.run.speak` and by an order in the queue (uploads checked and kept, hidden mark,
metadata), in turns; the time of the second over that of the first is what the server costs.

live: n sessions hear the same sound at its own pace, 40 ms a piece; they begin at once or, with --apart, at random moments of so many ms.
The delay of picture k is from the moment its last sample was given to the moment its JPEG is there; what the method must hear beyond it
(lookahead) is told beside it, for no computer shortens that. A session keeps up when its delay in the last second is no more than 200 ms
above that of its first. Then the sound is given as quickly as it is taken: pictures a second of all sessions together, over 25 the number
that could keep up; thread time of each stage, ms a picture; and how often so many were drawn as one batch.

--random: live_portrait at its published size and dit_motion's preset live in its space, both with random weights (speed does not depend on
them); before the sessions, sound to a film in H.264 (path). --block and --ahead: rows of a block of motion, and rows heard after it, of
which each is 40 ms of lookahead.

--stream: so many minutes through the server's own socket, in pieces of 20 to 40 ms, as quickly as they are taken; benchmarks/stream.py
says what is looked at.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import stream
import torch
from PIL import Image

from vivavoce import registry, run, speech
from vivavoce.face import mesh, regions
from vivavoce.media import Writer, audio, pixels
from vivavoce.method import Generator
from vivavoce.methods import live_portrait
from vivavoce.serve import stage
from vivavoce.serve.jobs import ENDED, Jobs, Order
from vivavoce.serve.uploads import Limits
from vivavoce.talker import Talker
from vivavoce.types import FPS, HOP, RATE, Clip

ROUNDS = 3
BEHIND = 0.2  # s
SIDE = 512  # px
ROWS = {"block": 8, "ahead": 2}  # of a block of motion of --random


class Drawn:
    """A source that needs no landmarker: the canonical face's points on a grey picture."""

    size = (SIDE, SIDE)

    def __init__(self) -> None:
        points = torch.from_numpy(mesh.vertices())[list(regions.LANDMARKS_68)]
        places = (points[:, :2] * points.new_tensor([1, -1]) * 1600 + SIDE / 2)[None]  # [1,68,2] px
        self.row = Clip(frames=torch.full((1, 3, SIDE, SIDE), 0.5), landmarks=places, index=torch.zeros(1, dtype=torch.long))

    def __len__(self) -> int:
        return 1

    def clip(self, rows: Any, needs: Any = None) -> Clip:
        return self.row[torch.zeros(len(rows), dtype=torch.long)]


def random_head(source: Path, options: run.Options, like: Talker | None = None) -> tuple[Talker, tuple[int, int], list[str]]:
    """As run.build, with weights that nobody trained."""
    face = Drawn()
    if like is not None:
        return like.again(face), face.size, []
    torch.manual_seed(0)
    renderer = live_portrait.LivePortrait(live_portrait.Config(adversarial=0.0, perceptual=0.0)).to(options.device).eval()
    shape: dict[str, Any] = dict(space="keypoints", expression=63, speech="mel", speech_dim=80, gap=0.0, sync=0.0, **ROWS)
    generator = registry.create("dit_motion", "live", **shape).to(options.device).eval()
    assert isinstance(generator, Generator)
    talker = Talker(renderer, face, {"mel": speech.load("mel", options.device)}, generator, None, 1)
    return talker, face.size, []


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


def delays(session: stage.Session, samples: np.ndarray, paced: bool, wait: float = 0.0) -> np.ndarray:  # int16 [n] -> s [frames]
    """Of each picture, while the sound is given at its own pace or as quickly as it is taken; begins after so many seconds."""
    given, shown = [], []
    time.sleep(wait)
    speaking = threading.Thread(target=session.speak, args=(lambda number, picture: shown.append(time.perf_counter()),))
    speaking.start()
    begun = time.perf_counter()
    for start in range(0, len(samples), HOP):
        wait = begun + (start + HOP) / RATE - time.perf_counter()
        if paced and wait > 0:
            time.sleep(wait)
        given.append(begun + (start + HOP) / RATE)  # when a microphone would have given it, however late we are
        session.hear(samples[start : start + HOP].tobytes())
    session.hear(None)
    speaking.join()
    return np.array(shown) - np.array(given)


def at_once(every: list[stage.Session], samples: np.ndarray, paced: bool, apart: float = 0.0) -> tuple[list[np.ndarray], float]:
    """Delays of all sessions, which begin within `apart` seconds, and the time that they took together."""
    late: list[np.ndarray] = []
    waits = np.random.default_rng(0).uniform(0, apart, len(every))
    threads = [
        threading.Thread(target=lambda s=s, w=w: late.append(delays(s, samples, paced, w))) for s, w in zip(every, waits, strict=True)
    ]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return late, time.perf_counter() - begun


def sessions(count: int, portrait: bytes, samples: np.ndarray, device: str, renderer: str, apart: float) -> None:
    room = stage.Stage({} if not Path(renderer).is_dir() else {"run": Path(renderer)}, Limits(live=count), device)
    if renderer == "random":
        room.build = random_head
    wishes = {"actor": "run"} if room.actors else {} if renderer == "random" else {"renderer": renderer}
    begun = time.perf_counter()
    every = [room.session(dict(wishes), portrait)]
    first = time.perf_counter() - begun
    every += [room.session(dict(wishes), portrait) for _ in range(count - 1)]
    more = (time.perf_counter() - begun - first) / max(1, count - 1)
    late, _ = at_once(every, samples, True, apart)
    kept = sum(bool(np.median(d[-FPS:]) < np.median(d[:FPS]) + BEHIND) for d in late)
    ahead, usual, most = every[0].talker.lookahead, *(1000 * np.percentile(np.concatenate(late), [50, 95]))
    print(
        f"live: {count} sessions: {kept} keep up; delay median {usual:.0f} ms, 95th percentile {most:.0f} ms"
        f" (of it lookahead {ahead:.0f} ms); first picture {1000 * max(d[0] for d in late):.0f} ms after its sound,"
        f" {1000 * (max(d[0] for d in late) + HOP / RATE):.0f} after the first sample;"
        f" ready after {first:.1f} s, the others {more:.2f} s each"
    )
    again = [stage.Session(s.talker, s.size, [], "seen", turns=s.turns) for s in every]
    before = [dict(s.talker.seconds) for s in again]
    late, seconds = at_once(again, samples, False)
    pictures = sum(map(len, late))
    spent = {name: sum(s.talker.seconds[name] - b[name] for s, b in zip(again, before, strict=True)) for name in before[0]}
    spent |= {name: sum(s.seconds[name] for s in again) for name in again[0].seconds}
    print(
        f"      as quickly as they are taken: first picture after {1000 * (max(d[0] for d in late) + HOP / RATE):.0f} ms,"
        f" {pictures / seconds:.1f} pictures a second, {pictures / seconds / FPS:.1f} sessions;"
        " ms a picture: " + ", ".join(f"{name} {1000 * value / pictures:.1f}" for name, value in spent.items()) + batches(every[0].talker)
    )


def path(samples: np.ndarray, device: str, folder: Path) -> None:
    """Sound to a film of the random head, H.264 on the CPU: frames a second of the second time, by block."""
    sound = torch.from_numpy(samples.astype(np.float32) / 32768)
    for block in (1, 8):
        talker, size, _ = random_head(folder, run.Options(device=device))
        talker.block = block
        for _ in range(2):  # the first time compiles and records graphs
            if device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
            spent = dict(talker.seconds)
            begun = time.perf_counter()
            with Writer(folder / "film.mp4", size, FPS) as writer, run.Behind(writer.write) as encode:
                count = 0
                for images in map(pixels, talker.stream(sound.split(HOP * block))):
                    encode(images)
                    count += len(images)
            took = time.perf_counter() - begun
        stages = {name: talker.seconds[name] - spent[name] for name in spent} | {"encode (beside)": encode.seconds}
        print(
            f"path: {count} frames of {size[1]} x {size[0]} px at batch {block}: {count / took:.1f} frames a second;"
            " ms a frame: " + ", ".join(f"{name} {1000 * value / count:.2f}" for name, value in stages.items()) + batches(talker)
        )


def batches(talker: Talker) -> str:
    """How often so many rows were drawn at once, and so many blocks of motion made."""
    renderer, blocks = talker.renderer, getattr(talker.generator, "blocks", None)
    told = ""
    for name, parts in (("drawn", (renderer, *getattr(renderer, "_draw", ()))), ("moved", getattr(blocks, "quick", {}).values())):
        done = next((part.together.batches for part in parts if hasattr(part, "together")), {})
        told += f"; batches {name} {dict(sorted(done.items()))}" if done else ""
    return told + (f"; {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portrait", type=Path, nargs="?")
    parser.add_argument("sound", type=Path, nargs="?")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--apart", type=float, default=0, metavar="MS", help="sessions begin at random moments of so long")
    parser.add_argument("--renderer", default="face_warp", help="a method that works with a portrait, or the folder of a trained run")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--block", type=int, default=ROWS["block"])
    parser.add_argument("--ahead", type=int, default=ROWS["ahead"])
    parser.add_argument("--stream", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--strip", type=Path, help="with --stream: a picture file of the face at nine moments, to be looked at")
    options = parser.parse_args()
    device = run.pick_device(options.device)
    ROWS.update(block=options.block, ahead=options.ahead)
    if not options.random and not Path(options.renderer).is_dir() and options.portrait is None:
        parser.error("give a PORTRAIT, or --random")
    data = Path(os.environ.get("VIVAVOCE_DATA", "../shared/data"))
    heard = [options.sound] if options.sound else sorted((data / "speech").glob("*.wav"))
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * RATE)  # where there is no recording: speed does not depend on it
    voice = np.concatenate([audio(path).numpy() for path in heard] if heard else [noise])
    voice = (voice[: len(voice) // HOP * HOP] * 32767).astype("<i2")
    if options.stream and options.portrait is not None:
        return stream.stream(options.portrait, voice, options.stream, device, options.renderer, options.strip)
    samples = np.resize(voice, int(options.seconds * RATE) // HOP * HOP)
    if options.random:
        grey = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(grey, "PNG")
    elif options.sound and not Path(options.renderer).is_dir():
        with tempfile.TemporaryDirectory() as folder:
            films(options.portrait, options.sound, device, options.renderer, Path(folder))
    picture = grey.getvalue() if options.random else options.portrait.read_bytes() if options.portrait else b""
    if options.random:
        with tempfile.TemporaryDirectory() as folder:
            path(samples, device, Path(folder))
    for count in options.sessions:
        sessions(count, picture, samples, device, "random" if options.random else options.renderer, options.apart / 1000)


if __name__ == "__main__":
    main()
