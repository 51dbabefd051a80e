"""Live sessions: sound in, pictures out, as many faces at once as there is room for.

On a GPU all sessions of one renderer share its networks, the generator's and the encoder's, and what several of them ask for at the same
moment is drawn as one batch (`nn/together.py`); on a CPU, where a batch is no quicker, each has its own.
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivavoce import run
from vivavoce.media import shades
from vivavoce.method import Renderer
from vivavoce.nn.together import Together, fetched, settle
from vivavoce.serve import marks, uploads
from vivavoce.serve.jobs import jpeg
from vivavoce.talker import Talker
from vivavoce.turns import Turns, alone, away
from vivavoce.types import FPS, HOP, Clip, InputError

WAITING = 25  # pieces of sound that wait, at most
LONGEST = 16_000  # samples of one piece; longer ones are cut, so that pictures never come late by more
HURRY = 0.4  # s of sound that may wait to be drawn before a session in a hurry leaves pictures out
MISSED = 12  # pictures that it leaves out one after another, at most: a face that stands still looks broken
QUALITY = 85  # of a JPEG
IDLE = 60.0  # s without sound, or without a picture being taken, after which the client counts as gone
Show = Callable[[int, bytes], None]  # number of the picture, JPEG


class Gone(Exception):
    """The client has left."""


class Stage:
    """Room for so many live sessions.

    Args:
        actors: trained runs by name. limits: of uploads, settings and sessions. device: cpu, cuda, ...
        shared: whether sessions share networks; None: on a GPU.
    """

    def __init__(self, actors: Mapping[str, Path], limits: uploads.Limits, device: str = "auto", shared: bool | None = None) -> None:
        self.actors, self.limits, self.device = actors, limits, run.pick_device(device)
        self.shared = self.device.startswith("cuda") if shared is None else shared
        self.build = run.build  # how a Talker is made
        self.turns = Turns() if self.shared else None
        self.lock, self.open = threading.Lock(), 0
        self.building, self.casts = threading.Lock(), dict[str, tuple[Talker, tuple[int, int], list[str]]]()
        self.threads = ThreadPoolExecutor(2 * max(1, limits.live), "live")  # each session speaks in one and hears in one

    @contextmanager
    def seat(self) -> Iterator[None]:
        """One session's place. Raises InputError when all are taken."""
        with self.lock:
            if self.open >= self.limits.live:
                raise InputError("live", f"{self.open} sessions are open, that is all there is room for", "try again later")
            self.open += 1
        try:
            yield
        finally:
            with self.lock:
                self.open -= 1

    def session(self, wishes: dict[str, Any], portrait: bytes) -> Session:
        """A Talker for one client. Raises InputError.

        Args:
            wishes: `actor`, `mark`, `hurry` (leave pictures out that come late), and any setting of a job.
            portrait: the bytes of a picture or a film, where no actor is named.
        """
        actor, mark, hurry = str(wishes.pop("actor", "")), str(wishes.pop("mark", "seen")), wishes.pop("hurry", False) is True
        if actor and actor not in self.actors:
            raise InputError("actor", f"{actor[:40]!r} is not here", f"choose from: {', '.join(self.actors) or 'none'}")
        options = uploads.options(wishes, self.limits, self.device)
        options.block, options.live = 1, True  # a picture as soon as it is final
        with tempfile.TemporaryDirectory(prefix="vivavoce-live-") as folder:
            source = self.actors[actor] if actor else uploads.source(BytesIO(portrait), Path(folder), self.limits)
            if not self.shared or options.background:  # a background is put into the renderer itself
                talker, size, notes = self.build(source, options)
            else:
                talker, size, notes = self._cast(actor, source, options)
        notes = [note.replace(folder, "") for note in notes]
        return Session(talker, size, notes, mark, hurry, self.turns)

    def _cast(self, actor: str, source: Path, options: run.Options) -> tuple[Talker, tuple[int, int], list[str]]:
        """A Talker whose networks are those of all sessions with the same wishes."""
        own = {"face": 0} if actor else {"face": 0, "size": 0}  # what is not of the networks
        key = repr((actor, sorted({**vars(options), **own}.items())))
        with self.building:
            if key not in self.casts:
                talker, size, notes = self.build(source, options)
                if talker.identity is None:
                    talker.renderer = Ensemble(talker.renderer)
                rehearse(talker, self.limits.live)
                self.casts[key] = talker, size, notes
                return self.casts[key]
            first, size, notes = self.casts[key]
        if actor:
            return first.again(first.source), size, notes
        talker, size, more = self.build(source, options, first)
        return talker, size, list(dict.fromkeys([*notes, *more]))


class Ensemble(Renderer):
    """A renderer whose identity lies in its weights, for many threads: their rows are drawn as one Clip."""

    def __init__(self, inner: Renderer) -> None:
        super().__init__(inner.config)
        self.inner, self.space, self.speech, self.window = inner, inner.space, inner.speech, inner.window
        self.needs, self.source_needs = inner.needs, inner.source_needs  # type: ignore[misc]
        self.together = Together(self._draw)
        self.train(inner.training)

    def render(self, identity: Any, clip: Clip) -> Tensor:  # -> [T,3,H,W]
        return self.together(clip)

    def _draw(self, clips: list[Clip]) -> tuple[Tensor, ...]:
        made = self.inner.render(None, clips[0] if len(clips) == 1 else Clip.cat(clips))
        settle(made.device)
        return made.split([len(clip) for clip in clips])


def rehearse(talker: Talker, most: int) -> None:
    """Draw silence in batches of 1, 2, 4, ... rows, so that nothing is compiled while somebody waits."""
    block, talker.block = talker.block, 1
    while talker.block < 2 * min(most, 8):
        ahead = int(talker.lookahead * FPS / 1000) + 2  # rows that come with the end of the sound, and not together
        for _ in talker.stream([torch.zeros((talker.block + ahead) * HOP)]):
            pass
        talker.block *= 2
    talker.block = block
    if (ready := getattr(talker.generator, "rehearse", None)) is not None:
        ready(most)


class Session:
    """One client's sound and pictures; `speak` runs in a thread of its own.

    `turns`: of sessions that compute one after another; None: it computes whenever it can.
    """

    def __init__(
        self, talker: Talker, size: tuple[int, int], notes: list[str], mark: str, hurry: bool = False, turns: Turns | None = None
    ) -> None:
        self.talker, self.size, self.notes, self.put, self.hurry, self.turns = talker, size, notes, marks.pen(mark), hurry, turns
        self.sound: queue.Queue[bytes | None] = queue.Queue(maxsize=WAITING)
        self.gone = threading.Event()
        self.heard, self.done, self.frames = 0, 0, 0  # bytes of sound, pictures it has come to, pictures shown
        self.missed = 0  # pictures left out since the last one
        self.seconds = {"mark": 0.0, "jpeg": 0.0}

    def hear(self, piece: bytes | None) -> None:
        """Give sound (None: that was all); waits while the queue is full. Raises Gone after `leave`."""
        for part in [None] if piece is None else [piece[at : at + 2 * LONGEST] for at in range(0, len(piece), 2 * LONGEST)]:
            self._put(part)
            self.heard += len(part or b"")

    def _put(self, piece: bytes | None) -> None:
        while not self.gone.is_set():
            try:
                return self.sound.put(piece, timeout=0.2)
            except queue.Full:
                continue
        raise Gone

    def leave(self) -> None:
        """End without the rest."""
        self.gone.set()

    def late(self) -> bool:
        """Whether the next picture is left out, because more sound waits than a session in a hurry may have waiting."""
        behind = self.heard / 2 > (self.done + FPS * HURRY) * HOP + self.talker.lookahead * 16
        self.missed = self.missed + 1 if behind and self.missed < MISSED else 0
        return self.missed > 0

    def speak(self, show: Show) -> None:
        """Hand each picture, as JPEG, to `show` until the sound ends or the client leaves; `show` is called in another thread, in order,
        so that the next picture is drawn while one is marked, packed and sent."""
        alone()
        try:
            with run.Behind(lambda images: self._show(images, show)) as behind:
                for images in self._drawn():
                    behind(images)
        except Gone:
            pass
        finally:
            self.gone.set()

    def _drawn(self) -> Iterator[np.ndarray]:  # uint8 [m,H,W,3], or [m,0,0,3] of pictures left out
        stream = self.talker.stream(self._pieces(), self.late if self.hurry else None)
        while True:
            with self.turns.taken() if self.turns is not None else nullcontext():
                frames = next(stream, None)
            if frames is None:
                return
            images = fetched(shades(frames)).numpy() if frames.numel() else np.zeros((len(frames), 0, 0, 3), np.uint8)
            del frames  # not to be kept while the next are made
            yield images

    def _show(self, images: np.ndarray, show: Show) -> None:  # uint8 [m,H,W,3], or [m,0,0,3] of pictures left out
        if images.size:
            begun = time.perf_counter()
            images = self.put(images)
            self.seconds["mark"] += time.perf_counter() - begun
            for number, image in enumerate(images, self.done):
                begun = time.perf_counter()
                picture = jpeg(image, quality=QUALITY)
                self.seconds["jpeg"] += time.perf_counter() - begun
                show(number, picture)
                self.frames += 1
        self.done += len(images)

    def _pieces(self) -> Iterator[Tensor]:  # [n] each
        rest, last = b"", time.monotonic()
        while True:
            try:
                with away():
                    piece = self.sound.get(timeout=0.2)
                last = time.monotonic()
            except queue.Empty:
                piece = b""
            if self.gone.is_set() or time.monotonic() - last > IDLE:
                raise Gone
            if piece is None:
                return
            data, rest = rest + piece, b""
            if len(data) % 2:
                data, rest = data[:-1], data[-1:]
            if data:
                yield torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)
