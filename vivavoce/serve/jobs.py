"""A queue of films to be made: one order after another, each with its progress, its end and its files.

Every job has a folder of its own under `jobs/`, named by a secret that nobody can guess: who knows the name may look at it, change
nothing else, and throw it away. `job.json` beside the film says what was asked, that consent was given, and what became of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vivavoce import registry, run, tts
from vivavoce.files import whole
from vivavoce.media import coded
from vivavoce.serve import marks, uploads
from vivavoce.types import FPS, InputError

SHOWN = 320  # px, longest side of the frame that is shown while a film is made
GLANCE = 0.3  # s between two of them
IDLE = 60.0  # s without an order after which old films are looked for
ENDED = ("done", "failed", "stopped")
log = logging.getLogger(__name__)


class Unknown(Exception):
    """No job of that name."""


class Full(InputError):
    """The queue has no room now."""


class _Stop(Exception):
    """Raised out of the progress of a job that is no longer wanted."""


@dataclass
class Order:
    """What a user asks for; streams and words as they came."""

    source: BinaryIO | None = None  # portrait or video
    actor: str = ""  # in its place: one of the server's trained runs, by its name
    audio: BinaryIO | None = None
    text: str = ""  # in its place
    consent: bool = False  # the person shown and the person heard agreed
    mark: str = "hidden"
    wishes: Mapping[str, Any] = field(default_factory=dict)  # see uploads.options


@dataclass
class Job:
    """One film; `state` is waiting, running, done, failed or stopped."""

    id: str
    folder: Path
    source: Path
    options: run.Options
    audio: Path | None = None
    text: str = ""
    mark: str = "none"
    state: str = "waiting"
    done: int = 0  # frames
    total: int = 0
    asked: float = field(default_factory=time.time)  # s since 1970
    ended: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None  # subject, cause, remedy
    inputs: dict[str, str] = field(default_factory=dict)  # SHA-256 of what was handed in
    frame: bytes = b""  # JPEG, the newest
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def film(self) -> Path:
        return self.folder / "film.mp4"

    def record(self) -> dict[str, Any]:
        """What job.json keeps."""
        names = ("id", "state", "done", "total", "asked", "ended", "notes", "error", "mark", "inputs", "text")
        return {name: getattr(self, name) for name in names} | {"options": asdict(self.options), "consent": True}


class Jobs:
    """The queue, its workers and what they made.

    Args:
        work: folder for uploads and films; what an earlier server left there is found again.
        limits: of each order.
        workers: films made at once.
        actors: trained runs that may be spoken with, by name.
        device: cpu, cuda, ...
    """

    def __init__(
        self,
        work: Path,
        limits: uploads.Limits | None = None,
        workers: int = 1,
        actors: Mapping[str, Path] | None = None,
        device: str = "auto",
    ) -> None:
        self.folder, self.limits, self.device = work.resolve() / "jobs", limits or uploads.Limits(), device
        self.actors = dict(actors or {})
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        self.jobs: dict[str, Job] = {}
        self.waiting: queue.Queue[Job | None] = queue.Queue()
        self._find()
        self.threads = [threading.Thread(target=self._work, daemon=True, name=f"film {k}") for k in range(max(1, workers))]
        for thread in self.threads:
            thread.start()

    # ---- what users do ----

    def add(self, order: Order) -> Job:
        """Take an order: check everything that can be checked at once, keep the uploads, put the job at the end of the queue.

        Raises InputError for what cannot be used, Full when too many wait.
        """
        if not order.consent:
            cause = "nobody has declared that the persons seen and heard agree"
            raise InputError("consent", cause, "ask them, then tick the box (consent=true)")
        if (order.source is None) == (not order.actor):
            raise InputError(
                "portrait", "it must be known who speaks", "give a portrait, a video or the name of a trained run, one of them"
            )
        if (order.audio is None) == (not order.text.strip()):
            raise InputError("audio", "it must be known what to say", "give a recording or a text, one of them")
        if order.actor and order.actor not in self.actors:
            raise InputError("actor", f"{order.actor[:40]!r} is not here", f"choose from: {', '.join(self.actors) or 'none'}")
        marks.pen(order.mark)
        options = uploads.options(order.wishes, self.limits, self.device)
        if order.text:
            uploads.words(order.text, self.limits)
            tts.voice()  # told now when there is none
        self._room()
        self.sweep()
        with self._place() as folder:
            source = uploads.source(order.source, folder, self.limits) if order.source else self.actors[order.actor]
            audio = uploads.sound(order.audio, folder, self.limits) if order.audio else None
            job = Job(folder.name, folder, source, options, audio, order.text, order.mark)
            job.inputs = {p.name: _digest(p) for p in (source, audio) if p is not None and p.parent == folder}
            with self.lock:
                self._room()
                self.jobs[job.id] = job
            self._save(job)
        self.waiting.put(job)
        return job

    def get(self, name: str) -> Job:
        """The job of that name. Raises Unknown."""
        with self.lock:
            job = self.jobs.get(name)
        if job is None:
            raise Unknown(name)
        return job

    def place(self, job: Job) -> int:
        """How many are made before it: 0 for one that runs or is next."""
        with self.lock:
            if job.state != "waiting":
                return 0
            return sum(other.state == "waiting" and other.asked < job.asked for other in self.jobs.values())

    def cancel(self, name: str) -> Job:
        """Stop a job that waits or runs, or throw an ended one away with its film. Raises Unknown."""
        job = self.get(name)
        job.stopping.set()
        with self.lock:
            waited = job.state == "waiting"
            if waited:
                job.state = "stopped"
        if waited:
            self._end(job, "stopped")
        elif job.state in ENDED:
            with self.lock:
                self.jobs.pop(name, None)
            shutil.rmtree(job.folder, ignore_errors=True)
        return job

    def told(self, job: Job) -> dict[str, Any]:
        """What a user is shown of a job."""
        asked = ("id", "state", "done", "total", "notes", "error", "mark")
        return {name: getattr(job, name) for name in asked} | {
            "place": self.place(job), "seconds": round((job.ended or time.time()) - job.asked, 1), "consent": True
        }  # fmt: skip

    def sweep(self) -> None:
        """Throw away what ended longer ago than it is kept."""
        oldest = time.time() - self.limits.keep * 3600
        with self.lock:
            gone = [job for job in self.jobs.values() if self.limits.keep and job.state in ENDED and job.ended < oldest]
            for job in gone:
                del self.jobs[job.id]
        for job in gone:
            shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop what runs and wait for the workers."""
        with self.lock:
            every = list(self.jobs.values())
        for job in every:
            if job.state not in ENDED:
                self.cancel(job.id)
        for _ in self.threads:
            self.waiting.put(None)
        for thread in self.threads:
            thread.join(timeout=30)

    # ---- what workers do ----

    def _work(self) -> None:
        while True:
            try:
                job = self.waiting.get(timeout=IDLE)
            except queue.Empty:
                self.sweep()
                continue
            if job is None:
                return
            with self.lock:
                wanted = job.state == "waiting"
                if wanted:
                    job.state = "running"
            if wanted:
                self._make(job)

    def _make(self, job: Job) -> None:
        try:
            audio = job.audio or tts.say(job.text, job.folder / "said.wav")
            about = marks.about(self._called(job)) | {"title": f"vivavoce {job.id[:8]}"}
            report = run.speak(job.source, audio, job.film, job.options, self._moved(job), self._finished(job), about)
            job.notes, job.total = [self._plain(job, note) for note in report.notes], job.done
            self._end(job, "done")
        except _Stop:
            self._end(job, "stopped")
        except InputError as error:
            job.error = {k: self._plain(job, getattr(error, k)) for k in ("subject", "cause", "remedy")}
            self._end(job, "failed")
        except Exception as error:  # a worker lives on, whatever a job does
            log.exception("job %s", job.id)
            job.error = {"subject": "vivavoce", "cause": f"a fault of ours ({type(error).__name__})", "remedy": "see the server's log"}
            self._end(job, "failed")

    def _moved(self, job: Job) -> Callable[[int, int], None]:
        most = self.limits.seconds * FPS + 1  # a file's header may lie about its length

        def move(done: int, total: int) -> None:
            job.done, job.total = done, total
            if job.stopping.is_set():
                raise _Stop
            if done > most:
                raise InputError("audio", f"lasts longer than {self.limits.seconds:g} s", "cut it")

        return move

    def _finished(self, job: Job) -> Callable[[np.ndarray], np.ndarray]:
        put, last = marks.pen(job.mark), 0.0

        def finish(images: np.ndarray) -> np.ndarray:  # uint8 [T,H,W,3]
            nonlocal last
            images = put(images)
            if time.monotonic() - last > GLANCE:
                job.frame, last = jpeg(images[-1], SHOWN), time.monotonic()
            return images

        return finish

    def _end(self, job: Job, state: str) -> None:
        if state != "done":  # nothing of a user stays where nothing was made
            for path in job.folder.iterdir():
                path.unlink(missing_ok=True)
        job.state, job.ended, job.frame = state, time.time(), b""
        self._save(job)

    def _called(self, job: Job) -> str:
        kinds = {"source.png": "portrait", "source.film": "video"}
        return kinds.get(job.source.name, next((name for name, path in self.actors.items() if path == job.source), "person"))

    def _plain(self, job: Job, text: str) -> str:
        """Without places of this machine."""
        for path, name in ((job.source, "portrait"), (job.audio, "audio"), (job.folder, "job")):
            text = text.replace(str(path), name) if path is not None else text
        return text

    # ---- on disk ----

    def _room(self) -> None:
        waiting = sum(job.state == "waiting" for job in list(self.jobs.values()))
        if waiting >= self.limits.waiting:
            raise Full("the queue", f"{waiting} jobs are waiting", "try again later")

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """A new folder, gone again when the order is refused."""
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _save(self, job: Job) -> None:
        try:
            with whole(job.folder / "job.json") as part:
                part.write_text(json.dumps(job.record(), indent=1))
        except OSError as error:  # thrown away meanwhile, or a full disk: the job itself goes on
            log.warning("job %s is not recorded: %s", job.id, error.strerror)

    def _find(self) -> None:
        """Jobs of an earlier server: films stay, what was not finished is thrown away."""
        for folder in self.folder.iterdir():
            try:
                kept = json.loads((folder / "job.json").read_text())
                if kept["state"] not in ENDED or (kept["state"] == "done" and not (folder / "film.mp4").is_file()):
                    raise ValueError("not finished")
                source = next(folder.glob("source.*"), folder)
                job = Job(folder.name, folder, source, run.Options(**kept["options"]))
                for name in ("state", "done", "total", "asked", "ended", "notes", "error", "mark", "inputs", "text"):
                    setattr(job, name, kept[name])
                self.jobs[job.id] = job
            except (OSError, ValueError, KeyError, TypeError):
                shutil.rmtree(folder, ignore_errors=True)


def actors(folder: Path) -> dict[str, Path]:
    """Trained renderers below a folder, by their place in it. Raises InputError when the folder is not there."""
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "give the folder that holds your runs")
    found = {}
    for config in sorted(folder.rglob("config.json")):
        try:
            kind = registry.find(json.loads(config.read_text())["method"]).kind
        except (OSError, ValueError, KeyError, TypeError, InputError):
            continue
        if kind == "renderer" and (config.parent / "model.safetensors").is_file():
            found[config.parent.relative_to(folder).as_posix()] = config.parent
    return found


def jpeg(image: np.ndarray, longest: int = 0, quality: int = 80) -> bytes:
    """A picture, uint8 [H,W,3], as JPEG, no longer than that on either side (0: as it is)."""
    picture = Image.fromarray(image)
    if longest:
        picture.thumbnail((longest, longest))
    return coded(picture, "JPEG", quality=quality)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
