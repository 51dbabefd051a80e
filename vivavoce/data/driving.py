"""A film (or a picture) of one face as the driver of another: its motion, frame by frame, through a renderer's own extractor.

The driver's face is looked for in a few frames spread over the film; one steady crop around it serves all, so that the head moves in
the crop as it does in the film. Frames are read as they are needed: memory does not grow with the film.

    talker = Talker(renderer, portrait, {"mel": speech.load("mel")}, played("driver.mp4", renderer, portrait), portrait.paste)
    frames = talker(audio("driver.mp4"))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vivavoce.data.playback import Playback
from vivavoce.face.crop import Crop, around, steady
from vivavoce.face.landmarker import Landmarker
from vivavoce.face.regions import LANDMARKS_68
from vivavoce.media import frames as film_frames
from vivavoce.media import glimpses, is_picture, read_image
from vivavoce.nn.liveportrait import keypoints
from vivavoce.types import Clip, InputError, Motion, Source

LOOKS = 12  # frames in which the face is looked for
MARGIN, SHIFT = 2.2, (0.0, -0.1 * 2.2)  # of the driver's crop, as published
MODES = ("relative", "absolute")


@runtime_checkable
class Extractor(Protocol):
    """A renderer that can measure the motion it reads (methods/live_portrait.py)."""

    def measure(self, frames: Tensor, where: Crop) -> Motion: ...

    def encode(self, source: Clip) -> Any: ...

    @property
    def source_needs(self) -> frozenset[str]: ...

    @property
    def device(self) -> torch.device: ...


def face_of(path: str | Path, side: int = 512) -> Crop:
    """One crop [1 row] that holds the face through the whole film or picture. Raises InputError without a face."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "check the name")
    looks = iter([read_image(path)]) if is_picture(path) else glimpses(path, LOOKS)
    finder, found = Landmarker(most=1), []
    for picture in looks:
        found += [face.points[LANDMARKS_68, :2] for face in finder(picture)[:1]]
    if not found:
        raise InputError(path, "no face found", "drive with a film that shows one face, larger and lit")
    points = torch.from_numpy(np.stack(found).astype(np.float32))
    return steady(around(points, (side, side), MARGIN, SHIFT, level=False))[:1]


def motions(
    path: str | Path,
    extractor: Extractor,
    own: Motion,
    mode: str = "relative",
    region: str = "all",
    block: int = 8,
) -> Iterator[Motion]:
    """The driver's motion, relative to the face it drives, `block` rows at a time.

    Args:
        path: a film, brought to 25 frames a second, or a picture.
        extractor: measures it.
        own: the driven face's own motion, one row (its identity's `motion`).
        mode: "relative": what changes since the film's first frame, in which the driver should look ahead with a calm face;
            "absolute": the driver's head and expression themselves. A picture has no change: it is absolute always.
        region: what is taken over: all, expression, pose, lips, eyes.

    Raises:
        InputError: no face, or an unknown mode or region.
    """
    if mode not in MODES:
        raise InputError(f"--drive-mode {mode}", "no such mode", f"choose from: {', '.join(MODES)}")
    if region not in keypoints.REGIONS:
        raise InputError(f"--drive-region {region}", "no such region", f"choose from: {', '.join(keypoints.REGIONS)}")
    where, still = face_of(path), is_picture(path)
    pictures = iter([read_image(path)]) if still else film_frames(path)
    first: Motion | None = None
    while batch := list(islice(pictures, block)):
        rows = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float().to(extractor.device) / 255
        seen = extractor.measure(rows, where[torch.zeros(len(rows), dtype=torch.long)])
        if mode == "absolute" or still:
            yield keypoints.relative(keypoints.replaced(own, seen, region), own)
            continue
        first = seen[:1] if first is None else first
        yield keypoints.relative(seen, first, region)


def played(path: str | Path, extractor: Extractor, source: Source, mode: str = "relative", region: str = "all", block: int = 8) -> Playback:
    """A Generator that plays the driver's motion in place of one that listens; arguments and errors as of `motions`.

    A film of an hour is 26 MB of motion: it is measured beforehand, so that the Talker can play it to and fro.
    """
    clip = source.clip([0], extractor.source_needs).to(extractor.device)
    own = extractor.encode(clip).motion
    return Playback(Motion.cat(list(motions(path, extractor, own, mode, region, block))).to("cpu"))
