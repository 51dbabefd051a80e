"""Faces of a picture: 478 mesh points and 52 expression scores each, by MediaPipe's nets on LiteRT; no mediapipe package.

The task file holds three nets. BlazeFace (128 px, whole picture) finds faces and their eyes; around each, a square 1.5 times the
box and turned so that the eyes are level is resampled to 256 px for the mesh net; 146 of its points give the expression scores.
In a video the next square comes from the last points and the detector sleeps while the mesh net believes in the face.
BlazeFace's short-range net misses faces smaller than about a tenth of the picture, so when it finds none in the whole picture,
overlapping squares of half, a quarter and an eighth the size are searched before the answer is "no face"; squares of half the size
also when other faces are wanted.

Against mediapipe 1.2.2's FaceLandmarker (image mode) on 104 frames of two dozen clips and nine pictures: both find the same
faces (and ours a drawn one); points 0.55 % of the distance between the outer eye corners apart on average, scores 0.009.
512 x 512 on one core of an AVX-512 Xeon: 4.2 ms a frame while following, 5.9 ms with the detector; mediapipe in the same run 4.3
and 5.1 (benchmarks/faces.py).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vivavoce import assets
from vivavoce.face import litert, regions
from vivavoce.types import InputError

ASSET = "face_landmarker"
DETECTOR, MESH, BLENDSHAPES = "face_detector.tflite", "face_landmarks_detector.tflite", "face_blendshapes.tflite"
DETECTOR_SIDE, MESH_SIDE = 128, 256  # px, inputs of the nets
MARGIN = 1.5  # the mesh net's square is this many times the face's box
SCORE = 0.5  # least detector score and least presence
OVERLAP = 0.3  # boxes that share more than this (intersection over union) are one face
SURE, SMALLEST = 0.8, 24  # presence and px of the faces found by searching, which looks at many more places
LEVELS = (2, 4, 8)  # search for small faces: squares of the long side over these

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass
class Face:
    """One face. Left and right are the person's own."""

    points: Array  # [478,3] px; z grows away from the viewer, in px too, 0 near the middle of the head
    blendshapes: Array  # [52] 0..1, named by regions.BLENDSHAPES
    score: float  # presence, 0..1
    box: Array  # [4] px: x0, y0, x1, y1 around the points

    @property
    def landmarks68(self) -> Array:  # [68,2] px
        """The 68-point view."""
        return regions.landmarks68(self.points)

    @property
    def eyes(self) -> Array:  # [2]
        """Openness of the left and right eye, 0 shut to 1 open: one minus the blink scores."""
        names = [regions.BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]
        return np.clip(1 - self.blendshapes[names], 0, 1)

    @property
    def mouth_open(self) -> float:
        """Gap between the inner lips over the width of the mouth: 0 shut, about 0.5 in a wide 'ah'. Does not change with size or roll."""
        upper, lower = (self.points[list(lip), :2] for lip in regions.LIPS_MIDDLE)
        width = np.linalg.norm(self.points[78, :2] - self.points[308, :2])
        return float(np.linalg.norm(upper - lower, axis=1).mean() / max(width, 1e-6))


def _anchors() -> Array:  # [896,2] 0..1
    """Centres that BlazeFace's boxes are relative to: 2 a cell of a 16 x 16 grid, 6 a cell of an 8 x 8 grid."""
    rows = []
    for cells, each in ((16, 2), (8, 6)):
        middle = (np.arange(cells, dtype=np.float32) + 0.5) / cells
        y, x = np.meshgrid(middle, middle, indexing="ij")
        rows.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), each, 0))
    return np.concatenate(rows)


class _Net:
    """One tflite net: array in, arrays out."""

    def __init__(self, data: bytes, threads: int) -> None:
        self.runner = litert.opened(threads, model_content=data)
        self.entry = self.runner.get_input_details()[0]["index"]
        self.exits = [d["index"] for d in self.runner.get_output_details()]

    def __call__(self, x: Array) -> list[Array]:  # [H,W,3] or [146,2]
        self.runner.set_tensor(self.entry, x[None])
        self.runner.invoke()
        return [self.runner.get_tensor(i) for i in self.exits]


@dataclass
class _Square:
    """A turned square of the picture."""

    centre: Array  # [2] px
    side: float  # px
    angle: float  # rad, of its x axis, clockwise in the picture


def _resample(picture: Picture, square: _Square) -> Array:  # [H,W,3] -> [256,256,3] 0..1
    """The square of the picture, bilinear; the picture's edge goes on outside it. A square larger than 256 px is averaged first.

    All but `grid_sample`, which keeps one picture on one thread, is NumPy: torch would wake a team of threads for each of five
    small steps, and on a busy machine the wait for that team takes ten times longer than the face.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    reach = square.side * (abs(np.cos(square.angle)) + abs(np.sin(square.angle))) / 2 + 2
    low = np.clip(np.floor(square.centre - reach), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(square.centre + reach), low + 1, [width, height]).astype(int)
    near = picture[low[1] : high[1], low[0] : high[0]]
    shrink = max(1, min(int(square.side / MESH_SIDE), *near.shape[:2]))
    if shrink > 1:
        near = np.asarray(Image.fromarray(np.ascontiguousarray(near)).reduce(shrink))
    span = np.array(near.shape[1::-1], np.float64) * shrink  # [w, h] px covered, the last cells perhaps in part
    step = (np.arange(MESH_SIDE, dtype=np.float32) + 0.5) / MESH_SIDE - 0.5
    cos, sin = np.cos(square.angle) * square.side * 2 / span, np.sin(square.angle) * square.side * 2 / span
    middle = (square.centre - low) / span * 2 - 1
    grid = np.empty((1, MESH_SIDE, MESH_SIDE, 2), np.float32)  # -1..1 over the part
    grid[0, :, :, 0] = (step * cos[0] + middle[0])[None] - (step * sin[0])[:, None]
    grid[0, :, :, 1] = (step * sin[1] + middle[1])[None] + (step * cos[1])[:, None]
    part = torch.from_numpy(np.ascontiguousarray(near.transpose(2, 0, 1), np.float32))[None]
    crop = F.grid_sample(part, torch.from_numpy(grid), padding_mode="border", align_corners=False)[0].numpy()
    return np.multiply(crop.transpose(1, 2, 0), np.float32(1 / 255), order="C")


def _around(points: Array, start: int, end: int) -> _Square:
    """The square of the next frame: 1.5 times the box around the points, level with the line between two of them."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    across = points[end, :2] - points[start, :2]
    return _Square((low + high) / 2, float((high - low).max() * MARGIN), float(np.arctan2(across[1], across[0])))


def _share(a: Array, b: Array) -> float:
    """Intersection over union of two boxes."""
    cut = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(cut / max((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - cut, 1e-9))


def _merge(found: Array) -> Array:  # [N,17] -> [M,17]
    """Detections of one face become their mean weighted by score (BlazeFace's non-maximum suppression), best first."""
    rest = found[np.argsort(-found[:, 0], kind="stable")]
    merged = []
    while len(rest):
        same = np.array([_share(rest[0, 1:5], r[1:5]) > OVERLAP for r in rest])
        group = rest[same]
        mean = (group * group[:, :1]).sum(0) / group[:, 0].sum()
        mean[0] = group[0, 0]
        merged.append(mean)
        rest = rest[~same]
    return np.stack(merged) if merged else found[:0]


class Landmarker:
    """Finds faces and their points in pictures. One object per thread: the nets keep their buffers."""

    def __init__(self, most: int = 5, threads: int | None = None, file: Path | None = None) -> None:
        """Args:
            most: faces given at most, the largest first.
            threads: CPU threads of the nets; default: half of torch's, 1 to 4 (with all of them each waits for the others' work).
            file: the task file; default: the asset "face_landmarker", fetched when needed.

        Raises InputError when the file is not a face landmarker's task file, or cannot be had.
        """
        self.most = most
        count = threads or max(1, min(4, torch.get_num_threads() // 2))
        place = assets.path(ASSET) if file is None else file
        try:
            with zipfile.ZipFile(place) as task:
                self.detector, self.mesh, self.expression = (_Net(task.read(n), count) for n in (DETECTOR, MESH, BLENDSHAPES))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:
            cause = f"not a face landmarker's task file ({' '.join(str(error).split())})"
            raise InputError(place, cause, f"run: vivavoce assets fetch {ASSET} --again") from error
        self.anchors = _anchors()
        self.subset = list(regions.BLENDSHAPE_POINTS)

    def __call__(self, image: Picture) -> list[Face]:  # uint8 [H,W,3] RGB; also grey [H,W] and RGBA
        """Every face, the largest first; an empty list when there is none."""
        return self._find(_rgb(image), others=self.most > 1)

    def _find(self, picture: Picture, others: bool) -> list[Face]:
        """Faces of the whole picture; smaller ones are searched for when there is none, and once for others beside it."""
        faces = self._faces(picture, self._detect(picture))
        for level in LEVELS:
            done = faces and not (others and level == LEVELS[0])
            if done or max(picture.shape[:2]) / level < DETECTOR_SIDE:  # magnified pixels show faces where there are none
                break
            more = self._faces(picture, self._search(picture, level))
            more = [f for f in more if f.score >= SURE and (f.box[2:] - f.box[:2]).max() >= SMALLEST]
            faces += [f for f in more if all(_share(f.box, known.box) < OVERLAP for known in faces)]
        return sorted(faces, key=lambda f: -float((f.box[2:] - f.box[:2]).prod()))[: self.most]

    def follow(self, image: Picture, previous: Face | None) -> Face | None:
        """The same face in the next frame of a video, or None when there is none.

        The detector runs only without a previous face or when the mesh net has lost it; among several faces the one nearest to
        the previous is given, without a previous face the largest.
        """
        picture = _rgb(image)
        if previous is None:
            return next(iter(self._find(picture, others=False)), None)
        face = self._points(picture, _around(previous.points, 33, 263))
        if face is not None and face.score >= SCORE:
            return face
        middle = (previous.box[:2] + previous.box[2:]) / 2
        return min(
            self._find(picture, others=False), key=lambda f: float(np.linalg.norm((f.box[:2] + f.box[2:]) / 2 - middle)), default=None
        )

    def _detect(self, picture: Picture) -> Array:  # -> [N,17] score, box x0 y0 x1 y1, six points x y; px
        """Faces that BlazeFace sees in the whole picture."""
        height, width = picture.shape[:2]
        side = max(height, width)
        small = _shrunk(picture, DETECTOR_SIDE / side)
        return _merge(self._blaze(small, 0, 0, side / DETECTOR_SIDE))

    def _search(self, picture: Picture, level: int) -> Array:  # -> [N,17]
        """Faces in overlapping squares of the long side over `level`."""
        scale = DETECTOR_SIDE * level / max(picture.shape[:2])
        small = _shrunk(picture, scale)
        step, side = DETECTOR_SIDE // 2, DETECTOR_SIDE
        places = [(y, x) for y in _starts(small.shape[0], step) for x in _starts(small.shape[1], step)]
        found = [self._blaze(small[y : y + side, x : x + side], x, y, 1 / scale) for y, x in places]
        return _merge(np.concatenate(found))

    def _blaze(self, tile: Picture, left: int, top: int, scale: float) -> Array:  # -> [N,17] px of the picture
        """One run of the detector on at most 128 x 128 pixels, centred on black when smaller."""
        height, width = tile.shape[:2]
        x, y = (DETECTOR_SIDE - width) // 2, (DETECTOR_SIDE - height) // 2
        entry = np.full((DETECTOR_SIDE, DETECTOR_SIDE, 3), -1, np.float32)
        entry[y : y + height, x : x + width] = tile.astype(np.float32) / 127.5 - 1
        boxes, scores = self.detector(entry)
        logit = np.clip(scores.reshape(-1), -100, 100)
        keep = logit >= np.log(SCORE / (1 - SCORE))
        if not keep.any():
            return np.zeros((0, 17), np.float32)
        values = boxes.reshape(-1, 8, 2)[keep]  # centre, size, six points; px of the tile relative to the anchor
        places = values + self.anchors[keep, None] * DETECTOR_SIDE
        centre, size = places[:, 0], values[:, 1]
        rows = np.concatenate([(centre - size / 2)[:, None], (centre + size / 2)[:, None], places[:, 2:]], 1)
        rows = (rows - [x, y] + [left, top]) * scale
        score = 1 / (1 + np.exp(-logit[keep]))
        return np.concatenate([score[:, None], rows.reshape(len(rows), 16)], 1).astype(np.float32)

    def _faces(self, picture: Picture, found: Array) -> list[Face]:
        """The mesh of each detection that the mesh net believes in, each face once."""
        faces: list[Face] = []
        for row in found[: 2 * self.most]:
            low, high, eyes = row[1:3], row[3:5], row[5:9].reshape(2, 2)
            across = eyes[1] - eyes[0]
            square = _Square((low + high) / 2, float((high - low).max() * MARGIN), float(np.arctan2(across[1], across[0])))
            face = self._points(picture, square)
            if face is not None and face.score >= SCORE and all(_share(face.box, f.box) < OVERLAP for f in faces):
                faces.append(face)
        return faces

    def _points(self, picture: Picture, square: _Square) -> Face | None:
        """The mesh inside a square, put back into the picture; None when the square is no place for a face."""
        if not np.isfinite(square.centre).all() or square.side < 4 or square.side > 8 * max(picture.shape[:2]):
            return None
        values, presence, _ = self.mesh(_resample(picture, square))
        local = values.reshape(regions.POINTS, 3) / MESH_SIDE
        cos, sin = np.cos(square.angle), np.sin(square.angle)
        turn = np.array([[cos, -sin], [sin, cos]], np.float32) * np.float32(square.side)
        points = np.empty((regions.POINTS, 3), np.float32)
        points[:, :2] = (local[:, :2] - 0.5) @ turn.T + square.centre
        points[:, 2] = local[:, 2] * square.side
        score = float(1 / (1 + np.exp(-np.clip(presence.reshape(-1)[0], -50, 50))))
        blendshapes = self.expression(np.ascontiguousarray(points[self.subset, :2]))[0].reshape(-1).copy()
        box = np.concatenate([points[:, :2].min(0), points[:, :2].max(0)])
        return Face(points, blendshapes, score, box)


def _starts(length: int, step: int) -> list[int]:
    """Where squares of 128 px begin so that they cover `length` px, `step` or less apart."""
    last = max(0, length - DETECTOR_SIDE)
    return [round(i) for i in np.linspace(0, last, -(-last // step) + 1)]


def _rgb(image: Picture) -> Picture:
    """A picture as [H,W,3] uint8. Raises InputError for anything that is none."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise InputError("image", f"an array {image.dtype} {list(image.shape)} is no picture", "give uint8 [height, width, 3]")
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, 2)
    if image.shape[2] not in (3, 4):
        raise InputError("image", f"{image.shape[2]} channels", "give uint8 [height, width, 3]")
    return image[..., :3]


def _shrunk(picture: Picture, scale: float) -> Picture:
    """The picture resized, averaged when it becomes smaller."""
    from PIL import Image

    height, width = picture.shape[:2]
    coarse = max(1, int(0.4 / scale))  # rows and columns to skip at first: of 4K, every pixel would cost 10 ms
    picture = np.ascontiguousarray(picture[::coarse, ::coarse])
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Any = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)
