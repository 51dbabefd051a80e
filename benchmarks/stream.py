"""Minutes of one live session, through the server's own socket: `python benchmarks/serve.py PORTRAIT --stream 10` runs it.

time: every picture says at which sample it begins; the farthest that one lies from its place in the order (0 when none is lost or
doubled), and how far the pictures' end lies from the sound's. By what is seen, in the first minute and in the last: by how much the lips
follow the loudness (the top of the correlation); and, where the stream is long enough for the sound to be repeated, so that both minutes
say the same, by how much the lips of the last come after those of the first.
memory, speed: at the end of each minute of sound what is resident, and what that minute took: pictures a second, and processor time a
picture of all threads; server and client are one process here.
identity and sharpness: of a picture every 4 s over the whole length, by minute: cosine of SFace's embeddings with the portrait's (where
its weights are), distance of 48 landmarks (no lips) from the portrait's after a similarity, in eye distances; CPBD and the variance of
the Laplacian. Drift is the slope of a line through all of them, times the length, with its standard error.
--strip FILE: the face in nine of these pictures, from the first to the last, to be looked at.

Only these pictures, and the lips of two minutes, are judged: finding a face takes half as long as making a picture.
"""

from __future__ import annotations

import io
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from vivavoce.face.landmarker import Landmarker
from vivavoce.media import read_image
from vivavoce.metrics import csim
from vivavoce.metrics.cpbd import cpbd
from vivavoce.serve.server import SOCKET, Server, Settings
from vivavoce.types import FPS, HOP, RATE, InputError

PIECES = (320, 641)  # samples of a piece: 20 to 40 ms
MOST = 12  # frames by which lips may be early or late
MINUTE = 60 * FPS
LIPS = MINUTE  # pictures at either end whose lips are followed
APART = 4 * FPS  # pictures from one that is judged to the next
SHOWN = 3  # rows of a strip, and columns
AHEAD = 5 * FPS  # pictures by which the sound sent may be ahead of what has come


@contextmanager
def serving(device: str, folder: Path) -> Iterator[int]:
    """A server as `vivavoce serve --programs-only` starts it; its port."""
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        server = Server(Settings(port=port, work=folder / "work", page=False, device=device))
        listener = uvicorn.Server(uvicorn.Config(server.app, **SOCKET))
        thread = threading.Thread(target=listener.run, args=([listening],), daemon=True)
        thread.start()
        yield port
        listener.should_exit = True
        thread.join(30)
        server.jobs.close()


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def stream(portrait: Path, voice: np.ndarray, minutes: float, device: str, renderer: str, strip: Path | None = None) -> None:
    """voice: int16 [n], repeated as often as needed."""
    total = round(minutes * 60 * FPS)
    window, period = min(LIPS, total // 2), len(voice) // HOP
    again = (total - window) // period * period  # the last time that the first stretch's sound begins
    start = again if again >= window else total - window
    first, last, spread = range(window), range(start, start + window), range(0, total, APART)
    with tempfile.TemporaryDirectory(prefix="vivavoce-stream-") as name:
        folder = Path(name)
        with (folder / "kept").open("w+b") as kept:
            places = spoken(portrait, voice, total, device, renderer, folder, {*first, *last, *spread}, kept)
            if strip is not None:
                faces(kept, places, spread, strip)
            lips = [followed(title, kept, places, part, voice) for title, part in (("first", first), ("last", last))]
            if start == again:
                late, agree = lag(lips[1], lips[0])
                print(f"lips of the last {late:+.1f} ms after those of the first, who say the same (correlation {agree:.2f})")
            judged(portrait, kept, places, spread)


def spoken(
    portrait: Path, voice: np.ndarray, total: int, device: str, renderer: str, folder: Path, wanted: set[int], kept: BinaryIO
) -> dict[int, tuple[int, int]]:
    """Streams; where the wanted pictures lie in `kept`."""
    from websockets.sync.client import connect

    places: dict[int, tuple[int, int]] = {}
    count, apart = 0, 0
    with (
        serving(device, folder) as port,
        connect(f"ws://127.0.0.1:{port}/api/live", compression=None, max_size=None, ping_interval=None) as line,
    ):
        line.send(json.dumps({"consent": True, "mark": "none", "renderer": renderer}))
        line.send(portrait.read_bytes())
        ready = json.loads(line.recv())
        if "error" in ready:
            raise SystemExit(str(ready["error"]))
        begun = (0, time.perf_counter(), time.process_time())
        room = threading.Semaphore(AHEAD)
        sending = threading.Thread(target=send, args=(line, voice, total, room), daemon=True)
        sending.start()
        while isinstance(message := line.recv(), bytes):
            sample = int.from_bytes(message[:8], "little")
            apart = max(apart, abs(sample - count * HOP))
            if count in wanted:
                places[count] = kept.tell(), len(message) - 8
                kept.write(message[8:])
            count += 1
            room.release()
            if count % MINUTE == 0 or count == total:
                now = (count, time.perf_counter(), time.process_time())
                made, wall, spent = (b - a for a, b in zip(begun, now, strict=True))
                begun = now
                pace = f"{made / wall:.1f} pictures a second, {1000 * spent / made:.1f} ms of processor time a picture"
                print(f"{count / MINUTE:5.2f} min: {resident():7.1f} MiB resident, {pace}", flush=True)
        sending.join()
        assert json.loads(message) == {"frames": count}, message
    print(
        f"time: {count} pictures for {total / FPS:.2f} s of sound: they end {1000 * (count - total) / FPS:.1f} ms after it;"
        f" farthest from its place {1000 * apart / RATE:.1f} ms; lookahead {ready['lookahead']:.0f} ms"
    )
    return places


def send(line: Any, voice: np.ndarray, total: int, room: threading.Semaphore) -> None:
    """All the sound, in pieces; a piece (no longer than a picture) has to wait when it is too far ahead of the pictures. The client of
    `websockets` takes nothing in while a sending of its waits: server and client would wait for each other once 6 MB are on their way."""
    cut, at, end = np.random.default_rng(0), 0, total * HOP
    while at < end:
        piece = min(int(cut.integers(*PIECES)), end - at)
        if (at + piece) // HOP > at // HOP:
            room.acquire()
        line.send(voice[np.arange(at, at + piece) % len(voice)].tobytes())
        at += piece
    line.send("end")


def picture(kept: BinaryIO, place: tuple[int, int]) -> np.ndarray:  # -> uint8 [H,W,3]
    kept.seek(place[0])
    return np.asarray(Image.open(io.BytesIO(kept.read(place[1]))).convert("RGB"))


def faces(kept: BinaryIO, places: dict[int, tuple[int, int]], spread: range, out: Path) -> None:
    """A picture of some faces, row by row, each where the first one is."""
    chosen = [spread[round(k)] for k in np.linspace(0, len(spread) - 1, SHOWN**2)]
    points = Landmarker(most=1)(picture(kept, places[chosen[0]]))[0].points[:, :2]
    middle, reach = points.mean(0), 0.8 * np.ptp(points[:, 1])
    box = [int(v) for v in (*(middle - reach), *(middle + reach))]
    cut = [np.asarray(Image.fromarray(picture(kept, places[n])).crop(box)) for n in chosen]
    rows = [np.concatenate(cut[k : k + SHOWN], 1) for k in range(0, len(cut), SHOWN)]
    Image.fromarray(np.concatenate(rows)).save(out)
    print(f"{out}: at " + ", ".join(f"{n / FPS:.0f}" for n in chosen) + " s", flush=True)


def followed(title: str, kept: BinaryIO, places: dict[int, tuple[int, int]], part: range, voice: np.ndarray) -> np.ndarray:
    """Prints when the lips of a stretch move; gives how far they are apart [T]."""
    finder, face, gaps = Landmarker(most=1), None, []
    for number in part:
        face = finder.follow(picture(kept, places[number]), face)
        gaps.append(face.mouth_open if face is not None else 0.0)
    rows = voice[np.arange(part[0] * HOP, (part[-1] + 1) * HOP) % len(voice)].reshape(-1, HOP).astype(float)
    shift, agree = lag(np.array(gaps), np.log10(np.sqrt((rows**2).mean(1)) + 30))
    print(f"{title} {len(part) / FPS:.0f} s: lips {shift:+.0f} ms after the loudness (correlation {agree:.2f})", flush=True)
    return np.array(gaps)


def judged(portrait: Path, kept: BinaryIO, places: dict[int, tuple[int, int]], spread: range) -> None:
    """Prints identity and sharpness by minute, and their drift."""
    images = {number: picture(kept, places[number]) for number in spread}
    height, width = images[0].shape[:2]
    own = np.asarray(Image.fromarray(read_image(portrait)).resize((width, height), Image.Resampling.LANCZOS))  # as the server reduces it
    finder = Landmarker(most=1)
    model = finder(own)[0]
    found = [(number, image, faces[0]) for number, image in images.items() if (faces := finder(image))]
    values = {
        "landmarks": np.array([distance(f.landmarks68[:48], model.landmarks68[:48]) for _, _, f in found]),
        "CPBD": np.concatenate([cpbd(tensor(i)[None]).double().numpy() for _, i, _ in found]),
        "Laplacian": np.array([ndimage.laplace(i.astype(float).mean(2)).var() for _, i, _ in found]),
    } | alike(own, model, [(i, f) for _, i, f in found])
    when = np.array([number for number, _, _ in found]) / MINUTE
    print(f"{len(found)} faces in {len(images)} pictures")
    for minute in range(int(when[-1]) + 1):
        rows = when.astype(int) == minute
        print(f"minute {minute + 1:2}: " + ", ".join(f"{name} {value[rows].mean():.4f}" for name, value in values.items() if rows.any()))
    for name, value in values.items():
        (slope, _), error = np.polyfit(when, value, 1, cov=True)
        length = len(spread) * APART / MINUTE
        print(f"{name}: mean {value.mean():.4f}, drift {length * slope:+.4f} +- {length * np.sqrt(error[0, 0]):.4f} over {length:.1f} min")


def lag(gaps: np.ndarray, loud: np.ndarray) -> tuple[float, float]:  # [T], [T] -> ms, correlation
    """By how much the first come after the second: the top of the correlation, between frames by a parabola."""
    inner = slice(MOST, len(gaps) - MOST)
    found = [float(np.corrcoef(np.roll(gaps, -k)[inner], loud[inner])[0, 1]) for k in range(-MOST, MOST + 1)]
    top = int(np.argmax(found[1:-1])) + 1
    left, middle, right = found[top - 1 : top + 2]
    return 1000 / FPS * (top - MOST + 0.5 * (left - right) / (left - 2 * middle + right)), middle


def distance(points: np.ndarray, model: np.ndarray) -> float:  # [n,2] px twice
    """Mean distance after the best similarity, in distances of the model's outer eye corners."""
    a, b = (p[:, 0] + 1j * p[:, 1] for p in (points, model))
    a, b = a - a.mean(), b - b.mean()
    return float(np.abs(a * (a.conj() @ b / (a.conj() @ a)) - b).mean() / np.abs(b[36] - b[45]))


def alike(own: np.ndarray, model: Any, some: list[tuple[np.ndarray, Any]]) -> dict[str, np.ndarray]:
    """Cosines with the portrait, where the network is to be had."""
    try:
        identity = csim.Identity("sface")
    except InputError as error:
        print(f"SFace is not to be had ({error.cause})")
        return {}
    every = [(own, model), *some]
    rows = torch.cat([identity(tensor(i)[None], torch.from_numpy(f.landmarks68.astype(np.float32))[None]) for i, f in every])
    return {"SFace": csim.csim(rows[1:], rows[:1].expand(len(some), -1)).double().numpy()}


def tensor(image: np.ndarray) -> torch.Tensor:  # uint8 [H,W,3] -> [3,H,W] in 0..1
    return torch.tensor(image).permute(2, 0, 1).float() / 255
