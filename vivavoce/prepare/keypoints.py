"""The face's motion as LivePortrait measures it: `keypoints.npy`, for generators of the space "keypoints" (dit_motion).

[T,70] float32: rotation (rad), translation (halves of the crop's side), scale, and the expression of 21 points, x y z of the first, then of
the second: the rows of `data/motions.py`. Absolute, seen through one steady crop a shot, so that the head moves in the crop as it does
in the film; the crop is the one that films which drive a portrait are given (`data/driving.py`). NaN where no face was found and in
shots that are not used.

The step waits for the authors' weights (MIT, `vivavoce assets fetch liveportrait_motion_extractor`): without them a folder is prepared
without this file, and asking for it by name says how to get them. Those weights could not be had where this was written; it was run on
files of their form.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vivavoce import assets
from vivavoce.data.driving import MARGIN, SHIFT
from vivavoce.data.motions import KEYPOINTS
from vivavoce.face.crop import Crop, around, crop, steady
from vivavoce.face.regions import LANDMARKS_68
from vivavoce.media import read_image
from vivavoce.nn.liveportrait import SIDE, Networks, weights
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.parallel import cores, each
from vivavoce.prepare.rows import opened, reader
from vivavoce.types import InputError, Motion

FILE = "keypoints.npy"
ASSET = weights.ASSET + weights.PARTS["motion"]
BATCH, LOOKS = 8, 200  # frames at once; frames of a shot that its crop is laid around


def ready() -> bool:
    """Whether the weights are on this machine."""
    return assets.locate(ASSET) is not None


def extractor(device: torch.device) -> Networks:
    """The networks of which M alone has its weights. Raises InputError when they cannot be had, and says how."""
    with torch.device("meta"):
        networks = Networks()
    weights.load(networks, "motion", assets.state_dict(ASSET), ASSET)
    networks.motion.to(device).eval().requires_grad_(False)
    return networks


def shots(folder: Folder) -> Iterator[tuple[np.ndarray, Crop]]:
    """Frames [n] of every shot that have a face and are used, and the shot's one crop."""
    read = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    for first, last, _ in folder.clip.get("shots") or [(0, folder.frames - 1, "kept")]:
        frames = first + np.flatnonzero(folder.kept[first : last + 1])
        if len(frames):
            points = torch.from_numpy(read(frames[:: max(1, len(frames) // LOOKS)])[:, LANDMARKS_68, :2])
            yield frames, steady(around(points, (2 * SIDE, 2 * SIDE), MARGIN, SHIFT, level=False))[:1]


def rows(motion: Motion) -> Tensor:  # -> [T,70]
    """A row a frame, as the file keeps it."""
    return torch.cat([motion.rotation, motion.translation, motion.scale, motion.expression], 1)


def run(folder: Folder, progress: Progress) -> None:
    """Measure all frames, several at once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks, out = extractor(device), np.full((folder.frames, KEYPOINTS), np.nan, np.float32)
    parts = [(part, where) for frames, where in shots(folder) for part in np.split(frames, range(BATCH, len(frames), BATCH))]

    @torch.no_grad()
    def work(part: tuple[np.ndarray, Crop]) -> tuple[np.ndarray, np.ndarray]:
        frames, where = part
        pictures = torch.from_numpy(np.stack([read_image(folder.image(int(k))) for k in frames])).permute(0, 3, 1, 2)
        seen = crop(pictures.to(device).float() / 255, where[torch.zeros(len(frames), dtype=torch.long)])
        return frames, rows(networks.measure(functional.avg_pool2d(seen, 2))[1]).cpu().numpy()

    done = 0
    for frames, values in each(work, parts, cores() if device.type == "cpu" else 2):
        out[frames], done = values, done + len(frames)
        progress(done, int(folder.kept.sum()))
    with folder.whole(FILE) as path, open(path, "wb") as file:
        np.save(file, out)


def verify(folder: Folder) -> None:
    """Numbers for every frame that is used. Raises InputError."""
    path, remedy = folder.file(FILE), f"run: vivavoce prepare {folder.path} --only keypoints"
    table = opened(path, remedy)
    if table.shape != (folder.frames, KEYPOINTS) or not np.isfinite(table[folder.kept]).all():
        raise InputError(path, f"its shape is {list(table.shape)}, not [{folder.frames}, {KEYPOINTS}] of finite numbers", remedy)


STEP = Step("keypoints", 0, 1, ("shots", "frames", "landmarks"), (FILE,), run, verify, ready=ready)
