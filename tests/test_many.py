"""Many videos at once: what is found, where it goes, and that one that fails stops no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.films import steady, tone
from vivavoce import cli
from vivavoce.media import write_image
from vivavoce.prepare import Folder, many
from vivavoce.prepare.folder import sha256
from vivavoce.prepare.many import Outcome, placed, prepare_many, videos_of
from vivavoce.types import InputError

FRAMES = 30


def person(at: Path, frames: int = FRAMES) -> Path:
    """A person folder whose frames another tool has cut: `--only audio` has little to do."""
    at.mkdir(parents=True)
    seconds = frames / 25
    video = steady(at / "me.mp4", seconds=seconds, sound=tone(seconds, 16000), sound_rate=16000)
    for k in range(frames):
        write_image(at / "ori_imgs" / f"{k}.jpg", np.full((32, 32, 3), k, np.uint8))
    stat = video.stat()
    source = {"file": video.name, "sha256": sha256(video), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    Folder(at).update(id=at.name, video=source, frames=frames, size=[32, 32], split=frames * 10 // 11)
    return at


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    """A video without a face."""
    return steady(tmp_path / "wall.mp4", seconds=1.2, sound=tone(1.2, 16000), sound_rate=16000)


def test_a_folder_of_videos_stands_for_them(tmp_path: Path, wall: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.MOV", "a.mp4", ".hidden.mp4", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"")
    one = person(tmp_path / "one")
    assert [p.name for p in videos_of([wall, one, tmp_path / "in"])] == ["wall.mp4", "one", "a.mp4", "b.MOV"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video"):
        videos_of([tmp_path / "empty"])


def test_where_each_goes(tmp_path: Path, wall: Path) -> None:
    one = person(tmp_path / "one")
    assert placed([wall, one], None) == [None, None]
    assert placed([wall, one], tmp_path / "all") == [tmp_path / "all" / "wall", None]
    twin = tmp_path / "other" / "wall.mov"
    assert placed([wall, twin], None) == [None, None]
    with pytest.raises(InputError, match="would share its folder"):
        placed([wall, twin.parent.parent / "wall.mov"], None)
    twin.parent.mkdir()
    twin.write_bytes(wall.read_bytes())
    with pytest.raises(InputError, match="would share its folder"):
        placed([wall, twin], tmp_path / "all")


def check(found: list[Outcome], told: list[tuple[int, str, int, int]], first: Path) -> None:
    """Two folders made, one video of no use and one that is not there, in their order."""
    good, bad, gone, last = found
    assert (good.folder, good.frames, good.error) == (str(first), FRAMES, "") and (first / "aud.wav").exists()
    assert "no face" in bad.error and "no such file" in gone.error and not (bad.ours or gone.ours or bad.folder or bad.frames)
    assert last.frames == FRAMES + 5 and not last.error
    assert {(k, "", 1, 1) for k in range(4)} <= set(told) and (0, "audio", 1, 1) in told and (3, "audio", 1, 1) in told


@pytest.mark.assets
def test_one_that_fails_stops_no_other(tmp_path: Path, wall: Path) -> None:
    videos = [person(tmp_path / "first"), wall, tmp_path / "gone.mp4", person(tmp_path / "last", FRAMES + 5)]
    told: list[tuple[int, str, int, int]] = []
    check(prepare_many(videos, jobs=2, report=lambda *a: told.append(a), only="audio"), told, videos[0])
    assert not (tmp_path / "wall").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_process_that_dies_is_told_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start: Callable[..., Any] = subprocess.Popen
    first = [True]

    def once_deadly(command: list[str], **more: Any) -> Any:
        deadly, first[0] = first[0], False
        return start([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"] if deadly else command, **more)

    monkeypatch.setattr(many.subprocess, "Popen", once_deadly)
    bad, good = prepare_many([person(tmp_path / "a"), person(tmp_path / "b")], jobs=1, only="audio")
    assert bad.error == "its process was lost (SIGSEGV)" and bad.ours and not good.error


def test_a_fault_of_ours_is_told_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **more: Any) -> Path:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(many, "prepare", broken)
    found = many.outcome_of(str(tmp_path / "a.mp4"), None, {}, lambda step, done, total: None)
    assert found.ours and "ZeroDivisionError: deep inside" in found.error
    assert "in broken" in Path(found.error.rsplit("details: ", 1)[1]).read_text()


@pytest.mark.assets
def test_the_command_line_tells_of_each(
    tmp_path: Path, wall: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(videos: list[Path], folder: None, jobs: int, report: many.Report, **options: Any) -> list[Outcome]:
        """`prepare_many` without its processes, which cost seconds to start."""
        asked.append(jobs)
        return [many.outcome_of(str(v), folder, options, partial(report, k)) for k, v in enumerate(videos)]

    asked: list[int] = []
    monkeypatch.setattr(many, "prepare_many", here)
    monkeypatch.setenv("COLUMNS", "300")
    one = person(tmp_path / "one")
    code = cli.main(["prepare", str(one), str(wall), "--jobs", "2", "--only", "audio"])
    said = capsys.readouterr()
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    assert asked == [2]
    assert code == 2 and said.err.strip() == "vivavoce: 1 of 2 videos could not be prepared"
    assert str(one) in rows["one"] and str(FRAMES) in rows["one"] and "no face found" in rows["wall.mp4"]
    assert cli.main(["prepare", str(one), "--only", "audio"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.mp4", "--jobs", "0"], "is no number of videos"),
        (["a.mp4", "--ray", "here", "there"], "is no address"),
        (["a.mp4", "--ray", "."], "put the videos before --ray"),
    ],
)
def test_options_that_cannot_be_followed(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.assets
def test_a_local_ray_does_what_processes_do(tmp_path: Path, wall: Path) -> None:
    """The same outcomes, reports and files, on a cluster that this starts and ends."""
    import ray

    from vivavoce.prepare.cluster import prepare_on_ray

    videos = [person(tmp_path / "first"), wall, tmp_path / "gone.mp4", person(tmp_path / "last", FRAMES + 5)]
    told: list[tuple[int, str, int, int]] = []
    try:
        check(prepare_on_ray(videos, jobs=2, report=lambda *a: told.append(a), only="audio"), told, videos[0])
    finally:
        ray.shutdown()


def test_ray_is_asked_for_only_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["prepare", str(person(tmp_path / "one")), "--ray"]) == 2
    assert "pip install 'vivavoce[ray]'" in capsys.readouterr().err
