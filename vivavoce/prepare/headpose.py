"""The head's pose once more, from the picture itself: what the landmarks say, corrected until hair, forehead, nose and ears lie still.

Landmarks see the face alone, and follow its expressions a little; an error of half a degree is pixels at the top of the hair. So the
upper head of every frame is registered to one canonical picture of it, by the inverse compositional method (Baker and Matthews,
2004) in the six numbers of a rigid pose. `skull.py` says where a pixel of that picture lies on the head; of some depths of the skull
that one is taken under which the frames agree best. The canonical picture is the median of frames laid onto each other, the weight
of a pixel the inverse of its variance among them: swinging hair and a background that moves behind the head say little. A frame that
agrees no better than before, or would have to go far from its landmarks, has no correction of its own: it takes that of the frames
beside it or, far from any, none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vivavoce.face import pose
from vivavoce.face.smooth import steady
from vivavoce.face.track import Track
from vivavoce.prepare import Folder
from vivavoce.prepare.background import labels_of
from vivavoce.prepare.body import TUKEY, Floats, pyramid, small
from vivavoce.prepare.parallel import each, spread
from vivavoce.prepare.skull import BEHIND, Lens, Rows, surface, upper_head

KEYS = 80  # frames the canonical picture is made of
PARSED = 24  # of them whose parsing says where the head is
ROUNDS = 3  # canonical picture, poses of its frames, and again
LEVELS = 2
POINTS = 2000  # pixels compared at most, a level
BORDER = 8  # pixels around those registered that the canonical picture shows too, for its slopes
FEWEST = 600  # pixels of upper head; with fewer there is nothing to register
STEPS = (4, 3)  # of Gauss-Newton at most: on the coarse level, on the fine one
STILL = 5e-5  # rad, metres: a smaller step ends a level
NOISE = 3 / 255  # of brightness, of a pixel that never changes
ALIKE = 40.0  # pixels that err together, so that as many tell what one would
PRIOR = (0.03, 0.03, 0.03, 0.01, 0.01, 0.03)  # rad, metres: how far the landmarks may be wrong (standard deviations)
TURNED = 0.6  # rad from the canonical pose: beyond this the picture shows another side of the head
FARTHEST = 0.12  # rad, and a third of it in metres: a larger correction is a mistake
REACH = 12  # frames over which a correction fades where frames have none of their own
DEEPER, DEPTHS = 0.015, (-1, 3)  # metres, and steps: where the depth of the skull is searched, from the usual on
SEARCHED = 40  # frames that the search compares
RUN = 64  # frames that one thread takes at once


def read(picture: Floats, places: NDArray[np.floating]) -> Floats:  # [h,w], [2,...] px (x, y) -> [...]
    """The picture at places, held at its border."""
    return np.asarray(ndimage.map_coordinates(picture, [places[1] - 0.5, places[0] - 0.5], order=1, mode="nearest"), np.float32)


def middle(rotation: Rows, translation: Rows) -> tuple[Rows, Rows]:  # [T,3,3], [T,3] -> [3,3], [3]
    """The pose in the middle of many."""
    left, _, right = np.linalg.svd(rotation.mean(0))
    return left @ right, np.median(translation, 0)


def shrunk(rows: Floats, step: int) -> Floats:  # [h,w,...] -> [h/step,w/step,...]
    """Means of squares of pixels."""
    height, width = (side // step for side in rows.shape[:2])
    parts = rows[: height * step, : width * step].reshape(height, step, width, step, *rows.shape[2:])
    return np.asarray(parts.mean((1, 3)), np.float32)


def slopes(points: Floats, rotation: Rows, translation: Rows, lens: Lens) -> Floats:  # [N,3] -> [N,2,6] px
    """Change of a point's place in the canonical picture as the head turns (rad) and moves (metres) in its own axes."""
    place = points @ rotation.T + translation
    near = -1 / place[:, 2]
    moved = np.zeros((len(points), 2, 3))
    moved[:, 0, 0], moved[:, 1, 1] = lens.focal[0] * near, -lens.focal[1] * near
    moved[:, :, 2] = np.stack([lens.focal[0] * place[:, 0], -lens.focal[1] * place[:, 1]], 1) * np.square(near)[:, None]
    moved = moved @ rotation
    cross = pose.cross_matrix(torch.from_numpy(points.astype(np.float64))).numpy()
    return np.asarray(np.concatenate([-moved @ cross, moved], 2), np.float32)


@dataclass
class Level:
    """What one level of the canonical picture gives."""

    points: Floats  # [N,3] metres, head space
    values: Floats  # [N] brightness
    columns: Floats  # [N,8] its change with the pose, then with gain and bias
    weight: Floats  # [N] 1 / variance


class Canonical:
    """The upper head as it usually looks, ready to be found in frames.

    Args:
        picture: brightness [h,w]. variance: of it, [h,w]. use: [h,w], `upper_head`. points: [h,w,3], `surface`.
        rotation, translation: the canonical pose.
    """

    def __init__(
        self, picture: Floats, variance: Floats, use: Floats, points: Floats, rotation: Rows, translation: Rows, lens: Lens
    ) -> None:
        self.lens, self.rotation, self.translation = lens, rotation, translation
        share = np.asarray(use / (variance + NOISE**2), np.float32)
        self.levels = []
        for number, smaller in enumerate(pyramid(picture)[:LEVELS]):
            step = 2**number
            self.levels.append(self._level(smaller, shrunk(share, step), shrunk(points, step), step))

    def _level(self, picture: Floats, weight: Floats, points: Floats, step: int) -> Level:
        inside = weight > 0
        inside[[0, -1]] = inside[:, [0, -1]] = False  # a slope at the border is made up
        down, right = (np.asarray(slope, np.float32)[inside] for slope in np.gradient(picture))
        lens = Lens(picture.shape, self.lens.focal / step)
        chosen = np.argsort(-(down * down + right * right) * weight[inside], kind="stable")[: 2 * POINTS]  # flat pixels say nothing
        chosen = chosen[:: -(-len(chosen) // POINTS)] if len(chosen) else chosen
        where = points[inside][chosen]
        change = slopes(where, self.rotation, self.translation, lens)
        columns = np.ones((len(chosen), 8), np.float32)
        columns[:, :6] = right[chosen, None] * change[:, 0] + down[chosen, None] * change[:, 1]
        columns[:, 6] = picture[inside][chosen]
        return Level(where, columns[:, 6].copy(), columns, weight[inside][chosen])

    def misfit(self, picture: Floats, rotation: Rows, translation: Rows) -> float:
        """Mean of the squared errors in standard deviations, none of them more than 9, on the finest level under the best brightness."""
        level = self.levels[0]
        seen = read(picture, self.lens.seen(level.points, rotation, translation))
        gain, bias = self._brightness(level, seen)
        return float(np.minimum(level.weight * np.square(seen - gain * level.values - bias), 9).mean())

    def _brightness(self, level: Level, seen: Floats) -> tuple[float, float]:
        """Gain and bias by which the frame's light differs, from pixels that agree."""
        gain, bias = 1.0, float(np.median(seen - level.values))
        both = level.columns[:, 6:]
        for _ in range(2):
            weight = tukey(level, seen - gain * level.values - bias)
            heavy = both * weight[:, None]
            gain, bias = np.linalg.solve((heavy.T @ both).astype(np.float64) + 1e-9 * np.eye(2), heavy.T @ seen)
            gain = float(np.clip(gain, 0.3, 3))
        return gain, float(bias)

    def find(self, frame: list[Floats], rotation: Rows, translation: Rows) -> tuple[Rows, bool]:
        """What has to be done to a head's pose in a frame.

        Args:
            frame: its `pyramid`. rotation: [3,3], translation: [3] metres, from the landmarks.
        Returns:
            the correction [6] (rad and metres, in the head's own axes: see `corrected`), and whether it is to be trusted.
        """
        none = np.zeros(6)
        if np.trace(rotation @ self.rotation.T) < 1 + 2 * np.cos(TURNED):
            return none, False
        found = none
        for steps, level, picture, step in zip(STEPS, self.levels[::-1], frame[LEVELS - 1 :: -1], (2, 1), strict=True):
            found = self._descend(level, picture, Lens(picture.shape, self.lens.focal / step), (rotation, translation), found, steps)
        far = max(np.abs(found[:3]).max(), 3 * np.abs(found[3:]).max())
        if not far < FARTHEST:
            return none, False
        return found, self.misfit(frame[0], *corrected(rotation, translation, found)) < self.misfit(frame[0], rotation, translation)

    def _descend(self, level: Level, picture: Floats, lens: Lens, start: tuple[Rows, Rows], found: Rows, steps: int) -> Rows:
        """Gauss-Newton on one level."""
        hold = ALIKE * np.diag([*np.square(1 / np.array(PRIOR)), 0, 0])
        gain, bias = 0.0, 0.0
        columns = level.columns.copy()
        for turn in range(steps):
            seen = read(picture, lens.seen(level.points, *corrected(*start, found)))
            if turn == 0:
                gain, bias = self._brightness(level, seen)
            rest = seen - gain * level.values - bias
            columns[:, :6] = gain * level.columns[:, :6]
            heavy = columns * tukey(level, rest)[:, None]
            system = (heavy.T @ columns).astype(np.float64) + hold
            right = (heavy.T @ rest).astype(np.float64) + hold @ np.array([*found, 0, 0])
            system[range(8), range(8)] *= 1 + 1e-6
            step = np.linalg.lstsq(system, right, rcond=1e-12)[0]
            found = found - step[:6]
            gain, bias = float(np.clip(gain + step[6], 0.3, 3)), bias + float(step[7])
            if not np.abs(found).max() < 10 * FARTHEST or np.abs(step[:6]).max() < STILL:  # not a number is not less
                break
        return found


def tukey(level: Level, rest: NDArray[np.floating]) -> Floats:  # [N] -> [N]
    """Weights of the residuals: by their pixels' variance, none for what is far off in this frame."""
    square = level.weight * np.square(rest)
    spread_ = max(2.2 * float(np.median(square)), 1.0)  # 2.2 = 1.4826 squared: a frame may be worse than the canonical ones are
    return np.asarray(level.weight * np.square(np.clip(1 - square / (TUKEY**2 * spread_), 0, None)) / spread_, np.float32)


def corrected(rotation: Rows, translation: Rows, change: Rows) -> tuple[Rows, Rows]:  # [...,3,3], [...,3], [...,6] -> the same
    """The pose after the head was turned and moved in its own axes."""
    return rotation @ Rotation.from_rotvec(change[..., :3]).as_matrix(), translation + (rotation @ change[..., 3:, None])[..., 0]


def deepest(unlike: Callable[[int], float]) -> float:
    """The lowest place of a valley, in steps: down from 0 step by step, then the parabola through the lowest three."""
    at = 0
    while at > DEPTHS[0] and unlike(at - 1) < unlike(at):
        at -= 1
    while at < DEPTHS[1] and unlike(at + 1) < unlike(at):
        at += 1
    if at in DEPTHS:
        return at
    left, lowest, right = (unlike(at + k) for k in (-1, 0, 1))
    return at + 0.5 * (left - right) / max(left - 2 * lowest + right, 1e-12)


@dataclass
class Poses:
    """The pose of every frame by its landmarks, and where the pictures are that it is compared with."""

    path: Path
    rotation: Rows  # [T,3,3]
    translation: Rows  # [T,3] metres
    lens: Lens

    @staticmethod
    def of(folder: Folder, rotation: Rows, translation: Rows, focal: float) -> Poses:
        height, width = small(folder.image(0)).shape
        lens = Lens((height, width), np.array([focal * width / folder.size[1], focal * height / folder.size[0]]))
        return Poses(folder.path, rotation, translation, lens)

    def canonical(self, mesh: Rows, usable: NDArray[np.int64]) -> Canonical | None:
        """The canonical picture, from some frames brought onto each other; None where there is too little of a head."""
        keys = usable[np.unique(np.linspace(0, len(usable) - 1, KEYS).round().astype(int))]
        usual = middle(self.rotation[usable], self.translation[usable])
        spots = self.lens.seen(mesh, *usual).T
        head, use = self._parsed(keys[:: -(-len(keys) // PARSED)], surface(mesh, *usual, self.lens), spots)
        if np.count_nonzero(use) < FEWEST:
            return None
        told = dict[int, float]()

        def unlike(step: int) -> float:
            if step not in told:
                deep = surface(mesh, *usual, self.lens, head, BEHIND + step * DEEPER)
                told[step] = self._laid_over(deep, use, usual, keys[:: -(-len(keys) // SEARCHED)])[1]
            return told[step]

        best = deepest(unlike)
        return self._laid_over(surface(mesh, *usual, self.lens, head, BEHIND + best * DEEPER), use, usual, keys)[0]

    def _laid_over(self, points: Floats, use: Floats, usual: tuple[Rows, Rows], keys: NDArray[np.int64]) -> tuple[Canonical | None, float]:
        """The canonical picture of one surface, and how unlike each other its frames are: the mean logarithm of the variance."""
        there = ndimage.binary_dilation(use > 0, iterations=BORDER)
        model: Canonical | None = None
        unlike = 0.0
        for _ in range(ROUNDS):
            laid = [warped for warped in each(partial(self._laid, model, points[there]), keys) if warped is not None]
            if len(laid) < len(keys) / 4:  # a head so still, or so unlike itself, that nothing becomes better
                break
            picture, variance = np.zeros(self.lens.size, np.float32), np.ones(self.lens.size, np.float32)
            stack = np.stack(laid)
            picture[there] = np.median(stack, 0)
            variance[there] = np.square(1.4826 * np.median(np.abs(stack - picture[there]), 0))
            model = Canonical(picture, variance, use, points, *usual, self.lens)
            unlike = float(np.log(variance[use > 0] + NOISE**2).mean())
        return model, unlike

    def _parsed(self, frames: NDArray[np.int64], points: Floats, spots: Rows) -> tuple[NDArray[np.bool_], Floats]:
        folder, sides = Folder(self.path), np.array(self.lens.size[::-1])[:, None, None]
        labels = list(each(lambda k: labels_of(folder, int(k)), frames))
        return upper_head(labels, [self.lens.seen(points, self.rotation[k], self.translation[k]) / sides for k in frames], spots)

    def _laid(self, model: Canonical | None, points: Floats, frame: int) -> Floats | None:
        """A frame at points [N,3] of the canonical picture, [N]; None where it cannot be found on it."""
        picture, at = small(Folder(self.path).image(int(frame))), (self.rotation[frame], self.translation[frame])
        if model is not None:
            change, good = model.find(pyramid(picture), *at)
            if not good:
                return None
            at = corrected(*at, change)
        return read(picture, self.lens.seen(points, *at))


def seeker(poses: Poses, model: Canonical) -> Callable[[int], tuple[int, Rows, NDArray[np.bool_]]]:
    """What finds the corrections of a run of frames of the folder."""
    folder = Folder(poses.path)

    def seek(first: int) -> tuple[int, Rows, NDArray[np.bool_]]:  # -> first, [n,6], [n]
        frames = range(first, min(first + RUN, len(poses.rotation)))
        found = [model.find(pyramid(small(folder.image(k))), poses.rotation[k], poses.translation[k]) for k in frames]
        return first, np.stack([change for change, _ in found]), np.array([good for _, good in found])

    return seek


def faded(change: Rows, good: NDArray[np.bool_], shots: NDArray[np.bool_]) -> Rows:  # [T,6], [T], [T] True at a shot's first -> [T,6]
    """Corrections of the frames that have none: between those beside them in their shot, none far from any."""
    out = np.zeros_like(change)
    for rows in np.split(np.arange(len(change)), np.flatnonzero(shots)):
        there = rows[good[rows]]
        if not len(there):
            continue
        away = ndimage.distance_transform_edt(~good[rows])
        known = np.union1d(there, rows[away > REACH])
        values = np.where(good[known, None], change[known], 0)
        out[rows] = np.stack([np.interp(rows, known, values[:, k]) for k in range(6)], 1)
    return out


def refined(folder: Folder, found: Track, progress: Callable[[int, int], None]) -> tuple[Track, int]:
    """The track with its poses corrected by the pictures, and the number of frames that told a correction.

    Expression, mesh and focal length stay: what the landmarks say beside the head's motion, they say about the motion they show.
    """
    rotation, translation = pose.matrix_from_euler(found.rotation.double()).numpy(), found.translation.double().numpy()
    poses, usable = Poses.of(folder, rotation, translation, found.focal), np.flatnonzero(folder.kept)
    model = poses.canonical(found.vertices.double().numpy(), usable)
    if model is None:
        return found, 0
    count, done = len(rotation), 0
    change, good = np.zeros((count, 6)), np.zeros(count, bool)

    def heard(part: tuple[int, Rows, NDArray[np.bool_]]) -> None:
        nonlocal done
        rows = slice(part[0], part[0] + len(part[2]))
        change[rows], good[rows] = part[1:]
        done += len(part[2])
        progress(done, count)

    spread(partial(seeker, poses, model), range(0, count, RUN), count, heard)
    good &= folder.kept
    turned, moved = corrected(rotation, translation, faded(change, good, found.shots.numpy()))
    turned, moved = steadied(turned, moved, found)
    euler = pose.euler_from_matrix(torch.from_numpy(turned)).float()
    return replace(found, rotation=euler, translation=torch.from_numpy(moved).float()), int(good.sum())


def steadied(rotation: Rows, translation: Rows, found: Track) -> tuple[Rows, Rows]:
    """The poses without the noise of the registration: smoothed by as much as they tremble themselves."""
    usual, _ = middle(rotation, translation)
    turn = Rotation.from_matrix(rotation @ usual.T).as_rotvec()
    path = steady(np.concatenate([turn, translation], 1), found.found.numpy(), found.shots.numpy())
    return Rotation.from_rotvec(path[:, :3]).as_matrix() @ usual, path[:, 3:]
