"""One picture as a source: a Clip of one frame, the crop around the face, and the way back into the full picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivavoce.face import regions
from vivavoce.face.crop import Crop, Pasting, around, crop, soft_mask
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import frames as video_frames
from vivavoce.media import read_image
from vivavoce.types import Clip, InputError, Rows

LONGEST = 1920  # px; larger pictures are reduced: players and eyes gain nothing from more
CROP_SIDES = (256, 640)  # px, least and most; between them the crop has the picture's own resolution
MARGIN, SHIFT = 2.1, (0.0, -0.04)  # the crop holds hair and neck, so that its border can stand still
RIVAL = 0.35  # a second face this large (by area, of the first) makes the choice unclear
SMALLEST = 40  # px between the sides of a face: below it there is nothing to move
SAMPLED = 10  # every n-th frame of a video is looked at for the best one, over its first 10 seconds


@dataclass(frozen=True)
class Size:
    """How large a portrait may be, px."""

    longest: int = 0  # side to which it is reduced or enlarged; 0: as it is, at most `most`
    most: int = LONGEST
    moving: int = 0  # most of the crop's side, to which the whole picture is reduced; 0: the crop alone is, to 640


AS_IT_IS = Size()


class Portrait:
    """A picture with a face.

    Args:
        picture: a file, or uint8 [H,W,3].
        face: which face, counted from the left, 1 being the first; 0 when there is only one to choose.
        name: what to call the picture in errors, when it is not a file.
        size: how large it may be.
    Raises:
        InputError: no face, several and none chosen, a face too small.
    """

    def __init__(self, picture: str | Path | Any, face: int = 0, name: str = "", size: Size = AS_IT_IS) -> None:
        given = read_image(picture) if isinstance(picture, str | Path) else np.asarray(picture)
        self.name = name or str(picture)
        image = torch.from_numpy(np.ascontiguousarray(given)).permute(2, 0, 1)[None].float() / 255
        image = _scaled(image, (size.longest or min(size.most, max(given.shape[:2]))) / max(given.shape[:2]))
        found = self._choose(Landmarker()((image[0] * 255).round().byte().permute(1, 2, 0).numpy()), face)
        points = torch.from_numpy(np.asarray(found.points, np.float32))[None]
        side = MARGIN * float((points[0, :, :2].amax(0) - points[0, :, :2].amin(0)).max())
        if size.moving and side > size.moving:
            image, points, side = _scaled(image, size.moving / side), points * (size.moving / side), size.moving
        self.picture = image  # [1,3,H,W]
        self.full = (image.shape[-2], image.shape[-1])
        self.reduced = self.full[0] < given.shape[0]
        side = int(min(max(side, CROP_SIDES[0]), CROP_SIDES[1])) // 2 * 2
        self.size = (side, side)
        self.where = _whole_pixels(around(points, self.size, MARGIN, SHIFT, level=False))
        inner = torch.cat([self.where.inside(points[..., :2]), points[..., 2:] * self.where.scale[:, None, None]], 2)
        self.row = Clip(
            frames=crop(image, self.where),
            points=inner,
            landmarks=inner[:, regions.LANDMARKS_68, :2],
            units=torch.from_numpy(np.asarray(found.blendshapes, np.float32))[None],
            eyes=torch.from_numpy(np.asarray(found.eyes, np.float32))[None],
            index=torch.zeros(1, dtype=torch.long),
        )
        self.mask = soft_mask(self.size, 0.06)
        self.pasting: Pasting | None = None

    def __len__(self) -> int:
        return 1

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The one row, as often as asked for. Raises InputError for a field that a picture does not hold."""
        if lost := self.row.missing(needs or ()):
            raise InputError(self.name, f"a picture holds no {', '.join(lost)}", "use a person's video: vivavoce prepare VIDEO")
        return self.row[torch.zeros(len(torch.arange(1)[rows]) if isinstance(rows, slice) else len(rows), dtype=torch.long)]

    def paste(self, frames: Tensor, rows: Tensor) -> Tensor:  # [T,3,h,w], [T] -> [T,3,H,W]
        """Rendered crops put back into the full picture."""
        if self.pasting is None or self.picture.device != frames.device:
            self.picture = self.picture.to(frames.device)
            self.pasting = Pasting(self.picture, self.where, self.mask.to(frames))
        return self.pasting(self.picture.expand(len(frames), -1, -1, -1), frames)

    def _choose(self, faces: Sequence[Face], face: int) -> Face:
        if not faces:
            raise InputError(self.name, "no face found", "use a picture where the face is larger, lit and seen from the front")
        ordered = sorted(faces, key=lambda f: float(f.points[:, 0].mean()))
        if face > len(ordered) or face < 0:
            raise InputError(self.name, f"{len(ordered)} face(s) found, number {face} asked for", f"--face 1..{len(ordered)}")
        sizes = sorted((_area(f) for f in faces), reverse=True)
        if not face and len(sizes) > 1 and sizes[1] > RIVAL * sizes[0]:
            raise InputError(self.name, f"{len(faces)} faces found", f"choose one, counted from the left: --face 1..{len(faces)}")
        chosen = ordered[face - 1] if face else max(faces, key=_area)
        if (width := float(np.ptp(chosen.points[:, 0]))) < SMALLEST:
            cause = f"the face is only {int(width)} px wide, less than {SMALLEST}"
            raise InputError(self.name, cause, "use a larger picture, or a larger --size")
        return chosen

    @classmethod
    def best(cls, pictures: Iterable[str | Path | Any], name: str = "", size: Size = AS_IT_IS) -> Portrait:
        """Of several (files or arrays) the one whose face is most frontal, with open eyes and a quiet mouth. Raises InputError: no face."""
        landmarker, top, chosen = Landmarker(), -1.0, None
        for picture in pictures:
            image = read_image(picture) if isinstance(picture, str | Path) else picture
            for found in landmarker(image)[:1]:
                if (score := _fit(found)) > top:
                    top, chosen = score, image
        if chosen is None:
            raise InputError(name or "pictures", "no face found in any frame looked at", "use a video that shows the face")
        return cls(chosen, name=name, size=size)

    @classmethod
    def of_video(cls, path: str | Path, size: Size = AS_IT_IS) -> Portrait:
        """The best frame of a video's first ten seconds."""
        return cls.best(islice(video_frames(path), 0, 250, SAMPLED), str(path), size)


def _scaled(image: Tensor, scale: float) -> Tensor:  # [1,3,H,W] -> [1,3,h,w]
    if scale == 1:
        return image
    height, width = (max(1, round(s * scale)) for s in image.shape[-2:])
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)


def _whole_pixels(where: Crop) -> Crop:
    """A crop that need not reduce the picture, at its own scale and moved onto its pixels: cutting out and pasting back change none."""
    if bool((where.scale < 0.98).any()):  # the side was rounded down
        return where
    height, width = where.size
    middle = where.outside(torch.tensor([[[width / 2, height / 2]]]))[0, 0]
    left, top = (middle - torch.tensor([width / 2, height / 2])).round().tolist()
    return Crop(torch.tensor([[[1.0, 0.0, -left], [0.0, 1.0, -top]]]), where.size)


def _area(face: Face) -> float:
    return float(np.prod(np.ptp(face.points[:, :2], axis=0)))


def _fit(face: Face) -> float:
    """How well a face serves as a portrait, 0..1: frontal, eyes open, mouth shut."""
    left, right = (np.abs(face.points[i, 0] - face.points[1, 0]) for i in (234, 454))  # nose tip to the sides of the face
    frontal = min(left, right) / max(left, right, 1e-6)
    return float(frontal * np.clip(np.min(face.eyes), 0, 1) / (1 + 2 * max(face.mouth_open, 0)))
