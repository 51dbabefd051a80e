"""Task 5: the background without the person, `bc.jpg`.

A pixel of the plate is the median over the frames in which it lies well away from the person (exact Euclidean distance
transform, more than 5 px). Nearer pixels are mixed with the person's outline and not used. Where no frame shows the background
(always behind the person), it is the nearest pixel that is known, blurred the more the farther that is. The
share of pixels really seen is kept in clip.json as `background`: {"seen": share, "steady": how still the background is, px level 0..255}.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from vivavoce.face import regions
from vivavoce.media import read_image, write_image
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.parallel import each
from vivavoce.types import InputError

FRAMES = 41  # looked at, evenly spread; odd, so that a median is a colour that was really there
CLEAR = 5.0  # px from the person
WISPS = 0.02  # of the picture's longer side, from what is not seen
BLURS = (3.0, 8.0, 20.0)  # px: blur of a pixel that far from the nearest seen
BAND = 64  # rows of the median at a time: memory


def labels_of(folder: Folder, frame: int) -> np.ndarray:  # -> uint8 [H,W]
    """Classes of a frame's parsing picture."""
    colours = torch.from_numpy(np.ascontiguousarray(read_image(folder.file("parsing", f"{frame}.png")))).permute(2, 0, 1)[None]
    return regions.labels_from_colours(colours)[0].numpy()


def plate(pictures: np.ndarray, away: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The background from frames and each pixel's distance to the person in them.

    Args:
        pictures: uint8 [n,H,W,3]. away: float32 [n,H,W] px, 0 on the person.
    Returns:
        the plate uint8 [H,W,3], the share of pixels seen clearly in some frame, the median spread of a seen pixel (levels).
    """
    clear = away > CLEAR
    seen = np.asarray(clear.any(0))
    out = np.zeros_like(pictures[0])
    spreads = []
    for top in range(0, out.shape[0], BAND):
        rows = slice(top, top + BAND)
        values = np.where(clear[:, rows, :, None], pictures[:, rows].astype(np.float32), np.nan)
        part = seen[rows]
        if part.any():
            chosen = values[:, part]  # [n,P,3]
            middle = np.nanmedian(chosen, axis=0)
            out[rows][part] = np.round(middle).astype(np.uint8)
            spreads.append(np.nanmedian(np.abs(chosen - middle), axis=0).mean(1))
    return filled(out, seen), float(seen.mean()), float(np.median(np.concatenate(spreads))) if spreads else 0.0


def filled(image: np.ndarray, seen: np.ndarray) -> np.ndarray:  # uint8 [H,W,3], bool [H,W] -> uint8 [H,W,3]
    """Pixels not seen from those around them: the nearest one's colour, then blurred, so that no streaks point at the person.

    Colours come from a little farther off than the first pixel seen: there, wisps of hair that no mask holds are taken for background.
    """
    if seen.all() or not seen.any():
        return image
    source = ndimage.distance_transform_edt(seen) > WISPS * max(seen.shape)
    away, near = ndimage.distance_transform_edt(~(source if source.any() else seen), return_indices=True)
    out = image[near[0], near[1]].astype(np.float32)
    for sigma in BLURS:
        soft = ndimage.gaussian_filter(out, (sigma, sigma, 0))
        weight = np.clip(away / sigma - 1, 0, 1)[..., None]
        out = out * (1 - weight) + soft * weight
    out[seen] = image[seen]
    return np.asarray(np.clip(np.round(out), 0, 255), np.uint8)


def run(folder: Folder, progress: Progress) -> None:
    """Look at frames spread over the video and write the plate."""
    used = np.flatnonzero(folder.used)
    chosen = used[np.unique(np.linspace(0, len(used) - 1, min(FRAMES, len(used))).round().astype(int))].tolist()

    def look(frame: int) -> tuple[np.ndarray, np.ndarray]:
        free = labels_of(folder, frame) == regions.BACKGROUND
        # beyond the picture's edge nobody knows whether the person goes on: distance to what is in the picture only
        away = ndimage.distance_transform_edt(free) if not free.all() else np.full(free.shape, np.inf)
        return read_image(folder.image(frame)), away.astype(np.float32)

    pictures = np.empty((len(chosen), *folder.size, 3), np.uint8)
    distances = np.empty((len(chosen), *folder.size), np.float32)
    for k, (pictures[k], distances[k]) in enumerate(each(look, chosen)):
        progress(k + 1, len(chosen))
    image, seen, spread = plate(pictures, distances)
    write_image(folder.file("bc.jpg"), image)
    folder.update(background={"seen": round(seen, 4), "steady": round(spread, 2)})


def verify(folder: Folder) -> None:
    """A picture of the frames' size, and some of it really seen."""
    path, remedy = folder.file("bc.jpg"), f"run: vivavoce prepare {folder.path} --only background"
    if not path.is_file():
        raise InputError(path, "is not there", remedy)
    if read_image(path).shape[:2] != folder.size:
        raise InputError(path, "has not the size of the frames", remedy)
    if folder.clip.get("background", {}).get("seen", 1.0) < 0.02:
        raise InputError(path, "the background is never seen: the person fills the picture", "use a video with some room around the head")


STEP = Step("background", 5, 3, ("frames", "parsing", "shots"), ("bc.jpg",), run, verify)
