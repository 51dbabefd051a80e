"""A data set becomes shards: what is in them, what is left out and why, and that a kill at any moment changes nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
import time
import wave
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.films import number, steady, tone
from vivavoce import cli, media, speech
from vivavoce.data.faces import Faces, packed
from vivavoce.data.layouts import Recording
from vivavoce.data.shards import Shards
from vivavoce.face.box import face_box
from vivavoce.face.landmarker import Landmarker
from vivavoce.methods.wav2lip import Wav2Lip
from vivavoce.prepare import corpus as module
from vivavoce.prepare.corpus import corpus, finder, jobs_of, place_of, shard
from vivavoce.prepare.faces import samples
from vivavoce.prepare.people import People
from vivavoce.speech import windows
from vivavoce.types import InputError

SIDE = 48
SHAPE = np.stack(np.meshgrid(np.linspace(8, 24, 17), np.linspace(8, 24, 4)), -1).reshape(68, 2)  # landmarks of nobody
SHAPE[36:48, 1], SHAPE[33, 1] = 12, 17


def person(at: Path, frames: int = 12, shade: int = 90, gap: int = -1) -> Path:
    """A grey folder of the lineage with its landmarks; without a face in frame `gap`."""
    (at / "ori_imgs").mkdir(parents=True)
    for k in range(frames):
        Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(at / "ori_imgs" / f"{k}.jpg")
        if k != gap:
            (at / "ori_imgs" / f"{k}.lms").write_text("\n".join(f"{x} {y}" for x, y in SHAPE))
    media.write_audio(at / "aud.wav", [torch.from_numpy(tone(frames / 25, 16000, level=shade / 255)[0])])
    return at


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Ten people and one whose sound is missing: shards of four."""
    root = tmp_path / "people"
    for k in range(10):
        person(root / f"p{k}", frames=10 + k, shade=56 + 16 * k)
    person(root / "p3b")
    (root / "p3b" / "aud.wav").write_bytes(b"RIFF")
    return root


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are made in this process: the others cost seconds to start."""

    def one_by_one(todo: list[Any], count: int, tell: Any) -> dict[str, Any]:
        return {job.name: shard(job, lambda k, name=job.name: tell(name, k, None)) for job in todo}

    monkeypatch.setattr(module, "_by_processes", one_by_one)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_shards_hold_what_the_data_set_holds(people: Path, here: None, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    made = corpus(f"ad_nerf:{people}", side=SIDE, folder=tmp_path / "out", report=lambda *a: told.append(a))
    assert sorted(contents(made.folder)) == sorted(
        ["index.json", "broken.csv", *(f"faces-0000{k}.{kind}" for k in range(3) for kind in ("tar", "json"))]
    )
    assert told[0] == (0, 11, 0) and [b["id"] for b in made.broken] == ["p3b"]
    rows = list(csv.DictReader((made.folder / "broken.csv").open()))
    assert len(rows) == 1 and rows[0]["video"].endswith("p3b/ori_imgs") and "aud.wav" in rows[0]["reason"]
    assert made.index["clips"] == 11 and made.index["broken"] == 1 and made.index["frames"] == sum(range(10, 20))
    assert made.index["terms"] and made.index["splits"]["val"]["identities"] == 1
    with tarfile.open(made.folder / "faces-00000.tar") as tar:  # plain tar, plain members: for readers that know nothing of us
        names = tar.getnames()
        assert names[:6] == [f"p0+000000.{kind}" for kind in ("json", "mjpeg", "wav", "landmarks.npy", "ends.npy", "columns.npy")]
        about = json.load(tar.extractfile("p1+000000.json"))  # type: ignore[arg-type]
        assert about["identity"] == "p1" and about["split"] in ("train", "val", "test") and about["frames"] == 11
        with wave.open(tar.extractfile("p1+000000.wav")) as sound:  # type: ignore[arg-type]
            assert (sound.getframerate(), sound.getnframes()) == (16000, 11 * 640)
        film = tmp_path / "p1.mjpeg"
        film.write_bytes(tar.extractfile("p1+000000.mjpeg").read())  # type: ignore[union-attr]
        assert len(list(media.frames(film))) == 11 and next(media.frames(film)).shape == (SIDE, SIDE, 3)
    source = Faces(made.folder, "all")
    assert source.size == (SIDE, SIDE) and len(source) == 145
    levels = source.clip(source.spans[:, 0]).frames
    assert levels is not None and np.allclose(levels.mean((1, 2, 3)) * 255, [56 + 16 * k for k in range(10)], atol=1.5), (
        "in the order of ids"
    )


def shade(folder: Path, split: str) -> np.ndarray:  # -> [N] which of the ten people each row shows
    frames = Faces(folder, split).clip(slice(None), {"frames"}).frames
    assert frames is not None
    return np.floor(frames.mean((1, 2, 3)).numpy() * 255 / 16 - 3)


def test_who_is_held_out_is_never_trained_on(people: Path, here: None) -> None:
    made = corpus(f"ad_nerf:{people}", side=SIDE)
    assert made.folder == place_of(f"ad_nerf:{people}", SIDE) and packed(made.folder)
    shades = [np.unique(shade(made.folder, split)) for split in ("train", "val", "test")]
    assert [len(s) for s in shades] == [8, 1, 1] and len(np.unique(np.concatenate(shades))) == 10
    with pytest.raises(InputError, match="no such split"):
        Faces(made.folder, "held")


def test_a_run_that_is_killed_goes_on_and_makes_the_same(people: Path, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, whole, cut = f"ad_nerf:{people}", tmp_path / "whole", tmp_path / "cut"
    corpus(data, whole, side=SIDE)
    true, seen = samples, list[str]()

    def dying(recording: Recording, *rest: Any) -> Any:
        seen.append(recording.id)
        if recording.id == "p5":
            raise KeyboardInterrupt
        return true(recording, *rest)

    monkeypatch.setattr(module, "samples", dying)
    with pytest.raises(KeyboardInterrupt):
        corpus(data, cut, side=SIDE)
    assert sorted(contents(cut)) == ["faces-00000.json", "faces-00000.tar"] and not packed(cut), "the second shard left nothing"
    with pytest.raises(InputError, match="no packed faces"):
        Faces(cut)
    monkeypatch.setattr(module, "samples", true)
    corpus(data, cut, side=SIDE)
    assert contents(cut) == contents(whole)
    monkeypatch.setattr(module, "samples", dying)
    seen.clear()
    assert corpus(data, cut, side=SIDE).index == corpus(data, whole, side=SIDE).index and not seen, "what is whole is not made again"


def test_only_what_changed_is_made_again(people: Path, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = f"ad_nerf:{people}", tmp_path / "out"
    corpus(data, out, side=SIDE)
    true, seen = samples, list[str]()
    monkeypatch.setattr(module, "samples", lambda r, *rest: (seen.append(r.id), true(r, *rest))[1])
    with open(out / "faces-00001.tar", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="has 1000 bytes"):
        Faces(out)
    corpus(data, out, side=SIDE)
    assert seen == ["p3b", "p4", "p5", "p6"]
    for name in ("p3b", "p7", "p8", "p9"):
        (people / name / "aud.wav").unlink()  # eight are left, and two shards
    corpus(data, out, side=SIDE)
    assert sorted(p.name for p in out.glob("*.tar")) == ["faces-00000.tar", "faces-00001.tar"] and len(Shards(out).frames) == 7


WORKER = """
import json, os, signal, sys
for line in sys.stdin:
    job = json.loads(line)
    for k in range(len(job["clips"])):
        print(json.dumps({"clip": k}), flush=True)
        if job["clips"][k]["identity"] == "p1" and str(k) not in job["lost"]:
            os.kill(os.getpid(), signal.SIGSEGV)
    print(json.dumps({"made": {"broken": [], "lost": job["lost"]}}), flush=True)
"""


def test_a_process_that_is_lost_costs_one_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that goes down with its process, played by a small program."""

    def started() -> subprocess.Popen[str]:
        begun.append(subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    begun, told = list[subprocess.Popen[str]](), list[tuple[str, int]]()
    monkeypatch.setattr(module, "_started", started)
    jobs = jobs_of([Recording(f"{k}", "", f"p{k}") for k in range(10)], Path("out"))
    made = module._by_processes(jobs, 2, lambda name, done, lists: told.append((name, done)))
    assert len(begun) == 3 and all(child.poll() is not None for child in begun)
    assert {name: lists["lost"] for name, lists in made.items()} == {
        "faces-00000": {"1": "the process that read it was lost (SIGSEGV)"}, "faces-00001": {}, "faces-00002": {},
    }  # fmt: skip
    assert [done for name, done in told if name == "faces-00000"] == [0, 1, 0, 1, 2, 3, 4]
    monkeypatch.setattr(module, "_started", lambda: subprocess.Popen(["false"], stdin=-1, stdout=-1, text=True))
    with pytest.raises(RuntimeError, match="cannot run"):
        module._by_processes(jobs, 2, lambda *a: None)


@pytest.mark.assets
def test_nothing_of_use(tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch, asset: Callable[[str], Path]) -> None:
    asset("face_landmarker")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"none of its 1 clips could be used; the first: .*a\.mp4"):
        corpus(f"videos:{tmp_path / 'in'}")
    monkeypatch.setattr(module, "samples", lambda *a: 1 // 0)  # a fault of ours, or of a codec, is listed too
    with pytest.raises(InputError, match="ZeroDivisionError"):
        corpus(f"videos:{tmp_path / 'in'}", tmp_path / "other")
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    monkeypatch.setenv("VIVAVOCE_ASSETS", "")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="face_landmarker"):  # that is no clip's fault, and nothing is written down
        corpus(f"videos:{tmp_path / 'in'}", tmp_path / "third")
    assert not any((tmp_path / "third").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        corpus(f"videos:{tmp_path / 'in'}", tmp_path / "file" / "out")


def test_stretches_and_sound_that_ends_early(tmp_path: Path) -> None:
    at = person(tmp_path / "p", frames=40, gap=12)
    whole = Recording("p", str(at / "ori_imgs"), "p", str(at / "aud.wav"), landmarks=str(at / "ori_imgs"))
    assert [(s.key, s.about["first"], len(s.pictures)) for s in samples(whole, finder, SIDE)] == [("p+000000", 0, 12), ("p+000013", 13, 27)]
    for seconds, frames in ((1.54, 40), (1.2, 30)):  # two frames are filled up with silence, ten are left out
        media.write_audio(at / "aud.wav", [torch.zeros(round(seconds * 16000))])
        assert sum(len(s.pictures) for s in samples(whole, finder, SIDE)) == frames - 1
    media.write_audio(at / "aud.wav", [torch.zeros(8000)])
    with pytest.raises(InputError, match=r"ends 1\.1 s before"):
        samples(whole, finder, SIDE)


def test_a_time_and_a_place_in_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = steady(tmp_path / "a.mp4", seconds=2.0, sound=tone(2.0, 16000, beep=1.0), sound_rate=16000)
    assert [number(f) for f in islice(media.frames(film, start=0.8), 5)] == [20, 21, 22, 23, 24]
    shown = list[np.ndarray]()
    points = torch.from_numpy(SHAPE).float().expand(20, 68, 2)
    monkeypatch.setattr("vivavoce.prepare.faces._landmarks", lambda r, pictures, f: (shown.extend(pictures), [points])[1])
    part = Recording("a", str(film), "a", span=(0.8, 1.6), box=(4, 4, 36, 28), box_of=(24, 0))  # in a picture of half the size
    (made,) = samples(part, finder, SIDE)
    monkeypatch.setattr("vivavoce.prepare.faces.MEMORY", 30000)  # a film that is too long to be kept is decoded again
    assert samples(part, finder, SIDE)[0].pictures == made.pictures
    assert len(made.pictures) == 20 and made.sound.shape == (20 * 640,)
    assert np.abs(made.sound[: 4 * 640]).max() < 0.05 < np.abs(made.sound[5 * 640 + 200 :]).max(), "the beep is 0.2 s after the start"
    assert shown[0].shape == (46, 62, 3), "a tenth of its longer side more on each side, as far as the picture goes"
    with pytest.raises(InputError, match="outside its 64 x 48"):
        samples(Recording("a", str(film), "a", box=(90, 4, 99, 28), box_of=(24, 32)), finder, SIDE)


def test_who_speaks_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who share the screen for a while: of a clip that was cut to the speaker each is used where nobody else is."""
    film = steady(tmp_path / "a.mp4", seconds=2.0, sound=tone(2.0, 16000), sound_rate=16000)
    both = np.broadcast_to(SHAPE, (2, 50, 68, 2)).astype(np.float32).copy()
    both[0, 30:], both[1, :20] = np.nan, np.nan
    monkeypatch.setattr("vivavoce.prepare.faces.people", lambda pictures, found: People(list(both), 50))
    with pytest.raises(InputError, match="2 people found"):
        samples(Recording("a", str(film), "a"), lambda: None, SIDE)  # type: ignore[arg-type,return-value]
    made = samples(Recording("a", str(film), "a", speaker=True), lambda: None, SIDE)  # type: ignore[arg-type,return-value]
    assert [(s.about["first"], len(s.pictures)) for s in made] == [(0, 20), (30, 20)]


def test_single_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Two films of eleven and twenty-two rows, as `faces_<n>.safetensors`."""
    from vivavoce.prepare.faces import _crop

    data, inside = _crop(np.full((32, 32, 3), 120, np.uint8), torch.from_numpy(SHAPE).float(), SIDE)
    counts, columns = (11, 22), [36 + 16, 71 + 16]
    save_file(
        {
            "pictures": torch.frombuffer(bytearray(data * 33), dtype=torch.uint8),
            "ends": (torch.arange(33) + 1) * len(data),
            "landmarks": inside.expand(33, 68, 2).contiguous(),
            "films": torch.tensor([[0, 11, 0], [11, 22, columns[0]]]),
            "columns": torch.arange(sum(columns))[:, None].expand(-1, 80).half().contiguous(),
        },
        tmp_path / "faces_000.safetensors",
    )
    assert packed(tmp_path)
    train, held = Faces(tmp_path, "train"), Faces(tmp_path, "val")
    assert train.spans.tolist() == [[0, 10], [10, 20]] and held.spans.tolist() == [[0, 1], [1, 2]] and sum(counts) == 33
    clip = Faces(tmp_path, "all").clip([0, 1, 11, 12], {"speech", "landmarks", "index", "frames"})
    assert clip.speech is not None and clip.speech.shape == (4, 2, 640) and clip.index is not None
    assert clip.speech[:, 0, 0].tolist() == [0, 0, 0, 52], "from one frame earlier on; nothing is heard before a film"
    assert clip.speech[1, 0, 80] == 1 and clip.index.tolist() == [0, 1, 11, 12]


def test_the_command_line(people: Path, here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = f"ad_nerf:{people}"
    assert cli.main(["train", "egs_talker", "--data", data]) == 2 and "which faces of a data set do not hold" in capsys.readouterr().err
    assert cli.main(["train", "wav2lip", str(people), "--data", data]) == 2 and "one FOLDER, or --data" in capsys.readouterr().err
    assert cli.main(["prepare", "--data", data, "--task", "3"]) == 2 and "--task: does not go with --data" in capsys.readouterr().err
    assert cli.main(["prepare", "--data", "lsr2:/x"]) == 2 and "did you mean lrs2?" in capsys.readouterr().err
    said = ["train", "lip_expert", "--data", data, "--preset", "tiny", "--steps", "2", "--check-every", "0"]
    assert cli.main(said) == 0
    out = capsys.readouterr()
    assert "is not prepared yet" in out.out and "1 of 11 clips are of no use" in out.err
    assert json.loads((place_of(data) / "runs/lip_expert/config.json").read_text())["data"] == [data]
    assert cli.main(said) == 0 and "not prepared" not in capsys.readouterr().out
    assert cli.main(["list", "--data"]) == 0 and "celebv_hq" in capsys.readouterr().out


@pytest.mark.real
def test_faces_of_real_speakers(shared_data: Path, here: None, tmp_path: Path) -> None:
    """A clip of GRID and one of VoxCeleb's kind beside a wall: the crops are the films' faces, and the sound is theirs."""
    (tmp_path / "in").mkdir()
    speaker, other = shared_data / "grid_multi" / "1448a660_sbwe5n.mpg", shared_data / "vox_clips" / "74693744_00067.mp4"
    (tmp_path / "in" / "a_sbwe5n.mpg").symlink_to(speaker)
    steady(tmp_path / "in" / "wall.mp4", seconds=0.5, sound=tone(0.5, 16000), sound_rate=16000)
    made = corpus(f"videos:{tmp_path / 'in'}")
    assert [b["id"] for b in made.broken] == ["wall"] and "no face" in made.broken[0]["reason"]
    source = Faces(made.folder, "all", Wav2Lip.window)
    assert len(source) == 75 and source.size == (112, 112) and source.spans.tolist() == [[0, 75]]
    assert len(Faces(made.folder, "train")) == 69 and len(Faces(made.folder, "val")) == 6
    clip = source.clip(slice(0, 30), Wav2Lip.needs)
    assert clip.landmarks is not None and clip.speech is not None and clip.frames is not None
    heard = windows(speech.encode(speech.load("mel_wav2lip"), media.audio(speaker)), *Wav2Lip.window)
    assert (clip.speech - heard[:30]).abs().max() < 4e-3  # float16
    box = face_box(clip.landmarks)
    assert ((box[:, 3] - box[:, 1]) * 1.2 - 112).abs().max() < 0.1  # the face fills the crop
    seen = Landmarker()((clip.frames[5].permute(1, 2, 0) * 255).byte().numpy())[0]
    assert np.abs(seen.landmarks68 - clip.landmarks[5].numpy()).mean() < 2  # px: the landmarks lie on the face
    with pytest.raises(InputError, match="camera"):
        source.clip([0], {"camera"})
    turned = Recording("v", str(other), "v", span=(0.0, 0.8))
    assert sum(len(s.pictures) for s in samples(turned, finder)) == 20
    both = Faces([made.folder, made.folder], "train")  # several data sets at once
    assert len(both) == 138 and both.clip([0, 69]).frames is not None


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_and_goes_on(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vivavoce.cli", "prepare", "--data", f"ad_nerf:{people}", "--folder", str(out), "--jobs", "2"]
    first = subprocess.Popen(command)
    while not any(out.glob("*.json")) and first.poll() is None:
        time.sleep(0.01)
    children = [Path("/proc") / pid for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    first.kill()
    first.wait()
    until = time.monotonic() + 60
    while any(child.exists() for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(child.exists() for child in children)
    subprocess.run(command, check=True)
    corpus(f"ad_nerf:{people}", tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole") and len(Shards(out).frames) == 10


@pytest.mark.slow
@pytest.mark.assets
def test_a_local_ray_makes_the_same(people: Path, here: None, tmp_path: Path) -> None:
    import ray

    told: list[tuple[int, int, int]] = []
    try:
        corpus(f"ad_nerf:{people}", tmp_path / "ray", side=SIDE, cluster="", report=lambda *a: told.append(a))
    finally:
        ray.shutdown()
    corpus(f"ad_nerf:{people}", tmp_path / "own", side=SIDE)
    assert contents(tmp_path / "ray") == contents(tmp_path / "own") and told[-1] == (11, 11, 1)
