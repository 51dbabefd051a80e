"""`serve` without a browser: orders over REST, the queue, what is refused, and who may come in."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests import hostile
from tests.synthetic import SyntheticPerson
from vivavoce import run, speech, tts
from vivavoce.cli import main
from vivavoce.media import frames, pixels
from vivavoce.serve import api, live, marks, stage, uploads
from vivavoce.serve.guard import Guard
from vivavoce.serve.jobs import Job, Jobs, Order, Unknown, actors
from vivavoce.serve.server import Server, Settings
from vivavoce.types import InputError

pytest.importorskip("fastapi", reason="needs the extra: pip install 'vivavoce[serve]'")
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

SIZE = 64
HOME = "http://127.0.0.1:9995"
LIVE = "ws://127.0.0.1:9995/api/live"


class Drawn(SyntheticPerson):
    """The made-up person as a portrait."""

    full = (SIZE, SIZE)
    paste = None


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A face of 64 px that needs no finding, and no Whisper: each film takes a moment."""
    load = speech.load

    def refuse(name: str, device: str = "cpu") -> speech.Encoder:
        if name == "whisper":
            raise InputError("whisper_tiny_en", "is not on this machine", "run: vivavoce assets fetch whisper_tiny_en")
        return load(name, device)

    monkeypatch.setattr(speech, "load", refuse)
    monkeypatch.setattr(run, "_portrait", lambda path, options, notes: Drawn(SIZE, 1))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    queue = Jobs(tmp_path / "work", uploads.Limits(upload=1 << 20, seconds=9, waiting=3), device="cpu")
    yield queue
    queue.close()


@pytest.fixture
def client(jobs: Jobs) -> TestClient:
    return TestClient(Guard(api.build(jobs), most=jobs.limits.upload), base_url=HOME)


@pytest.fixture
def face(tmp_path: Path) -> bytes:
    return hostile.picture(tmp_path / "face.jpg", turn=6).read_bytes()


def voice(path: Path, seconds: float = 0.2) -> bytes:
    return hostile.wav(path / "voice.wav", seconds).read_bytes()


def sent(client: TestClient, source: bytes, audio: bytes, name: str = "face.jpg", **more: str) -> Any:
    return client.post("/api/jobs", files={"source": (name, source), "audio": ("voice.wav", audio)}, data={"consent": "true"} | more)


def until(client: TestClient, name: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told: dict[str, Any] = client.get(f"/api/jobs/{name}").json()
        if wanted(told):
            return told
        time.sleep(0.02)
    raise AssertionError(f"still {told}")


def ended(told: dict[str, Any]) -> bool:
    return told["state"] in ("done", "failed", "stopped")


def test_an_order_becomes_a_film_that_says_what_it_is(client: TestClient, jobs: Jobs, face: bytes, tmp_path: Path) -> None:
    answer = sent(client, face, voice(tmp_path), "../../../evil\0.jpg", mark="both", eyes="fixed", seed="3")
    assert answer.status_code == 202, answer.text
    name = answer.json()["id"]
    told = until(client, name, ended)
    assert told["state"] == "done" and told["done"] == told["total"] == 5 and "mel instead of whisper" in told["notes"][0]
    film = tmp_path / "got.mp4"
    film.write_bytes(client.get(f"/api/jobs/{name}/film").content)
    assert len(list(frames(film))) == 5
    with av.open(str(film)) as container:
        about = container.metadata
    assert about["comment"].startswith("made with vivavoce") and marks.LABEL in about["description"] and about["date"][:2] == "20"
    strip = Image.open(io.BytesIO(client.get(f"/api/jobs/{name}/preview").content))
    assert strip.height == SIZE and strip.width >= 2 * SIZE
    folder = jobs.folder / name
    assert {p.name for p in folder.iterdir()} == {"source.png", "sound", "film.mp4", "film-preview.png", "job.json"}
    assert {p.name for p in jobs.folder.iterdir()} == {name} and not list(tmp_path.parent.glob("evil*"))
    kept = json.loads((folder / "job.json").read_text())
    assert kept["consent"] and kept["options"]["seed"] == 3 and kept["options"]["eyes"] == "fixed" and len(kept["inputs"]) == 2
    picture = Image.open(folder / "source.png")
    assert not picture.getexif() and picture.size == (256, 256)
    assert client.delete(f"/api/jobs/{name}").status_code == 200
    assert client.get(f"/api/jobs/{name}").status_code == 404 and not folder.exists()


def test_two_users_wait_for_each_other_and_each_gets_their_own(client: TestClient, jobs: Jobs, face: bytes, tmp_path: Path) -> None:
    first, second = (sent(client, face, voice(tmp_path, seconds)).json() for seconds in (0.2, 0.12))
    assert first["id"] != second["id"] and second["place"] <= 1
    assert [until(client, order["id"], ended)["done"] for order in (first, second)] == [5, 3]


def test_a_running_job_is_stopped_and_leaves_nothing(client: TestClient, jobs: Jobs, face: bytes, tmp_path: Path) -> None:
    running, waiting = (sent(client, face, voice(tmp_path, 8)).json()["id"] for _ in range(2))
    until(client, running, lambda told: told["done"] > 4)
    assert client.get(f"/api/jobs/{running}/frame").headers["content-type"] == "image/jpeg"
    assert client.get(f"/api/jobs/{running}/film").json()["cause"] == "is running, it has no film"
    assert client.delete(f"/api/jobs/{waiting}").json()["state"] == "stopped"
    client.delete(f"/api/jobs/{running}")
    told = until(client, running, ended)
    assert told["state"] == "stopped" and told["done"] < 200
    assert all([p.name for p in (jobs.folder / name).iterdir()] == ["job.json"] for name in (running, waiting))


def bad(kind: str, tmp_path: Path) -> bytes:
    if kind == "bomb":
        return hostile.bomb(tmp_path / "b.png").read_bytes()
    if kind == "sound":
        return voice(tmp_path)
    if kind == "program":
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + b"(id) (w) file\n" * 99
    return {"words": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "list": b"#EXTM3U\nfile:///etc/passwd\n", "nothing": b""}[kind]


@pytest.mark.parametrize("kind", ["bomb", "sound", "program", "words", "list", "nothing"])
def test_what_is_no_portrait_is_refused_in_words(client: TestClient, jobs: Jobs, kind: str, tmp_path: Path) -> None:
    answer = sent(client, bad(kind, tmp_path), voice(tmp_path), "face.png")
    told = answer.json()
    assert answer.status_code == 422 and told["subject"] == "portrait" and told["cause"] and told["remedy"]
    assert str(tmp_path) not in answer.text and not list(jobs.folder.iterdir())


@pytest.mark.parametrize(
    ("more", "subject"),
    [
        ({"consent": "false"}, "consent"),
        ({"text": "hello"}, "audio"),
        ({"actor": "../../etc"}, "portrait"),
        ({"renderer": "/etc"}, "renderer"),
        ({"renderer": "egs_talker"}, "renderer"),  # has to be trained first
        ({"generator": "runs/mine"}, "generator"),
        ({"pose": "poses.npy"}, "pose"),
        ({"background": "/etc/passwd"}, "background"),
        ({"size": "9999"}, "size"),
        ({"size": "many"}, "size"),
        ({"seed": "-1"}, "seed"),
        ({"mark": "gold"}, "mark"),
    ],
)
def test_wishes_that_cannot_be_had(client: TestClient, jobs: Jobs, face: bytes, tmp_path: Path, more: dict[str, str], subject: str) -> None:
    answer = sent(client, face, voice(tmp_path), **more)
    assert answer.status_code == 422 and answer.json()["subject"] == subject, answer.text
    assert not list(jobs.folder.iterdir())


def test_too_much(client: TestClient, jobs: Jobs, face: bytes, tmp_path: Path) -> None:
    answer = sent(client, face, bytes(jobs.limits.upload))
    assert answer.status_code == 413 and "larger than 1 MB" in answer.json()["cause"]
    pieces = (b"x" * (1 << 20) for _ in range(2))  # a length that nobody declared
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert client.post("/api/jobs", content=pieces, headers=kind).status_code == 413
    answer = sent(client, face, voice(tmp_path, 10))
    assert answer.status_code == 422 and "at most 9 " in answer.json()["cause"]
    many = [sent(client, face, voice(tmp_path, 8)) for _ in range(5)]
    assert [a.status_code for a in many][:4] in ([202] * 4, [202, 202, 202, 429]) and many[-1].status_code == 429


def test_sound_that_lies_about_its_length_is_cut_off(jobs: Jobs, face: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = uploads.probe
    monkeypatch.setattr(jobs, "limits", uploads.Limits(seconds=0.12))
    monkeypatch.setattr(uploads, "probe", lambda path: (info := true(path)) and type(info)(**vars(info) | {"audio_duration": 0.1}))
    job = jobs.add(Order(io.BytesIO(face), audio=io.BytesIO(voice(tmp_path, 1)), consent=True))
    finished(job)
    assert job.state == "failed" and job.error is not None and job.error["cause"] == "lasts longer than 0.12 s"


def finished(job: Job) -> None:
    end = time.monotonic() + 60
    while not (job.ended and f'"state": "{job.state}"' in (job.folder / "job.json").read_text()) and time.monotonic() < end:
        time.sleep(0.02)  # what is told is written a moment later


def test_a_fault_of_a_job_is_told_without_places_and_the_next_one_runs(
    jobs: Jobs, face: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, options: run.Options, notes: list[str]) -> Any:
        raise InputError(path, "no face found", "use another") if options.seed else RuntimeError(str(path))

    monkeypatch.setattr(run, "_portrait", refuse)
    orders = [Order(io.BytesIO(face), audio=io.BytesIO(voice(tmp_path)), consent=True, wishes={"seed": k}) for k in (0, 1)]
    ours, theirs = map(jobs.add, orders)
    finished(theirs)
    assert ours.error == {"subject": "vivavoce", "cause": "a fault of ours (RuntimeError)", "remedy": "see the server's log"}
    assert theirs.error == {"subject": "portrait", "cause": "no face found", "remedy": "use another"}


def test_a_new_server_finds_the_films_and_drops_the_rest(jobs: Jobs, face: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = jobs.add(Order(io.BytesIO(face), audio=io.BytesIO(voice(tmp_path)), consent=True))
    finished(done)
    broken = jobs.folder / ("0" * 32)
    broken.mkdir()
    (broken / "job.json").write_text('{"state": "running"}')
    monkeypatch.setattr("vivavoce.serve.jobs.IDLE", 0.05)
    again = Jobs(tmp_path / "work", uploads.Limits(keep=1))
    try:
        assert again.told(again.get(done.id))["state"] == "done" and not broken.exists()
        again.get(done.id).ended -= 3601
        end = time.monotonic() + 20
        while done.folder.exists() and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(Unknown):
            again.get(done.id)
    finally:
        again.close()


def test_trained_runs_are_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    hostile.run_folder(tmp_path / "runs" / "anna", {"method": "egs_talker"}, b"x")
    hostile.run_folder(tmp_path / "runs" / "moves", {"method": "speech_motion"}, b"x")
    hostile.run_folder(tmp_path / "runs" / "broken", "{", b"x")
    found = actors(tmp_path)
    assert found == {"runs/anna": tmp_path / "runs" / "anna"}
    queue = Jobs(tmp_path / "work", actors=found)
    with pytest.raises(InputError, match="choose from: runs/anna"):
        queue.add(Order(actor="runs/moves", text="hello", consent=True))
    queue.close()


def test_who_may_come_in(jobs: Jobs) -> None:
    app = api.build(jobs)
    home, abroad = TestClient(Guard(app), base_url=HOME), TestClient(Guard(app, "secret", "0.0.0.0"), base_url="http://films.example")
    assert home.get("/api/about").json()["limits"]["waiting"] == 3
    assert home.get("/api/about", headers={"host": "films.example"}).status_code == 403  # DNS rebinding
    assert home.post("/api/jobs", headers={"origin": "http://evil.example"}).status_code == 403
    assert home.post("/api/jobs", headers={"origin": HOME}).json()["subject"] == "consent"
    assert abroad.get("/api/about").status_code == 401 and abroad.get("/api/docs").status_code == 401
    for wrong in ("", "Bearer ", "Bearer secre", "Bearer sécret"):
        assert abroad.get("/api/about", headers={"authorization": wrong.encode()}).status_code == 401
    assert abroad.get("/api/about", headers={"authorization": "Bearer secret"}).status_code == 200
    for path in ("/api/jobs/..%2f..%2fsecret", "/api/jobs/../../job.json/film", "/api/jobs/%2e%2e/film"):
        assert home.get(path).status_code == 404


def test_whatever_is_wrong_comes_in_the_same_form(client: TestClient, face: bytes, tmp_path: Path) -> None:
    said = voice(tmp_path)
    form = {"content-type": "multipart/form-data; boundary=x"}
    for answer, status, subject in (
        (client.get("/api/nothing"), 404, "GET /api/nothing"),
        (client.put("/api/jobs"), 404, "PUT /api/jobs"),
        (client.post("/api/jobs", json={"consent": True}), 422, "Content-Type"),
        (client.post("/api/jobs", content=b"garbage", headers=form), 400, "POST /api/jobs"),
        (sent(client, face, said, smoothlips="true"), 422, "smoothlips"),
        (sent(client, face, said, size="large"), 422, "size"),
        (client.post("/api/jobs", data={"consent": "true", "source": "me"}, files={"audio": ("a.wav", said)}), 422, "source"),
    ):
        told = answer.json()
        assert (answer.status_code, told["subject"]) == (status, subject) and told["cause"] and told["remedy"], told


def test_the_description_names_everything_and_loads_nothing(client: TestClient) -> None:
    schema = client.get("/api/openapi.json").json()
    assert set(schema["paths"]) == {
        "/api/about", "/api/jobs", "/api/jobs/{name}", "/api/jobs/{name}/frame", "/api/jobs/{name}/film", "/api/jobs/{name}/preview"
    }  # fmt: skip
    page = client.get("/api/docs").text
    assert "POST /api/jobs" in page and "smooth_lips" in page and "http" not in page.replace("https://", "x") and "<script" not in page


def test_the_hidden_mark_is_found_where_it_was_put_and_nowhere_else(tmp_path: Path) -> None:
    still = np.repeat(hostile.portrait(256, 256)[None], 12, 0)
    marked = marks.hidden(still)
    assert 10 * np.log10(255**2 / np.mean((marked.astype(float) - still) ** 2)) > 45
    plain, made = (hostile.video(tmp_path / f"{k}.mp4", list(images)) for k, images in enumerate((still, marked)))
    assert abs(marks.found(plain)) < 4 and marks.found(made) > marks.SURE


def spoken(line: Any, face: bytes, **wishes: Any) -> dict[str, Any]:
    """The first words of a live session."""
    line.send_text(json.dumps({"consent": True} | wishes))
    line.send_bytes(face)
    told: dict[str, Any] = json.loads(line.receive_text())
    return told


def test_live_pictures_are_those_of_the_offline_film(jobs: Jobs, face: bytes, tmp_path: Path) -> None:
    room = stage.Stage({}, jobs.limits, "cpu")
    app = api.build(jobs)
    live.mount(app, room)
    sound = (hostile.babble(0.2) * 32767).astype("<i2").tobytes()
    with TestClient(Guard(app), base_url=HOME).websocket_connect(LIVE) as line:
        ready = spoken(line, face, mark="none")
        assert ready["ready"] and ready["size"] == [SIZE, SIZE] and ready["lookahead"] > 0
        for start in range(0, len(sound), 1111):  # pieces that cut samples in two
            line.send_bytes(sound[start : start + 1111])
        line.send_text("end")
        sent = [line.receive_bytes() for _ in range(5)]
        assert [int.from_bytes(message[:8], "little") for message in sent] == [640 * k for k in range(5)]  # samples of the sound
        shown = [np.asarray(Image.open(io.BytesIO(message[8:])), np.float32) for message in sent]
        assert json.loads(line.receive_text()) == {"frames": 5}
    talker, _, _ = run.build(tmp_path / "face.jpg", run.Options(device="cpu", block=1))
    wanted = talker(torch.from_numpy(np.frombuffer(sound, "<i2").astype(np.float32) / 32768))
    for picture, frame in zip(shown, wanted, strict=True):
        assert np.abs(picture - pixels(frame).astype(np.float32)).mean() < 3  # JPEG's
    assert room.open == 0


def test_who_leaves_frees_the_seat(jobs: Jobs, face: bytes, tmp_path: Path) -> None:
    room = stage.Stage({}, uploads.Limits(live=1), "cpu")
    app = api.build(jobs)
    live.mount(app, room)
    client = TestClient(Guard(app, "secret"), base_url=HOME)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"{LIVE}?token=wrong"):
        pass
    with client.websocket_connect(f"{LIVE}?token=secret") as line:
        assert spoken(line, b"no picture")["error"]["subject"] == "portrait"
    with client.websocket_connect(f"{LIVE}?token=secret") as line:
        assert spoken(line, face, consent=False)["error"]["subject"] == "consent"
    with client.websocket_connect(f"{LIVE}?token=secret") as line:
        assert spoken(line, face)["ready"]
        with client.websocket_connect(f"{LIVE}?token=secret") as other:
            assert "room" in json.loads(other.receive_text())["error"]["cause"]
        for _ in range(8):
            line.send_bytes(bytes(32000))
    end = time.monotonic() + 20
    while room.open and time.monotonic() < end:
        time.sleep(0.02)
    assert room.open == 0


def test_who_says_nothing_gives_the_seat_back(jobs: Jobs, face: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "IDLE", 0.3)
    room = stage.Stage({}, uploads.Limits(live=1), "cpu")
    app = api.build(jobs)
    live.mount(app, room)
    with TestClient(Guard(app), base_url=HOME).websocket_connect(LIVE) as line:
        assert spoken(line, face)["ready"]
        assert json.loads(line.receive_text()) == {"frames": 0}
    assert room.open == 0


def test_a_trained_run_says_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = hostile.run_folder(tmp_path / "anna", {"method": "egs_talker"}, b"x")
    called: list[Any] = []

    def spoken_words(text: str, path: Path) -> Path:
        called.append(text)
        return hostile.wav(path, 0.2)

    def made(source: Path, sound: Path, out: Path, options: run.Options, progress: Any, finish: Any, about: dict[str, str]) -> Any:
        called.extend([source, sound.name, options.pose, about["comment"]])
        return run.Report(hostile.video(out, 2), out, 2)

    monkeypatch.setattr(tts, "voice", lambda: tmp_path)
    monkeypatch.setattr(tts, "say", spoken_words)
    monkeypatch.setattr(run, "speak", made)
    queue = Jobs(tmp_path / "work", uploads.Limits(letters=9), actors={"anna": anna})
    job = queue.add(Order(actor="anna", text="hello", consent=True, wishes={"pose": "fixed"}))
    finished(job)
    assert job.state == "done" and called[:4] == ["hello", anna, "said.wav", "fixed"] and "source: anna;" in called[4]
    with pytest.raises(InputError, match="at most 9"):
        queue.add(Order(actor="anna", text="hello hello", consent=True))
    queue.close()
    assert (anna / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0"),
        (["--port", "99999"], "--port 99999"),
        (["--workers", "0"], "--workers 0"),
        (["--runs", "nowhere"], "nowhere"),
        (["--upload", "0"], "--upload 0"),
        (["--seconds", "nan"], "--seconds nan"),
        (["--waiting", "-1"], "--waiting -1"),
        (["--device", "tpu"], "--device tpu"),
    ],
)
def test_a_server_that_cannot_be_is_told_in_one_line(words: list[str], subject: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["serve", "--programs-only", "--work", str(tmp_path / "work"), *words]) == 2
    assert subject in capsys.readouterr().err


def test_the_server_answers_programs_and_a_taken_port_is_told(tmp_path: Path) -> None:
    server = Server(Settings(work=tmp_path / "work", page=False, token="word", port=1, host="::1", device="cpu"))
    client = TestClient(server.app, base_url="http://[::1]:9995")
    assert client.get("/api/about").status_code == 401 and client.get("/").status_code == 404
    page = client.get("/live").text
    assert "api/live" in page and "://" not in page and '"//' not in page  # loads nothing from elsewhere
    with pytest.raises(InputError, match="is no port"):
        Server(Settings(port=0))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server.settings = Settings(port=taken.getsockname()[1])
        with pytest.raises(InputError, match="choose another --port"):
            server.run()
    server.jobs.close()
