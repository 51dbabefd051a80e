"""Task 4: which pixel is head, hair, neck, cloth or background, `parsing/%d.png` in the lineage's colours.

The licence-clean way: MediaPipe's selfie net (Apache-2.0) tells person from background, sharpened along the picture's edges by
a guided filter (He et al., 2013) and steadied by a median over three frames; the tracked face mesh tells the face and the
inside of the mouth; hair, ears, neck and cloth are told apart by colour histograms learned from this very clip and by where
they lie relative to the face.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from vivavoce import assets
from vivavoce.face import regions
from vivavoce.media import read_image, write_image
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.parallel import each
from vivavoce.prepare.rows import reader
from vivavoce.types import InputError

NET = 256  # px, side of the net's picture
RADIUS, EPSILON = 12, 1e-4  # of the guided filter: px at 512, variance of luminance
RUN = 50  # frames a thread takes at once
SAMPLES = 15  # frames the colours are learned from
BINS = 16  # of a histogram, each colour channel
SMOOTH = 5  # px at 512, of the label vote
RIM = 5  # px at 512, of the person's outline whose colours are not trusted
CHIN, FOREHEAD, RIGHT, LEFT = 152, 10, 234, 454  # mesh points
COLLAR = 0.24  # of the way from chin to forehead: no collar or shoulder reaches higher
SKIN, HAIR, CLOTH = range(3)  # colour models


class Selfie:
    """Person against background, one a thread."""

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.net = Interpreter(model_path=str(assets.path("selfie_segmentation")), num_threads=1)
        self.net.allocate_tensors()
        self.entry, self.exit = self.net.get_input_details()[0]["index"], self.net.get_output_details()[0]["index"]

    def __call__(self, picture: np.ndarray) -> np.ndarray:  # uint8 [H,W,3] -> [256,256] 0..1
        """Probability of the person."""
        small = Image.fromarray(picture).resize((NET, NET), Image.Resampling.BILINEAR)
        self.net.set_tensor(self.entry, np.asarray(small, np.float32)[None] / 255)
        self.net.invoke()
        return np.array(self.net.get_tensor(self.exit)[0, :, :, 0])


@dataclass
class Place:
    """The face's own axes in a picture: u across (-1 and 1 at the sides of the face), v up (0 at the chin, 1 at the forehead)."""

    origin: np.ndarray  # [2] the chin
    turn: np.ndarray  # [2,2] rows: u and v per pixel

    def __call__(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
        dx, dy = x - self.origin[0], y - self.origin[1]
        return self.turn[0, 0] * dx + self.turn[0, 1] * dy, self.turn[1, 0] * dx + self.turn[1, 1] * dy


def placed(points: np.ndarray) -> Place:  # [478,3]
    """Axes from the mesh of a frame."""
    chin, forehead = points[CHIN, :2], points[FOREHEAD, :2]
    up = forehead - chin
    across = np.array([-up[1], up[0]]) / np.linalg.norm(up)  # to the picture's right when the head is upright
    half = np.abs((points[[RIGHT, LEFT], :2] - chin) @ across).max()
    return Place(chin, np.stack([across / half, up / (up @ up)]).astype(np.float32))


def sharpened(mask: np.ndarray, picture: np.ndarray) -> np.ndarray:  # [256,256], uint8 [H,W,3] -> [H,W] 0..1
    """The net's coarse mask at full size, its edge moved to the picture's."""
    height, width = picture.shape[:2]
    p = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR))
    guide = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    side = 2 * max(1, round(RADIUS * height / 512)) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(values, side))

    mg, mp = mean(guide), mean(p)
    slope = (mean(guide * p) - mg * mp) / (mean(guide * guide) - mg * mg + EPSILON)
    return np.asarray(np.clip(mean(slope) * guide + mean(mp - slope * mg), 0, 1))


def filled(points: np.ndarray, loop: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:  # [478,3] -> bool [H,W]
    """Inside of a loop of mesh points."""
    picture = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in points[list(loop), :2]], fill=1)
    return np.asarray(picture)


def learned(pictures: list[np.ndarray], persons: list[np.ndarray], meshes: list[np.ndarray]) -> np.ndarray:
    """Log probability of each colour as skin, hair and cloth, from places that are surely one of them: [3, BINS**3]."""
    counts = np.zeros((3, BINS**3))
    for picture, person, points in zip(pictures, persons, meshes, strict=True):
        u, v = placed(points)(*person.shape)
        bins = binned(picture)
        face = filled(points, regions.OVAL, person.shape)
        sure = person > 0.9
        where = (face & (v > 0.05) & (v < 0.7), sure & ~face & (v > 1.08) & (np.abs(u) < 1.1), sure & (v < -0.75))
        for k, region in enumerate(where):
            counts[k] += np.bincount(bins[region], minlength=BINS**3)
    cube = counts.reshape(3, BINS, BINS, BINS)
    spread = np.stack([ndimage.gaussian_filter(c, 0.8) for c in cube]).reshape(3, -1)
    total = spread.sum(1, keepdims=True)
    return np.asarray(np.log((spread + 1e-3) / (total + 1e-3 * BINS**3)), np.float32)


def binned(picture: np.ndarray) -> np.ndarray:  # uint8 [H,W,3] -> [H,W] number of the colour's bin
    """Histogram bin of each pixel."""
    b = (picture // (256 // BINS)).astype(np.int64)
    return np.asarray((b[..., 0] * BINS + b[..., 1]) * BINS + b[..., 2])


def classes(picture: np.ndarray, person: np.ndarray, points: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Labels uint8 [H,W] of a frame: uint8 [H,W,3], person 0..1 [H,W], mesh [478,3], colour models [3,bins]."""
    size = person.shape
    u, v = placed(points)(*size)
    side = np.abs(u)
    own = colours[:, binned(picture)]  # [3,H,W]

    def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
        """Log of a share that goes from 1 % at `low` to all at `high`."""
        return np.log(0.01 + 0.99 * np.clip((value - low) / (high - low), 0, 1))

    smooth = max(1, round(SMOOTH * size[0] / 512))
    throat = np.where((side < 0.6) & (v < 0.2), ramp(-v, -0.1, 0.5), 0)  # bare shoulders have the neck's colour, cloth or not
    scores = np.stack(
        [
            own[SKIN] + np.where(v < COLLAR - 0.06, -20, ramp(v, COLLAR - 0.06, 0.4)) + ramp(-side, -1.45, -1.15),  # ears, forehead
            own[SKIN] + ramp(-v, -0.2, 0.0) + ramp(v, -0.95, -0.45) + ramp(-side, -1.0, -0.65),  # neck
            own[CLOTH] + np.where(v > 0.45, -20, ramp(-v, -0.3, 0.0)) + throat,
            own[HAIR] + hanging(u, v, person, ramp) + throat,
        ]
    )
    scores = voted(scores.astype(np.float32), person > 0.5, smooth, max(1, round(RIM * size[0] / 512)))
    labels = np.array([regions.HEAD, regions.NECK, regions.CLOTH, regions.HAIR], np.uint8)[scores.argmax(0)]
    labels[person < 0.5] = regions.BACKGROUND
    labels[filled(points, regions.OVAL, size)] = regions.HEAD
    necks, _ = ndimage.label(labels == regions.NECK)
    joined = np.unique(necks[ndimage.binary_dilation(labels == regions.HEAD, iterations=2 * smooth)])
    labels[(necks > 0) & ~np.isin(necks, joined)] = regions.CLOTH  # skin-coloured cloth: a tie, a pattern
    mouth = filled(points, regions.LIPS_INNER, size)
    opening = np.ptp(points[[13, 14], 1]) / max(float(np.linalg.norm(points[61, :2] - points[291, :2])), 1e-6)
    if opening > 0.03:  # a shut mouth shows no inside: its outline is a line of noise
        labels[mouth] = regions.INNER_MOUTH
    return whole(labels)


def voted(scores: np.ndarray, person: np.ndarray, smooth: int, rim: int) -> np.ndarray:  # [4,H,W], bool [H,W] -> [4,H,W]
    """Scores averaged over neighbours; along the person's outline, whose colours are mixed with the background's, over those inside."""
    core = ndimage.binary_erosion(person, iterations=rim, border_value=1)
    share = ndimage.uniform_filter(core.astype(np.float32), 4 * rim + 1)
    edge = person & ~core & (share > 1e-4)
    out = np.stack([ndimage.uniform_filter(s, smooth) for s in scores])
    for k, score in enumerate(scores):
        out[k][edge] = ndimage.uniform_filter(np.where(core, score, 0), 4 * rim + 1)[edge] / share[edge]
    return out


def hanging(u: np.ndarray, v: np.ndarray, person: np.ndarray, ramp: Callable[..., np.ndarray]) -> np.ndarray:  # -> [H,W]
    """Log prior of hair: below the chin only on a side where something hangs beside the jaw, else a dark coat would be hair."""
    out = np.empty_like(v)
    for on_side in (u < 0, u >= 0):
        beside = on_side & (v > 0.05) & (v < 0.35) & (np.abs(u) > 1.1) & (np.abs(u) < 1.4)
        long = bool(beside.any()) and person[beside].mean() > 0.5
        out[on_side] = ramp(v[on_side], -0.9, -0.1) if long else np.where(v[on_side] < COLLAR, -20, ramp(v[on_side], COLLAR, 0.45))
    return out


def whole(labels: np.ndarray) -> np.ndarray:
    """Specks removed: person pixels not joined to the largest piece become background; holes become the cloth or hair around them."""
    pieces, count = ndimage.label(labels != regions.BACKGROUND)
    if count > 1:
        sizes = np.bincount(pieces.reshape(-1))
        labels = np.where((pieces > 0) & (pieces != sizes[1:].argmax() + 1), regions.BACKGROUND, labels).astype(np.uint8)
    holes = ndimage.binary_fill_holes(labels != regions.BACKGROUND) & (labels == regions.BACKGROUND)
    lot, count = ndimage.label(holes)
    if count:
        sizes = np.bincount(lot.reshape(-1))
        small = sizes < 0.002 * labels.size  # larger ones are background seen past an arm
        small[0] = False
        near = ndimage.distance_transform_edt(labels == regions.BACKGROUND, return_distances=False, return_indices=True)
        fill = small[lot]
        labels[fill] = labels[near[0][fill], near[1][fill]]
    return labels


def meshes_of(folder: Folder) -> Callable[[int], np.ndarray]:  # frame -> [478,3]
    """The mesh of any frame, read when asked for; a frame without a face takes the nearest one's."""
    read = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    good = np.flatnonzero(folder.faces)

    def mesh(frame: int) -> np.ndarray:
        points: np.ndarray = read([int(good[np.abs(good - frame).argmin()])])[0]
        return points

    return mesh


def run(folder: Folder, progress: Progress) -> None:
    """Learn the clip's colours, then every frame that has no parsing yet."""
    mesh, own = meshes_of(folder), threading.local()
    left = folder.missing("parsing/%d.png")
    if not left:
        return

    def person(frame: int) -> np.ndarray:
        if not hasattr(own, "selfie"):
            own.selfie = Selfie()
        out: np.ndarray = own.selfie(read_image(folder.image(frame)))
        return out

    chosen = np.unique(np.linspace(0, folder.frames - 1, SAMPLES).round().astype(int)).tolist()
    pictures = [read_image(folder.image(k)) for k in chosen]
    colours = learned(pictures, [sharpened(person(k), p) for k, p in zip(chosen, pictures, strict=True)], [mesh(k) for k in chosen])

    def work(first: int) -> int:
        wanted = [k for k in range(first, min(first + RUN, folder.frames)) if k in todo]
        masks: dict[int, np.ndarray] = {}
        for k in wanted:
            around = [j for j in (k - 1, k, k + 1) if 0 <= j < folder.frames]
            masks = {j: masks[j] if j in masks else person(j) for j in around}
            picture = read_image(folder.image(k))
            mask = sharpened(np.median(np.stack(list(masks.values())), 0).astype(np.float32), picture)
            labels = classes(picture, mask, mesh(k), colours)
            table = regions.colours_from_labels(torch.from_numpy(labels)[None])[0]
            write_image(folder.file("parsing", f"{k}.png"), table.permute(1, 2, 0).contiguous().numpy())
        return len(wanted)

    todo = set(left)
    done = folder.frames - len(left)
    for count in each(work, range(left[0] // RUN * RUN, folder.frames, RUN)):
        done += count
        progress(done, folder.frames)


def verify(folder: Folder) -> None:
    """A picture for every frame, of the frames' size."""
    remedy = f"run: vivavoce prepare {folder.path} --only parsing"
    if lost := folder.missing("parsing/%d.png"):
        raise InputError(folder.file("parsing", f"{lost[0]}.png"), f"is not there ({len(lost)} frames lack theirs)", remedy)
    if read_image(folder.file("parsing", "0.png")).shape[:2] != folder.size:
        raise InputError(folder.file("parsing", "0.png"), "has not the size of the frames", remedy)


STEP = Step("parsing", 4, 2, ("frames", "landmarks"), ("parsing/*.png",), run, verify)
