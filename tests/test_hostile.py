"""Hostile input through the command line itself: one clear line, no traceback, nothing half-written left behind.

`REFUSED`: what cannot be used. `TAKEN`: what looks odd and must work. Each case makes its files, then gives the words of
the command line and, where refused, what the one line has to say.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from tests import hostile as make
from vivavoce import cli

pytestmark = pytest.mark.assets

Case = Callable[[Path], list[str]]
GREY = np.full((256, 256, 3), 120, np.uint8)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def say(picture: object, audio: object, *more: str) -> list[str]:
    return ["run", str(picture), "--audio", str(audio), *(() if "--out" in more else ("--out", "out/said.mp4")), *more]


def face(at: Path, name: str = "face.png") -> Path:
    return make.picture(at / name)


def voice(at: Path, name: str = "voice.wav") -> Path:
    return make.wav(at / name)


def film(at: Path, frames: int = 30) -> Path:
    return make.video(at / "film.mp4", frames)


def pair(at: Path) -> tuple[Path, Path]:
    return face(at), voice(at)


def text(path: Path) -> Path:
    path.write_text("Dear diary, today I renamed a file.\n" * 20)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def patched(path: Path, at: int, number: int, count: int) -> Path:
    """A file with one number of its head changed."""
    data = path.read_bytes()
    return written(path, data[:at] + number.to_bytes(count, "little") + data[at + count :])


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("gone"))
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A pipe that nobody writes to must not be waited for."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("no answer after two minutes")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)


class Bomb:
    """What a hostile checkpoint does when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("exploded",)


def tiny_run(at: Path, weights: bytes = (1000).to_bytes(8, "little") + b'{"a":', **changes: object) -> Path:
    """A run folder of egs_talker; by itself the weights are missing their end."""
    about = {"method": "egs_talker", "preset": "tiny", "speech": "mel", "config": {}, "folder": str(at), **changes}
    return make.run_folder(at / "run", about, weights)


REFUSED: dict[str, tuple[Case, str]] = {
    # the picture
    "no face": (lambda at: say(make.picture(at / "grey.png", GREY), voice(at)), "no face"),
    "two faces": (lambda at: say(make.picture(at / "two.png", np.hstack([make.portrait()] * 2)), voice(at)), "--face"),
    "third of one face": (lambda at: say(*pair(at), "--face", "3"), "--face"),
    "no such picture": (lambda at: say(at / "gone.png", voice(at)), "no such file"),
    "empty picture": (lambda at: say(written(at / "empty.png", b""), voice(at)), "empty.png"),
    "text named png": (lambda at: say(text(at / "text.png"), voice(at)), "not a picture"),
    "cut picture": (lambda at: say(make.cut(face(at), 0.6), voice(at)), "damaged"),
    "picture bomb": (lambda at: say(make.bomb(at / "bomb.png"), voice(at)), "pixels"),
    "dangling link": (lambda at: say(dangling(at / "link.png"), voice(at)), "no such file"),
    "pipe for a picture": (lambda at: say(pipe(at / "pipe.png"), voice(at)), "pipe.png"),
    "path through a file": (lambda at: say(face(at) / "face.png", voice(at)), "no such file"),
    "a checkpoint as source": (lambda at: say(written(at / "net.pth", pickle.dumps(Bomb())), voice(at)), "net.pth"),
    # the sound
    "no such sound": (lambda at: say(face(at), at / "gone.wav"), "no such file"),
    "empty sound": (lambda at: say(face(at), written(at / "empty.wav", b"")), "empty"),
    "sound of no length": (lambda at: say(face(at), make.wav(at / "none.wav", 0)), "none.wav"),
    "text named wav": (lambda at: say(face(at), text(at / "text.wav")), "text.wav"),
    "folder for sound": (lambda at: say(face(at), folder(at / "sounds")), "folder"),
    "film without sound": (lambda at: say(face(at), make.video(at / "mute.mp4", 5, with_sound=False)), "mute.mp4"),
    "200 channels": (lambda at: say(face(at), patched(voice(at), 22, 200, 2)), "200 channels"),
    "2 GHz": (lambda at: say(face(at), patched(voice(at), 24, 2**31 - 1, 4)), "Hz"),
    "picture for sound": (lambda at: say(face(at), face(at, "other.png")), "other.png"),
    "pipe for sound": (lambda at: say(face(at), pipe(at / "pipe.wav")), "pipe.wav"),
    # where to
    "unknown ending": (lambda at: say(*pair(at), "--out", "out/said.doc"), "said.doc"),
    "no ending": (lambda at: say(*pair(at), "--out", "out/said"), "said"),
    "onto the source": (lambda at: say(film(at), voice(at), "--out", str(at / "film.mp4")), "input itself"),
    "preview onto the source": (lambda at: say(face(at, "said-preview.png"), voice(at), "--out", str(at / "said.mp4")), "input itself"),
    "onto the sound": (lambda at: say(face(at), film(at), "--out", str(at / "film.mp4")), "input itself"),
    "onto a folder": (lambda at: say(*pair(at), "--out", str(folder(at / "said.mp4"))), "said.mp4"),
    "through a file": (lambda at: say(*pair(at), "--out", str(face(at, "f.png") / "said.mp4")), "said.mp4"),
    "into a device": (lambda at: say(*pair(at), "--out", "/dev/null/said.mp4"), "said.mp4"),
    # settings
    "unknown method": (lambda at: say(*pair(at), "--renderer", "face_wrap"), "did you mean face_warp?"),
    "generator that draws": (lambda at: say(*pair(at), "--renderer", "speech_motion"), "renderer"),
    "renderer that listens": (lambda at: say(*pair(at), "--generator", "face_warp"), "generator"),
    "untrained method": (lambda at: say(*pair(at), "--renderer", "egs_talker"), "vivavoce train"),
    "unknown device": (lambda at: say(*pair(at), "--device", "tpu"), "--device tpu"),
    "size below nothing": (lambda at: say(*pair(at), "--size", "-5"), "--size"),
    "seed of a galaxy": (lambda at: say(*pair(at), "--seed", str(2**62)), "--seed"),
    "device of no number": (lambda at: say(*pair(at), "--device", "cpu:x"), "--device cpu:x"),
    "size of a stamp": (lambda at: say(*pair(at), "--size", "70"), "--size"),
    "size of a continent": (lambda at: say(*pair(at), "--size", "9000000"), "--size"),
    "blocks of nothing": (lambda at: say(*pair(at), "--block", "-1"), "--block"),
    "words of nothing": (lambda at: ["run", str(face(at)), "--text", "...", "--out", "out/said.mp4"], "nothing to say"),
    # run folders
    "empty folder": (lambda at: say(folder(at / "nothing"), voice(at)), "vivavoce prepare"),
    "run without weights": (lambda at: say(make.run_folder(at / "run", {"method": "egs_talker"}), voice(at)), "model.safetensors"),
    "run with broken config": (lambda at: say(make.run_folder(at / "run", "{", b"x"), voice(at)), "run"),
    "run with a list for config": (lambda at: say(make.run_folder(at / "run", "[1]", b"x"), voice(at)), "run"),
    "run of an unknown method": (lambda at: say(tiny_run(at, method="gone"), voice(at)), "no such method"),
    "run of an unknown setting": (lambda at: say(tiny_run(at, config={"stepz": 3}), voice(at)), "did you mean steps?"),
    "run with cut weights": (lambda at: say(tiny_run(at), voice(at)), "damaged"),
    "run with another's weights": (
        lambda at: say(tiny_run(at, weights=save({"a": torch.zeros(3)})), voice(at)),
        "other weights than egs_talker",
    ),
    "eval of no run": (lambda at: ["eval", str(folder(at / "nothing"))], "not a run folder"),
    "eval of a file": (lambda at: ["eval", str(face(at))], "face.png"),
    # prepare
    "no such film": (lambda at: ["prepare", str(at / "gone.mp4")], "no such file"),
    "empty film": (lambda at: ["prepare", str(written(at / "empty.mp4", b""))], "empty"),
    "text named mp4": (lambda at: ["prepare", str(text(at / "text.mp4"))], "text.mp4"),
    "film cut short": (lambda at: ["prepare", str(make.cut(film(at), 0.5))], "film.mp4"),
    "sound for a film": (lambda at: ["prepare", str(voice(at))], "voice.wav"),
    "picture for a film": (lambda at: ["prepare", str(face(at))], "face.png"),
    "one frame": (lambda at: ["prepare", str(film(at, 1))], "film"),
    "film without a voice": (lambda at: ["prepare", str(make.video(at / "mute.mp4", 30, with_sound=False))], "sound"),
    "film without a face": (lambda at: ["prepare", str(make.video(at / "grey.mp4", [GREY] * 30)), "--only", "landmarks"], "no face"),
    "no such step": (lambda at: ["prepare", str(film(at)), "--only", "hair"], "no such step"),
    "no such task": (lambda at: ["prepare", str(film(at)), "--task", "44"], "--task 44"),
    "no such encoder": (lambda at: ["prepare", str(film(at)), "--speech", "telepathy"], "telepathy"),
    "no such tracker": (lambda at: ["prepare", str(film(at)), "--tracker", "dog"], "dog"),
    "a size of nothing": (lambda at: ["prepare", str(film(at)), "--size", "-1"], "--size"),
    "folder through a file": (lambda at: ["prepare", str(film(at)), "--folder", str(face(at) / "x")], "face.png"),
    "folder that is a file": (lambda at: ["prepare", str(film(at)), "--folder", str(face(at))], "face.png"),
    "broken clip.json": (lambda at: ["prepare", str(written(folder(at / "me") / "clip.json", b"{").parent)], "clip.json"),
    # train
    "no such data": (lambda at: ["train", "egs_talker", str(at / "gone")], "gone"),
    "data never prepared": (lambda at: ["train", "egs_talker", str(folder(at / "nothing"))], "vivavoce prepare"),
    "data that is a file": (lambda at: ["train", "egs_talker", str(face(at))], "face.png"),
    "no such preset": (lambda at: ["train", "egs_talker", str(at), "--preset", "enormous"], "no such preset"),
    "a setting of the wrong kind": (lambda at: ["train", "egs_talker", str(at), "--steps", "many"], "--steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asset: Callable[[str], Path]
) -> None:
    for needed in ("face_landmarker", "whisper_tiny_en"):
        asset(needed)
    case, told = REFUSED[name]
    given, work = tmp_path / "given", tmp_path / "work"
    given.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    words = case(given)
    before = files(tmp_path)
    code = cli.main(words)
    err = capsys.readouterr().err
    lines = [line for line in err.strip().splitlines() if not line.startswith("note: ")]
    assert code == 2, err
    assert len(lines) == 1 and lines[0].startswith("vivavoce: "), err
    assert told in lines[0]
    assert "Traceback" not in err and "error(" not in lines[0].lower()
    new = files(tmp_path) - before
    assert not [n for n in new if Path(n).suffix in (".mp4", ".png", ".wav", ".part", ".doc")], new
    assert not [n for n in new if ".part" in n or n.startswith("work/exploded")], new


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default face, for cases about sound."""
    return face(tmp_path_factory.mktemp("spoken"))


def upright(at: Path) -> Path:
    """A phone's picture: 256 wide, 320 high, stored lying with an EXIF orientation."""
    standing = np.pad(make.portrait(), ((32, 32), (0, 0), (0, 0)), mode="edge")
    return make.picture(at / "phone.jpg", np.rot90(standing).copy(), turn=6)


PICTURES: dict[str, tuple[Callable[[Path], Path], tuple[int, int]]] = {
    "4K": (lambda at: make.picture(at / "4k.jpg", make.portrait(2160, 3840)), (1080, 1920)),
    "odd size": (lambda at: make.picture(at / "odd.png", make.portrait(251, 243)), (252, 244)),
    "portrait orientation": (upright, (320, 256)),
    "small": (lambda at: make.picture(at / "small.png", make.portrait(160, 160)), (160, 160)),
    "grey": (lambda at: make.picture(at / "grey.png", mode="L"), (256, 256)),
    "with alpha": (lambda at: make.picture(at / "clear.png", mode="RGBA"), (256, 256)),
    "CMYK": (lambda at: make.picture(at / "print.jpg", mode="CMYK"), (256, 256)),
    "JFIF": (lambda at: written(at / "me.jfif", make.picture(at / "me.jpg").read_bytes()), (256, 256)),
    "no ending": (lambda at: written(at / "me", face(at).read_bytes()), (256, 256)),
    "GIF": (lambda at: make.picture(at / "palette.gif", mode="P"), (256, 256)),
    "spaces and letters of the world": (lambda at: face(at, "mein schönes 脸 (1).png"), (256, 256)),
}


def shown(path: Path) -> tuple[int, tuple[int, int], float]:
    """Frames, size (H, W) and seconds of sound of a film, by decoding all of it."""
    with av.open(str(path)) as container:
        images = [(f.height, f.width) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        heard = sum(f.samples for f in container.decode(audio=0)) / container.streams.audio[0].rate
    return len(images), images[0], heard


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_taken(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], asset: Callable[[str], Path]) -> None:
    for needed in ("face_landmarker", "whisper_tiny_en"):
        asset(needed)
    make_it, size = PICTURES[name]
    out = tmp_path / "o ü.mp4"
    code = cli.main(["run", str(make_it(tmp_path)), "--audio", str(make.wav(tmp_path / "v.wav", 0.2)), "--out", str(out)])
    err = capsys.readouterr().err
    assert code == 0 and "video" not in err, err
    frames, found, heard = shown(out)
    assert (frames, found) == (5, size)
    assert 0.1 < heard < 0.35
    with Image.open(out.with_name("o ü-preview.png")) as preview:
        assert preview.height in (size[0], size[0] - 1)
    assert not [p for p in tmp_path.iterdir() if "part" in p.name]


SOUNDS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "silence": (lambda at: make.wav(at / "v.wav", 0.4, silent=True), 10),
    "8 kHz mono": (lambda at: make.wav(at / "v.wav", 0.4, 8000), 10),
    "stereo": (lambda at: make.wav(at / "v.wav", 0.4, 44_100, channels=2), 10),
    "5.1": (lambda at: make.sound(at / "v.m4a", "aac", "5.1", 48_000, 0.4), 10),
    "mp3": (lambda at: make.sound(at / "v.mp3", "libmp3lame", "stereo", 44_100, 0.4), 10),
    "cut wav": (lambda at: make.cut(make.wav(at / "v.wav", 0.8), 0.5), 10),
    "one sample": (lambda at: make.wav(at / "v.wav", 1 / 16_000), 1),
    "far too loud": (lambda at: make.float_wav(at / "v.wav", make.babble(0.4) * 1e6), 10),
    "not a number": (lambda at: make.float_wav(at / "v.wav", np.full(6400, np.nan)), 10),
    "a film's voice": (lambda at: make.video(at / "v.mp4", 10), 10),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_that_are_taken(
    name: str, tmp_path: Path, spoken: Path, capsys: pytest.CaptureFixture[str], asset: Callable[[str], Path]
) -> None:
    for needed in ("face_landmarker", "whisper_tiny_en"):
        asset(needed)
    make_it, expected = SOUNDS[name]
    out = tmp_path / "out.mp4"
    code = cli.main(["run", str(spoken), "--audio", str(make_it(tmp_path)), "--out", str(out)])
    assert code == 0, capsys.readouterr().err
    frames, _, heard = shown(out)
    assert abs(frames - expected) <= (3 if name in ("5.1", "mp3", "a film's voice") else 0)  # codecs pad to their own frames
    assert heard >= min(0.02, expected / 25)


FILMS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "12 frames a second": (lambda at: make.video(at / "f.mp4", 15, 12), 31),
    "60 frames a second": (lambda at: make.video(at / "f.mp4", 66, 60), 27),
    "variable rate": (lambda at: make.video(at / "f.mkv", 6, times=[0, 40, 90, 400, 420, 1160]), 30),
    "odd size": (lambda at: make.video(at / "f.mp4", [make.portrait(251, 243)] * 28), 28),
    "upright": (lambda at: make.video(at / "f.mp4", [np.pad(make.portrait(), ((64, 64), (0, 0), (0, 0)), mode="edge")] * 28), 28),
    "scratched": (lambda at: make.scratched(make.video(at / "f.mp4", 60)), 60),
    "MPEG-4 in AVI": (lambda at: make.video(at / "f.avi", 28, codec="mpeg4"), 30),
}


@pytest.mark.parametrize("name", FILMS)
def test_films_that_are_taken(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], asset: Callable[[str], Path]) -> None:
    """Prepared as far as the landmarks: frames are on the clock of 25 a second, every one has its row."""
    asset("face_landmarker")
    make_it, expected = FILMS[name]
    code = cli.main(["prepare", str(make_it(tmp_path)), "--folder", str(tmp_path / "me"), "--only", "landmarks"])
    assert code == 0, capsys.readouterr().err
    about = json.loads((tmp_path / "me" / "clip.json").read_text())
    if name == "scratched":
        assert 25 <= about["frames"] <= 61  # what could be decoded
    else:
        assert abs(about["frames"] - expected) <= 1
    assert len(np.load(tmp_path / "me" / "landmarks.npy")) == about["frames"]
    assert len(list((tmp_path / "me" / "ori_imgs").glob("*.jpg"))) == about["frames"]


def test_a_portrait_is_left_alone_and_its_film_is_as_large_as_asked(tmp_path: Path, asset: Callable[[str], Path]) -> None:
    """`run me.png --out me.mp4`: the picture beside the film does not take the portrait's name."""
    for needed in ("face_landmarker", "whisper_tiny_en"):
        asset(needed)
    me = face(tmp_path, "me.png")
    before, out = me.read_bytes(), tmp_path / "me.mp4"
    assert cli.main(["run", str(me), "--audio", str(make.wav(tmp_path / "v.wav", 0.1)), "--out", str(out), "--size", "300"]) == 0
    assert me.read_bytes() == before and (tmp_path / "me-preview.png").is_file()
    assert shown(out)[1] == (300, 300)


def test_two_faces_are_told_apart(tmp_path: Path, asset: Callable[[str], Path]) -> None:
    """--face 2 moves the right-hand face and leaves the other as it is."""
    for needed in ("face_landmarker", "whisper_tiny_en"):
        asset(needed)
    two = make.picture(tmp_path / "two.png", np.hstack([make.portrait()] * 2))
    out = tmp_path / "out.mp4"
    assert cli.main(["run", str(two), "--audio", str(make.wav(tmp_path / "v.wav", 0.6)), "--out", str(out), "--face", "2"]) == 0
    with av.open(str(out)) as container:
        images = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(float)
    moved = np.abs(images - images[:1]).mean((0, 1, 3))
    assert moved[256:].mean() > 4 * moved[:256].mean()


def limited(words: list[str], cwd: Path, most: int) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files may not grow beyond `most` bytes: what a full disk does to a writer."""

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    code = "import sys; from vivavoce.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, preexec_fn=limit)


@pytest.mark.parametrize("verb", ["run", "prepare"])
def test_full_disk(verb: str, tmp_path: Path, asset: Callable[[str], Path]) -> None:
    for needed in ("face_landmarker", "whisper_tiny_en"):
        asset(needed)
    if verb == "run":
        words = say(make.picture(tmp_path / "face.png"), make.wav(tmp_path / "v.wav", 2.0))
    else:
        words = ["prepare", str(make.video(tmp_path / "film.mp4", 30)), "--folder", "me", "--only", "frames"]
    done = limited(words, tmp_path, 6000)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("note: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "full" in lines[0] or "too large" in lines[0].lower()
    assert not [p for p in tmp_path.rglob("*") if "part" in p.name.lower() or p.name == "said.mp4"]
