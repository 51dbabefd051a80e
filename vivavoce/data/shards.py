"""Faces of a data set in shards: tar files in the form of WebDataset, each with a list of what lies where in it.

A folder holds `index.json`, written last, `broken.csv`, and of each shard `faces-<n>.tar` with `faces-<n>.json`. A sample is a stretch of a
clip in which one face is seen without a break:

| member | |
|---|---|
| `<key>.json` | who, split, what is said, labels, first frame, frames a second |
| `<key>.mjpeg` | the crops, JPEGs one after another: any player shows them |
| `<key>.wav` | 16 kHz mono, 640 samples a frame |
| `<key>.landmarks.npy` | float32 [T,68,2], px of the crops |
| `<key>.ends.npy` | int64 [T], where in the .mjpeg each picture ends |
| `<key>.columns.npy` | float16 [C,80], mel columns of Wav2Lip, 3.2 a frame and 16 more, in the form of speech/mel_wav2lip.py |

Nothing is unpacked: a shard is mapped, and what is read is found by the places in its list. Same clips, same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vivavoce.types import FPS, RATE, InputError

INDEX, BROKEN = "index.json", "broken.csv"
KIND = "faces"  # of an index.json of ours
MAPPED = 256  # shards open at once: each holds a file descriptor
BLOCK = 512  # bytes, of a tar file
LISTED = ("id", "identity", "split", "frames")  # what a list repeats of a sample: a data set may have a million


class Film(NamedTuple):
    """A stretch of frames of one face."""

    data: NDArray[np.uint8]  # the file's bytes
    bounds: NDArray[np.int64]  # [T+1] where each picture begins in it, and where the last ends
    landmarks: NDArray[np.float32]  # [T,68,2] px
    columns: NDArray[np.float16]  # [C,80]


@dataclass(frozen=True)
class Sample:
    """What is written of one stretch."""

    key: str
    about: dict[str, Any]
    pictures: list[bytes]
    landmarks: NDArray[np.float32]  # [T,68,2] px
    columns: NDArray[np.float16]  # [C,80]
    sound: NDArray[np.float32]  # [T*640]


def write(path: Path, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Write a shard and return its list; under another name first. Without a sample no file is made."""
    part, rows = path.with_name(f".{path.name}.{os.getpid()}"), list[dict[str, Any]]()
    try:
        with open(part, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            rows += [_add(tar, file, sample) for sample in samples]
        if rows:
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return rows


def _add(tar: tarfile.TarFile, file: Any, sample: Sample) -> dict[str, Any]:
    """One sample; its row of the list, with the places of what is read again."""
    about = sample.about | {"frames": len(sample.pictures), "rate": FPS}
    ends = np.cumsum([len(p) for p in sample.pictures]).astype("<i8")
    members = {
        "json": json.dumps(about, ensure_ascii=False, sort_keys=True).encode(),
        "mjpeg": b"".join(sample.pictures),
        "wav": _wav(sample.sound),
        "landmarks.npy": _npy(sample.landmarks.astype("<f4")),
        "ends.npy": _npy(ends),
        "columns.npy": _npy(sample.columns.astype("<f2")),
    }
    at = {}
    for kind, data in members.items():
        info = tarfile.TarInfo(f"{sample.key}.{kind}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        begin = file.tell() - -(-len(data) // BLOCK) * BLOCK
        at[kind.removesuffix(".npy")] = begin + (_header(data) if kind.endswith(".npy") else 0)
    return {k: about[k] for k in LISTED} | {"key": sample.key, "columns": len(sample.columns), "at": at}


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _header(data: bytes) -> int:
    """Bytes of an .npy file before its numbers (version 1.0, which np.save writes for plain arrays)."""
    return 10 + int.from_bytes(data[8:10], "little")


def _wav(sound: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((np.clip(sound, -1, 1) * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def whole(folder: str | Path) -> dict[str, Any] | None:
    """The index of a folder whose shards are all there, or None."""
    try:
        index = json.loads((Path(folder) / INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) and index.get("kind") == KIND else None


class Shards:
    """Samples of all shards of a folder, by number.

    Raises InputError when there is no index, or a shard or its list is missing, damaged or cut short.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = whole(folder)
        if index is None:
            raise InputError(folder, f"no {INDEX} of faces in it", "run: vivavoce prepare --data NAME:PATH --folder FOLDER")
        again = f"delete it and run: vivavoce prepare --data {index['data']} --folder {folder}"
        self.frames, self.splits, self.ids = list[int](), list[str](), list[str]()
        self.files: list[Path] = []
        self.shard, self.places = list[int](), list[tuple[int, ...]]()
        for name in index["shards"]:
            path = self.folder / f"{name}.json"
            try:
                listed = json.loads(path.read_text("utf-8"))
                size = (self.folder / f"{name}.tar").stat().st_size if listed["samples"] else 0
                rows, wanted = listed["samples"], listed["bytes"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(path, f"the shard is not whole ({type(error).__name__})", again) from error
            if size != wanted:
                raise InputError(self.folder / f"{name}.tar", f"has {size} bytes, not {wanted}", again.replace("it", path.name, 1))
            self.frames += [row["frames"] for row in rows]
            self.splits += [row["split"] for row in rows]
            self.ids += [row["id"] for row in rows]
            self.shard += [len(self.files)] * len(rows)
            self.places += [(*(row["at"][k] for k in ("mjpeg", "ends", "landmarks", "columns")), row["columns"]) for row in rows]
            self.files.append(self.folder / f"{name}.tar")

    def film(self, number: int) -> Film:
        """One sample, mapped: nothing is copied."""
        data, count = _mapped(self.files[self.shard[number]]), self.frames[number]
        begin, ends, points, columns, width = self.places[number]
        bounds = np.concatenate([[0], _view(data, ends, "<i8", (count,))]) + begin
        return Film(data, bounds, _view(data, points, "<f4", (count, 68, 2)), _view(data, columns, "<f2", (width, 80)))


@lru_cache(maxsize=MAPPED)
def _mapped(path: Path) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r")


def _view(data: NDArray[np.uint8], at: int, kind: str, shape: tuple[int, ...]) -> Any:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return data[at : at + size].view(kind).reshape(shape)
