"""Where a film is cut: from small pictures and the face's place, frame by frame, in constant memory.

A cut is a change that the frames around do not explain. Each of four measures of change from one frame to the next (the picture beside
the face, the picture of the face, the colours, the place of the face) is divided by the second largest of its eight neighbours: a quick
turn of the head, a hand-held camera and frames repeated or left out by another frame rate change as much before or after; the second
largest, because a flash changes twice. Two measures must agree, or the face must jump to another place.

In a fade or a dissolve the middle picture is a mixture of an earlier and a later one; when a camera or a person moves it is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vivavoce.face import regions

Floats = NDArray[np.float32]

SIDE = 48  # px, longest side of the pictures that are compared
AROUND = 4  # frames before and after that may explain a change: at 7 new pictures a second each stays for up to 4 frames
SURPRISE = 5.0  # times the neighbours' change; real cuts reach 7 to 25, quick turns at 30 frames a second made 25 reach 3
# Changes that are always possible: levels of 255 beside and in the face, share of pixels whose colour changed, face heights.
FLOORS = {"outside": 0.12, "inside": 0.6, "colours": 0.012, "moved": 0.004}
LEAP = 0.25  # face heights: the tracked face is suddenly elsewhere; no head moves so far in 40 ms
BINS = 8  # of a colour channel
WINDOWS = (4, 8, 16)  # frames to both sides of the middle of a fade
FADED = 25.0  # levels between the pictures before and after a fade
MARGIN = 1  # frames with next to nothing of the other picture
MIXED = 0.2  # of that difference that the mixture may leave unexplained


def thumbnail(path: Path) -> Floats:  # -> [h,w,3] 0..255
    """The picture at the size that is compared; a JPEG is decoded at an eighth."""
    with Image.open(path) as image:
        scale = SIDE / max(image.size)
        size = (max(8, round(image.size[0] * scale)), max(8, round(image.size[1] * scale)))
        image.draft("RGB", size)
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), np.float32)


def face_mask(box: Floats | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:  # [4] 0..1 of the picture -> [h,w]
    """Pixels of the head around a face's box (x0, y0, x1, y1); none without a face."""
    if box is None:
        return np.zeros(shape[:2], bool)
    y, x = ((np.arange(n) + 0.5) / n for n in shape[:2])
    wide, high = box[2] - box[0], box[3] - box[1]
    across = (x > box[0] - 0.25 * wide) & (x < box[2] + 0.25 * wide)
    down = (y > box[1] - 0.5 * high) & (y < box[3] + 0.2 * high)
    return np.asarray(down[:, None] & across[None])


def histogram(picture: Floats) -> Floats:  # [h,w,3] -> [512], sums to 1
    """Share of the pixels of each colour."""
    bins = np.minimum(picture * (BINS / 256), BINS - 1).astype(int) @ np.array([BINS * BINS, BINS, 1])
    return (np.bincount(bins.ravel(), minlength=BINS**3) / bins.size).astype(np.float32)


@dataclass
class Look:
    """One frame as it is compared."""

    picture: Floats  # [h,w,3]
    box: Floats | None  # [4] of the face, 0..1 of the picture
    still: Floats | None  # [S,2] px, points that do not move with the expression
    colours: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.colours = histogram(self.picture)


def look(path: Path, points: Floats, size: tuple[int, int]) -> Look:  # [478,3] px, NaN without a face; height, width
    """A frame from its file and its landmarks."""
    if not np.isfinite(points[0, 0]):
        return Look(thumbnail(path), None, None)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    box = np.concatenate([low, high]) / np.array([size[1], size[0]] * 2, np.float32)
    return Look(thumbnail(path), box.astype(np.float32), points[list(regions.STILL), :2])


def change(before: Look, after: Look, height: float) -> dict[str, float]:
    """Every measure of change between two neighbouring frames; NaN for the face's place where it is not known. `height` of the face, px."""
    away = np.abs(after.picture - before.picture).mean(2)
    head = face_mask(before.box, away.shape) | face_mask(after.box, away.shape)
    moved = np.nan
    if before.still is not None and after.still is not None:
        moved = float(np.linalg.norm(after.still - before.still, axis=1).mean() / height)
    return {
        "outside": float(away[~head].mean()) if not head.all() else 0.0,
        "inside": float(away[head].mean()) if head.any() else float(away.mean()),
        "colours": float(np.abs(after.colours - before.colours).sum() / 2),
        "moved": moved,
    }


def surprise(values: NDArray[np.float64], floor: float) -> NDArray[np.float64]:  # [T] -> [T]
    """Each change over the second largest of its neighbours'; 0 where it was not measured."""
    known = np.nan_to_num(values)
    padded = np.pad(known, AROUND)
    near = [padded[AROUND + o : AROUND + o + len(known)] for o in range(-AROUND, AROUND + 1) if o]
    usual: NDArray[np.float64] = np.sort(np.stack(near), 0)[-2]
    return known / np.maximum(usual, floor)


def hard(changes: dict[str, NDArray[np.float64]]) -> list[int]:  # [T] each -> frames that begin a shot
    """Frames unlike the one before: cuts and both ends of flashes."""
    found = {name: surprise(values, FLOORS[name]) > SURPRISE for name, values in changes.items()}
    votes = np.sum(list(found.values()), axis=0)
    leap = found["moved"] & (np.nan_to_num(changes["moved"]) > LEAP)
    return [int(k) for k in np.flatnonzero((votes >= 2) | leap)]


def shares(pictures: Floats) -> tuple[NDArray[np.float64], float]:  # [n,...] -> [n] share of the last picture, levels apart
    """Each picture as a mixture of the first and the last."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    way = flat[-1] - flat[0]
    return (flat - flat[0]) @ way / max(float(way @ way), 1e-9), float(np.abs(way).mean())


def faded(pictures: Floats) -> tuple[int, int] | None:  # [n,h,w,3] -> positions of the first and last mixed picture
    """Whether these pictures fade from the first to the last, and where."""
    part, _ = shares(pictures)
    between = [i for i, s in enumerate(part) if 0.05 < s < 0.95]
    if len(between) < 2 or np.abs(np.diff(part)).max() > 0.6:  # one step: a cut, and a frame that an encoder blurred
        return None
    mixture = pictures[0] + part[:, None, None, None].astype(np.float32) * (pictures[-1] - pictures[0])
    rest = np.sqrt(np.square(pictures - mixture).mean((1, 2, 3))[between].max() / np.square(pictures[-1] - pictures[0]).mean())
    return (between[0], between[-1]) if rest < MIXED else None


def fades(pictures: Sequence[tuple[int, Floats]]) -> list[tuple[int, int]]:
    """The fade whose middle is the middle of the pictures held, in the longest window that shows it; none in most films."""
    middle = len(pictures) // 2
    for wide in reversed(WINDOWS):
        if middle < wide:
            continue
        share, apart = shares(np.stack([pictures[k][1] for k in (middle - wide, middle, middle + wide)]))
        if apart < FADED or not 0.3 < share[1] < 0.7:
            continue
        if found := faded(np.stack([pictures[k][1] for k in range(middle - wide, middle + wide + 1)])):
            start = pictures[middle - wide][0]
            return [(max(start + found[0] - MARGIN, 0), start + found[1] + MARGIN)]
    return []


@dataclass
class Changes:
    """What a film's frames say about its cuts."""

    hard: list[int]  # frames that differ from the one before in one step
    fades: list[tuple[int, int]]  # first and last frame of each


def changes(looks: Iterable[Look], height: float) -> Changes:
    """Look at a film's frames once, in order. `height` of the face, px."""
    rows: dict[str, list[float]] = {name: [np.nan] for name in FLOORS}
    held: deque[tuple[int, Floats]] = deque(maxlen=2 * WINDOWS[-1] + 1)
    soft: list[tuple[int, int]] = []
    before: Look | None = None
    for k, now in enumerate(looks):
        if before is not None:
            for name, value in change(before, now, height).items():
                rows[name].append(value)
        held.append((k, now.picture))
        soft += fades(held) if len(held) % 2 else []
        before = now
    while len(held) > 2:  # the last middles
        held.popleft()
        soft += fades(held) if len(held) % 2 else []
    cuts = hard({name: np.array(values) for name, values in rows.items()})
    joined: list[tuple[int, int]] = []
    for first, last in sorted(soft):
        if any(first <= c <= last for c in cuts):
            continue
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return Changes(cuts, joined)
