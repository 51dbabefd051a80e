"""Task 3: pictures of the video at 25 a second, head and shoulders.

A small video whose face is large enough is kept as it is. Otherwise a square around the face is cut out (the face takes about
half of its height, as in the data sets of the AD-NeRF lineage) and made `size` px at most; never larger than it was. The
square stays in one place for the whole video, so that the background stands still, and is noted in clip.json, so that a
result can be put back into the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import glimpses, probe, undrawn, write_image
from vivavoce.prepare import VIDEO, Folder, Progress, Step
from vivavoce.prepare.parallel import each
from vivavoce.types import FPS, InputError

LOOKS = 24  # frames looked at to find the face
SMALL = 0.3  # a face lower than this share of the picture is small
SHARE = 0.5  # of the square's height that the face (brows to chin and its mesh's forehead) takes
LOW = 0.56  # where in the square the face's middle lies: shoulders need more room than hair
ROOM = 1.25  # the square is at least this many times the region in which the face moves
SHORTEST = FPS  # frames; less cannot be trained on and tested


def largest(found: list[Face]) -> np.ndarray | None:  # -> [4] px
    """Box of the main face: the largest."""
    return found[0].box if found else None


def crop_for(boxes: np.ndarray, height: int, width: int, size: int) -> list[int] | None:  # [N,4] px
    """The square to cut, [x, y, side] px; None when the whole picture will do."""
    tall = float(np.median(boxes[:, 3] - boxes[:, 1]))
    if max(height, width) <= size and tall >= SMALL * min(height, width):
        return None
    low, high = np.percentile(boxes[:, :2], 5, axis=0), np.percentile(boxes[:, 2:], 95, axis=0)  # an odd false face does not count
    side = int(min(max(tall / SHARE, ROOM * (high - low).max()), height, width)) // 2 * 2
    middle = np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)
    x = int(np.clip(round(middle[0] - side / 2), 0, width - side))
    y = int(np.clip(round(middle[1] - LOW * side), 0, height - side))
    return [x, y, side]


def look(folder: Folder) -> tuple[list[int] | None, tuple[int, int], np.ndarray]:
    """The crop, the size (height, width) of what will be written, and the median box of the main face in it, px."""
    landmarker, boxes, shape = Landmarker(), [], (0, 0)
    for image in glimpses(folder.video, LOOKS):
        shape = image.shape[:2]
        if (box := largest(landmarker(image))) is not None:
            boxes.append(box)
    if not boxes:
        raise InputError(folder.clip["video"]["file"], "no face found in it", "give a video of one person who faces the camera")
    height, width = shape
    crop = crop_for(np.stack(boxes), height, width, folder.options.size)
    face = np.median(np.stack(boxes), axis=0)
    if crop is None:
        return None, (height, width), face
    out = min(crop[2], folder.options.size)
    return crop, (out, out), (face - [crop[0], crop[1], crop[0], crop[1]]) * (out / crop[2])


def run(folder: Folder, progress: Progress) -> None:
    """Cut and write every frame; those already there are kept."""
    crop, size, face = look(folder)
    folder.file("ori_imgs").mkdir(exist_ok=True)
    there = {p.name for p in folder.file("ori_imgs").glob("*.jpg")}
    total = probe(folder.video).frames

    def missing() -> Iterator[tuple[int, Callable[[], np.ndarray] | None]]:
        for k, make in enumerate(undrawn(folder.video)):
            yield k, None if f"{k}.jpg" in there else make

    def write(item: tuple[int, Callable[[], np.ndarray] | None]) -> int:
        k, make = item
        if make is not None:
            write_image(folder.image(k), cut(make(), crop, size))
        return k

    count = 0
    for k in each(write, missing()):
        count = k + 1
        if count % FPS == 0:
            progress(count, max(total, count))
    if count < SHORTEST:
        cause = f"only {count} frame{'s' * (count != 1)} of 1/25 s"
        raise InputError(folder.clip["video"]["file"], cause, "give a video of a second at least, better of a minute or more")
    box = [round(float(v), 2) for v in face]
    folder.update(size=list(size), rate=FPS, frames=count, split=count * 10 // 11, crop=crop, face=box)


def cut(image: np.ndarray, crop: list[int] | None, size: tuple[int, int]) -> np.ndarray:  # uint8 [h,w,3] -> [H,W,3]
    """The square of the picture at the size of the folder's frames."""
    if crop is None:
        return image
    x, y, side = crop
    part = image[y : y + side, x : x + side]
    if part.shape[:2] == size:
        return part
    return np.asarray(Image.fromarray(part).resize(size[::-1], Image.Resampling.LANCZOS))


def verify(folder: Folder) -> None:
    """Every number has its picture, there is none too many, and the first and last are pictures of the right size."""
    remedy = f"run: vivavoce prepare {folder.path} --only frames"
    count = len(folder.outputs(STEP.outputs))
    if count != folder.frames or folder.missing("ori_imgs/%d.jpg"):
        raise InputError(folder.file("ori_imgs"), f"{count} pictures, {folder.frames} expected", remedy)
    for k in (0, folder.frames - 1):
        try:
            with Image.open(folder.image(k)) as image:
                image.load()
                size = image.size[::-1]
        except OSError as e:
            raise InputError(folder.image(k), "a damaged picture", remedy) from e
        if size != folder.size:
            raise InputError(folder.image(k), f"is {size[1]} x {size[0]}, not {folder.size[1]} x {folder.size[0]}", remedy)


STEP = Step("frames", 3, 1, (VIDEO,), ("ori_imgs/*.jpg",), run, verify, options=("size",))
