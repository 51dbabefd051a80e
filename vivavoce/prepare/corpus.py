"""A data set -> shards of packed faces, by processes side by side; killed at any moment, the same command goes on with the shard it was at.

Clips in the order of their names are cut into shards of equal numbers of clips, whoever makes them, so that the result does not depend on
the number of processes or on how often it was begun. A shard that is whole and of the same clips is kept. A clip that cannot be used is
listed with its reason in `broken.csv` and stops nothing, not even when its decoder takes the process down with it.

`python -m vivavoce.prepare.corpus` is such a process: it reads jobs as lines of JSON and writes lines of JSON, {"clip"} before each clip
and {"made"} after the shard. It ends when its input ends.
"""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from vivavoce import assets
from vivavoce.data.layouts import Recording, named, recordings
from vivavoce.data.shards import BROKEN, INDEX, KIND, Sample, whole, write
from vivavoce.face.landmarker import ASSET, Landmarker
from vivavoce.prepare.cluster import connect
from vivavoce.prepare.faces import SIDE, samples
from vivavoce.prepare.parallel import ONE, cores
from vivavoce.types import FPS, InputError

VERSION = 1  # of what is in a shard
SHARDS, LEAST, MOST = 32, 4, 128  # shards of a middling data set; clips of a shard
Report = Callable[[int, int, int], None]  # clips done, clips, those of no use; from several threads


@dataclass(frozen=True)
class Job:
    """A shard to be made."""

    name: str
    folder: str
    clips: Sequence[Recording]
    side: int  # px
    mark: str  # of the clips and of what is made of them: a shard of another mark is made again
    lost: dict[str, str] = field(default_factory=dict)  # number of a clip -> how it took a process down

    @property
    def tar(self) -> Path:
        return Path(self.folder) / f"{self.name}.tar"

    @classmethod
    def read(cls, line: str) -> Job:
        """From JSON, which knows no tuples."""
        values: dict[str, Any] = json.loads(line)
        clips: list[dict[str, Any]] = [{k: tuple(v) if isinstance(v, list) else v for k, v in c.items()} for c in values["clips"]]
        return cls(**values | {"clips": [Recording(**clip) for clip in clips]})


@dataclass(frozen=True)
class Made:
    """A data set as it lies on disk."""

    folder: Path
    index: dict[str, Any]
    broken: list[dict[str, str]]  # id, video, reason


def place_of(data: str, side: int = SIDE) -> Path:
    """Where the shards of `NAME:PATH` go when nothing else is said: beside it. Raises InputError as `layouts.named` does."""
    _, path = named(data)
    path = path.resolve()
    return path.with_name(f"{path.stem if path.is_file() else path.name}-faces" + f"-{side}" * (side != SIDE))


def jobs_of(found: Sequence[Recording], folder: Path, side: int = SIDE) -> list[Job]:
    """The shards that the recordings make."""
    each = max(LEAST, min(MOST, -(-len(found) // SHARDS)))
    jobs = []
    for number, first in enumerate(range(0, len(found), each)):
        clips = found[first : first + each]
        facts = json.dumps([VERSION, side, [[asdict(r), _size(r.video)] for r in clips]], sort_keys=True)
        jobs.append(Job(f"faces-{number:05d}", str(folder), clips, side, sha256(facts.encode()).hexdigest()))
    return jobs


def _size(path: str) -> int:
    """A film that was replaced is another one."""
    return os.stat(path).st_size if os.path.isfile(path) else -1


def kept(job: Job) -> dict[str, Any] | None:
    """The list of a shard that is whole already and made of the same clips, or None."""
    try:
        made: dict[str, Any] = json.loads(job.tar.with_suffix(".json").read_text("utf-8"))
        size = job.tar.stat().st_size if made["samples"] else 0
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if made.get("mark") == job.mark and size == made.get("bytes") else None


@cache
def finder() -> Landmarker:
    """One of this process; it lets the other processes have the other cores."""
    return Landmarker(threads=1)


def shard(job: Job, say: Callable[[int], None]) -> dict[str, Any]:
    """Make one shard; its list, which is written last. `say` hears each clip's number before it is begun.

    Raises OSError when the disk is full or cannot be written.
    """
    broken: list[dict[str, str]] = []

    def each() -> Iterator[Sample]:
        for k, recording in enumerate(job.clips):
            say(k)
            reason = job.lost.get(str(k), "")
            found: list[Sample] = []
            try:
                found = [] if reason else samples(recording, finder, job.side)
            except InputError as error:
                where = f"{error.subject}: " * (error.subject != recording.video)  # what would help with one film is no help here
                reason = " ".join(f"{where}{error.cause}".split())
            except Exception as error:  # whatever a film does to a decoder; the others go on
                reason = " ".join(f"a fault of ours ({type(error).__name__}: {error})".split())
            if reason:
                broken.append({"id": recording.id, "video": recording.video, "reason": reason})
            yield from found

    rows = write(job.tar, each())
    if not rows:
        job.tar.unlink(missing_ok=True)
    size = job.tar.stat().st_size if rows else 0
    made = {"mark": job.mark, "clips": len(job.clips), "bytes": size, "samples": rows, "broken": broken}
    _written(job.tar.with_suffix(".json"), json.dumps(made, ensure_ascii=False))
    return made


def _written(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, "utf-8")
    os.replace(part, path)


def corpus(
    data: str,
    folder: Path | None = None,
    jobs: int | None = None,
    side: int = SIDE,
    report: Report | None = None,
    cluster: str | None = None,
) -> Made:
    """Prepare `NAME:PATH`; what is whole already is kept.

    Args:
        folder: of the shards; default: beside the data.
        jobs: processes side by side; default: one for each core.
        side: of the crops, px.
        report: called as the work goes on.
        cluster: address of a Ray cluster that does the work; "": one of this machine alone; None: processes of our own.
    Raises:
        InputError: no such data set, a folder that is not laid out so or cannot be written, the face landmarker cannot be had, or no clip
            could be used.
    """
    layout, _ = named(data)
    folder = (folder or place_of(data, side)).resolve()
    found = recordings(data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be written ({error.strerror})", "give another place with --folder") from error
    todo = jobs_of(found, folder, side)
    made = {job.name: there for job in todo if (there := kept(job)) is not None}
    index = whole(folder)
    if index is None or index["shards"] != [job.name for job in todo] or len(made) < len(todo):
        if not all(r.landmarks for r in found):
            assets.path(ASSET)  # else every process would fetch it, or every clip fail by it
        (folder / INDEX).unlink(missing_ok=True)
        made |= _made([job for job in todo if job.name not in made], made, len(found), jobs, report, cluster)
        lists = {job.name: made[job.name] for job in todo}
        if not any(one["samples"] for one in lists.values()):
            first = next(b for one in lists.values() for b in one["broken"])
            raise InputError(data, f"none of its {len(found)} clips could be used", f"the first: {first['video']}: {first['reason']}")
        index = _index(data, layout.name, layout.terms, side, lists, found)
        _finish(folder, index, lists)
    return Made(folder, index, [b for job in todo for b in made[job.name]["broken"]])


def _made(
    todo: list[Job], have: dict[str, Any], total: int, jobs: int | None, report: Report | None, cluster: str | None
) -> dict[str, dict[str, Any]]:
    """The shards that are wanting, made."""
    clips, bad = sum(one["clips"] for one in have.values()), sum(len(one["broken"]) for one in have.values())
    at, lock = dict[str, int](), threading.Lock()

    def tell(name: str, done: int, lists: dict[str, Any] | None) -> None:
        nonlocal bad
        with lock:
            at[name], bad = done, bad + (len(lists["broken"]) if lists is not None else 0)
            if report is not None:
                report(clips + sum(at.values()), total, bad)

    if report is not None:
        report(clips, total, bad)
    if cluster is not None:
        return _by_ray(todo, tell, cluster)
    return _by_processes(todo, max(1, min(jobs or cores(), len(todo))), tell)


Tell = Callable[[str, int, dict[str, Any] | None], None]  # shard, clips begun and done, its list once it is made


def _by_processes(todo: list[Job], count: int, tell: Tell) -> dict[str, dict[str, Any]]:
    """Each process makes one shard after another; one that is lost is replaced, and the clip that it was at is left out."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in todo:
        waiting.put(job)
    made, running, stop = dict[str, dict[str, Any]](), set[subprocess.Popen[str]](), threading.Event()

    def work() -> None:
        child: subprocess.Popen[str] | None = None
        try:
            while not stop.is_set():
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                while job.name not in made and not stop.is_set():
                    if child is None:
                        child = _started()
                        running.add(child)
                    found, clip = _heard(child, job, tell)
                    if found is not None:
                        made[job.name] = found
                        tell(job.name, len(job.clips), found)
                        continue
                    child.wait()
                    running.discard(child)
                    code, child = child.returncode, None
                    if clip < 0 and not stop.is_set():  # it never came to a clip: no film is to blame
                        raise RuntimeError(f"a process that makes shards cannot run (exit code {code})")
                    job.lost[str(clip)] = f"the process that read it was lost ({_end(code)})"
        finally:
            if child is not None:
                child.kill()
                child.wait()
                running.discard(child)

    with ThreadPoolExecutor(count) as pool:
        try:
            for future in [pool.submit(work) for _ in range(count)]:
                future.result()
        finally:
            stop.set()
            for child in list(running):
                child.kill()
    return made


def _by_ray(todo: list[Job], tell: Tell, address: str) -> dict[str, dict[str, Any]]:
    """On the Ray cluster at `address` ("": on this machine), one core each.

    Raises InputError when a process was lost: the shards that are whole stay, and without --ray the clip that was to blame is left out.
    """
    ray = connect(address)
    task = ray.remote(num_cpus=1, max_retries=1)(_silently)
    asked = {task.remote(job): job for job in todo}
    left, made = list(asked), dict[str, dict[str, Any]]()
    while left:
        ready, left = ray.wait(left, num_returns=1)
        job = asked[ready[0]]
        try:
            made[job.name] = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            cause = f"the process that made {job.name} was lost ({type(error).__name__})"
            raise InputError("--ray", cause, "run the same command again without --ray: it goes on there") from error
        tell(job.name, len(job.clips), made[job.name])
    return made


def _silently(job: Job) -> dict[str, Any]:
    return shard(job, lambda k: None)


def _started() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vivavoce.prepare.corpus"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | dict.fromkeys(ONE, "1"))


def _heard(child: subprocess.Popen[str], job: Job, tell: Tell) -> tuple[dict[str, Any] | None, int]:
    """The list of the shard, or None when the process was lost, and the clip it was at."""
    assert child.stdin is not None and child.stdout is not None
    clip = -1
    try:
        child.stdin.write(json.dumps(asdict(job)) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            said = json.loads(line)
            if "error" in said:
                raise InputError(*said["error"])
            if "made" in said:
                return said["made"], clip
            clip = int(said["clip"])
            tell(job.name, clip, None)
    except (BrokenPipeError, ValueError):  # its last words may be cut off
        pass
    return None, clip


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else f"exit code {code}"


def _index(data: str, name: str, terms: str, side: int, lists: dict[str, dict[str, Any]], found: Sequence[Recording]) -> dict[str, Any]:
    """What a folder of shards holds, in figures."""
    rows = [row for one in lists.values() for row in one["samples"]]
    split_of = {split: [row for row in rows if row["split"] == split] for split in ("", "train", "val", "test")}
    table = {
        split or "train, val": {
            "clips": len({row["id"] for row in some}),
            "identities": len({row["identity"] for row in some}),
            "seconds": round(sum(row["frames"] for row in some) / FPS, 2),
        }
        for split, some in split_of.items()
        if some
    }
    facts = {"kind": KIND, "version": VERSION, "data": data, "layout": name, "terms": terms, "side": side, "clips": len(found)}
    facts |= {"samples": len(rows), "frames": sum(row["frames"] for row in rows), "bytes": sum(one["bytes"] for one in lists.values())}
    facts |= {"broken": sum(len(one["broken"]) for one in lists.values()), "splits": table, "shards": list(lists)}
    return facts


def _finish(folder: Path, index: dict[str, Any], lists: dict[str, dict[str, Any]]) -> None:
    """The list of what is broken, then the index; shards of an earlier state of the data go."""
    text = io.StringIO()
    out = csv.DictWriter(text, ("id", "video", "reason"), lineterminator="\n")
    out.writeheader()
    out.writerows(b for one in lists.values() for b in one["broken"])
    _written(folder / BROKEN, text.getvalue())
    for path in [*folder.glob("faces-?????.*"), *folder.glob(".faces-?????.*")]:  # the hidden ones were begun and killed
        if path.stem not in index["shards"]:
            path.unlink()
    _written(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False))


def main() -> None:
    """Shards, as the lines of the input say, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us decides
    answers, asked = os.fdopen(os.dup(sys.stdout.fileno()), "w"), queue.SimpleQueue[str]()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what nets and codecs print is no answer

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)

    def write_line(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = Job.read(asked.get())
        try:
            write_line(made=shard(job, lambda k: write_line(clip=k)))
        except InputError as error:
            write_line(error=(error.subject, error.cause, error.remedy))
        except OSError as error:
            write_line(error=(error.filename or job.folder, f"cannot be written ({error.strerror})", "make room, or give another --folder"))


if __name__ == "__main__":
    main()
