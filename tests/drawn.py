"""Drawn films of people: pictures and landmarks of known persons, poses and cuts, for the steps that read a folder of frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.heads import talking_head
from vivavoce.face import regions
from vivavoce.media import write_image
from vivavoce.prepare import Folder

SIZE = 128  # px


@dataclass(frozen=True)
class Scene:
    """Who is seen before what."""

    person: int = 0
    skin: tuple[int, int, int] = (205, 160, 135)
    hair: tuple[int, int, int] = (60, 40, 30)
    wall: tuple[int, int, int] = (90, 120, 150)
    distance: float = 0.9  # metres
    turning: float = 1.0


def points_of(scene: Scene, count: int, first: int = 0) -> np.ndarray:  # -> [count,478,3] px
    """Landmarks of a head that speaks and turns, from some moment on."""
    head = talking_head(first + count, 1200.0, scene.distance, 0.4, 4 * SIZE, scene.turning, scene.person)
    return (head.points[first:] / 4).numpy().astype(np.float32)


def drawn(scene: Scene, points: np.ndarray, shift: float = 0.0) -> np.ndarray:  # [478,3] px -> uint8 [SIZE,SIZE,3]
    """The head before a striped wall that lies `shift` px to the right."""
    x = np.arange(4 * SIZE) / 4 - shift
    stripes = 18 * np.sin(2 * np.pi * x / 23) + 10 * np.sin(2 * np.pi * x / 9)
    wall = np.clip(np.array(scene.wall)[None] + stripes[:, None], 0, 255).astype(np.uint8)
    image = Image.fromarray(np.repeat(wall[None], 4 * SIZE, 0))
    pen, at = ImageDraw.Draw(image), points[:, :2] * 4
    low, high = at.min(0), at.max(0)
    wide, tall = high - low
    pen.rectangle([low[0] - wide / 2, high[1] + tall * 0.1, high[0] + wide / 2, 8 * SIZE], fill=(40, 50, 90))
    pen.ellipse([*(low - np.array([0.15 * wide, 0.4 * tall])), *(high + np.array([0.15 * wide, -0.2 * tall]))], fill=scene.hair)
    pen.polygon([tuple(p) for p in at[list(regions.OVAL)]], fill=scene.skin)
    for loop, colour in ((regions.EYE_LEFT, (240, 240, 240)), (regions.EYE_RIGHT, (240, 240, 240)), (regions.LIPS_OUTER, (170, 70, 70))):
        pen.polygon([tuple(p) for p in at[list(loop)]], fill=colour)
    pen.polygon([tuple(p) for p in at[list(regions.LIPS_INNER)]], fill=(40, 10, 10))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def shot(scene: Scene, count: int, first: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures and landmarks of one shot."""
    points = points_of(scene, count, first)
    return [drawn(scene, p) for p in points], points


def folder_of(place: Path, pictures: list[np.ndarray], points: np.ndarray) -> Folder:
    """A person folder with the artefacts `frames` and `landmarks`; rows of NaN have no face."""
    faces = np.isfinite(points).all((1, 2))
    for k, picture in enumerate(pictures):
        write_image(place / "ori_imgs" / f"{k}.jpg", picture)
    np.save(place / "landmarks.npy", points)
    np.save(place / "blendshapes.npy", np.where(faces[:, None], np.full((len(points), 52), 0.1, np.float32), np.nan).astype(np.float32))
    box = np.concatenate([points[faces][0, :, :2].min(0), points[faces][0, :, :2].max(0)])
    folder = Folder(place)
    folder.update(id=place.name, video={"file": "film.mp4"}, size=[SIZE, SIZE], rate=25, frames=len(points), face=box.tolist(), crop=None)
    folder.update(faces=faces.astype(int).tolist(), split=len(points) * 10 // 11)
    return folder
