"""A face that speaks while it is spoken for: sound goes in over a WebSocket, pictures come out.

The client sends, in this order: a JSON text {"consent": true, "actor": NAME or "", and any setting of a job}; without an actor the
bytes of a portrait; then sound, 16 kHz mono PCM of 16 bits, little-endian, in pieces of any length; at the end the text "end".
The server answers {"ready": true, "lookahead": ms, "size": [height, width], "rate": 25} once it can hear, then pictures in order, 25
for each second of sound: 8 bytes, little-endian, say at which sample of the sound the picture begins, and a JPEG follows. Last comes
{"frames": n}; or {"error": {subject, cause, remedy}}, and the socket closes.

Sound waits in a short queue. When it is full nothing more is read from the socket, so a client that is too quick is held up by its own
connection and nothing is lost; such a client has to take pictures also while it waits to send. With "hurry": true pictures that would come
late are left out instead: the samples tell which.
"""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from vivavoce.serve.stage import IDLE, Gone, Session, Stage
from vivavoce.types import FPS, HOP, InputError

AHEAD = 2  # pictures on their way to the client


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
        except (WebSocketDisconnect, ConnectionError, TimeoutError, Gone):
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

    def show(number: int, picture: bytes) -> None:  # waits for the connection: pictures do not pile up
        message, end = (number * HOP).to_bytes(8, "little") + picture, time.monotonic() + IDLE
        while not session.gone.is_set() and time.monotonic() < end:
            if room.acquire(timeout=0.2):
                try:
                    loop.call_soon_threadsafe(pictures.put_nowait, message)
                except RuntimeError as error:  # the server has ended meanwhile
                    raise Gone from error
                return
        raise Gone

    async def send() -> None:
        while (picture := await pictures.get()) is not None:
            await asyncio.wait_for(socket.send_bytes(picture), IDLE)
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
        raise Gone
    if not message.get("bytes"):
        raise InputError("portrait", "the second message is not the bytes of a picture", "see: docs/serve.md")
    return bytes(message["bytes"])


async def _said(socket: Any, words: dict[str, Any]) -> None:
    """Last words, when somebody still listens: one who takes nothing must not hold the seat."""
    try:
        async with asyncio.timeout(IDLE):
            await socket.send_text(json.dumps(words))
            await socket.close()
    except (RuntimeError, OSError):  # a TimeoutError is one
        pass
