"""A web server on this machine for tests of fetching: it can cut connections, ignore ranges and serve an index of packages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """Serves `files`; `cuts` ends a connection after so many bytes, once each; `ranges=False` ignores Range as some servers do."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    kind: str = "text/html"  # of index pages
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.seen.append((path, dict(request.headers)))
        body = self.files.get(path)
        if body is None:
            request.send_error(404)
            return
        start = 0
        wanted = request.headers.get("Range")
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(body)}")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        request.send_header("Content-Type", self.kind if path.endswith("/") else "application/octet-stream")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        cut = self.cuts.get(path)
        request.wfile.write(body[start : start + cut.pop(0)] if cut else body[start:])


@contextmanager
def serving() -> Iterator[Server]:
    """A running server on a free port of this machine."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: Any) -> None: ...

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{served.server_address[1]}"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    served.shutdown()
    served.server_close()
    thread.join()
