"""How the body lies in every frame, `body.npy` float32 [T,2,3+64]: from one canonical picture of the body to the frame.

The first three columns are an affine map. The rest are 8 x 8 nodes of a cubic B-spline, row by row from the top: how far each point
of the canonical picture is moved before the map, for collar, tie and lapels do not move as one. Coordinates run from -1 to 1 over
the frame as in torch's `affine_grid` (align_corners=False), so that the size does not matter.
The head's pose does not say where the shoulders are; the clothes themselves do. Their picture is registered densely by the inverse
compositional method (Baker and Matthews, 2004) over four levels, with a free gain and bias of brightness and Tukey's weights, so
that what covers the body or moves on it has no say; the two numbers in which an affine map is no similarity are held back. The nodes
follow on the finest level, against the stiffness of a thin plate (Rueckert et al., 1999). The canonical picture is the median of
frames brought onto each other. A frame in which the registration fails takes the nearest good one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from vivavoce.face import regions
from vivavoce.nn.torso import spline
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.background import labels_of
from vivavoce.prepare.parallel import each, spread
from vivavoce.prepare.rows import opened, writing
from vivavoce.types import InputError

Floats = NDArray[np.float32]

SIDE = 512  # px, longest side of the pictures that are compared
LEVELS = 4
PICKED = 25  # frames the canonical picture is made of
POINTS = 4000  # pixels compared at most, a level
FEWEST = 150  # pixels of cloth at full resolution; with fewer there is no body to follow
STEPS = 8  # of Gauss-Newton at most, a level
STILL = 2e-5  # half pictures: a smaller step ends a level
CELLS = 5  # of the spline along each side; it has three nodes more
BENDS = 8  # steps for the spline
BEND_POINTS = 2000  # of the compared pixels have a say in it
STIFF = 1e-3  # pull of its nodes towards an affine map, in shares of what the pixels say
TUKEY = 4.685  # robust standard deviations at which a pixel has no weight left
LEAST_NOISE = 1.5 / 255  # of brightness
COLUMNS = 3 + (CELLS + 3) ** 2  # of a row of body.npy
SHEAR = 0.003  # pull towards a similarity, in shares of what the pixels say about a turn
SHARE = 0.35  # of the pixels that count, times their correlation: less is no registration
RUN = 64  # frames that one thread follows, each from the one before
FAR = 1.0  # half pictures: no body moves farther
LARGER = 1.35  # nor is it seen so much larger, or longer in one direction, than usual


def small(path: object) -> Floats:
    """Brightness 0..1 of a picture file at the size that is compared, its sides multiples of four: [h,w]."""
    with Image.open(path) as image:  # type: ignore[arg-type]
        width, height = image.size
        scale = min(1.0, SIDE / max(width, height))
        sides = (max(16, round(width * scale / 4) * 4), max(16, round(height * scale / 4) * 4))
        image.draft("L", sides)  # a JPEG decodes at a fraction of its size
        grey = image.convert("L").resize(sides, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
        return np.asarray(grey, np.float32) / np.float32(255)


def pyramid(picture: Floats) -> list[Floats]:  # [h,w] -> finest first
    """The picture, lightly blurred, and its halves."""
    out = [ndimage.gaussian_filter(picture, 0.7)]
    for _ in range(LEVELS - 1):
        p = out[-1][: out[-1].shape[0] // 2 * 2, : out[-1].shape[1] // 2 * 2]
        out.append((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4)
    return out


def sampled(picture: Floats, points: Floats) -> Floats:  # [h,w], [2,...] coordinates (x, y) -> [...]
    """The picture at coordinates -1..1, held at its border."""
    height, width = picture.shape
    places = np.stack([(points[1] + 1) * (height / 2) - 0.5, (points[0] + 1) * (width / 2) - 0.5])
    return np.asarray(ndimage.map_coordinates(picture, places, order=1, mode="nearest"), np.float32)


def lattice(height: int, width: int) -> Floats:  # -> [2,h,w]
    """Coordinates of the pixel centres."""
    x, y = (np.arange(width) + 0.5) / width * 2 - 1, (np.arange(height) + 0.5) / height * 2 - 1
    return np.stack(np.meshgrid(x, y)).astype(np.float32)


def moved(points: Floats, matrix: np.ndarray) -> Floats:  # [2,...], [3,3] -> [2,...]
    """The points where an affine map takes them."""
    m = matrix.astype(np.float32)
    return np.stack([m[k, 0] * points[0] + m[k, 1] * points[1] + m[k, 2] for k in (0, 1)])


def agreement(seen: Floats, values: Floats, weight: Floats) -> float:  # [N] each -> 0..1
    """Correlation of what is seen with what should be, among the pixels that count, times their share."""
    total = max(float(weight.sum()), 1e-6)
    a, b = seen - float((weight * seen).sum()) / total, values - float((weight * values).sum()) / total
    norm = float((weight * a * a).sum() * (weight * b * b).sum()) ** 0.5
    return max(float((weight * a * b).sum()) / max(norm, 1e-9), 0.0) * float(weight.mean())


def tukey(rest: NDArray[np.floating]) -> Floats:  # [N] -> [N] 0..1
    """Weights of residuals by their own spread: none for what is far off."""
    noise = max(1.4826 * float(np.median(np.abs(rest))), LEAST_NOISE)
    return np.asarray(np.square(np.clip(1 - np.square(rest / (TUKEY * noise)), 0, None)))


def thin_plate(side: int) -> Floats:  # -> [side*side,side*side]
    """Quadratic form of the second differences of a square of nodes along both axes."""
    nodes = np.eye(side * side, dtype=np.float32).reshape(-1, side, side)
    bent = [np.diff(nodes, n=2, axis=axis).reshape(len(nodes), -1) for axis in (1, 2)]
    return np.asarray(bent[0] @ bent[0].T + bent[1] @ bent[1].T, np.float32)


@dataclass
class Level:
    """What one level of the canonical picture gives: its brightness, and how it changes with each of six numbers."""

    points: Floats  # [2,N]
    values: Floats  # [N]
    slopes: Floats  # [N,6]: right, down, larger, turned, two shears; in half pictures of the longer side


class Canonical:
    """The canonical picture, ready to be found in frames.

    Args:
        picture: brightness [h,w]. where: [h,w] bool, the pixels that belong to the body.
    """

    def __init__(self, picture: Floats, where: NDArray[np.bool_]) -> None:
        height, width = picture.shape
        self.aspect = np.array([width, height], np.float64) / max(width, height)
        self.levels = [self._level(p, where) for p in pyramid(picture)]
        finest = self.levels[0]
        self.few = slice(None, None, -(-len(finest.values) // BEND_POINTS) or 1)
        x, y = (spline(torch.from_numpy(finest.points[k, self.few]), CELLS).numpy() for k in (0, 1))
        self.nodes = (y[:, :, None] * x[:, None, :]).reshape(len(x), -1)  # [N,64] how much each node moves each point
        self.stiff = thin_plate(CELLS + 3)
        both = np.kron(np.eye(2, dtype=np.float32), self.stiff)
        self.held = STIFF * both + 1e-4 * np.eye(len(both), dtype=np.float32)

    def _level(self, picture: Floats, where: NDArray[np.bool_]) -> Level:
        height, width = picture.shape
        places = lattice(height, width)
        inside = sampled(where.astype(np.float32), places) > 0.5
        inside[[0, -1]] = inside[:, [0, -1]] = False  # a slope at the border is made up
        down, right = np.gradient(picture)
        half = np.float32(max(height, width) / 2)
        gx, gy = (np.asarray(slope, np.float32)[inside] * half for slope in (right, down))
        every = np.argsort(-(gx * gx + gy * gy), kind="stable")[: 2 * POINTS]  # flat pixels say nothing
        every = every[:: -(-len(every) // POINTS)] if len(every) else every
        gx, gy, points = gx[every], gy[every], places[:, inside][:, every]
        x, y = points * self.aspect[:, None].astype(np.float32)
        slopes = np.stack([gx, gy, gx * x + gy * y, gy * x - gx * y, gx * x - gy * y, gx * y + gy * x], 1)
        return Level(points, picture[inside][every], slopes.astype(np.float32))

    def find(self, frame: list[Floats], start: np.ndarray) -> tuple[np.ndarray, float]:
        """Where the body lies in a frame.

        Args:
            frame: its `pyramid`. start: [3,3], a first guess.
        Returns:
            the map [3,3], and how much of the body agrees with it, 0 to 1 (see `agreement`; 0: the registration failed).
        """
        matrix, share = start, 0.0
        for level, picture in zip(self.levels[::-1], frame[::-1], strict=True):
            if len(level.values) >= 12 and np.isfinite(matrix).all():
                matrix, share = self._descend(level, picture, matrix)
        return (matrix, share) if self._sound(matrix) else (start, 0.0)

    def _sound(self, matrix: np.ndarray) -> bool:  # [3,3]
        """Clothes are not seen twice as large, half as large or sheared: a search that ends there has followed something else."""
        if not np.isfinite(matrix).all() or np.abs(matrix[:2, 2]).max() >= FAR:
            return False
        sizes = np.linalg.svd(matrix[:2, :2] * self.aspect[:, None] / self.aspect, compute_uv=False)
        return bool(sizes.max() < LARGER and sizes.min() > 1 / LARGER)

    def bend(self, picture: Floats, matrix: np.ndarray) -> Floats:  # [h,w], [3,3] -> [2,8,8]
        """The spline's nodes in a frame whose affine map is known (its `pyramid`'s finest picture)."""
        level, count = self.levels[0], self.nodes.shape[1]
        points, values, slopes = level.points[:, self.few], level.values[self.few], level.slopes[self.few, :2]
        columns = (slopes[:, :, None] * self.nodes[:, None]).reshape(len(values), -1)
        aspect = self.aspect[:, None].astype(np.float32)
        found = np.zeros((2, count), np.float32)  # in halves of the longer side, as the slopes
        for _ in range(BENDS if len(values) >= 2 * count else 0):
            rest = sampled(picture, moved(points + found @ self.nodes.T / aspect, matrix)) - values
            rest -= np.median(rest)
            heavy = columns * tukey(rest)[:, None]
            system, right = heavy.T @ columns, (heavy.T @ rest).reshape(2, count)
            scale = float(np.trace(system)) / len(system)
            right += scale * STIFF * (found @ self.stiff)
            system += scale * self.held
            found -= np.linalg.solve(system, right.reshape(-1)).reshape(2, count)
        return (found / aspect).reshape(2, CELLS + 3, CELLS + 3)

    def _descend(self, level: Level, picture: Floats, matrix: np.ndarray) -> tuple[np.ndarray, float]:
        """Gauss-Newton on one level."""
        gain, bias, share = 1.0, 0.0, 0.0
        columns = np.empty((len(level.values), 8), np.float32)
        columns[:, 6], columns[:, 7] = level.values, 1
        scale = np.diag([*self.aspect, 1.0])
        back, lost = np.linalg.inv(scale), (np.full((3, 3), np.nan), 0.0)
        for turn in range(STEPS):
            seen = sampled(picture, moved(level.points, matrix))
            if turn == 0:  # brightness first: else a darker frame has outliers alone
                bias = float(np.median(seen - level.values))
            rest = seen - gain * level.values - bias
            weight = tukey(rest)
            share = agreement(seen, level.values, weight)
            columns[:, :6] = gain * level.slopes
            heavy = columns * weight[:, None]
            system, right = (heavy.T @ columns).astype(np.float64), (heavy.T @ rest).astype(np.float64)
            own = scale @ matrix @ back
            for k, excess in ((4, (own[0, 0] - own[1, 1]) / 2), (5, (own[0, 1] + own[1, 0]) / 2)):
                pull = SHEAR * system[3, 3]
                system[k, k] += pull
                right[k] += pull * excess
            system[range(8), range(8)] *= 1 + 1e-5
            step = np.linalg.lstsq(system, right, rcond=1e-9)[0]
            a, b, s, t, p, q = step[:6]
            change = np.array([[1 + s + p, q - t, a], [q + t, 1 + s - p, b], [0, 0, 1]])
            if abs(np.linalg.det(change)) < 0.1:
                return lost
            matrix = matrix @ back @ np.linalg.inv(change) @ scale
            if not np.abs(matrix).max() < 10 * FAR:  # from there each step is wilder than the last, until numbers end
                return lost
            gain, bias = float(np.clip(gain + step[6], 0.3, 3)), bias + float(step[7])
            if np.abs(step[:6]).max() < STILL:
                break
        return matrix, share


def canonical(pictures: list[Floats], cloths: list[NDArray[np.bool_]]) -> Canonical | None:
    """The median of frames brought onto each other, from some frames' brightness and cloth; None where there is no body to follow.

    Its place is the mean of theirs.
    """
    stack = np.stack(pictures)
    often = np.mean(cloths, 0) > 0.7
    if often.sum() < FEWEST:
        return None
    first = int(np.abs(stack - np.median(stack, 0))[:, often].mean(1).argmin())
    model, where = Canonical(pictures[first], cloths[first]), cloths[first]
    places = lattice(*pictures[0].shape)
    pyramids = [pyramid(p) for p in pictures]
    for _ in range(2):
        found = [model.find(p, np.eye(3)) for p in pyramids]
        good = [k for k, (_, share) in enumerate(found) if share > SHARE] or [first]
        middle = np.linalg.inv(np.mean([found[k][0] for k in good], 0)) if len(good) > 1 else np.eye(3)
        at = [moved(places, found[k][0] @ middle) for k in good]
        picture = np.median([sampled(pictures[k], p) for k, p in zip(good, at, strict=True)], 0)
        where = np.mean([sampled(cloths[k].astype(np.float32), p) for k, p in zip(good, at, strict=True)], 0) > 0.8
        if where.sum() < FEWEST:
            return None
        model = Canonical(picture.astype(np.float32), where)
    return model


def follow(model: Canonical, levels: list[Floats], previous: np.ndarray) -> tuple[np.ndarray, float]:  # [3,3] -> [3,3], 0..1
    """The body of a frame (its `pyramid`) from that of the frame before; from its usual place when that fails."""
    matrix, share = model.find(levels, previous)
    if share < SHARE:
        again, other = model.find(levels, np.eye(3))
        if other > share:
            return again, other
    return matrix, share


def settled(rows: np.ndarray, good: NDArray[np.bool_]) -> np.ndarray:  # [T,2,3+64], [T] -> [T,2,3+64]
    """Frames that failed take the nearest good one."""
    if not good.any():
        return np.tile(np.eye(*rows.shape[1:]), (len(rows), 1, 1))
    there, every = np.flatnonzero(good), np.arange(len(rows))
    after = np.searchsorted(there, every).clip(0, len(there) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(every - there[before] < np.abs(there[after] - every), there[before], there[after])
    nearest[good] = there[np.searchsorted(there, every[good])]
    return np.asarray(rows[nearest])


def chaser(path: Path, model: Canonical) -> Callable[[int], tuple[int, Floats, Floats]]:
    """What follows the body through a run of frames of the folder, each from the one before."""
    folder = Folder(path)

    def chase(first: int) -> tuple[int, Floats, Floats]:  # -> first, [n,2,3+64], [n] how much agrees
        rows, shares, previous = [], [], np.eye(3)
        for k in range(first, min(first + RUN, folder.frames)):
            levels = pyramid(small(folder.image(k)))
            matrix, share = follow(model, levels, previous)
            previous = matrix if share > SHARE else previous
            rows.append(np.concatenate([matrix[:2], model.bend(levels[0], matrix).reshape(2, -1)], 1).astype(np.float32))
            shares.append(share)
        return first, np.stack(rows), np.array(shares, np.float32)

    return chase


def run(folder: Folder, progress: Progress) -> None:
    """The canonical picture from frames spread over the clip, then every frame after the one before."""
    if folder.file("body.npy").is_file():
        return
    count, used = folder.frames, np.flatnonzero(folder.used)
    chosen = used[np.unique(np.linspace(0, len(used) - 1, PICKED).round().astype(int))].tolist()
    pictures = list(each(lambda k: small(folder.image(k)), chosen))
    sides = pictures[0].shape[::-1]

    def cloth(frame: int) -> NDArray[np.bool_]:
        mask = Image.fromarray(labels_of(folder, frame) == regions.CLOTH)
        return np.asarray(mask.resize(sides, Image.Resampling.NEAREST))

    model = canonical(pictures, list(each(cloth, chosen)))
    rows, good = np.zeros((count, 2, COLUMNS), np.float32), np.zeros(count, bool)

    done = 0

    def heard(found: tuple[int, Floats, Floats]) -> None:
        nonlocal done
        part = slice(found[0], found[0] + len(found[2]))
        rows[part], good[part] = found[1], found[2] > SHARE
        done += len(found[2])
        progress(done, count)

    if model is not None:
        spread(partial(chaser, folder.path, model), range(0, count, RUN), count, heard)
    with folder.whole("body.npy") as part, writing(part, rows.shape, np.float32) as add:
        add(settled(rows, good))
    folder.update(body={"followed": int(good.sum())})


def verify(folder: Folder) -> None:
    """A map for every frame: finite, and no body turned inside out."""
    path, remedy = folder.file("body.npy"), f"run: vivavoce prepare {folder.path} --only body"
    rows = opened(path, remedy)
    if rows.shape not in ((folder.frames, 2, 3), (folder.frames, 2, COLUMNS)) or not np.isfinite(rows).all():
        raise InputError(path, f"does not hold {folder.frames} maps of finite numbers", remedy)
    if (np.linalg.det(rows[:, :, :2]) <= 0).any():
        raise InputError(path, "holds a map that turns the body inside out", remedy)


STEP = Step("body", 0, 3, ("frames", "parsing", "shots"), ("body.npy",), run, verify)
