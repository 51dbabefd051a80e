"""vivavoce serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivavoce.cli.screen import out
from vivavoce.cli.words import Place


@dataclass
class Serve:
    """A page in the browser, and an address for programs, where faces are made to speak."""

    host: str = "127.0.0.1"  # 0.0.0.0 lets other machines in, and needs --token
    port: int = 9995  # where the browser finds it
    token: str = ""  # the word asked for at the door; the page takes it as the password, programs as a bearer token
    work: Path = Path("vivavoce-serve")  # folder for uploads and films
    runs: Place = None  # trained runs below it can be chosen on the page
    workers: int = 1  # films made at once
    programs_only: bool = False  # without the page
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there
    upload: int = 200  # MB, of one upload
    seconds: float = 300.0  # of sound in one film
    waiting: int = 20  # jobs in the queue
    keep: float = 24.0  # hours a film stays; 0: until it is thrown away
    live: int = 2  # live sessions at once


def do(o: Serve) -> None:
    from vivavoce.serve.server import Server, Settings
    from vivavoce.serve.uploads import Limits

    limits = Limits(upload=o.upload << 20, seconds=o.seconds, waiting=o.waiting, keep=o.keep, live=o.live)
    server = Server(Settings(o.host, o.port, o.token, o.work, o.runs, o.workers, o.device, not o.programs_only, limits))
    where = f"http://{f'[{o.host}]' if ':' in o.host else o.host}:{o.port}"
    asked = " (the password is the token)" if o.token and not o.programs_only else ""
    out.print(f"{where}{asked}; live: {where}/live; for programs: {where}/api/docs", highlight=False)
    out.print(f"films are kept in {o.work}; stop with Ctrl-C", highlight=False)
    server.run()
