"""LSE-D and LSE-C: lip-sync error distance and confidence (Prajwal et al., 2020, after Chung & Zisserman, 2016).

Step by step as joonson/syncnet_python does it, off-by-ones included: crops of 224 px in 0..255 with blue first, five frames at a time,
against 0.2 s of 13 MFCC; `min(frames, samples // 640) - 5` windows (one fewer than there could be); for each the Euclidean distance
to the sound at -15 to +15 frames, where features beyond the ends are zeros; the mean over the windows; of the 31 means the least is
LSE-D, the median minus the least LSE-C. Not repeated here: the reference writes the crops as XVID and reads them back as JPEG.

The scores are LSE only with the authors' weights, `syncnet_v2.model`. A generated film must be cropped with the boxes of its source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vivavoce import assets
from vivavoce.nn.syncnet import COEFFICIENTS, COLUMNS, FRAMES, SIDE, SyncNet
from vivavoce.speech.mfcc import as_16_bit, mfcc
from vivavoce.types import FPS, HOP, InputError

SHIFTS = 15  # frames to both sides
PER_FRAME = 100 // FPS  # MFCC rows
GROWN = 0.4  # of the box's half side, added around it (twice below, so that the chin is inside)
MEDIAN = 13  # frames of the median filter over boxes
GREY = 110  # beyond the picture
BATCH = 20  # windows at once


@dataclass(frozen=True)
class Sync:
    """How well lips and sound agree."""

    offset: int  # frames by which the sound must be moved to fit; 0: in sync
    distance: float  # LSE-D with the authors' weights; lower is better
    confidence: float  # LSE-C with the authors' weights; higher is better
    distances: Tensor  # [n,31] of each window, at sound shifted by -15..15 frames
    windows: int

    @classmethod
    def of(cls, distances: Tensor) -> Sync:  # [n,31]
        """The figures of a table of distances; NaN where there was nothing to compare."""
        mean = distances.nanmean(0)
        least, at = mean.min(0)
        middle = (len(mean) - 1) // 2
        return cls(middle - int(at), float(least), float(mean.median() - least), distances, len(distances))


def syncnet(device: str | torch.device = "cpu") -> SyncNet:
    """With the authors' weights (catalogue: syncnet). Raises InputError when they cannot be had."""
    return SyncNet.from_authors(assets.state_dict("syncnet")).to(device)


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over 13 rows, zeros beyond the ends: what scipy.signal.medfilt does."""
    padded = np.pad(values, MEDIAN // 2)
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN), 1))


def crops(frames: NDArray[np.uint8], boxes: NDArray[np.floating]) -> Tensor:  # [T,H,W,3] RGB, [T,4] px x0 y0 x1 y1 -> uint8 [T,3,224,224]
    """Square crops of one face through a shot, RGB.

    Boxes as a detector gives them, tight around the face (the reference: S3FD), one a frame. Their middle and half side are
    median-filtered; the crop reaches 1.4 half sides to left and right, 1 up and 1.8 down.
    """
    if frames.ndim != 4 or boxes.shape != (len(frames), 4) or not np.isfinite(boxes).all():
        raise InputError(
            "lse", f"frames {list(frames.shape)} and boxes {list(boxes.shape)}", "give one box of four numbers for every frame"
        )
    half = _median(np.maximum(boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]) / 2)
    y, x = _median((boxes[:, 1] + boxes[:, 3]) / 2), _median((boxes[:, 0] + boxes[:, 2]) / 2)
    out = []
    for frame, s, my, mx in zip(frames, half, y, x, strict=True):
        edge = int(s * (1 + 2 * GROWN))
        padded = np.pad(frame, ((edge, edge), (edge, edge), (0, 0)), constant_values=GREY)
        top, bottom = int(my + edge - s), int(my + edge + s * (1 + 2 * GROWN))
        left, right = int(mx + edge - s * (1 + GROWN)), int(mx + edge + s * (1 + GROWN))
        out.append(resized(padded[max(top, 0) : bottom, max(left, 0) : right]))
    return torch.stack(out)


def resized(picture: NDArray[np.uint8]) -> Tensor:  # [h,w,3] -> uint8 [3,224,224]
    """Bilinear without averaging, in whole numbers of 1/2048, as the reference's OpenCV does: the same levels to the last bit."""
    if 0 in picture.shape:
        raise InputError("lse", "a face box lies outside its picture", "find the face again")
    (top, bottom, down), (left, right, across) = (_steps(side) for side in picture.shape[:2])
    wide = picture.astype(np.int64)
    wide = wide[:, left] * across[:, :1] + wide[:, right] * across[:, 1:]  # [h,224,3]
    high = ((down[:, :1, None] * (wide[top] >> 4)) >> 16) + ((down[:, 1:, None] * (wide[bottom] >> 4)) >> 16)
    return torch.from_numpy(((high + 2) >> 2).clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def _steps(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:  # -> [224], [224], [224,2]
    """Which two of `length` pixels each of 224 lies between, and their weights out of 2048."""
    at = ((np.arange(SIDE) + 0.5) * (length / SIDE) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    share = at - first
    weights = np.stack([1 - share, share], 1).astype(np.float32) * 2048
    return first.clip(0, length - 1), (first + 1).clip(0, length - 1), np.rint(weights).astype(np.int64)


def distances(seen: Tensor, heard: Tensor, shifts: int = SHIFTS) -> Tensor:  # [n,D] x2 -> [n,2*shifts+1]
    """Of every window's lips to the sound around it."""
    around = functional.pad(heard, (0, 0, shifts, shifts)).unfold(0, 2 * shifts + 1, 1).transpose(1, 2)  # [n,31,D]
    return functional.pairwise_distance(seen[:, None], around)


@torch.no_grad()
def lse(faces: Tensor, audio: Tensor, net: SyncNet) -> Sync:  # uint8 [T,3,224,224] RGB, [N] -1..1 at 16 kHz
    """The scores of one clip: one face through one shot at 25 frames a second.

    Raises InputError for a clip of fewer than six frames, and for crops of another size.
    """
    if faces.ndim != 4 or faces.shape[1:] != (3, SIDE, SIDE) or faces.dtype != torch.uint8:
        raise InputError("lse", f"crops {faces.dtype} {list(faces.shape)}", f"give uint8 [frames, 3, {SIDE}, {SIDE}]: metrics.lse.crops")
    count = min(len(faces), len(audio) // HOP) - FRAMES
    if count < 1:
        cause = f"{len(faces)} frames and {len(audio)} samples are too short for one window"
        raise InputError("lse", cause, f"give more than {FRAMES} frames with their sound")
    device = next(net.parameters()).device
    rows = mfcc(as_16_bit(audio)).float()  # [M,13]
    sounds = rows.unfold(0, COLUMNS, PER_FRAME)[:count]  # [n,13,20]
    assert sounds.shape[1] == COEFFICIENTS
    seen, heard = [], []
    for at in range(0, count, BATCH):
        end = min(at + BATCH, count)
        near = faces[at : end + FRAMES - 1].flip(1).to(device).float()  # blue, green, red
        windows = near.unfold(0, FRAMES, 1)[: end - at].permute(0, 1, 4, 2, 3)
        seen.append(net.see(windows).cpu())
        heard.append(net.hear(sounds[at:end, None].to(device)).cpu())
    return Sync.of(distances(torch.cat(seen), torch.cat(heard)))
