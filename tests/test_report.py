"""The report: one whole page, everything inside it, and what it shows is what is in the folder."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.drawn import SIZE, Scene, folder_of, shot
from tests.films import steady, tone
from tests.test_checks import Alone, speech, syllables
from vivavoce.data import features
from vivavoce.face import regions
from vivavoce.media import audio, frames, probe, write_audio, write_image
from vivavoce.prepare import Folder, cameras, checks, report, shots, tracking, units, verdicts
from vivavoce.prepare.folder import Options
from vivavoce.prepare.report_curves import plot, thinned
from vivavoce.prepare.report_pictures import PARSING, TILE, Tracked, chosen_pieces, laid_back
from vivavoce.types import InputError

HER = replace(Scene(), turning=1.5)
HIM = Scene(person=3, skin=(150, 105, 80), hair=(120, 110, 100), distance=0.88)
VOID = {"meta", "img", "br"}


def silent(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder in which every artefact is there: 110 frames of her, 30 of him."""
    place = tmp_path_factory.mktemp("report") / "a<b>&c"
    (a, p), (b, q) = shot(HER, 110), shot(HIM, 30)
    points = np.concatenate([p, q])
    opening = syllables(140)
    points[:, [87, 14, 317], 1] = points[:, [82, 13, 312], 1] + opening[:, None]
    made = folder_of(place, a + b, points)
    for k, picture in enumerate(a + b):
        labels = np.zeros((SIZE, SIZE, 3), np.uint8) + 255
        labels[30:90, 40:90], labels[100:] = regions.COLOURS[regions.HEAD], regions.COLOURS[regions.CLOTH]
        write_image(place / "parsing" / f"{k}.png", labels)
        write_image(place / "gt_imgs" / f"{k}.jpg", picture)
        body = np.concatenate([picture, np.where(np.arange(SIZE) >= 100, 255, 0).astype(np.uint8)[:, None, None].repeat(SIZE, 1)], 2)
        write_image(place / "torso_imgs" / f"{k}.png", body)
    write_image(place / "bc.jpg", a[0])
    write_audio(place / "aud.wav", [speech(opening, 0.2)])
    steady(place / "film.mp4", seconds=2, sound=tone(2, 16000), sound_rate=16000)
    np.save(place / "aud.npy", np.random.default_rng(0).normal(size=(140, 2, 40)).astype(np.float16))
    rows = np.zeros((140, 2, 67), np.float32)
    rows[:, 0, 0] = rows[:, 1, 1] = 1
    rows[:, 0, 2] = np.arange(140) * 2 / SIZE  # a pixel to the right each frame
    np.save(place / "body.npy", rows)
    made.choose(Options(force=True, speech=("whisper", "hubert")))
    made.update(background={"seen": 0.2, "steady": 1.0}, body={"followed": 140}, artefacts={"frames": {"version": 1, "seconds": 2.5}})
    shots.run(made, silent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "Landmarker", Alone)
        checks.run(made, silent)
    tracking.run(made, silent)
    cameras.run(made, silent)
    units.run(made, silent)
    report.run(made, silent)
    report.verify(made)
    return made


class Reader(HTMLParser):
    """Notes tags and texts, and that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(folder: Folder) -> Reader:
    return Reader(folder.file("report.html").read_text("utf-8"))


def data(address: str | None) -> bytes:
    assert address is not None
    return base64.b64decode(address.partition("base64,")[2])


def test_the_page_is_whole_and_alone(folder: Folder) -> None:
    page = page_of(folder)
    assert not page.open and ("title", {}) in page.seen and "a<b>&c" in page.texts
    addresses = [a[key] for _, a in page.seen for key in ("src", "href", "poster", "data") if key in a]
    assert len(addresses) == 8 and all((a or "").startswith("data:") for a in addresses)
    text = folder.file("report.html").read_text("utf-8")
    assert "<script" not in text and "@import" not in text and not re.search(r"url\((?!data:)", text) and "http" not in text
    assert sum(tag == "svg" for tag, _ in page.seen) == 6
    assert {p.name for p in folder.path.iterdir() if p.name.startswith(".")} <= {".lock"}  # nothing half-made stays


def test_the_pictures_are_those_of_the_folder(folder: Folder) -> None:
    pictures = {a["alt"]: Image.open(io.BytesIO(data(a["src"]))).convert("RGB") for tag, a in page_of(folder).seen if tag == "img"}
    assert set(pictures) == {
        *("frames and landmarks", "tracked mesh", PARSING, "body without its head", "person over the plate", "background plate"),
        "clothes laid on one picture of them, where they should stand still",
    }
    kept = np.flatnonzero(folder.kept)
    shown = np.asarray(pictures["person over the plate"]).astype(float)
    last = np.asarray(Image.open(folder.file("gt_imgs", f"{kept[-1]}.jpg")).resize((150, 150))).astype(float)
    assert shown.shape == (150, 8 * 150, 3) and np.abs(shown[:, -150:] - last).mean() < 8
    body = np.asarray(pictures["body without its head"]).astype(int)
    assert np.ptp(body[40:60, 40:80], 2).max() < 25 and body[40:60, 40:80].std() > 15  # the board shines through above
    parsing = np.asarray(pictures[PARSING]).astype(int)
    assert (parsing[60:70, 60:70, 2] > parsing[60:70, 60:70, 0]).all()  # head: blue


def test_clothes_are_laid_back_and_speech_features_follow_the_sound(folder: Folder) -> None:
    frame, shift = 30, 30 * TILE // SIZE
    laid = laid_back(folder, frame).astype(int)
    picture = np.asarray(Image.open(folder.image(frame)).resize((TILE, TILE), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(laid[:, : TILE - shift] - picture[:, shift:]).mean() < 4 < np.abs(laid - picture).mean()
    loud = np.tile([0.0, 0.0, 0.0, 0.1, 0.8, 1.0, 0.9, 0.2], 15)
    table = np.random.default_rng(0).normal(0, 0.1, (140, 2, 40))
    table[20:] += loud[:, None, None] * np.linspace(-1, 1, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "read", lambda path: table)
        assert np.corrcoef(report.spoken(folder, loud, 20), loud)[0, 1] > 0.95 > np.corrcoef(report.spoken(folder, loud, 18), loud)[0, 1]


def test_the_film_shows_the_mesh_with_its_sound(folder: Folder, tmp_path: Path) -> None:
    (video,) = [a for tag, a in page_of(folder).seen if tag == "video"]
    (tmp_path / "film.mp4").write_bytes(data(video["src"]))
    pieces = chosen_pieces(folder, verdicts.signals(folder).turn)
    count = sum(end - first for first, end in pieces)
    films = list(frames(tmp_path / "film.mp4"))
    assert len(films) == count and films[0].shape == (288, 288, 3) and probe(tmp_path / "film.mp4").audio_codec == "aac"
    assert audio(tmp_path / "film.mp4").abs().max() > 0.05
    seen = Tracked(folder)
    points = seen.points(pieces[0][0])
    truth = np.load(folder.file("landmarks.npy"))[pieces[0][0], : regions.MESH, :2]
    assert points is not None and np.linalg.norm(points - truth, axis=1).mean() < 1.0  # px of 128
    assert seen.points(120) is None  # his


def test_the_verdicts_are_told(folder: Folder) -> None:
    text = " ".join(page_of(folder).texts)
    found = {v["name"]: v for v in folder.clip["checks"]}
    assert set(found) == {c.name for c in (*verdicts.EARLY, verdicts.OFFSET, *verdicts.LATE)}
    assert found["plate"]["verdict"] == "warn" and found["sync"]["verdict"] == "refuse" and found["body"]["verdict"] == "pass"
    for verdict in found.values():
        assert verdict["what"] in text and verdict["advice"] in text
    assert "not fit" in text and "110 to 139: another person" in text and "cuts at 110" in text
    assert "no commercial use" not in text and "facebook" not in text and "hubert_large" in text and "face_landmarker" in text
    assert report.summary(folder).startswith("not fit, made with --force: sound ")
    report.run(folder, silent)  # a second time changes nothing in the list
    assert {v["name"]: v for v in Folder(folder.path).clip["checks"]} == found


def test_the_curves_are_those_of_the_clip(folder: Folder) -> None:
    text = folder.file("report.html").read_text("utf-8")
    assert len(re.findall('class="mark"', text)) == 4 + 1 and len(re.findall('class="out"', text)) == 4
    drawn = plot({"a": np.array([0.0, np.nan, 1.0, 0.5, 2.0])}, "x", (0, 1), spacing=1.0)
    (line,) = re.findall(r'class="curve"[^>]*d="([^"]*)"', drawn)
    assert line == "M44.0 128.0M478.0 8.0L695.0 68.0L912.0 8.0"  # a gap at the NaN; beyond the limits is held at them
    values = np.sin(np.arange(9000) / 50)
    values[4321], values[7000:7100] = 3.0, np.nan
    places, kept = thinned(values)
    assert len(places) < 1000 and np.nanmax(kept) == 3.0 and places[np.nanargmax(kept)] == 4321 and np.isnan(kept).any()


def test_a_page_that_is_not_whole_is_told(folder: Folder) -> None:
    path = folder.file("report.html")
    whole = path.read_text("utf-8")
    try:
        for broken in (whole[:-20], whole.replace('src="data:video', 'src="http://x/data:video')):
            path.write_text(broken, "utf-8")
            with pytest.raises(InputError, match="not whole"):
                report.verify(folder)
    finally:
        path.write_text(whole, "utf-8")
    assert torch.get_num_threads() >= 1
