"""What a clip is like, in numbers: from the landmarks of all frames, some of the pictures, and the sound. Seconds for an hour of video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vivavoce.face import regions
from vivavoce.face.smooth import noise_of
from vivavoce.prepare.cuts import face_mask
from vivavoce.types import HOP

Floats = NDArray[np.float32]
Rows = NDArray[np.float64]

FACE = 128  # px, width at which the sharpness of a face is measured: of a larger one it needs no more
QUIET = -50.0  # dB of full scale: a room without speech
FULL = 0.999  # of full scale: a sample that was cut off
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709


def heights(points: Floats) -> Rows:  # [T,478,3] px -> [T]
    """Height of the face, brow line to chin, px."""
    return np.asarray(points[:, :, 1].max(1) - points[:, :, 1].min(1), np.float64)


def turns(points: Floats) -> Rows:  # [T,478,3] px -> [T,3] degrees: pitch, yaw, roll, about
    """How the head is turned, from the depths of the mesh; good to some degrees, before any tracking."""
    across, down = points[:, 263] - points[:, 33], points[:, 152] - points[:, 10]
    yaw = np.arctan2(across[:, 2], np.linalg.norm(across[:, :2], axis=1))
    pitch = np.arctan2(down[:, 2], np.linalg.norm(down[:, :2], axis=1))
    roll = np.arctan2(across[:, 1], across[:, 0])
    return np.asarray(np.rad2deg(np.stack([pitch, yaw, roll], 1)), np.float64)


def cut_off(points: Floats, size: tuple[int, int]) -> Rows:  # [T,478,3] px; height, width -> [T]
    """Share of the face's points that lie outside the picture."""
    x, y = points[:, :, 0], points[:, :, 1]
    return np.asarray(((x < 0) | (y < 0) | (x > size[1]) | (y > size[0])).mean(1), np.float64)


def jitter(still: Floats, usable: NDArray[np.bool_]) -> float:  # [T,S,2] px of regions.STILL, [T] -> share of the distance of the eyes
    """Noise from frame to frame of the points that the expression does not move, median of them."""
    right, left = (still[usable][:, regions.STILL.index(corner)] for corner in (33, 263))
    wide = float(np.median(np.linalg.norm(left - right, axis=1)))
    channels = np.where(usable[:, None, None], still, 0).astype(np.float64).reshape(len(still), -1).T
    return float(np.median([noise_of(channel, usable) for channel in channels])) / max(wide, 1e-6)


def face_part(picture: NDArray[np.uint8], points: Floats) -> Floats:  # [H,W,3], [478,3] px -> [h,w,3] 0..255
    """The middle of the face (brows to mouth), at most `FACE` px wide."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    wide = high - low
    box = np.concatenate([low + 0.15 * wide, high - np.array([0.15, 0.1]) * wide])
    x0, y0, x1, y1 = np.clip(box.round(), 0, [picture.shape[1], picture.shape[0]] * 2).astype(int).tolist()
    part = picture[y0 : max(y1, y0 + 4), x0 : max(x1, x0 + 4)]
    if part.shape[1] > FACE:
        size = (FACE, max(4, round(part.shape[0] * FACE / part.shape[1])))
        part = np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BOX))
    return part.astype(np.float32)


def sharpness(part: Floats) -> float:  # [h,w,3]
    """Share of the finest detail in the contrast of a face: spread of the second difference over the spread of brightness."""
    grey = part @ LUMA
    if min(grey.shape) < 4:
        return 0.0
    bend = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.std(bend) / max(float(np.std(grey)), 1.0))


def unsteady(pictures: Floats, boxes: Floats) -> float:  # [n,h,w,3] small pictures, [n,4] 0..1 of faces -> levels
    """How much the picture beside the person changes over the clip: upper quartile over pixels of their median way from their median."""
    free = np.stack([~face_mask(b, pictures.shape[1:3]) for b in boxes])
    free[:, pictures.shape[1] * 2 // 3 :] = False  # the shoulders move with the person
    often = free.mean(0) > 0.7
    if not often.any():
        return 0.0
    shown = np.where(free[..., None], pictures, np.nan)[:, often]
    middle = np.nanmedian(shown, 0)
    return float(np.percentile(np.nanmedian(np.abs(shown - middle), 0).mean(1), 75))


def loudness(pieces: Iterator[torch.Tensor]) -> tuple[Rows, float, float]:  # -> [T] dB of full scale, share cut off, peak 0..1
    """Loudness of each frame, and how much of the sound reaches the end of the scale."""
    levels: list[Rows] = []
    full, count, peak = 0, 0, 0.0
    for piece in pieces:
        power = piece.reshape(-1, HOP).double().square().mean(1)
        levels.append((10 * (power + 1e-12).log10()).numpy())
        full += int((piece.abs() >= FULL).sum())
        count += len(piece)
        peak = max(peak, float(piece.abs().max()))
    return np.concatenate(levels or [np.full(1, -120.0)]), full / max(count, 1), peak
