"""Many videos: each in a process of its own, so that one that fails, however badly, stops no other.

`python -m vivavoce.prepare.many` is such a process: it reads a line of JSON, {"video", "folder", "options"}, from its standard
input and writes lines of JSON: {"step", "done", "total"} as the work goes on, at the end an Outcome. It ends when its input ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivavoce.prepare import Folder, inherit, place, prepare
from vivavoce.prepare.parallel import CORES, cores
from vivavoce.types import InputError

KINDS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv")
EACH = 4  # cores a video can use well while others are prepared beside it
PAUSE = 0.2  # s between two reports of one step

Report = Callable[[int, str, int, int], None]  # number of the video, step, done, total; step "" and 1 of 1: the video is done


@dataclass(frozen=True)
class Outcome:
    """What became of one video."""

    video: str
    folder: str = ""  # "": nothing was made
    frames: int = 0
    seconds: float = 0.0
    error: str = ""  # one line; "": all went well
    ours: bool = False  # the error is a fault of this program, not of the video


def videos_of(given: Sequence[Path]) -> list[Path]:
    """Videos and person folders as given; any other folder stands for the videos in it, by name.

    Raises InputError when nothing is given, or a folder holds no video.
    """
    out: list[Path] = []
    for path in given:
        if not path.is_dir() or (path / "clip.json").exists() or inherit.is_older(Folder(path)):
            out.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in KINDS and p.is_file() and not p.name.startswith("."))
        if not inside:
            raise InputError(path, "no person folder, and holds no video", f"give a video, or a folder of videos ({' '.join(KINDS)})")
        out += inside
    return out


def placed(videos: Sequence[Path], folder: Path | None) -> list[Path | None]:
    """Where each goes: `folder` of its own beside it, or below the one given. Raises InputError when two would share one."""
    to = [None if folder is None or v.is_dir() else folder / v.stem for v in videos]
    at = [place(v, t)[1].resolve() if v.exists() else v.with_suffix("").resolve() for v, t in zip(videos, to, strict=True)]
    for k, path in enumerate(at):
        if path in at[:k]:
            raise InputError(videos[k], f"would share its folder with {videos[at.index(path)]}", "rename one, or prepare it with --folder")
    return to


def prepare_many(
    videos: Sequence[Path], folder: Path | None = None, jobs: int | None = None, report: Report | None = None, **options: Any
) -> list[Outcome]:
    """Prepare every video, several at once; what becomes of each, in their order.

    Args:
        videos: videos or person folders, see `videos_of`. folder: a folder for all of their folders.
        jobs: so many at once; default: a quarter of the cores.
        report: called from several threads as the work goes on.
        options: those of `prepare`, alike for all.
    Raises:
        InputError when two would go into one folder. What is wrong with a video is in its outcome.
    """
    to = placed(videos, folder)
    count = max(1, min(jobs or cores() // EACH, len(videos)))
    env = os.environ | {CORES: str(max(1, cores() // count))}
    running: set[subprocess.Popen[str]] = set()

    def work(number: int) -> Outcome:
        begun = time.monotonic()
        command = [sys.executable, "-m", "vivavoce.prepare.many"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        running.add(child)
        try:
            outcome = _heard(child, number, Path(videos[number]), to[number], options, report)
        finally:
            child.kill()
            child.wait()
            running.discard(child)
        if report is not None:
            report(number, "", 1, 1)
        return outcome or Outcome(str(videos[number]), "", 0, time.monotonic() - begun, f"its process was lost ({_end(child)})", True)

    with ThreadPoolExecutor(count) as pool:
        try:
            return list(pool.map(work, range(len(videos))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(running):
                child.kill()
            raise


def _heard(
    child: subprocess.Popen[str], number: int, video: Path, folder: Path | None, options: dict[str, Any], report: Report | None
) -> Outcome | None:
    """Ask the process for one video and listen until it ends; None when it was lost."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps({"video": str(video), "folder": str(folder) if folder else None, "options": options}) + "\n")
    child.stdin.flush()
    for line in child.stdout:
        said = json.loads(line)
        if "video" in said:
            return Outcome(**said)
        if report is not None:
            report(number, said["step"], said["done"], said["total"])
    return None


def _end(child: subprocess.Popen[str]) -> str:
    code = child.returncode
    return signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else f"exit code {code}"


def outcome_of(video: str, folder: str | None, options: dict[str, Any], say: Callable[[str, int, int], None]) -> Outcome:
    """Prepare one video here; whatever goes wrong is in the outcome. `say` hears of each step five times a second at most."""
    begun, last = time.monotonic(), dict[str, float]()

    def report(step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(step, 0.0) > PAUSE:
            last[step] = now
            say(step, done, total)

    try:
        at = prepare(video, folder, progress=report, **options)
        return Outcome(video, str(at), Folder(at).frames, time.monotonic() - begun)
    except InputError as error:
        return Outcome(video, "", 0, time.monotonic() - begun, " ".join(str(error).split()))
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="vivavoce-", suffix=".log", delete=False) as log:
            log.writelines(traceback.format_exception(error))
        told = f"a fault of ours ({type(error).__name__}: {error}); details: {log.name}"
        return Outcome(video, "", 0, time.monotonic() - begun, " ".join(told.split()), True)


def main() -> None:
    """One video, as the first line of the input says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us decides
    answers, lock = os.fdopen(os.dup(sys.stdout.fileno()), "w"), threading.Lock()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what nets and codecs print is no answer
    asked = json.loads(sys.stdin.readline())

    def gone() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=gone, daemon=True).start()

    def write(**values: Any) -> None:
        with lock:
            answers.write(json.dumps(values) + "\n")
            answers.flush()

    outcome = outcome_of(asked["video"], asked["folder"], asked["options"], lambda s, d, t: write(step=s, done=d, total=t))
    write(**asdict(outcome))


if __name__ == "__main__":
    main()
