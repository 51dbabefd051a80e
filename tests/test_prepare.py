"""prepare: order, resuming, what makes a step run again, locks, and the first steps on a real recording."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.films import steady, tone
from vivavoce import prepare as package
from vivavoce.face import regions
from vivavoce.face.landmarker import Face
from vivavoce.files import PART
from vivavoce.media import Writer, audio, audio_chunks, frames, read_image
from vivavoce.prepare import Folder, Options, Progress, Step, ordered, prepare
from vivavoce.prepare import folder as folders
from vivavoce.prepare.frames import crop_for
from vivavoce.prepare.landmarks import main_face
from vivavoce.prepare.units import UNITS, intensities, parted
from vivavoce.types import HOP, InputError

COUNT = 6  # files of the toy step that writes one a frame


class Toys:
    """Steps a -> b -> d, a -> c: `a` writes one file a frame, the others one file made of what they read."""

    def __init__(self, **versions: int) -> None:
        self.ran: list[str] = []
        self.versions = {"a": 1, "b": 1, "c": 1, "d": 1} | versions
        self.fail_at: int | None = None

    def steps(self) -> list[Step]:
        whole: dict[str, tuple[int, tuple[str, ...]]] = {"b": (2, ("a",)), "c": (3, ("a", "video")), "d": (0, ("b",))}
        first = Step("a", 4, self.versions["a"], ("video",), ("a/*.txt",), self.each, self.all_there, options=("size",))
        rest = [Step(n, t, self.versions[n], i, (f"{n}.txt",), self.joined(n, i), self.there(n)) for n, (t, i) in whole.items()]
        return ordered([*rest, first])

    def each(self, folder: Folder, progress: Progress) -> None:
        self.ran.append("a")
        folder.update(frames=COUNT)
        for k in folder.missing("a/%d.txt"):
            if k == self.fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            with folder.whole("a", f"{k}.txt") as part:
                part.write_text(f"{folder.clip['video']['sha256'][:8]} {k} v{self.versions['a']} s{folder.options.size}")
            progress(k + 1, COUNT)

    def all_there(self, folder: Folder) -> None:
        wrong = [k for k in range(COUNT) if not folder.file("a", f"{k}.txt").exists() or "bad" in folder.file("a", f"{k}.txt").read_text()]
        if wrong:
            raise InputError(folder.path, f"frame {wrong[0]} is missing", "again")

    def joined(self, name: str, inputs: tuple[str, ...]) -> Callable[[Folder, Progress], None]:
        def run(folder: Folder, progress: Progress) -> None:
            self.ran.append(name)
            patterns = [p for s in self.steps() if s.name in inputs for p in s.outputs]
            assert all(folder.clip["artefacts"][i]["done"] for i in inputs if i != "video")
            text = "\n".join(p.read_text() for p in folder.outputs(patterns))
            with folder.whole(f"{name}.txt") as part:
                part.write_text(f"{name} v{self.versions[name]} of {text}")

        return run

    def there(self, name: str) -> Callable[[Folder], None]:
        def verify(folder: Folder) -> None:
            path = folder.file(f"{name}.txt")
            if not path.exists() or " of " not in path.read_text():
                raise InputError(path, "is not there", "again")

        return verify

    def take(self) -> list[str]:
        """What ran since the last time, by name: steps that do not wait for each other run side by side."""
        ran, self.ran = self.ran, []
        return sorted(ran)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return steady(tmp_path / "me.mp4", seconds=1.2, sound=tone(1.2, 16000), sound_rate=16000)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Toys:
    made = Toys()
    monkeypatch.setattr(package, "steps", made.steps)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("clip.json", ".lock")
    }


# ---- the graph ----


def test_the_steps_of_the_package() -> None:
    every = package.steps()
    names = [s.name for s in every]
    assert {"frames", "audio", "speech", "landmarks", "units"} <= set(names)
    for k, step in enumerate(every):
        assert set(step.inputs) <= {"video", *names[:k]} and step.outputs and step.version >= 1
    numbers = [s.task for s in every if s.task]
    assert len(numbers) == len(set(numbers)) and set(numbers) <= set(range(1, 10))


def test_order_and_circles() -> None:
    toys = Toys()
    assert [s.name for s in toys.steps()] == ["a", "b", "c", "d"]
    first, *rest = toys.steps()
    circle = Step("a", 4, 1, ("d",), ("a/*",), first.run, first.verify)
    with pytest.raises(ValueError, match="wait for each other"):
        ordered([circle, *rest])


def test_runs_in_order_then_not_again(toys: Toys, video: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    folder = prepare(video, progress=lambda *a: heard.append(a))
    assert folder == video.parent / "me" and toys.take() == ["a", "b", "c", "d"]
    assert ("a", 3, COUNT) in heard and heard.index(("b", 1, 1)) < heard.index(("d", 0, 0))
    before = contents(folder)
    assert prepare(video) == folder and prepare(folder) == folder and toys.take() == []
    assert contents(folder) == before and before["me.mp4"] == video.read_bytes()
    record = json.loads((folder / "clip.json").read_text())
    assert record["artefacts"]["b"]["inputs"] == {"a": record["artefacts"]["a"]["digest"]}


def test_choosing(toys: Toys, video: Path) -> None:
    prepare(video, task=2)
    assert toys.take() == ["a", "b"]
    prepare(video, only="d")
    assert toys.take() == ["d"]
    prepare(video, task=-1)
    assert toys.take() == ["c"]
    for wrong in ({"only": "e"}, {"task": 8}, {"speech": ("nothing",)}, {"size": 3}):
        with pytest.raises(InputError):
            prepare(video, **wrong)
    with pytest.raises(InputError, match="no such file"):
        prepare(video.with_name("nothing.mp4"))


def test_what_makes_a_step_run_again(toys: Toys, video: Path) -> None:
    folder = prepare(video)
    toys.take()
    toys.versions["b"] = 2
    prepare(folder)
    assert toys.take() == ["b", "d"] and "b v2" in (folder / "d.txt").read_text()
    (folder / "b.txt").write_text("b by hand of nothing")  # a hand's work that verifies is kept, and what reads it follows
    prepare(folder)
    assert toys.take() == ["d"] and "by hand" in (folder / "d.txt").read_text()
    (folder / "d.txt").unlink()
    prepare(folder)
    assert toys.take() == ["d"]
    prepare(folder, size=300)
    assert toys.take() == ["a", "b", "c", "d"] and "s300" in (folder / "a/0.txt").read_text()
    prepare(folder)  # the folder remembers
    assert toys.take() == []


def test_another_video_makes_all_again(toys: Toys, video: Path) -> None:
    folder = prepare(video)
    before = contents(folder)
    toys.take()
    steady(video, seconds=1.6, sound=tone(1.6, 16000), sound_rate=16000)
    prepare(video)
    assert toys.take() == ["a", "b", "c", "d"] and contents(folder) != before
    assert (folder / "me.mp4").read_bytes() == video.read_bytes()


def test_a_damaged_file_among_kept_ones_is_made_again(toys: Toys, video: Path) -> None:
    folder = prepare(video)
    before = contents(folder)
    (folder / "a/3.txt").write_text("bad")
    prepare(folder)
    assert toys.take() == ["a", "a", "a", "b", "c", "d"] and contents(folder) == before


def test_files_of_others_are_used_or_left_alone(toys: Toys, video: Path) -> None:
    folder = video.parent / "me"
    folder.mkdir()
    (folder / "b.txt").write_text("b of another tool")
    prepare(video)
    assert toys.take() == ["a", "c", "d"] and "another tool" in (folder / "d.txt").read_text()
    other = video.parent / "other"
    (other / "a").mkdir(parents=True)
    (other / "a/0.txt").write_text("precious")
    with pytest.raises(InputError, match="was not made by this program"):
        prepare(video, other)
    assert (other / "a/0.txt").read_text() == "precious"


# ---- interruptions ----


def test_full_disk_then_on(toys: Toys, video: Path) -> None:
    toys.fail_at = 4
    with pytest.raises(InputError, match="disk is full"):
        prepare(video)
    folder = video.parent / "me"
    kept = {p.name: p.stat().st_mtime_ns for p in (folder / "a").iterdir()}
    assert set(kept) == {f"{k}.txt" for k in range(4)}
    toys.fail_at = None
    prepare(video)
    assert toys.take() == ["a", "a", "b", "c", "d"]
    assert all((folder / "a" / n).stat().st_mtime_ns == t for n, t in kept.items())


SLOW = """
import sys, time
from pathlib import Path
from tests.test_prepare import Toys
from vivavoce import prepare as package
toys = Toys()
package.steps = toys.steps
if sys.argv[2] == "slow":
    write = Path.write_text
    def slowly(path, text, *more):
        if "part" in path.name and path.suffix == ".txt":
            write(path, "half")
            sys.stdout.write("writing\\n")  # in one piece: steps run side by side
            sys.stdout.flush()
            time.sleep(0.15)
        return write(path, text, *more)
    Path.write_text = slowly
package.prepare(sys.argv[1])
print("done", flush=True)
"""


def begin(video: Path, speed: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parent.parent
    env = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-c", SLOW, str(video), speed], stdout=subprocess.PIPE, text=True, env=env, cwd=root)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_killed_then_the_same_command_finishes(toys: Toys, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PATIENCE", 0.0)
    wanted = contents(prepare(video, tmp_path / "whole"))
    folder = tmp_path / "me"
    for stop in (3, 6):  # in the middle of `a`, then in the middle of `b`
        run = begin(video, "slow")
        assert run.stdout is not None
        for _ in range(stop):
            assert run.stdout.readline() == "writing\n"
        if stop == 3:
            with pytest.raises(InputError, match="another run"):  # and it did not undo anything
                prepare(video)
            assert (folder / "clip.json").exists()
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
    assert list(folder.rglob(PART + "*"))  # what was half written when it died
    early = (folder / "a/0.txt").stat().st_mtime_ns
    toys.take()
    prepare(video)
    assert toys.take()[-2:] == ["c", "d"] and contents(folder) == wanted
    assert (folder / "a/0.txt").stat().st_mtime_ns == early and not list(folder.rglob(PART + "*"))


def test_a_useless_video_leaves_nothing(toys: Toys, video: Path, tmp_path: Path) -> None:
    def refuse(folder: Folder, progress: Progress) -> None:
        raise InputError(folder.path, "no face", "another video")

    first, *rest = toys.steps()
    package_steps = [Step("a", 4, 1, ("video",), first.outputs, refuse, first.verify), *rest]
    toys.steps = lambda: package_steps  # type: ignore[method-assign]
    package.steps = toys.steps
    with pytest.raises(InputError, match="no face"):
        prepare(video, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ---- the folder ----


def test_folder_tells_what_is_missing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for ask in (lambda: folder.frames, lambda: folder.size, lambda: folder.faces, lambda: folder.video):
        with pytest.raises(InputError, match="vivavoce prepare"):
            ask()
    folder.update(frames=4, faces=[1, 0, 1, 1], size=[10, 20], split=3)
    again = Folder(tmp_path)
    assert (again.frames, again.size, again.split, again.faces.tolist()) == (4, (10, 20), 3, [True, False, True, True])
    (tmp_path / "x").mkdir()
    (tmp_path / "x/2.png").write_text("")
    assert again.missing("x/%d.png") == [0, 1, 3] and again.missing("x/%d.png", np.array([2, 3])) == [3]
    with pytest.raises(RuntimeError), again.whole("x", "9.png") as part:
        part.write_text("half")
        raise RuntimeError
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["2.png"]
    (tmp_path / "clip.json").write_text('{"frames": ')
    with pytest.raises(InputError, match="cannot be read"):
        Folder(tmp_path)


def test_options_add_up(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.options_for(None, None, None) == Options()
    folder.choose(folder.options_for(None, ("mel",), 300))
    assert folder.options == Options("mesh", ("mel",), 300)
    assert folder.options_for(None, ("whisper",), None) == Options("mesh", ("whisper", "mel"), 300)


# ---- the pieces of the steps ----


def test_crop_keeps_small_and_cuts_large() -> None:
    big_face = np.array([[140.0, 150, 370, 420]])
    assert crop_for(big_face, 512, 512, 512) is None
    assert crop_for(big_face / 2, 288, 360, 512) is None
    x, y, side = crop_for(np.array([[414.0, 314, 683, 608]]), 1920, 1080, 512) or [0, 0, 0]
    assert side == pytest.approx(2 * 294, abs=2) and x + side / 2 == pytest.approx(548.5, abs=1)
    assert 0.4 < (461 - y) / side < 0.6
    x, y, side = crop_for(np.array([[0.0, 0, 200, 250]] * 5), 720, 1280, 512) or [0, 0, 0]  # in the corner: stays inside
    assert (x, y) == (0, 0) and side == 500
    moving = np.array([[300.0, 200, 500, 450], [700, 210, 900, 460]] * 4)
    x, y, side = crop_for(moving, 720, 1280, 512) or [0, 0, 0]
    assert side == 720 and x <= 300 and x + side >= 900


def face_at(x: float, y: float, height: float) -> Face:
    box = np.array([x - height * 0.4, y - height / 2, x + height * 0.4, y + height / 2], np.float32)
    return Face(np.zeros((478, 3), np.float32), np.zeros(52, np.float32), 1.0, box)


def test_main_face_is_the_usual_one() -> None:
    usual = face_at(250, 250, 200).box
    mine, near, far, tiny = face_at(280, 260, 220), face_at(360, 250, 190), face_at(480, 250, 300), face_at(250, 250, 40)
    assert main_face([far, near, mine, tiny], usual) is mine
    assert main_face([far, tiny], usual) is None and main_face([], usual) is None


def test_units_measure_from_rest() -> None:
    shapes = np.full((100, 52), 0.1, np.float32)
    blink = [regions.BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]
    shapes[40:44, blink] = 1.0
    shapes[60, :] = np.nan
    values = intensities(shapes, np.full(100, 0.02))
    assert values.shape == (100, len(UNITS)) and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 5
    column = list(UNITS).index(45)
    assert np.allclose(values[40:44, column], 5) and not values[:40, column].any() and not values[60].any()


def test_lips_part_by_the_mesh_and_whichever_way_the_head_looks() -> None:
    """A face that smiles while it speaks: its scores hardly move, its lips do."""
    face = np.zeros((100, 478, 3), np.float32)
    face[:, 263, 0] = 90  # mm
    heights = 6 * np.clip(np.sin(np.arange(100) / 3), 0, None)
    face[:, [87, 14, 317], 1] = heights[:, None]
    turn = np.deg2rad(30)
    across = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]], np.float32)
    gap = parted(face @ across.T * 2.5)
    assert np.allclose(gap, heights / 90, atol=1e-4)
    values = intensities(np.full((100, 52), 0.004, np.float32), gap)[:, list(UNITS).index(25)]
    assert 0.5 < values.max() < 2 and np.corrcoef(values, heights)[0, 1] > 0.99 and not values[heights == 0].any()


# ---- real recordings ----


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a 3 s recording, in which frames 30 to 39 are black."""
    at = tmp_path_factory.mktemp("real")
    source = shared_data / "grid_s1" / "bbaf2n.mp4"
    with Writer(at / "she.mp4", (288, 360), audio=source) as out:
        for k, image in enumerate(frames(source)):
            out.write(image if not 30 <= k < 40 else np.zeros_like(image))
    return prepare(at / "she.mp4", only=("units", "speech", "halves"), speech=("mel",))


@pytest.mark.real
def test_real_frames_and_sound(real: Path) -> None:
    folder = Folder(real)
    assert (folder.frames, folder.size, folder.split) == (75, (288, 360), 69) and folder.clip["crop"] is None
    films = list(frames(folder.video))
    assert sum(1 for _ in (real / "ori_imgs").glob("*.jpg")) == 75
    assert np.abs(read_image(folder.image(20)).astype(int) - films[20]).mean() < 2
    for name, count in (("aud.wav", 75), ("aud_train.wav", 69), ("aud_novel.wav", 6)):
        with wave.open(str(real / name)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, 16000, count * HOP)
    whole = audio(real / "aud.wav")
    heard = audio(folder.video)
    n = min(len(whole), len(heard))
    assert float((whole[:n] - heard[:n]).abs().max()) < 1e-3
    assert float((audio(real / "aud_novel.wav") - whole[69 * HOP :]).abs().max()) < 1e-6


@pytest.mark.real
def test_real_speech(real: Path) -> None:
    from vivavoce import speech

    stored = np.load(real / "aud_mel.npy")
    assert stored.dtype == np.float16 and stored.shape[:2] == (75, 2)
    direct = speech.encode(speech.load("mel"), audio(real / "aud.wav"))
    assert np.allclose(stored, direct.numpy(), atol=2e-2, rtol=2e-3)
    assert (real / "aud.npy").read_bytes() == (real / "aud_mel.npy").read_bytes()


@pytest.mark.real
def test_real_landmarks_keep_numbers(real: Path) -> None:
    folder = Folder(real)
    wanted = [not 30 <= k < 40 for k in range(75)]
    assert folder.faces.tolist() == wanted and folder.kept.tolist() == wanted
    assert folder.clip["jumps"] == [] and [s[2] for s in folder.clip["shots"]] == ["kept", "a flash", "kept"]
    points, shapes = np.load(real / "landmarks.npy"), np.load(real / "blendshapes.npy")
    assert points.shape == (75, 478, 3) and shapes.shape == (75, 52)
    assert np.isfinite(points).all((1, 2)).tolist() == wanted == np.isfinite(shapes).all(1).tolist()
    assert [(real / "ori_imgs" / f"{k}.lms").exists() for k in range(75)] == wanted
    lms = np.loadtxt(real / "ori_imgs" / "50.lms")
    assert lms.shape == (68, 2) and np.allclose(lms, regions.landmarks68(points[50]), atol=1e-3)
    assert lms[36:48, 1].mean() < lms[48:68, 1].mean()  # eyes above the mouth
    table = np.loadtxt(real / "au.csv", delimiter=",", skiprows=1)
    names = (real / "au.csv").read_text().splitlines()[0].split(",")
    assert " AU45_r" in names and "AU45_r" in names and table.shape == (75, len(names))
    assert table[:, names.index(" success")].astype(bool).tolist() == wanted


@pytest.mark.real
def test_real_resumes_in_the_middle_of_landmarks(real: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vivavoce.prepare import landmarks

    monkeypatch.setattr(landmarks, "RUN", 25)
    tracked: list[int] = []
    track = landmarks.track

    def counted(folder: Folder, net: object, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        if first == 50 and not tracked.count(50):
            tracked.append(first)
            raise KeyboardInterrupt
        tracked.append(first)
        return track(folder, net, first, last)  # type: ignore[arg-type]

    monkeypatch.setattr(landmarks, "track", counted)
    video = Folder(real).video
    with pytest.raises(KeyboardInterrupt):
        prepare(video, tmp_path / "she", only="landmarks", speech=("mel",))
    assert not (tmp_path / "she/landmarks.npy").exists()
    prepare(video, tmp_path / "she", only="landmarks")
    assert sorted(tracked) == [0, 25, 50, 50] and not (tmp_path / "she/.landmarks").exists()
    with np.errstate(invalid="ignore"):
        away = np.linalg.norm(np.load(tmp_path / "she/landmarks.npy") - np.load(real / "landmarks.npy"), axis=-1)
    assert np.nanmedian(away) < 0.5  # px: runs know nothing of each other, yet agree
    assert np.array_equal(np.isnan(away[:, 0]), ~Folder(real).faces)


@pytest.mark.real
def test_real_main_one_of_two_and_cut_out(shared_data: Path, tmp_path: Path) -> None:
    """Two people side by side in a large picture: the larger one is cut out and followed, though the other is there as well."""
    from PIL import Image

    left, right = sorted((shared_data / "grid_multi").glob("*.mpg"))[:2]
    with Writer(tmp_path / "two.mp4", (720, 1280), audio=left) as out:
        for a, b in islice(zip(frames(left), frames(right)), 26):
            canvas = np.full((720, 1280, 3), 90, np.uint8)
            canvas[100:676, :720] = np.asarray(Image.fromarray(a).resize((720, 576)))
            canvas[200:488, 800:1160] = b
            out.write(canvas)
    folder = Folder(prepare(tmp_path / "two.mp4", only="shots"))
    x, _, side = folder.clip["crop"]
    assert folder.size == (min(side, 512),) * 2 and x + side / 2 < 500 and folder.faces.all() and folder.clip["jumps"] == []
    points = np.load(folder.file("landmarks.npy"))
    assert np.ptp(points[:, :, 1].mean(1)) < 60 and points[..., 0].mean() == pytest.approx(folder.size[0] / 2, abs=60)


@pytest.mark.real
def test_real_without_a_face(tmp_path: Path) -> None:
    empty = steady(tmp_path / "wall.mp4", seconds=2, sound=tone(2, 16000), sound_rate=16000)
    with pytest.raises(InputError, match="no face"):
        prepare(empty, only="frames")
    assert not (tmp_path / "wall").exists()


def test_chunks_cover_late_and_short_sound(tmp_path: Path) -> None:
    """Sound that starts after the video and ends before it: silence on both sides, the place is kept."""
    from vivavoce.prepare import audio as step
    from vivavoce.prepare import halves

    video = steady(tmp_path / "a.mkv", seconds=2, sound=tone(1.0, 16000), sound_rate=16000, sound_at=0.4, audio_codec="pcm_s16le")
    folder = Folder(tmp_path)
    folder.update(video={"file": video.name}, frames=50, split=45)
    step.run(folder, lambda done, total: None)
    step.verify(folder)
    halves.run(folder, lambda done, total: None)
    halves.verify(folder)
    heard = audio(tmp_path / "aud.wav").abs().numpy()
    loud = np.flatnonzero(heard > 0.25)
    assert loud[0] == pytest.approx(0.4 * 16000, abs=8) and loud[-1] == pytest.approx(1.4 * 16000, abs=16)
    assert sum(len(c) for c in audio_chunks(tmp_path / "aud_novel.wav")) == 5 * HOP
