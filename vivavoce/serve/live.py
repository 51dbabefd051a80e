"""A face that speaks while it is spoken for: sound goes in over a WebSocket, pictures come out.

The client sends, in this order: a JSON text {"consent": true, "actor": NAME or "", and any setting of a job}; without an actor the
bytes of a portrait; then sound, 16 kHz mono PCM of 16 bits, little-endian, in pieces of any length; at the end the text "end".
The server answers {"ready": true, "lookahead": ms, "size": [height, width], "rate": 25} once it can hear, then JPEG pictures in order,
25 for each second of sound, and last {"frames": n}; or {"error": {subject, cause, remedy}} and closes.

Sound waits in a short queue. When it is full nothing more is read from the socket, so a client that is too quick is held up by its
own connection and nothing is lost.
"""

import asyncio
import json
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivavoce import run
from vivavoce.media import pixels
from vivavoce.serve import marks, uploads
from vivavoce.serve.jobs import jpeg
from vivavoce.types import FPS, InputError

WAITING = 25  # pieces of sound that wait, at most
AHEAD = 2  # pictures on their way to the client
LONGEST = 16_000  # samples of one piece; longer ones are cut, so that pictures never come late by more


class _Gone(Exception):
    """The client has left."""


class Stage:
    """Room for so many live sessions.

    Args:
        actors: trained runs by name. limits: of uploads, settings and sessions. device: cpu, cuda, ...
    """

    def __init__(self, actors: Mapping[str, Path], limits: uploads.Limits, device: str = "auto") -> None:
        self.actors, self.limits, self.device = actors, limits, device
        self.lock, self.open = threading.Lock(), 0
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

    def session(self, wishes: dict[str, Any], portrait: bytes) -> "Session":
        """A Talker of its own for one client. Raises InputError."""
        actor, mark = str(wishes.pop("actor", "")), str(wishes.pop("mark", "seen"))
        if actor and actor not in self.actors:
            raise InputError("actor", f"{actor[:40]!r} is not here", f"choose from: {', '.join(self.actors) or 'none'}")
        options = uploads.options(wishes, self.limits, self.device)
        options.block = 1  # a picture as soon as it is final
        with tempfile.TemporaryDirectory(prefix="vivavoce-live-") as folder:
            source = self.actors[actor] if actor else uploads.source(BytesIO(portrait), Path(folder), self.limits)
            talker, size, notes = run.build(source, options)
        return Session(talker, size, [note.replace(folder, "") for note in notes], mark)


class Session:
    """One client's sound and pictures; `speak` runs in a thread of its own."""

    def __init__(self, talker: Any, size: tuple[int, int], notes: list[str], mark: str) -> None:
        self.talker, self.size, self.notes, self.put = talker, size, notes, marks.pen(mark)
        self.sound: queue.Queue[bytes | None] = queue.Queue(maxsize=WAITING)
        self.gone, self.frames = threading.Event(), 0

    def hear(self, piece: bytes | None) -> None:
        """Give sound (None: that was all); waits while the queue is full. Raises _Gone after `leave`."""
        while not self.gone.is_set():
            try:
                return self.sound.put(piece, timeout=0.2)
            except queue.Full:
                continue
        raise _Gone

    def leave(self) -> None:
        """End without the rest."""
        self.gone.set()

    def speak(self, show: Callable[[bytes], None]) -> None:
        """Hand each picture, as JPEG, to `show` until the sound ends or the client leaves."""
        try:
            for frames in self.talker.stream(self._pieces()):
                for image in self.put(pixels(frames)):
                    show(jpeg(image, quality=85))
                    self.frames += 1
        except _Gone:
            pass
        finally:
            self.gone.set()

    def _pieces(self) -> Iterator[Tensor]:  # [n] each
        rest = b""
        while True:
            try:
                piece = self.sound.get(timeout=0.2)
            except queue.Empty:
                piece = b""
            if self.gone.is_set():
                raise _Gone
            if piece is None:
                return
            data, rest = rest + piece, b""
            if len(data) % 2:
                data, rest = data[:-1], data[-1:]
            samples = torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)
            yield from (part for part in samples.split(LONGEST) if len(part))


def mount(app: Any, stage: Stage) -> None:
    """Put the socket /api/live and its page /live on a FastAPI application."""
    from starlette.responses import HTMLResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def answer(socket: WebSocket) -> None:
        await socket.accept()
        session: Session | None = None
        try:
            with stage.seat():
                session = await _begun(socket, stage)
                await _talk(socket, session, stage.threads)
        except InputError as error:
            await _said(socket, {"error": {"subject": error.subject, "cause": error.cause, "remedy": error.remedy}})
        except (WebSocketDisconnect, ConnectionError, _Gone):
            pass
        finally:
            if session is not None:
                session.leave()

    async def page(_: Any) -> HTMLResponse:
        return HTMLResponse(files("vivavoce.serve").joinpath("live.html").read_text("utf-8"))

    app.router.routes.append(WebSocketRoute("/api/live", answer))
    app.router.routes.append(Route("/live", page))


async def _begun(socket: Any, stage: Stage) -> Session:
    """The session that the first messages ask for."""
    try:
        wishes = dict(json.loads(await socket.receive_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError("live", "the first message is no JSON object", "see: docs/serve.md") from error
    if wishes.pop("consent", False) is not True:
        raise InputError("consent", "nobody has declared that the persons seen and heard agree", "send consent: true")
    portrait = b"" if wishes.get("actor") else await _bytes(socket)
    session = await asyncio.get_running_loop().run_in_executor(stage.threads, stage.session, wishes, portrait)
    ready = {"ready": True, "lookahead": session.talker.lookahead, "size": session.size, "rate": FPS, "notes": session.notes}
    await socket.send_text(json.dumps(ready))
    return session


async def _talk(socket: Any, session: Session, threads: ThreadPoolExecutor) -> None:
    """Sound in and pictures out until one of them ends."""
    loop = asyncio.get_running_loop()
    pictures: asyncio.Queue[bytes | None] = asyncio.Queue()
    room = threading.Semaphore(AHEAD)

    def show(picture: bytes) -> None:  # waits for the connection: pictures do not pile up
        while not session.gone.is_set():
            if room.acquire(timeout=0.2):
                try:
                    loop.call_soon_threadsafe(pictures.put_nowait, picture)
                except RuntimeError as error:  # the server has ended meanwhile
                    raise _Gone from error
                return
        raise _Gone

    async def send() -> None:
        while (picture := await pictures.get()) is not None:
            await socket.send_bytes(picture)
            room.release()

    async def listen() -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                session.leave()
                return
            if message.get("text") == "end":
                await loop.run_in_executor(threads, session.hear, None)
            elif message.get("bytes"):
                await loop.run_in_executor(threads, session.hear, message["bytes"])

    speaking = loop.run_in_executor(threads, session.speak, show)
    speaking.add_done_callback(lambda _: pictures.put_nowait(None))
    sending, listening = asyncio.create_task(send()), asyncio.create_task(listen())
    try:
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending
            await speaking
            await _said(socket, {"frames": session.frames})
    finally:
        session.leave()
        sending.cancel()
        listening.cancel()
        ended, _ = await asyncio.wait({speaking, sending, listening})
        for task in ended:  # what matters was raised above; asyncio complains of what nobody has looked at
            _ = task.cancelled() or task.exception()


async def _bytes(socket: Any) -> bytes:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise _Gone
    if not message.get("bytes"):
        raise InputError("portrait", "the second message is not the bytes of a picture", "see: docs/serve.md")
    return bytes(message["bytes"])


async def _said(socket: Any, words: dict[str, Any]) -> None:
    """Last words, when somebody still listens."""
    try:
        await socket.send_text(json.dumps(words))
        await socket.close()
    except (RuntimeError, OSError):
        pass
