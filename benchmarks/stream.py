"""Minutes of one live session, through the server's own socket: `python benchmarks/serve.py PORTRAIT --stream 10` runs it.

time: every picture says at which sample it begins; the farthest that one lies from its place in the order (0 when none is lost or
doubled), and how far the pictures' end lies from the sound's. By what is seen: by how much the lips follow the loudness (the top of
the correlation), in the first minute and in the last; and, where the stream is long enough for the sound to be repeated, so that both
minutes say the same, by how much the lips of the last come after those of the first.
memory: resident, at the end of each minute of sound; server and client are one process here.
identity and sharpness: of a picture each second, in the first minute against the last: cosine of SFace's embeddings with the portrait's
(where its weights are), distance of 48 landmarks (no lips) from the portrait's after a similarity, in eye distances; CPBD and the
variance of the Laplacian.
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


def stream(portrait: Path, voice: np.ndarray, minutes: float, device: str, renderer: str) -> None:
    """voice: int16 [n], repeated as often as needed."""
    total = round(minutes * 60 * FPS)
    window, period = min(MINUTE, total // 2), len(voice) // HOP
    again = (total - window) // period * period  # the last time that the first minute's sound begins
    start = again if again >= window else total - window
    first, last = range(window), range(start, start + window)
    with tempfile.TemporaryDirectory(prefix="vivavoce-stream-") as name:
        folder = Path(name)
        with (folder / "kept").open("w+b") as kept:
            places = spoken(portrait, voice, total, device, renderer, folder, {*first, *last}, kept)
            lips = [looked(title, portrait, kept, places, part, voice) for title, part in (("first", first), ("last", last))]
            if start == again:
                late, agree = lag(lips[1], lips[0])
                print(f"lips of the last {late:+.1f} ms after those of the first, who say the same (correlation {agree:.2f})")


def spoken(
    portrait: Path, voice: np.ndarray, total: int, device: str, renderer: str, folder: Path, wanted: set[int], kept: BinaryIO
) -> dict[int, tuple[int, int]]:
    """Streams; where the wanted pictures lie in `kept`."""
    from websockets.sync.client import connect

    places: dict[int, tuple[int, int]] = {}
    count, apart, begun = 0, 0, 0.0
    with (
        serving(device, folder) as port,
        connect(f"ws://127.0.0.1:{port}/api/live", compression=None, max_size=None, ping_interval=None) as line,
    ):
        line.send(json.dumps({"consent": True, "mark": "none", "renderer": renderer}))
        line.send(portrait.read_bytes())
        ready = json.loads(line.recv())
        if "error" in ready:
            raise SystemExit(str(ready["error"]))
        begun = time.perf_counter()
        sending = threading.Thread(target=send, args=(line, voice, total), daemon=True)
        sending.start()
        while isinstance(message := line.recv(), bytes):
            sample = int.from_bytes(message[:8], "little")
            apart = max(apart, abs(sample - count * HOP))
            if count in wanted:
                places[count] = kept.tell(), len(message) - 8
                kept.write(message[8:])
            count += 1
            if count % MINUTE == 0 or count == total:
                pace = count / (time.perf_counter() - begun)
                print(f"{count / MINUTE:5.2f} min: {resident():7.1f} MiB resident, {pace:.1f} pictures a second", flush=True)
        sending.join()
        assert json.loads(message) == {"frames": count}, message
    print(
        f"time: {count} pictures for {total / FPS:.2f} s of sound: they end {1000 * (count - total) / FPS:.1f} ms after it;"
        f" farthest from its place {1000 * apart / RATE:.1f} ms; lookahead {ready['lookahead']:.0f} ms"
    )
    return places


def send(line: Any, voice: np.ndarray, total: int) -> None:
    """All the sound, in pieces."""
    cut, at, end = np.random.default_rng(0), 0, total * HOP
    while at < end:
        piece = min(int(cut.integers(*PIECES)), end - at)
        line.send(voice[np.arange(at, at + piece) % len(voice)].tobytes())
        at += piece
    line.send("end")


def picture(kept: BinaryIO, place: tuple[int, int]) -> np.ndarray:  # -> uint8 [H,W,3]
    kept.seek(place[0])
    return np.asarray(Image.open(io.BytesIO(kept.read(place[1]))).convert("RGB"))


def looked(title: str, portrait: Path, kept: BinaryIO, places: dict[int, tuple[int, int]], part: range, voice: np.ndarray) -> np.ndarray:
    """Prints what is seen in a part of the pictures; gives how far the lips are apart [T]."""
    finder = Landmarker(most=1)
    own, model, face = read_image(portrait), None, None
    gaps, some = [], []
    for number in part:
        image = picture(kept, places[number])
        if model is None:  # as the server reduces it
            own = np.asarray(Image.fromarray(own).resize(image.shape[1::-1], Image.Resampling.LANCZOS))
            model = finder(own)[0]
        face = finder.follow(image, face)
        gaps.append(face.mouth_open if face is not None else 0.0)
        if (number - part[0]) % FPS == 0 and face is not None:
            some.append((image, face))
    assert model is not None
    rows = voice[np.arange(part[0] * HOP, (part[-1] + 1) * HOP) % len(voice)].reshape(-1, HOP).astype(float)
    shift, agree = lag(np.array(gaps), np.log10(np.sqrt((rows**2).mean(1)) + 30))
    far = float(np.mean([distance(f.landmarks68[:48], model.landmarks68[:48]) for _, f in some]))
    sharp = float(cpbd(torch.stack([tensor(i) for i, _ in some])).mean())
    edges = float(np.mean([ndimage.laplace(i.astype(float).mean(2)).var() for i, _ in some]))
    print(
        f"{title} {len(part) / FPS:.0f} s: lips {shift:+.0f} ms after the loudness (correlation {agree:.2f}); identity: SFace"
        f" {alike(own, model, some)}, landmarks {far:.4f} eye distances off; sharpness: CPBD {sharp:.4f}, Laplacian {edges:.1f}"
    )
    return np.array(gaps)


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


def alike(own: np.ndarray, model: Any, some: list[tuple[np.ndarray, Any]]) -> str:
    """Mean cosine with the portrait."""
    try:
        identity = csim.Identity("sface")
    except InputError as error:
        return f"not to be had ({error.cause})"
    every = [(own, model), *some]
    rows = torch.cat([identity(tensor(i)[None], torch.from_numpy(f.landmarks68.astype(np.float32))[None]) for i, f in every])
    return f"{float(csim.csim(rows[1:], rows[:1].expand(len(some), -1)).mean()):.4f}"


def tensor(image: np.ndarray) -> torch.Tensor:  # uint8 [H,W,3] -> [3,H,W] in 0..1
    return torch.tensor(image).permute(2, 0, 1).float() / 255
