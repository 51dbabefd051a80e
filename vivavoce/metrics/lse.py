"""LSE-D and LSE-C: lip-sync error distance and confidence (Prajwal et al., 2020, after Chung & Zisserman, 2016).

Step by step as joonson/syncnet_python does it, off-by-ones included: crops of 224 px in 0..255 with blue first, five frames at a time,
against 0.2 s of 13 MFCC; `min(frames, samples // 640) - 5` windows (one fewer than there could be); for each the Euclidean distance
to the sound at -15 to +15 frames, where features beyond the ends are zeros; the mean over the windows; of the 31 means the least is
LSE-D, the median minus the least LSE-C. Not repeated here: the reference writes the crops as XVID and reads them back as JPEG.

The scores are LSE only with the authors' weights, `syncnet_v2.model`. A generated film must be cropped with the boxes of its source.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vivavoce import assets
from vivavoce.metrics.checked import checked
from vivavoce.metrics.offsets import Sync, Watch
from vivavoce.nn.syncnet import COEFFICIENTS, COLUMNS, FRAMES, SIDE, SyncNet
from vivavoce.speech.mfcc import as_16_bit, mfcc
from vivavoce.types import FPS, HOP, InputError

PER_FRAME = 100 // FPS  # MFCC rows
GROWN = 0.4  # of the box's half side, added around it (twice below, so that the chin is inside)
MEDIAN = 13  # frames of the median filter over boxes
GREY = 110  # beyond the picture


def syncnet(device: str | torch.device = "cpu") -> SyncNet:
    """With the authors' weights (catalogue: syncnet). Raises InputError when they cannot be had."""
    return SyncNet.from_authors(assets.state_dict("syncnet")).to(device)


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over 13 rows, zeros beyond the ends: what scipy.signal.medfilt does."""
    padded = np.pad(values, MEDIAN // 2)
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN), 1))


def squares(boxes: NDArray[np.floating]) -> NDArray[np.float64]:  # [T,4] px x0 y0 x1 y1 -> [T,3] half side, y, x
    """Where the crops of one face through a shot lie.

    Boxes as a detector gives them, tight around the face (the reference: S3FD), one a frame. Their half side and middle are
    median-filtered.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise InputError("lse", f"boxes {list(boxes.shape)}", "give one box of four numbers for every frame")
    half = _median(np.maximum(boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]) / 2)
    return np.stack([half, _median((boxes[:, 1] + boxes[:, 3]) / 2), _median((boxes[:, 0] + boxes[:, 2]) / 2)], 1)


def cropped(frame: NDArray[np.uint8], square: NDArray[np.float64]) -> Tensor:  # [H,W,3] RGB, [3] -> uint8 [3,224,224]
    """One crop, which reaches 1.4 half sides to left and right, 1 up and 1.8 down."""
    s, y, x = square
    edge = int(s * (1 + 2 * GROWN))
    padded = np.pad(frame, ((edge, edge), (edge, edge), (0, 0)), constant_values=GREY)
    top, bottom = int(y + edge - s), int(y + edge + s * (1 + 2 * GROWN))
    left, right = int(x + edge - s * (1 + GROWN)), int(x + edge + s * (1 + GROWN))
    return resized(padded[max(top, 0) : bottom, max(left, 0) : right])


def crops(frames: NDArray[np.uint8], boxes: NDArray[np.floating]) -> Tensor:  # [T,H,W,3] RGB, [T,4] -> uint8 [T,3,224,224]
    """All crops of a short clip."""
    if frames.ndim != 4 or len(boxes) != len(frames):
        raise InputError(
            "lse", f"frames {list(frames.shape)} and boxes {list(boxes.shape)}", "give one box of four numbers for every frame"
        )
    return torch.stack([cropped(frame, square) for frame, square in zip(frames, squares(boxes), strict=True)])


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


def watch(audio: Tensor, frames: int, net: SyncNet) -> Watch:  # [N] -1..1 at 16 kHz, number of frames that will come
    """Scores of a clip whose crops (uint8 [t,3,224,224] RGB) are pushed piece by piece; sound beyond the ends counts as zeros.

    Raises InputError for fewer than six frames or their sound, and for sound that is not finite.
    """
    count = min(frames, len(audio) // HOP) - FRAMES
    if count < 1:
        cause = f"{frames} frames and {len(audio)} samples are too short for one window"
        raise InputError("lse", cause, f"give more than {FRAMES} frames with their sound")
    checked("lse", audio)
    device = next(net.parameters()).device
    sounds = mfcc(as_16_bit(audio)).float().unfold(0, COLUMNS, PER_FRAME)[:count]  # [n,13,20]
    assert sounds.shape[1] == COEFFICIENTS

    def see(faces: Tensor) -> Tensor:  # [m+4,3,224,224] -> [m,1024]
        if faces.ndim != 4 or faces.shape[1:] != (3, SIDE, SIDE) or faces.dtype != torch.uint8:
            cause = f"crops {faces.dtype} {list(faces.shape)}"
            raise InputError("lse", cause, f"give uint8 [frames, 3, {SIDE}, {SIDE}]: metrics.lse.crops")
        windows = faces.flip(1).to(device).float().unfold(0, FRAMES, 1)  # blue, green, red
        return net.see(windows.permute(0, 1, 4, 2, 3)).cpu()

    return Watch(count, see, lambda first, end: net.hear(sounds[first:end, None].to(device)).cpu(), functional.pairwise_distance)


def lse(faces: Tensor, audio: Tensor, net: SyncNet) -> Sync:  # uint8 [T,3,224,224] RGB, [N] -1..1 at 16 kHz
    """The scores of one clip: one face through one shot at 25 frames a second.

    Raises InputError for a clip of fewer than six frames, for crops of another size, and for sound that is not finite.
    """
    clip = watch(audio, len(faces), net)
    clip.push(faces)
    return clip.score()
