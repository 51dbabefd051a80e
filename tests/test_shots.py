"""Cuts, flashes, fades and second persons in drawn films whose every cut is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.drawn import Scene, drawn, folder_of, points_of, shot
from vivavoce.prepare import Folder, shots
from vivavoce.types import InputError

HER = Scene()
HIM = Scene(person=3, skin=(150, 105, 80), hair=(120, 110, 100), distance=0.88)


def told(place: Path, pictures: list[np.ndarray], points: np.ndarray) -> Folder:
    """The folder after the step."""
    folder = folder_of(place, pictures, points)
    shots.run(folder, lambda done, total: None)
    shots.verify(folder)
    return folder


def test_a_quick_turn_is_no_cut(tmp_path: Path) -> None:
    folder = told(tmp_path, *shot(replace(HER, turning=2.5), 80))
    assert folder.clip["jumps"] == [] and folder.clip["shots"] == [[0, 79, "kept"]] and folder.split == 80 * 10 // 11


@pytest.mark.parametrize("pattern", [(0, 1, 2, 3, 4, 6), (0, 0, 1, 1), (0, 0, 0, 1, 1, 2, 2)])  # 30, 12.5 and 10 pictures a second made 25
def test_frames_left_out_or_repeated_are_no_cuts(tmp_path: Path, pattern: tuple[int, ...]) -> None:
    pictures, points = shot(replace(HER, turning=1.5), 120)
    step = pattern[-1] + 1
    rows = [k // len(pattern) * step + pattern[k % len(pattern)] for k in range(70)]
    assert told(tmp_path, [pictures[k] for k in rows], points[rows]).clip["jumps"] == []


def test_a_hand_held_camera_is_no_cut(tmp_path: Path) -> None:
    points = points_of(HER, 60)
    sway = 8 * np.sin(np.arange(60) / 3)
    points[:, :, 0] += sway[:, None]
    folder = told(tmp_path, [drawn(HER, p, s) for p, s in zip(points, sway)], points)
    assert folder.clip["jumps"] == [] and folder.kept.all()


def test_a_part_cut_out_stays_together(tmp_path: Path) -> None:
    pictures, points = shot(HER, 190)
    rows = [*range(60), *range(130, 190)]
    folder = told(tmp_path, [pictures[k] for k in rows], points[rows])
    assert folder.clip["jumps"] == [60] and folder.clip["shots"] == [[0, 59, "kept"], [60, 119, "kept"]]
    assert folder.kept.all() and folder.split == 120 * 10 // 11


def test_another_person_before_the_same_wall_is_left_out(tmp_path: Path) -> None:
    """The one seen longer is kept, in two parts, whoever comes first."""
    (a, p), (b, q), (c, r) = shot(HIM, 40), shot(HER, 70), shot(HIM, 50, 60)
    folder = told(tmp_path, a + b + c, np.concatenate([p, q, r]))
    assert folder.clip["jumps"] == [40, 110]
    assert [s[2] for s in folder.clip["shots"]] == ["kept", "another person", "kept"]
    assert not folder.kept[40:110].any() and folder.kept[:40].all() and folder.kept[110:].all()
    assert folder.split == 110 + 90 * 10 // 11 - 40  # 10/11 of the frames used, as a frame number
    assert json.loads((tmp_path / "clip.json").read_text())["split"] == folder.split


def test_a_person_who_comes_after_a_gap(tmp_path: Path) -> None:
    """She leaves, nobody is there for a while, he comes: no cut, yet another person."""
    (a, p), (b, q) = shot(HER, 60), shot(HIM, 40)
    wall = drawn(HER, p[0] + np.array([4000, 0, 0], np.float32))
    nobody = np.full((12, *p.shape[1:]), np.nan, np.float32)
    folder = told(tmp_path, a + [wall] * 12 + b, np.concatenate([p, nobody, q]))
    assert [s[2] for s in folder.clip["shots"]] == ["kept", "no face", "another person"]
    assert folder.frames == 112 and np.flatnonzero(folder.kept).tolist() == list(range(60))


def test_the_same_person_nearer_is_another_picture(tmp_path: Path) -> None:
    (a, p), (b, q) = shot(HER, 60), shot(replace(HER, distance=0.65, wall=(180, 170, 120)), 40)
    folder = told(tmp_path, a + b, np.concatenate([p, q]))
    assert folder.clip["jumps"] == [60] and folder.clip["shots"] == [[0, 59, "kept"], [60, 99, "another picture"]]


@pytest.mark.parametrize("lasting", [1, 2, 7])
def test_a_flash_is_no_cut(tmp_path: Path, lasting: int) -> None:
    pictures, points = shot(HER, 70)
    for k in range(30, 30 + lasting):
        pictures[k] = (255 - (255 - pictures[k].astype(int)) // 5).astype(np.uint8)
    folder = told(tmp_path, pictures, points)
    last = 29 + lasting
    assert folder.clip["jumps"] == [] and folder.clip["shots"] == [[0, 29, "kept"], [30, last, "a flash"], [last + 1, 69, "kept"]]


@pytest.mark.parametrize("lasting", [8, 14, 24])
def test_a_dissolve_is_found_and_left_out(tmp_path: Path, lasting: int) -> None:
    other = Scene(person=5, skin=(90, 65, 50), hair=(20, 20, 20), wall=(210, 200, 60))
    (a, p), (b, q) = shot(HER, 60 + lasting), shot(other, 50 + lasting)
    share = (np.arange(lasting) + 1) / (lasting + 1)
    mixed = [np.round(a[60 + k] * (1 - s) + b[k] * s).astype(np.uint8) for k, s in enumerate(share)]
    points = np.concatenate([p[:60], np.where(share[:, None, None] < 0.5, p[60:], q[:lasting]), q[lasting:]])
    folder = told(tmp_path, a[:60] + mixed + b[lasting:], points)
    assert [s[2] for s in folder.clip["shots"]] == ["kept", "a fade", "another person"]
    first, last, _ = folder.clip["shots"][1]
    assert abs(first - 60) <= 2 and abs(last - (59 + lasting)) <= 2


def test_a_fade_from_black(tmp_path: Path) -> None:
    pictures, points = shot(HER, 60)
    for k in range(20):
        pictures[k] = (pictures[k] * (max(0, k - 5) / 15)).astype(np.uint8)
    points[:9] = np.nan
    folder = told(tmp_path, pictures, points)
    first = int(np.flatnonzero(folder.kept)[0])
    assert 16 <= first <= 21 and folder.kept[first:].all() and folder.clip["jumps"] == []


def test_a_changed_file_is_told(tmp_path: Path) -> None:
    folder = told(tmp_path, *shot(HER, 30))
    folder.update(split=3)
    with pytest.raises(InputError, match=r"clip\.json"):
        shots.verify(folder)
    (tmp_path / "shots.json").write_text('{"shots": [[0, 5, "kept"], [7, 29, "kept"]], "jumps": []}')
    with pytest.raises(InputError, match="shots"):
        shots.verify(folder)


@pytest.mark.real
@pytest.mark.assets
def test_real_jump_cut_of_a_news_reader(shared_data: Path, tmp_path: Path) -> None:
    """A part was cut out between frames 175 and 176: same man, same studio, the head 9 % of its height elsewhere."""
    from vivavoce.prepare import prepare

    with av.open(str(shared_data / "video" / "dfrf_cnn2.mp4")) as source, av.open(str(tmp_path / "part.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        for k, frame in enumerate(source.decode(video=0)):
            if 150 <= k < 205:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")))
        out.mux(stream.encode(None))
    folder = Folder(prepare(tmp_path / "part.mp4", only="shots"))
    assert folder.clip["jumps"] == [26] and folder.kept.all() and folder.split == 55 * 10 // 11
