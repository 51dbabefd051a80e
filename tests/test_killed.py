"""Whatever stops `prepare`, the same command afterwards gives the folder that an undisturbed run gives, byte for byte."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import video as film
from vivavoce.files import PART
from vivavoce.prepare import prepare
from vivavoce.types import InputError

pytestmark = pytest.mark.assets
ROOT = Path(__file__).resolve().parent.parent
FRAMES = 26
COMMAND = """
import sys

from vivavoce.prepare import parallel, prepare
parallel.LONG = 10  # processes, as a long video has
prepare(sys.argv[1], speech=("mel",), force=True)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file; without how long things took, which clip.json and the report tell."""
    out = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}
    clip = json.loads(out["clip.json"])
    assert out.pop("report.html") and clip["artefacts"].pop("report")["done"]
    for record in clip["artefacts"].values():
        del record["seconds"]
    return out | {"clip.json": json.dumps(clip).encode()}


def differing(folder: Path, whole: dict[str, bytes]) -> list[str]:
    """Names of files that are not as in the undisturbed run."""
    found = contents(folder)
    return sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "she.mp4", FRAMES)


@pytest.fixture(scope="module")
def whole(video: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run makes."""
    return contents(prepare(video, tmp_path_factory.mktemp("whole") / "she", speech=("mel",), force=True))


def begin(video: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "VIVAVOCE_CORES": "2", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(video)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)


def beside(video: Path, place: Path) -> Path:
    """The same video, time stamps and all, in a folder of its own."""
    place.mkdir()
    os.link(video, place / video.name)
    return place / video.name


def test_full_disk_and_read_only(video: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """After so many pictures the disk is full, or turns read-only as Linux does after an error of the disk. Then all is well again."""
    copy, write = beside(video, tmp_path / "a"), Path.write_bytes
    for room, number in ((FRAMES // 2, errno.ENOSPC), (FRAMES, errno.EROFS), (FRAMES, errno.ENOSPC)):
        left = [room]

        def refuse(path: Path, data: bytes, left: list[int] = left, number: int = number) -> int:
            left[0] -= 1
            if left[0] < 0:
                if number == errno.ENOSPC:
                    write(path, data[: len(data) // 2])
                raise OSError(number, os.strerror(number), str(path))
            return write(path, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "write_bytes", refuse)
            with pytest.raises(InputError, match=os.strerror(number)):
                prepare(copy, speech=("mel",), force=True)
        assert not list((tmp_path / "a").rglob(PART + "*"))
    assert differing(prepare(copy, speech=("mel",), force=True), whole) == []


def test_a_folder_on_a_read_only_disk_is_told(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, make = beside(video, tmp_path / "a"), Path.mkdir

    def refuse(path: Path, *args: Any, **more: Any) -> None:
        if path == copy.with_suffix(""):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *args, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot be used \(Read-only file system\); choose another place"):
        prepare(copy)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(video: Path, whole: dict[str, bytes], tmp_path: Path, kills: int) -> None:
    """kill -9, again and again in one folder; whenever a run comes to its end before, the next begins with an empty one."""
    rng = random.Random(kills)
    done, rounds = 0, 0
    while done < kills:
        rounds += 1
        copy = beside(video, tmp_path / f"{rounds}")
        while True:
            run = begin(copy)
            until = time.monotonic() + (rng.uniform(2.0, 8.0) if done < kills else 300)
            while run.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            if run.poll() is not None:
                break
            run.kill()
            run.wait()
            done += 1
        assert run.returncode == 0
        assert differing(copy.with_suffix(""), whole) == []
