"""Who may come in: a layer before every answer, HTTP and WebSocket.

On the loopback address no token is needed, and the danger is another page in the same browser: a request must name this host, and one
that changes something must come from a page of this host. Elsewhere a token is asked for.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = ("localhost", "127.0.0.1", "::1")


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _TooLarge(Exception):
    pass


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        token: asked for under /api, as `Authorization: Bearer TOKEN` (a WebSocket may say `?token=TOKEN`); "": none.
        host: the address that is listened on.
        most: bytes of one request.
    """

    def __init__(self, app: App, token: str = "", host: str = "127.0.0.1", most: int = 200 << 20) -> None:
        self.app, self.token, self.most = app, token, most
        self.hosts = {*LOCAL, host} if is_local(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        heads = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, heads)
        if refused is not None:
            await _answer(scope, send, *refused)
            return
        count, begun = 0, False

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            if message["type"] == "http.request":
                count += len(message.get("body", b""))
                if count > self.most:
                    raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            if begun or count <= self.most:  # else the application takes the end of the body for a damaged one
                begun = True
                await send(message)

        try:
            await self.app(scope, counted if scope["type"] == "http" else receive, noted)
        except _TooLarge:
            if begun:
                raise
        if count > self.most and not begun:
            await _answer(scope, send, *self._large())

    def _refused(self, scope: Scope, heads: dict[str, str]) -> tuple[int, str, str, str] | None:
        """Status, subject, cause and remedy; None: welcome."""
        host = urlsplit(f"//{heads.get('host', '')}")
        if self.hosts is not None and host.hostname not in self.hosts:
            return 403, "Host", "is not this machine", "use http://127.0.0.1"
        changes = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD", "OPTIONS")
        origin = heads.get("origin")
        if changes and origin and urlsplit(origin).netloc != host.netloc:
            return 403, "Origin", "another page may not speak for you", "use the page of this server"
        if self.token and scope["path"].startswith("/api") and not self._known(scope, heads):
            return 401, "token", "is missing or wrong", "send Authorization: Bearer TOKEN"
        length = heads.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most:
            return self._large()
        return None

    def _known(self, scope: Scope, heads: dict[str, str]) -> bool:
        given = heads.get("authorization", "").removeprefix("Bearer ").strip()
        if scope["type"] == "websocket" and not given:
            given = next(iter(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])), "")
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _large(self) -> tuple[int, str, str, str]:
        return 413, "upload", f"is larger than {self.most >> 20} MB", "make it smaller"


async def _answer(scope: Scope, send: Send, status: int, subject: str, cause: str, remedy: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": f"{subject}: {cause}"})
        return
    body = json.dumps({"subject": subject, "cause": cause, "remedy": remedy}).encode()
    heads = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        heads.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": heads})
    await send({"type": "http.response.body", "body": body})
