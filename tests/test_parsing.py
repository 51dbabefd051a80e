"""Classes of a made-up bust whose parts and colours are known exactly."""

from __future__ import annotations

import numpy as np

from vivavoce.face import mesh, regions
from vivavoce.prepare import parsing

SIZE = 256
COLOURS = {regions.HEAD: (214, 160, 130), regions.NECK: (196, 140, 112), regions.HAIR: (40, 30, 24), regions.CLOTH: (44, 34, 30)}


def points() -> np.ndarray:  # [478,3] px
    """The canonical face, seen from the front, 90 px wide, its chin at row 150."""
    vertices = mesh.vertices()
    scale = 90 / np.ptp(vertices[:, 0])
    flat = np.stack([128 + vertices[:, 0] * scale, -vertices[:, 1] * scale, -vertices[:, 2] * scale], 1)
    flat[:, 1] += 150 - flat[parsing.CHIN, 1]
    return np.concatenate([flat, flat[:10]]).astype(np.float32)


def bust() -> tuple[np.ndarray, np.ndarray]:
    """Picture and true labels: hair around a face, neck, a coat nearly of the hair's colour."""
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.full((SIZE, SIZE), regions.BACKGROUND, np.uint8)
    labels[(y > 170) & (abs(x - 128) < 40 + (y - 170))] = regions.CLOTH
    labels[(y > 130) & (y < 182) & (abs(x - 128) < 24)] = regions.NECK
    labels[((x - 128) / 55) ** 2 + ((y - 80) / 62) ** 2 < 1] = regions.HAIR
    labels[(labels == regions.HAIR) & (y > 120)] = regions.BACKGROUND
    labels[parsing.filled(points(), regions.OVAL, (SIZE, SIZE))] = regions.HEAD
    picture = np.full((SIZE, SIZE, 3), (90, 150, 210), np.uint8)
    noise = np.random.default_rng(0).normal(0, 4, picture.shape)
    for label, colour in COLOURS.items():
        picture[labels == label] = colour
    return np.clip(picture + noise, 0, 255).astype(np.uint8), labels


def test_every_part_is_told_from_its_neighbours() -> None:
    picture, truth = bust()
    person = (truth != regions.BACKGROUND).astype(np.float32)
    colours = parsing.learned([picture], [person], [points()])
    found = parsing.classes(picture, person, points(), colours)
    for label in (regions.BACKGROUND, regions.HEAD, regions.NECK, regions.CLOTH, regions.HAIR):
        a, b = found == label, truth == label
        assert (a & b).sum() / (a | b).sum() > 0.8, regions.CLASSES[label]


def test_only_an_open_mouth_has_an_inside() -> None:
    picture, truth = bust()
    person = (truth != regions.BACKGROUND).astype(np.float32)
    shut = points()
    colours = parsing.learned([picture], [person], [shut])
    lower = list(regions.LIPS_INNER[11:])
    for gap, inside in ((0, False), (10, True)):
        moved = shut.copy()
        moved[lower, 1] = moved[list(regions.LIPS_INNER[1:10])[::-1], 1] + gap
        labels = parsing.classes(picture, person, moved, colours)
        assert bool((labels == regions.INNER_MOUTH).any()) is inside


def test_the_mask_moves_to_the_edge_of_the_picture() -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, 131:] = 200
    coarse = np.zeros((parsing.NET, parsing.NET), np.float32)
    coarse[:, 128:] = 1  # three pixels off
    edge = (parsing.sharpened(coarse, picture)[128] > 0.5).argmax()
    assert abs(int(edge) - 131) <= 1


def test_specks_go_and_small_holes_close() -> None:
    labels = np.full((64, 64), regions.BACKGROUND, np.uint8)
    labels[20:60, 10:50] = regions.CLOTH
    labels[30:32, 30:32] = regions.BACKGROUND
    labels[2:5, 2:5] = regions.HAIR
    out = parsing.whole(labels)
    assert (out[30:32, 30:32] == regions.CLOTH).all() and (out[2:5, 2:5] == regions.BACKGROUND).all()


def test_the_faces_axes_follow_a_tilted_head() -> None:
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    tilted = points()
    tilted[:, :2] = (tilted[:, :2] - 128) @ turn.T + 128
    u, v = parsing.placed(tilted)(SIZE, SIZE)
    x, y = tilted[parsing.FOREHEAD, :2].astype(int)
    assert abs(v[y, x] - 1) < 0.03 and abs(u[y, x]) < 0.05
