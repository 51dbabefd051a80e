"""Classes of made-up busts whose parts and colours are known exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vivavoce.face import looks, mesh, parse, regions
from vivavoce.prepare import parsing
from vivavoce.turns import one_thread_each

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 512
SKIN, SHADE = (214, 160, 130), (186, 132, 106)
Bust = tuple[np.ndarray, np.ndarray, np.ndarray]  # picture [H,W,3], labels [H,W], mesh [478,3]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a preparation."""
    with one_thread_each():
        yield


def points(x: float = 256, turn: float = 0.0, gap: float = 0.0) -> np.ndarray:  # -> [478,3] px
    """The canonical face, 180 px wide, its chin at row 300; turned in the picture's plane, its mouth open by `gap` px."""
    vertices = mesh.vertices()
    scale = 180 / np.ptp(vertices[:, 0])
    flat = np.stack([vertices[:, 0] * scale, -vertices[:, 1] * scale, -vertices[:, 2] * scale], 1)
    flat -= flat[looks.CHIN]
    lower, upper = list(regions.LIPS_INNER[11:]), list(regions.LIPS_INNER[1:10])[::-1]
    flat[lower, 1] = flat[upper, 1] + gap
    cos, sin = np.cos(turn), np.sin(turn)
    flat[:, :2] = flat[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + (x, 300)
    return np.concatenate([flat, flat[:10]]).astype(np.float32)


def bust(
    x: float = 256,
    turn: float = 0.0,
    hair: tuple[int, int, int] = (52, 38, 30),
    long: bool = False,
    bare: bool = False,
    tie: bool = False,
    beard: bool = False,
) -> Bust:
    """Hair around a face, neck, a coat nearly of the hair's colour with a white collar (or bare shoulders, or a black shirt below a black
    beard), before a wall.
    """
    mesh_now = points(x, turn)
    y, column = np.mgrid[:SIZE, :SIZE].astype(float)
    u, v = looks.placed(mesh_now)((SIZE, SIZE))
    labels = np.full((SIZE, SIZE), regions.BACKGROUND, np.uint8)
    shoulders = (y > 350) & (abs(column - 256) < 80 + 2.2 * (y - 350))
    labels[shoulders] = regions.NECK if bare else regions.CLOTH
    if long:
        labels[(abs(abs(u) - 1.0) < 0.5) & (v > -0.7) & (v < 0.6)] = regions.HAIR
    labels[(y > 270) & (y < 425) & (abs(column - x) < 64 - (y - 270) * 0.1)] = regions.NECK
    labels[(u / 1.25) ** 2 + ((v - 0.75) / 0.62) ** 2 < 1] = regions.HAIR
    if not long:
        labels[(labels == regions.HAIR) & (v < 0.5)] = regions.BACKGROUND
        labels[(abs(abs(u) - 1.02) < 0.14) & (abs(v - 0.5) < 0.16)] = regions.HEAD  # ears
    labels[looks.filled(mesh_now, regions.OVAL, (SIZE, SIZE))] = regions.HEAD
    coat = (52, 66, 120) if long else (38, 40, 62)
    colours = {regions.BACKGROUND: (90, 150, 210), regions.HEAD: SKIN, regions.NECK: SHADE, regions.HAIR: hair, regions.CLOTH: coat}
    picture = np.zeros((SIZE, SIZE, 3), np.float32)
    for label, colour in colours.items():
        picture[labels == label] = colour
    picture[(labels == regions.CLOTH) & (abs(column - 256) < 60)] = (235, 235, 230)
    if beard:
        picture[(labels == regions.CLOTH) | ((labels == regions.HEAD) & (v < 0.26))] = (40, 36, 34)
    if tie:
        picture[(labels == regions.CLOTH) & (y < 480) & (abs(column - x) < 24)] = (221, 85, 60)
    if bare:
        picture[(labels == regions.NECK) & shoulders] = SKIN
    random = np.random.default_rng(0)
    picture += random.normal(0, 3, picture.shape)
    picture[labels == regions.HAIR] += random.normal(0, 12, (int((labels == regions.HAIR).sum()), 1))
    return np.clip(picture, 0, 255).astype(np.uint8), labels, mesh_now


def seen(busts: list[Bust]) -> list[looks.View]:
    """What the parser looks at, with the true person mask."""
    out = []
    for picture, labels, mesh_now in busts:
        mask = Image.fromarray((labels != regions.BACKGROUND).astype(np.float32)).resize((parse.SIDE, parse.SIDE))
        out.append(parsing.view_of(picture, np.asarray(mask), mesh_now))
    return out


def found(busts: list[Bust]) -> list[np.ndarray]:
    """The permissive parser's labels, from what it learns from these very frames."""
    views = seen(busts)
    own = looks.Looks.learned(views)
    return [parse.classes(v, own, (b[1] != regions.BACKGROUND).astype(np.float32), b[2]) for v, b in zip(views, busts, strict=True)]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


@pytest.mark.parametrize(
    "kind",
    [
        *({}, {"hair": (196, 168, 96)}, {"hair": (150, 150, 152)}, {"long": True}, {"long": True, "hair": (214, 176, 120)}),
        *({"long": True, "bare": True}, {"tie": True}, {"beard": True}),
    ],
    ids=["dark", "blond", "grey", "long", "long, of colours that skin has", "bare", "tie", "beard"],
)
def test_every_part_is_told_from_its_neighbours(kind: dict[str, Any]) -> None:
    busts = [bust(x, turn, **kind) for x, turn in ((240, 0.0), (256, 0.1), (268, -0.12))]
    for (_, truth, _), labels in zip(busts, found(busts), strict=True):
        for label in np.unique(truth):
            assert overlap(labels == label, truth == label) > 0.97, regions.CLASSES[label]


def test_a_bald_head_has_no_hair() -> None:
    busts = []
    for x in (246, 262):
        picture, labels, mesh_now = bust(x)
        head = labels == regions.HAIR
        picture[head] = np.clip(SKIN + np.random.default_rng(1).normal(0, 3, (int(head.sum()), 3)), 0, 255)
        labels[head] = regions.HEAD
        busts.append((picture, labels, mesh_now))
    for (_, truth, _), labels in zip(busts, found(busts), strict=True):
        assert not (labels == regions.HAIR).any()
        assert overlap(labels == regions.HEAD, truth == regions.HEAD) > 0.97


def test_what_is_learned_does_not_change_from_run_to_run() -> None:
    views = seen([bust(246), bust(260, 0.1)])
    one, two = looks.Looks.learned(views), looks.Looks.learned(views)
    assert np.array_equal(one.first, two.first) and np.array_equal(one.second, two.second)


def test_only_an_open_mouth_has_an_inside() -> None:
    for gap, inside in ((0, False), (20, True)):
        labels = bust()[1]
        parse.mouth(labels, points(gap=gap))
        assert bool((labels == regions.INNER_MOUTH).any()) is inside


def test_teeth_are_told_from_tongue_and_hollow() -> None:
    picture, labels, _ = bust()
    now = points(gap=24)
    parse.mouth(labels, now)
    inside = labels == regions.INNER_MOUTH
    rows = np.flatnonzero(inside.any(1))
    top, low = rows[0] + 3 * len(rows) // 10, rows[0] + 7 * len(rows) // 10
    band = np.arange(SIZE)[:, None]
    for where, colour in ((band < top, (222, 208, 190)), ((band >= top) & (band < low), (60, 20, 20)), (band >= low, (190, 90, 90))):
        picture[inside & where] = colour
    parse.teeth(labels, picture, now)
    assert overlap(labels == regions.TEETH, inside & (band < top)) > 0.9
    assert (labels[inside & (band >= top)] == regions.INNER_MOUTH).all()


def test_the_mask_moves_to_the_edge_of_the_picture() -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, 262:] = 200
    coarse = np.zeros((parse.SIDE, parse.SIDE), np.float32)
    coarse[:, 128:] = 1  # six pixels off
    edge = (parse.outlined(coarse, picture, parse.reduced(picture))[256] > 0.5).argmax()
    assert abs(int(edge) - 262) <= 2


def test_specks_go_and_small_holes_close() -> None:
    labels = np.full((64, 64), regions.BACKGROUND, np.uint8)
    labels[20:60, 10:50] = regions.CLOTH
    labels[30:32, 30:32] = regions.BACKGROUND
    labels[2:5, 2:5] = regions.HAIR
    out = parse.tidy(labels)
    assert (out[30:32, 30:32] == regions.CLOTH).all() and (out[2:5, 2:5] == regions.BACKGROUND).all()


def test_the_faces_axes_follow_a_tilted_head() -> None:
    tilted = points(turn=0.4)
    u, v = looks.placed(tilted)((SIZE, SIZE))
    x, y = tilted[looks.FOREHEAD, :2].astype(int)
    assert abs(v[y, x] - 1) < 0.03 and abs(u[y, x]) < 0.05


def test_bare_shoulders_that_bisenet_misses_are_part_of_the_body() -> None:
    _, truth, mesh_now = bust(bare=True)
    y = np.arange(SIZE)[:, None]
    labels = np.where((y > 420) & (truth == regions.NECK), regions.BACKGROUND, truth).astype(np.uint8)
    mask = Image.fromarray((truth != regions.BACKGROUND).astype(np.float32)).resize((parse.SIDE, parse.SIDE))
    assert overlap(parsing.completed(labels, np.asarray(mask), mesh_now) == regions.NECK, truth == regions.NECK) > 0.97


def test_teeth_masks_are_plain_numpy_files_that_take_little_room(tmp_path: Path) -> None:
    image = Image.new("1", (SIZE, SIZE))
    ImageDraw.Draw(image).ellipse((240, 280, 272, 290), fill=1)
    mask = np.asarray(image)
    parsing.write_mask(tmp_path / "0.npy", mask)
    again = np.load(tmp_path / "0.npy", allow_pickle=False)
    assert again.dtype == bool and np.array_equal(again, mask)
    assert (tmp_path / "0.npy").stat().st_size >= SIZE * SIZE
    parsing.write_mask(tmp_path / "1.npy", np.zeros((5, 7), bool))
    assert np.load(tmp_path / "1.npy").shape == (5, 7)


def test_frames_are_cut_into_the_same_runs_whatever_is_left() -> None:
    every = parsing.runs(range(130))
    assert [len(r) for r in every] == [50, 50, 30]
    assert parsing.runs([3, 60, 61, 129]) == [[3], [60, 61], [129]]
