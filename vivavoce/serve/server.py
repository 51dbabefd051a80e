"""The server: queue, REST address, live sessions and page behind one guard on one port."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivavoce.run import pick_device
from vivavoce.serve import api, live, page, stage, uploads
from vivavoce.serve.guard import Guard, is_local
from vivavoce.serve.jobs import Jobs, actors
from vivavoce.types import InputError

PARTING = 10.0  # s that what was still on its way has, after the end of a live session


def parting(**given: Any) -> Any:
    """uvicorn's own protocol of web sockets, whose connections end.

    A closed connection first waits for all that was written to be taken. A client that has stopped reading would so keep its connection for
    as long as it likes, and the server from ending.
    """
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

    class Parting(AutoWebSocketsProtocol):  # type: ignore[misc]
        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(PARTING, self.transport.abort)

    return Parting(**given)


# JPEGs do not get smaller by being packed once more. An answer to a ping would wait behind the sound of a client that is held up, and look
# like a client that has gone; live sessions end by themselves when nothing comes.
SOCKET: dict[str, Any] = {
    "log_level": "warning", "ws": parting, "ws_max_size": uploads.LIVE_MESSAGE, "ws_per_message_deflate": False, "ws_ping_interval": None
}  # fmt: skip


@dataclass
class Settings:
    """Where to listen and what to offer."""

    host: str = "127.0.0.1"
    port: int = 9995
    token: str = ""
    work: Path = Path("vivavoce-serve")  # uploads and films
    runs: Path | None = None  # trained runs to be offered
    workers: int = 1  # films made at once
    device: str = "auto"
    page: bool = True  # False: for programs alone
    limits: uploads.Limits = field(default_factory=uploads.Limits)


class Server:
    """Everything but the socket: `app` answers, `close` ends the jobs.

    Raises:
        InputError: an address beyond this machine without a token, numbers out of range, no such device or folder, or a missing extra.
    """

    def __init__(self, settings: Settings) -> None:
        if not is_local(settings.host) and not settings.token:
            raise InputError(f"--host {settings.host}", "lets other machines in, and no token is asked for", "add --token WORD")
        if not 1 <= settings.port <= 65535:
            raise InputError(f"--port {settings.port}", "is no port", "choose from 1 to 65535")
        if settings.workers < 1:
            raise InputError(f"--workers {settings.workers}", "nobody would work", "give 1 or more")
        most = settings.limits
        for option, value, least in (
            ("upload", most.upload >> 20, 1),
            ("seconds", most.seconds, 0.04),
            ("waiting", most.waiting, 1),
            ("keep", most.keep, 0),
            ("live", most.live, 0),
        ):
            if not value >= least:  # nor NaN
                raise InputError(f"--{option} {value}", "is too small a number", f"give {least} or more")
        self.settings, device = settings, pick_device(settings.device)
        found = actors(settings.runs) if settings.runs is not None else {}
        try:
            self.jobs = Jobs(settings.work, settings.limits, settings.workers, found, device)
        except OSError as error:
            raise InputError(settings.work, f"cannot be written ({error.strerror})", "choose another --work") from error
        try:
            app = api.build(self.jobs)
            live.mount(app, stage.Stage(self.jobs.actors, settings.limits, device))
            if settings.page:
                app = page.mount(app, self.jobs, settings.token)
        except BaseException:
            self.jobs.close()
            raise
        self.app: Any = Guard(app, settings.token, settings.host, settings.limits.upload)

    def run(self) -> None:
        """Answer until Ctrl-C. Raises InputError when the port is taken."""
        import socket

        import uvicorn

        family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.settings.host, self.settings.port))
            except OSError as error:
                where = f"{self.settings.host}:{self.settings.port}"
                raise InputError(where, f"cannot be listened on ({error.strerror})", "choose another --port or --host") from error
        try:
            uvicorn.run(self.app, host=self.settings.host, port=self.settings.port, **SOCKET)
        finally:
            self.jobs.close()
