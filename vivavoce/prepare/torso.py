"""Task 6: the picture over the background plate, `gt_imgs/%d.jpg`, and the body without its head, `torso_imgs/%d.png` (RGBA).

The head hides the top of the neck and of the collar. They are continued upwards, as in the AD-NeRF lineage: each column's
topmost visible colour, darkening by 2 % a row, so that a head that turns a little finds a neck behind it. Lengths are those
of the lineage for pictures of 512 px and grow with the picture. Unlike the lineage the outline is soft: alpha falls over
about two pixels, so no seam flickers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from vivavoce.face import regions
from vivavoce.media import read_image, write_image
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.background import labels_of
from vivavoce.prepare.parallel import counted, spread
from vivavoce.types import InputError

BASE = 512  # px, the side for which the lengths below are given
NECK_ROWS, CLOTH_ROWS = 53, 9  # rows continued upwards
NECK_DOWN = 4  # rows below the top of the neck from which its colour is taken: the top is in the chin's shadow or half chin
DARKER = 0.98  # a row
SOFT = 0.8  # px, sigma of the outline
HALO, MELT = 3, 1.2  # px around the person that stay the video's own, and sigma of where the plate begins
REACH = NECK_ROWS + 20  # px around the body within which anything is drawn
PURE = 1e-3  # alpha so near to 0 or 1 mixes less than half a level
EFFORT = 1  # of PNG: 6 takes as long as all else here, for 7 % less room
HEAD = (regions.HEAD, regions.HAIR, regions.INNER_MOUTH, regions.TEETH)
BODY = (regions.NECK, regions.CLOTH)


def raised(colours: np.ndarray, head: np.ndarray, part: np.ndarray, rows: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    """A body part continued upwards behind the head.

    Args:
        colours: float32 [H,W,3]. head, part: bool [H,W]. rows: how far up. down: colour taken so far below the part's top.
    Returns:
        the colours with the continuation in them, and where it lies [H,W].
    """
    height = len(part)
    below = np.zeros_like(part)
    below[1:] = part[1:] & head[:-1]  # the part's pixels right under the head
    columns = np.flatnonzero(below.any(0))
    top = below[:, columns].argmax(0)
    # length of the part's run downwards from its top, as far as it matters
    run = np.ones(len(columns), int)
    for k in range(1, down + 1):
        run += (run == k) & (top + k < height) & part[np.minimum(top + k, height - 1), columns]
    source = top + np.minimum(down, run - 1)
    up = np.arange(1, rows + down + 1)
    place = source[None] - up[:, None]  # [rows+down, columns]
    inside = (place >= 0) & (up[:, None] <= rows + (source - top)[None])
    out, where = colours.copy(), np.zeros_like(part)
    values = colours[source, columns][None] * (DARKER**up)[:, None, None]
    r, c = place[inside], np.broadcast_to(columns, place.shape)[inside]
    out[r, c] = values[inside]
    where[r, c] = True
    return out, where


def around(where: np.ndarray, margin: int) -> tuple[slice, slice]:  # bool [H,W]
    """Rows and columns of the box around the pixels and so many beyond: the rest of the picture need not be worked on."""
    boxes = [np.flatnonzero(where.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, int(b[0]) - margin), int(b[-1]) + margin + 1) for b in boxes)
    return rows, columns


def body(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The body without its head: uint8 [H,W,3], [H,W] -> uint8 [H,W,4], colour 0 where alpha is 0."""
    scale = labels.shape[0] / BASE
    out = np.zeros((*labels.shape, 4), np.uint8)
    there = np.isin(labels, BODY)
    if there.any():
        part = around(there, round(REACH * max(scale, 0.5)))
        out[part] = _body(picture[part], labels[part], scale)
    return out


def _body(picture: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """`body` of the part of a picture that holds it, `scale` times the size of the lineage's."""
    head, neck, cloth = np.isin(labels, HEAD), labels == regions.NECK, labels == regions.CLOTH
    colours = picture.astype(np.float32)
    colours, over = raised(colours, head, cloth, max(1, round(CLOTH_ROWS * scale)), 0)
    neck = ndimage.binary_dilation(neck, iterations=max(1, round(3 * scale)), structure=np.array([[0, 1, 0]] * 3, bool)) & ~cloth
    colours, under = raised(colours, head, neck, max(1, round(NECK_ROWS * scale)), round(NECK_DOWN * scale))
    side = max(3, round(5 * scale))
    if (soft := under & ~cloth).any():
        part = around(soft, side)
        blurred = ndimage.uniform_filter(colours[part], (side, side, 1))
        colours[part][soft[part]] = blurred[soft[part]]
    whole = neck | cloth | over | under
    alpha = ndimage.gaussian_filter(whole.astype(np.float32), SOFT * max(scale, 0.5))
    alpha = np.where(alpha < 1 / 255, 0, alpha)
    # the soft rim lies outside the body: it takes the colour of the nearest body pixel, not of head or background
    rim = (alpha > 0) & ~whole
    if rim.any():
        part = around(rim, round(4 * SOFT * max(scale, 0.5)) + 2)  # the Gaussian is cut at four sigma: no farther body is nearest
        near = ndimage.distance_transform_edt(~whole[part], return_distances=False, return_indices=True)
        within = rim[part]
        colours[part][within] = colours[part][near[0][within], near[1][within]]
    out = np.empty((*labels.shape, 4), np.uint8)  # no colour leaves 0..255 above
    np.rint(np.multiply(colours, (alpha > 0)[..., None], out=colours), out=out[..., :3], casting="unsafe")
    np.rint(np.multiply(alpha, 255, out=alpha), out=out[..., 3], casting="unsafe")
    return out


def over_plate(picture: np.ndarray, labels: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """The person over the plate: uint8 [H,W,3] each.

    The pixels around the outline are the video's own: there colours run into each other (video keeps half of their resolution), hair
    ends softly, and labels waver by a pixel. A cut on the labels' line would be an edge that the video does not have, elsewhere in
    every frame.
    """
    scale = max(labels.shape[0] / BASE, 0.5)
    person = ndimage.maximum_filter(labels != regions.BACKGROUND, 2 * round(HALO * scale) + 1)
    alpha = ndimage.gaussian_filter(person.astype(np.float32), MELT * scale)
    out = np.where(person[..., None], picture, plate)
    mixed = np.nonzero((alpha > PURE) & (alpha < 1 - PURE))  # elsewhere rounding leaves one of the two
    share = alpha[mixed][:, None]
    out[mixed] = np.rint(picture[mixed] * share + plate[mixed] * (1 - share))
    return out


def maker(path: Path) -> Callable[[int], None]:
    """What writes both pictures of a frame of the folder."""
    folder = Folder(path)
    plate = read_image(folder.file("bc.jpg"))

    def work(frame: int) -> None:
        labels = labels_of(folder, frame)
        merged = over_plate(read_image(folder.image(frame)), labels, plate)
        write_image(folder.file("torso_imgs", f"{frame}.png"), body(merged, labels), EFFORT)
        write_image(folder.file("gt_imgs", f"{frame}.jpg"), merged)

    return work


def run(folder: Folder, progress: Progress) -> None:
    """Every frame that lacks one of its two pictures."""
    left = sorted({*folder.missing("gt_imgs/%d.jpg"), *folder.missing("torso_imgs/%d.png")})
    spread(partial(maker, folder.path), left, len(left), counted(progress, folder.frames - len(left), folder.frames))


def verify(folder: Folder) -> None:
    """Both pictures for every frame, and a body in at least some."""
    remedy = f"run: vivavoce prepare {folder.path} --only torso"
    for pattern in ("gt_imgs/%d.jpg", "torso_imgs/%d.png"):
        if lost := folder.missing(pattern):
            raise InputError(folder.file(pattern % lost[0]), f"is not there ({len(lost)} frames lack theirs)", remedy)


STEP = Step("torso", 6, 1, ("frames", "parsing", "background"), ("gt_imgs/*.jpg", "torso_imgs/*.png"), run, verify)
