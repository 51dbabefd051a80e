"""Live sessions: many at once on shared networks, pictures left out rather than late, and a face that is silent with its microphone."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import hostile
from tests.synthetic import SyntheticPerson
from vivavoce import registry, run, speech
from vivavoce.face.landmarker import Landmarker
from vivavoce.method import Renderer
from vivavoce.nn import together as together_file
from vivavoce.nn.together import Rows, Together
from vivavoce.serve import live, server, stage, uploads
from vivavoce.talker import Talker
from vivavoce.turns import Turns, alone, away
from vivavoce.types import FPS, RATE, Clip

SIDE = 32


def until(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- calls of several threads as one ----


def behind_one(
    together: Together[int, int], ask: Callable[[int], object], count: int, begun: threading.Event, free: threading.Event
) -> None:
    """Questions 0, 1, ...: all but the first wait while it is being answered, which sets `begun` and waits for `free`."""
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(together.waiting) == count - 1)
    free.set()
    for thread in threads:
        thread.join(60)


def test_what_is_asked_while_a_batch_is_made_is_the_next_batch() -> None:
    begun, free = threading.Event(), threading.Event()

    def double(asked: list[int]) -> list[int]:
        begun.set()
        assert free.wait(60)
        if 3 in asked:
            raise ValueError("three")
        return [2 * n for n in asked]

    together, found = Together(double), dict[int, int | str]()

    def ask(n: int) -> None:
        try:
            found[n] = together(n)
        except ValueError as error:
            found[n] = str(error)

    behind_one(together, ask, 7, begun, free)
    assert found == {n: "three" if n == 3 else 2 * n for n in range(7)}  # one bad question spoils no other
    assert together.batches in ({1: 5, 2: 1}, {1: 3, 4: 1})  # 1; four, one by one if the bad one was there; two, likewise


def test_a_batch_that_is_filled_up_is_all_that_wait() -> None:
    begun, free = threading.Event(), threading.Event()

    def work(asked: list[int]) -> list[int]:
        begun.set()
        assert free.wait(60)
        return asked

    together, found = Together(work, most=4, filled=True), list[int]()
    behind_one(together, lambda n: found.append(together(n)), 8, begun, free)
    assert sorted(found) == list(range(8)) and together.batches == {1: 1, 4: 1, 3: 1}


def test_who_asks_at_the_same_beat_is_waited_for_and_one_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LATELY", 60.0), ("QUIET", 1.0), ("LONGEST", 5.0)):  # of a machine with much else to do
        monkeypatch.setattr(together_file, name, seconds)
    together, beat, wrong = Together(lambda asked: [-n for n in asked]), threading.Barrier(6), list[int]()

    def ask(n: int) -> None:
        for k in range(10):
            beat.wait(60)
            if together(10 * n + k) != -(10 * n + k):
                wrong.append(n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not together.making and not together.waiting
    assert sum(size * count for size, count in together.batches.items()) == 60
    assert together.batches[4] >= 8 and together.batches[2] >= 8  # six at once: four, then two
    alone = Together(lambda asked: asked)
    monkeypatch.setattr(alone.came, "wait", None)  # cannot be called
    assert [alone(n) for n in range(20)] == list(range(20)) and alone.batches == {1: 20}


def test_a_second_batch_is_begun_when_half_of_one_waits() -> None:
    made, free = list[list[int]](), threading.Event()

    def work(asked: list[int]) -> list[int]:
        made.append(asked)
        assert free.wait(60)
        return asked

    together, found = Together(work, most=4, abreast=2), list[int]()
    threads = [threading.Thread(target=lambda n=n: found.append(together(n))) for n in range(6)]
    for count, thread in enumerate(threads):
        thread.start()
        until(lambda count=count: sum(map(len, made)) + len(together.waiting) == count + 1)
    assert list(map(len, made)) == [1, 2] and len(together.waiting) == 3  # a third waits for the first two
    free.set()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == list(range(6)) and not together.making and not together.waiting


def test_one_thread_computes_while_another_is_away() -> None:
    turns, inside, seen = Turns(), threading.Event(), list[str]()

    def other() -> None:
        with turns.taken():
            seen.append("other")
            inside.set()

    thread = threading.Thread(target=other)
    with turns.taken():
        thread.start()
        assert not inside.wait(0.05)
        with away(), away():  # what waits within what waits gives nothing away a second time
            assert inside.wait(60)
        seen.append("mine")
    thread.join(60)
    with away():  # nobody's turn
        assert turns.lock.acquire(timeout=1)
        turns.lock.release()
    assert seen == ["other", "mine"]


def test_a_thread_may_compute_alone_while_others_have_helpers() -> None:
    before, found = torch.get_num_threads(), dict[str, int]()

    def look(name: str, times: int) -> None:
        for _ in range(times):
            alone()
        torch.rand(200, 200) @ torch.rand(200, 200)
        found[name] = torch.get_num_threads()

    try:
        torch.set_num_threads(3)
        for asked in (("alone", 2), ("later", 0)):
            thread = threading.Thread(target=look, args=asked)
            thread.start()
            thread.join(60)
        assert found == {"alone": 1, "later": 3} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_rows_of_several_threads_come_back_to_each() -> None:
    rows = Rows(lambda a, b: a + b)
    asked = [(torch.full((n, 2), float(n)), torch.ones(n, 2)) for n in (1, 3, 2)]
    assert [made.tolist() for made in rows._all(asked)] == [(a + b).tolist() for a, b in asked]
    assert rows(*asked[1]).shape == (3, 2)


# ---- sessions ----


class Loud(Renderer):
    """As bright as its frame is loud: an identity that lies in the weights."""

    needs = frozenset({"speech", "eyes"})
    speech, window = "mel", (0, 2)

    def __init__(self) -> None:
        super().__init__(None)
        self.weight = torch.nn.Parameter(torch.tensor(0.05))
        self.rows: list[int] = []

    def render(self, identity: Any, clip: Clip) -> Tensor:
        assert identity is None and clip.speech is not None and clip.eyes is not None
        self.rows.append(len(clip))
        bright = (0.5 + self.weight * clip.speech.mean((1, 2))).clamp(0, 1) * clip.eyes.mean(1)
        return bright[:, None, None, None].expand(-1, 3, SIDE, SIDE)


class Still:
    """One row, eyes open."""

    def __len__(self) -> int:
        return 1

    def clip(self, rows: Any, needs: Any = None) -> Clip:
        return Clip(eyes=torch.ones(len(rows), 2), index=torch.zeros(len(rows), dtype=torch.long))


def room(shared: bool, live: int = 4) -> stage.Stage:
    def made(source: Path, options: run.Options, like: Talker | None = None) -> Any:
        still: Any = Still()
        talker = like.again(still) if like is not None else Talker(Loud(), still, {"mel": speech.load("mel")}, None, None, options.block)
        return talker, (SIDE, SIDE), ["a note"]

    out = stage.Stage({}, uploads.Limits(live=live), "cpu", shared)
    out.build = made
    return out


def begin(place: stage.Stage, tmp_path: Path, **wishes: Any) -> stage.Session:
    return place.session({"mark": "none", **wishes}, hostile.picture(tmp_path / "face.jpg").read_bytes())


def said(session: stage.Session, sound: bytes, piece: int = 1280) -> dict[int, np.ndarray]:
    """Pictures by their numbers; the sound is given from another thread."""
    shown: dict[int, np.ndarray] = {}

    def give() -> None:
        for at in range(0, len(sound), piece):
            session.hear(sound[at : at + piece])
        session.hear(None)

    giving = threading.Thread(target=give)
    giving.start()
    session.speak(lambda number, data: shown.__setitem__(number, np.asarray(Image.open(io.BytesIO(data)))))
    giving.join(60)
    return shown


def spoken(seconds: float, seed: int = 0) -> bytes:
    """Sound that is loud and quiet in turns."""
    noise = np.random.default_rng(seed).normal(size=round(seconds * RATE)) * (np.arange(round(seconds * RATE)) // 3200 % 2)
    return (3000 * noise).astype("<i2").tobytes()


def test_sessions_on_one_network_say_what_they_would_say_alone(tmp_path: Path) -> None:
    sounds = [spoken(0.6, seed) for seed in range(4)]
    alone = [said(begin(room(False), tmp_path), sound) for sound in sounds]
    place = room(True)
    sessions = [begin(place, tmp_path)]
    ensemble: Any = sessions[0].talker.renderer
    assert {1, 2, 4} <= set(ensemble.inner.rows)  # rehearsed in the sizes that may come
    sessions += [begin(place, tmp_path) for _ in sounds[1:]]
    assert len({id(s.talker.renderer) for s in sessions}) == 1 and sessions[1].notes == ["a note"]
    assert len({id(s.talker.renderer) for s in [*sessions, begin(place, tmp_path, seed=1)]}) == 2  # other wishes, other networks
    together: dict[int, dict[int, np.ndarray]] = {}
    threads = [threading.Thread(target=lambda k=k: together.__setitem__(k, said(sessions[k], sounds[k]))) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for k, wanted in enumerate(alone):
        assert list(together[k]) == list(wanted) == list(range(15))
        assert all(np.array_equal(together[k][n], wanted[n]) for n in wanted)
    assert sum(size * count for size, count in ensemble.together.batches.items()) >= 60


def test_portraits_are_wished_for_in_time_and_share_networks_at_any_size(tmp_path: Path) -> None:
    place, asked = room(True), list[tuple[bool, int]]()
    made = place.build
    place.build = lambda source, options, *like: asked.append((options.live, options.size)) or made(source, options, *like)  # type: ignore[func-returns-value]
    for wishes in ({}, {"size": 900}, {}):
        begin(place, tmp_path, **wishes)
    assert asked == [(True, 0), (True, 900), (True, 0)] and len(place.casts) == 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_portraits_that_speak_at_once_are_moved_and_drawn_together(device: str, tmp_path: Path) -> None:
    """Each as if it were alone; on a GPU by CUDA graphs, as one batch what is asked at the same beat."""
    count, pictures = 3, 75 if device == "cuda" else 11
    sound = [spoken(pictures / FPS, seed) for seed in range(count)]

    def build(source: Path, options: run.Options, like: Talker | None = None) -> tuple[Talker, tuple[int, int], list[str]]:
        person = SyntheticPerson(space="keypoints")
        if like is not None:
            return like.again(person), person.size, []
        torch.manual_seed(0)
        renderer = registry.create("live_portrait", "tiny", adversarial=0.0, half=False).to(device).eval()
        heard = dict(space="keypoints", expression=63, speech="mel", speech_dim=80, gap=0.0, sync=0.0)
        generator: Any = registry.create("dit_motion", "tiny", temperature=1.0, **heard).to(device).eval()
        torch.nn.init.normal_(generator.model.leave.weight)
        return Talker(renderer, person, {"mel": speech.load("mel", device)}, generator, None, options.block), person.size, []

    place = stage.Stage({}, uploads.Limits(live=count), device, shared=True)
    place.build = build  # type: ignore[method-assign]
    sessions = [begin(place, tmp_path) for _ in range(count)]
    again = [stage.Session(s.talker, s.size, [], "none") for s in sessions]
    alone = [said(session, part) for session, part in zip(sessions, sound, strict=True)]
    found: dict[int, dict[int, np.ndarray]] = {}
    threads = [threading.Thread(target=lambda k=k: found.__setitem__(k, said(again[k], sound[k]))) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for k, wanted in enumerate(alone):
        assert list(found[k]) == list(wanted) == list(range(pictures))
        assert all(np.abs(found[k][n].astype(float) - wanted[n]).mean() < 1.5 for n in wanted)
    assert max(np.abs(alone[0][n].astype(float) - alone[1][n]).max() for n in range(11)) > 4  # each its own voice
    if device == "cuda":
        talker: Any = sessions[0].talker
        for rows in (talker.renderer._draw[0], *talker.generator.blocks.quick.values()):
            assert rows.work.on and {1, 2} <= set(rows.work.made) and any(size > 1 for size in rows.together.batches)


def test_a_session_in_a_hurry_leaves_out_what_would_come_late(tmp_path: Path) -> None:
    sound = spoken(3)
    patient, hasty = (begin(room(False), tmp_path, hurry=hurry) for hurry in (False, True))
    wanted = said(patient, sound)
    assert list(wanted) == list(range(75)) and patient.frames == 75
    for at in range(0, len(sound), 9600):  # all the sound is there before the first picture
        hasty.hear(sound[at : at + 9600])
    hasty.hear(None)
    shown: dict[int, bytes] = {}
    hasty.speak(shown.__setitem__)
    behind = round(FPS * stage.HURRY + hasty.talker.lookahead / 40)
    numbers = list(shown)
    assert numbers[4 - behind :] == list(range(75 + 4 - behind, 75)) and len(numbers) < 75 - 40  # up to three are still on their way
    assert np.diff([-1, *numbers]).max() == stage.MISSED + 1  # it never stands still for longer
    assert hasty.frames == len(shown) and hasty.done == 75
    assert all(np.array_equal(np.asarray(Image.open(io.BytesIO(data))), wanted[n]) for n, data in shown.items())


def test_who_takes_no_pictures_loses_seat_and_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from websockets.sync.client import connect

    for where, name, value in ((stage, "IDLE", 0.3), (live, "IDLE", 0.3), (server, "PARTING", 0.2)):
        monkeypatch.setattr(where, name, value)
    monkeypatch.setattr(stage, "jpeg", lambda image, quality: bytes(4 << 20))  # more than the system takes off a client's hands
    place = room(False)
    app = Starlette()
    live.mount(app, place)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        at, listener = listening.getsockname()[1], uvicorn.Server(uvicorn.Config(app, **server.SOCKET))
        thread = threading.Thread(target=listener.run, args=([listening],), daemon=True)
        thread.start()
        with connect(f"ws://127.0.0.1:{at}/api/live", max_size=None, max_queue=1, close_timeout=0.1) as line:
            line.send(json.dumps({"consent": True, "mark": "none"}))
            line.send(hostile.picture(tmp_path / "face.jpg").read_bytes())
            assert json.loads(line.recv())["ready"] and place.open == 1 and listener.server_state.connections
            line.send(spoken(1.0))
            until(lambda: not place.open)
            until(lambda: not listener.server_state.connections)
        listener.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def test_pieces_of_any_size_wait_in_little_memory(tmp_path: Path) -> None:
    session = begin(room(False), tmp_path)

    def give() -> None:
        with pytest.raises(stage.Gone):
            session.hear(bytes(20 << 20))

    giving = threading.Thread(target=give)
    giving.start()
    until(session.sound.full)
    assert sum(len(part or b"") for part in session.sound.queue) <= 2 * stage.LONGEST * stage.WAITING
    session.leave()
    giving.join(60)
    assert not giving.is_alive()


# ---- silence ----


def test_a_silent_microphone_shuts_the_mouth_and_the_face_lives_on(tmp_path: Path) -> None:
    """Three seconds of a quiet room's hiss, then somebody speaks: seen in the pictures that a client gets."""
    session = stage.Stage({}, uploads.Limits(), "cpu").session({"mark": "none"}, hostile.picture(tmp_path / "face.jpg").read_bytes())
    hiss = 30 * np.random.default_rng(0).normal(size=3 * RATE)  # -61 dB of full scale
    shown = said(session, np.concatenate([hiss, 20000 * hostile.babble(0.8)]).astype("<i2").tobytes())
    finder, face, faces = Landmarker(most=1), None, []
    for number in range(95):
        face = finder.follow(shown[number], face)
        assert face is not None
        faces.append(face)
    gaps, eyes = np.array([f.mouth_open for f in faces]), np.array([float(f.eyes.mean()) for f in faces])
    nose = np.stack([f.points[1, :2] for f in faces[:70]])
    assert gaps[:70].max() < 0.03 and gaps[78:].max() > 0.1
    assert np.ptp(nose, axis=0).max() > 0.5  # px: the head sways
    assert eyes[:75].min() < 0.6 * eyes[0]  # and blinks
