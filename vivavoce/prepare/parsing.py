"""Task 4: which pixel is head, hair, neck, cloth, inside of the mouth, teeth or background, `parsing/%d.png` in the lineage's colours.

Two parsers:

* `permissive` (the default; every part free for commercial use): `face/parse.py`, a person mask, the tracked face mesh, and a small
  network that learns from some frames of the clip what its skin, hair and cloth look like.
* `bisenet`: the network and weights of the AD-NeRF lineage (`nn/bisenet.py`), for research only. It takes bare shoulders for
  background; what the person mask is sure of below the chin is given to the neck or cloth beside it.

The person mask is steadied by a median over three frames. `teeth_mask/%d.npy` holds the teeth as TalkingGaussian reads them, bool
[H,W], a file with holes: it takes no more room on the disk than the teeth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from scipy import ndimage

from vivavoce import assets
from vivavoce.face import looks, parse, regions
from vivavoce.media import read_image, write_image
from vivavoce.nn.bisenet import BiSeNet
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.parallel import counted, spread
from vivavoce.prepare.rows import reader
from vivavoce.types import InputError

RUN = 50  # frames a thread or process takes at once
SAMPLES = 15  # frames the clip's looks are learned from
BATCH = 8  # frames BiSeNet sees at once on a GPU
LOST = 0.002  # of the picture: what BiSeNet misses of a person below the chin and is no speck
COLOURS = np.array(regions.COLOURS, np.uint8)
CLASSES = np.array(regions.FROM_CELEBAMASK, np.uint8)

Mesh = Callable[[int], np.ndarray]  # frame -> [478,3]
Parser = Callable[[list[int]], Iterator[tuple[np.ndarray, np.ndarray]]]  # frames -> picture and labels of each


def meshes_of(folder: Folder) -> Mesh:
    """The mesh of any frame, read when asked for; a frame without a face takes the nearest one's."""
    read = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    good = np.flatnonzero(folder.faces)

    def mesh(frame: int) -> np.ndarray:
        points: np.ndarray = read([int(good[np.abs(good - frame).argmin()])])[0]
        return points

    return mesh


class Frames:
    """Pictures and person masks of a folder's frames, each read and masked once while frames are asked for in order."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.selfie = folder, parse.Selfie()
        self.held: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _one(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        if frame not in self.held:
            picture = read_image(self.folder.image(frame))
            self.held[frame] = picture, self.selfie(picture)
        return self.held[frame]

    def __call__(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H,W,3], and [256,256]: the median of the masks of three frames."""
        around = [k for k in (frame - 1, frame, frame + 1) if 0 <= k < self.folder.frames]
        masks = [self._one(k)[1] for k in around]
        picture = self.held[frame][0]
        self.held = {k: self.held[k] for k in around}
        if len(masks) < 3:
            return picture, masks[around.index(frame)]
        a, b, c = masks
        return picture, np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def view_of(picture: np.ndarray, mask: np.ndarray, points: np.ndarray) -> looks.View:  # [H,W,3], [256,256], [478,3]
    """What the permissive parser looks at."""
    small = parse.reduced(picture)
    return looks.View.of(small, parse.resized(mask, small.shape[:2]), points, picture.shape[1])


def learned(folder: Folder) -> looks.Looks:
    """Skin, hair and cloth of the clip, from frames spread over it."""
    mesh, frames = meshes_of(folder), Frames(folder)
    usable = np.flatnonzero(folder.faces & folder.kept)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, SAMPLES).round().astype(int))].tolist()
    return looks.Looks.learned([view_of(*frames(k), mesh(k)) for k in chosen])


def permissive(folder: Folder, own: looks.Looks) -> Parser:
    """Labels from the person mask, the mesh and the clip's own looks."""
    mesh, frames = meshes_of(folder), Frames(folder)

    def labels(wanted: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for k in wanted:
            picture, mask = frames(k)
            points = mesh(k)
            view = view_of(picture, mask, points)
            found = parse.classes(view, own, parse.outlined(mask, picture, view.small), points)
            parse.mouth(found, points)
            yield picture, found

    return labels


def bisenet(folder: Folder) -> Parser:
    """Labels from the lineage's network, what it misses of the body from the person mask."""
    on_gpu = torch.cuda.is_available()
    fast = torch.cuda.is_bf16_supported(False) if on_gpu else bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    dtype = torch.bfloat16 if fast else torch.float32
    net = BiSeNet.published(assets.state_dict("face_parsing"), "cuda" if on_gpu else "cpu", dtype)
    mesh, frames, count = meshes_of(folder), Frames(folder), BATCH if on_gpu else 1

    def labels(wanted: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(wanted), count):
            part = wanted[first : first + count]
            seen = [frames(k) for k in part]
            pictures = torch.from_numpy(np.stack([picture for picture, _ in seen])).permute(0, 3, 1, 2)
            for k, (picture, mask), row in zip(part, seen, net.labels(pictures).cpu().numpy(), strict=True):
                yield picture, completed(CLASSES[row], mask, mesh(k))

    return labels


def completed(labels: np.ndarray, mask: np.ndarray, points: np.ndarray) -> np.ndarray:  # [H,W] -> [H,W]
    """Background that is surely the person, below the chin, becomes the neck or cloth nearest to it."""
    _, v = looks.placed(points)(labels.shape)
    lost = (labels == regions.BACKGROUND) & (v < 0) & (parse.resized(mask, labels.shape) > 0.9)
    body = np.isin(labels, (regions.NECK, regions.CLOTH))
    if lost.sum() > LOST * labels.size and body.any():
        near = ndimage.distance_transform_edt(~body, return_distances=False, return_indices=True)
        labels[lost] = labels[near[0][lost], near[1][lost]]
    return labels


def maker(path: Path, own: looks.Looks | None) -> Callable[[list[int]], int]:
    """What writes the parsing of some frames of the folder; `own` of None: with BiSeNet."""
    folder = Folder(path)
    parser = bisenet(folder) if own is None else permissive(folder, own)
    mesh = meshes_of(folder)

    def work(wanted: list[int]) -> int:
        for k, (picture, labels) in zip(wanted, parser(wanted), strict=True):
            parse.teeth(labels, picture, mesh(k))
            with folder.whole("teeth_mask", f"{k}.npy") as part:
                write_mask(part, labels == regions.TEETH)
            write_image(folder.file("parsing", f"{k}.png"), COLOURS.take(labels, 0))
        return len(wanted)

    return work


def write_mask(path: Path, mask: np.ndarray) -> None:  # bool [H,W]
    """A `.npy` file; rows without a pixel set are holes in it."""
    with open(path, "wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|b1", "fortran_order": False, "shape": mask.shape})
        start = file.tell()
        for row in np.flatnonzero(mask.any(1)):
            file.seek(start + int(row) * mask.shape[1])
            file.write(mask[row].tobytes())
        file.truncate(start + mask.size)


def run(folder: Folder, progress: Progress) -> None:
    """Learn the clip's looks, then every frame that has no parsing yet."""
    left = sorted({*folder.missing("parsing/%d.png"), *folder.missing("teeth_mask/%d.npy")})
    if not left:
        return
    progress(folder.frames - len(left), folder.frames)
    if folder.options.parser == "bisenet":
        assets.path("face_parsing")  # fetched once, before there are processes; says on which terms
        own = None
    else:
        own = learned(folder)
    spread(partial(maker, folder.path, own), runs(left), len(left), counted(progress, folder.frames - len(left), folder.frames))


def runs(frames: Sequence[int]) -> list[list[int]]:
    """Frames cut into pieces that begin at the same places however many are left, neighbours together."""
    out: dict[int, list[int]] = {}
    for k in frames:
        out.setdefault(k // RUN, []).append(k)
    return list(out.values())


def verify(folder: Folder) -> None:
    """A picture for every frame, of the frames' size; masks of the teeth for all frames or, from an older repository, for none."""
    remedy = f"run: vivavoce prepare {folder.path} --only parsing"
    masks = ["teeth_mask/%d.npy"] if folder.file("teeth_mask").is_dir() else []
    for pattern in ["parsing/%d.png", *masks]:
        if lost := folder.missing(pattern):
            raise InputError(folder.file(pattern % lost[0]), f"is not there ({len(lost)} frames lack theirs)", remedy)
    if read_image(folder.file("parsing", "0.png")).shape[:2] != folder.size:
        raise InputError(folder.file("parsing", "0.png"), "has not the size of the frames", remedy)


STEP = Step("parsing", 4, 5, ("frames", "landmarks", "shots"), ("parsing/*.png", "teeth_mask/*.npy"), run, verify, ("parser",))
