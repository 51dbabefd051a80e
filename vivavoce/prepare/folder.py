"""The person folder: paths, clip.json, whole files only, and the lock that keeps two runs from mixing.

The layout is that of the AD-NeRF lineage (`aud.wav, ori_imgs/%d.jpg, parsing/%d.png, ...`) plus `clip.json`:

    id         name of the person (the folder's name)
    video      file, sha256, bytes, modified: the source, and what it was when it was read
    size       [height, width] of ori_imgs
    rate       25
    frames     number of frames
    split      frames before this one train, the rest is held out (10/11 of those used)
    crop       [x, y, side] of the square cut out of the source video in its pixels, null = the whole picture
    faces      one 0/1 a frame: 1 = a face was found; a frame without a face keeps its number
    shots      [first frame, last frame, "kept" or why it is not used] one after another, from the first frame to the last
    jumps      frames at which a new shot begins in one step (a cut)
    checks     verdicts on the clip: name, what, value, limit, verdict (pass, warn, refuse), advice
    sync       offset (s, > 0: the sound is late), confidence, correlation, curve (correlation at lags of -15 to 15 frames)
    options    what the folder was made with
    artefacts  name -> step, version, inputs (name -> digest), digest, done, seconds (of the last run)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivavoce import files
from vivavoce.files import PART
from vivavoce.types import InputError

PATIENCE = 1.0  # s waited for a lock: the workers of a killed run end at once, but not in no time
ORDER = ("id", "video", "options", "artefacts", "size", "rate", "frames", "split", "crop", "face", "faces")  # clip.json begins with these
LISTED = 16  # artefacts of more files than this are told apart by names and sizes, smaller ones by content


@dataclass(frozen=True)
class Options:
    """What a user may choose. A folder remembers its choices; only steps that name an option depend on it."""

    tracker: str = "mesh"
    speech: tuple[str, ...] = ("whisper",)
    size: int = 512  # px, side of ori_imgs when the video has to be cut
    force: bool = False  # go on with a clip that the checks refuse
    parser: str = "permissive"  # who tells head, hair, neck and cloth apart


class Folder:
    """A person folder on disk. Reading is free; writing goes through `whole` (files) and `update` (clip.json)."""

    def __init__(self, path: str | Path, options: Options | None = None) -> None:
        self.path = Path(path)
        self.options = options or Options()
        self.clip: dict[str, Any] = {}
        self.writing = threading.RLock()
        self.read()

    def read(self) -> None:
        """Take clip.json as it is on disk now."""
        if self.json.exists():
            try:
                self.clip = json.loads(self.json.read_text("utf-8"))
            except (OSError, ValueError) as e:
                raise InputError(self.json, f"cannot be read ({e})", f"remove it and run: vivavoce prepare {self.path}") from e

    @property
    def json(self) -> Path:
        return self.path / "clip.json"

    @property
    def video(self) -> Path:
        """The source video inside the folder."""
        try:
            return self.path / str(self.clip["video"]["file"])
        except KeyError:
            raise InputError(self.path, "holds no video of its own", f"run: vivavoce prepare VIDEO --folder {self.path}") from None

    def _known(self, key: str) -> Any:
        if self.clip.get(key) is None:
            raise InputError(self.path, f"{key} is not known yet", f"run: vivavoce prepare {self.path}")
        return self.clip[key]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return int(self._known("frames"))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of ori_imgs, px."""
        height, width = self._known("size")
        return int(height), int(width)

    @property
    def split(self) -> int:
        """Frames before this one train."""
        return int(self._known("split"))

    @property
    def faces(self) -> np.ndarray:
        """[frames] bool: a face was found in this frame."""
        return np.array(self._known("faces"), dtype=bool)

    @property
    def used(self) -> np.ndarray:
        """[frames] bool: in a shot that is kept; every frame while the shots are not known."""
        out, shots = np.ones(self.frames, dtype=bool), self.clip.get("shots")
        if shots and shots[-1][1] == len(out) - 1:  # else they are those of the video before this one
            for first, last, why in shots:
                out[first : last + 1] = why == "kept"
        return out

    @property
    def kept(self) -> np.ndarray:
        """[frames] bool: with the person's face and in a shot that is kept, so fit to learn from."""
        return self.faces & self.used

    def file(self, *parts: str) -> Path:
        """A path inside the folder."""
        return self.path.joinpath(*parts)

    def image(self, frame: int) -> Path:
        """The frame's picture, as cut from the video."""
        return self.path / "ori_imgs" / f"{frame}.jpg"

    def missing(self, pattern: str, among: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """Frames whose file (`"parsing/%d.png"`) is not there, among those given or all: what a resumed step has left to do."""
        at = self.path / pattern
        there = {e.name for e in os.scandir(at.parent)} if at.parent.is_dir() else set()
        rows = range(self.frames) if among is None else among
        return [int(k) for k in rows if at.name % k not in there]

    @contextmanager
    def whole(self, *parts: str) -> Iterator[Path]:
        """A temporary path that becomes the file when the block ends well, and vanishes when it does not."""
        target = self.path.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target) as part:
            yield part

    def update(self, **values: Any) -> None:
        """Set keys of clip.json and write it; steps that run side by side may."""
        with self.writing:
            self.clip.update(values)
            self._write()

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Note the state of an artefact."""
        with self.writing:
            self.clip["artefacts"] = {**self.clip.get("artefacts", {}), name: entry}
            self._write()

    def _write(self) -> None:
        with self.whole("clip.json") as part:
            every = sorted(self.clip.items(), key=_place)
            rows = ",\n".join(f" {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in every)
            part.write_text("{\n" + rows + "\n}\n", "utf-8")

    def outputs(self, patterns: Sequence[str]) -> list[Path]:
        """Existing files of an artefact, sorted; files that are not whole are left out."""
        found = {p for pattern in patterns for p in self.path.glob(pattern) if p.is_file() and not p.name.startswith(PART)}
        return sorted(found)

    def digest(self, patterns: Sequence[str]) -> str:
        """What tells one state of an artefact from another: contents of a few files, names and sizes of many."""
        files = self.outputs(patterns)
        h = hashlib.sha256()
        for path in files:
            h.update(f"{path.relative_to(self.path).as_posix()} {path.stat().st_size}\n".encode())
            if len(files) <= LISTED:
                h.update(sha256(path).encode())
        return h.hexdigest()[:32]

    def adopt(self, video: Path) -> None:
        """Bring the video into the folder (a hard link where the file system can, a copy where not) and note what it is."""
        known = self.clip.get("video") or {}
        stat = video.stat()
        if known and (stat.st_size, stat.st_mtime_ns) == (known["bytes"], known["modified"]) and self.video.exists():
            return
        found = {"file": video.name, "sha256": sha256(video), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
        target = self.path / video.name
        if not target.exists() or not target.samefile(video):
            with self.whole(video.name) as part:
                part.unlink(missing_ok=True)
                try:
                    os.link(video.resolve(), part)
                except OSError:
                    shutil.copy2(video, part)
        self.update(id=self.path.resolve().name, video=found)

    def abandon(self, video: Path) -> None:
        """Undo `adopt` where nothing came of it: a video of no use leaves no folder behind. Anything made stays."""
        ours = {"clip.json", ".lock", video.name}
        if any(a["done"] for a in self.clip.get("artefacts", {}).values()) or {p.name for p in self.path.iterdir()} - ours:
            return
        for name in ours:
            if (path := self.path / name).absolute() != video.absolute():
                path.unlink(missing_ok=True)
        with suppress(OSError):  # the video itself may lie here
            self.path.rmdir()

    def options_for(
        self, tracker: str | None, speech: Sequence[str] | None, size: int | None, force: bool | None = None, parser: str | None = None
    ) -> Options:
        """The options asked for; what is not asked stays as the folder was made. Speech encoders add up."""
        kept = self.clip.get("options", {})
        asked = [speech] if isinstance(speech, str) else list(speech or ())
        encoders = tuple(dict.fromkeys([*asked, *kept.get("speech", ())])) or Options.speech
        forced = bool(kept.get("force", False) if force is None else force)
        tracker, parser = (given or kept.get(name, getattr(Options, name)) for name, given in (("tracker", tracker), ("parser", parser)))
        return Options(str(tracker), encoders, int(size or kept.get("size", Options.size)), forced, str(parser))

    def choose(self, options: Options) -> None:
        """Take these options and note them."""
        self.options = options
        self.update(options=asdict(options))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one run at a time writes here. The system lets go of the lock when the process ends, however it ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+b") as handle:
            os.set_inheritable(handle.fileno(), True)  # a worker process that outlives us by a moment still holds it
            until = time.monotonic() + PATIENCE
            while not _locked(handle.fileno()):
                if time.monotonic() > until:
                    raise InputError(self.path, "another run is at work in this folder", "wait until it has ended")
                time.sleep(0.05)
            for part in self.path.rglob(PART + "*"):  # what a killed run left
                part.unlink(missing_ok=True)
            self.read()
            yield


def _place(entry: tuple[str, Any]) -> tuple[int, str]:
    """Where a key stands in clip.json: steps that run side by side set them in any order."""
    return (ORDER.index(entry[0]) if entry[0] in ORDER else len(ORDER)), entry[0]


def _locked(handle: int) -> bool:
    """Whether the lock was free and is now ours."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sha256(path: Path) -> str:
    """Of a file's content, in constant memory."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
