"""Films or person folders -> packed faces for dubbing (`data/faces.py`): one person of each, small crops, landmarks, mel columns.

A film with cuts or gaps becomes several pieces, so that no window of training crosses one. A film that cannot be used (no face, several,
no sound) is left out and named with its reason.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vivavoce import media, speech
from vivavoce.face import regions
from vivavoce.face.box import face_box
from vivavoce.face.crop import Crop, crop
from vivavoce.face.landmarker import Landmarker
from vivavoce.prepare.people import people
from vivavoce.speech.mel_wav2lip import BINS, COLUMNS
from vivavoce.types import HOP, InputError

SIDE = 112  # px of a crop
ROOM = 1.2  # of the crop's side, over the longer side of the face's box
QUALITY = 85  # of the JPEGs
FULL = 50 * 2**20  # bytes of pictures after which a new file begins
LEAST = 10  # frames of a piece


class Shard:
    """A file in the making."""

    def __init__(self) -> None:
        self.pictures: list[bytes] = []
        self.landmarks: list[Tensor] = []
        self.films: list[tuple[int, int, int]] = []
        self.columns: list[Tensor] = []

    @property
    def size(self) -> int:
        return sum(map(len, self.pictures))

    def add(self, pictures: list[bytes], landmarks: Tensor, columns: Tensor) -> None:
        """One piece of a film."""
        self.films.append((len(self.pictures), len(pictures), sum(map(len, self.columns))))
        self.pictures += pictures
        self.landmarks.append(landmarks)
        self.columns.append(columns)

    def write(self, path: Path) -> None:
        """Under a temporary name first."""
        tensors = {
            "pictures": torch.from_numpy(np.frombuffer(b"".join(self.pictures), np.uint8).copy()),
            "ends": torch.tensor([len(p) for p in self.pictures]).cumsum(0),
            "landmarks": torch.cat(self.landmarks),
            "films": torch.tensor(self.films),
            "columns": torch.cat(self.columns).half(),
        }
        part = path.with_name(path.name + ".part")
        save_file(tensors, part)
        os.replace(part, path)


def pack(
    films: Sequence[str | Path], out: str | Path, side: int = SIDE, progress: Callable[[int, int], None] | None = None
) -> dict[Path, str]:
    """Write `out`/faces_<n>.safetensors; returns the films (or prepared person folders) that were left out, with the reason.

    Raises InputError when no film could be used.
    """
    folder, bad = Path(out), dict[Path, str]()
    folder.mkdir(parents=True, exist_ok=True)
    finder, shard, written = Landmarker(), Shard(), 0
    for k, film in enumerate(map(Path, films)):
        try:
            for piece in _pieces(film, finder, side):
                shard.add(*piece)
        except InputError as error:
            bad[film] = str(error)
        if shard.films and (shard.size > FULL or k == len(films) - 1):
            shard.write(folder / f"faces_{written:03d}.safetensors")
            shard, written = Shard(), written + 1
        if progress is not None:
            progress(k + 1, len(films))
    if shard.films:
        shard.write(folder / f"faces_{written:03d}.safetensors")
    elif not written:
        raise InputError(folder, "no film could be used", next(iter(bad.values()), "give films"))
    return bad


def _opened(film: Path, finder: Landmarker) -> tuple[Tensor, Tensor, Iterator[NDArray[np.uint8]]]:
    """Landmarks [T,68,2], NaN without a face, the sound, and the frames."""
    if not film.is_dir():
        points = people(media.frames(film), finder).choose(0, str(film))
        return torch.from_numpy(points), media.audio(film), media.frames(film)
    try:
        dense = np.load(film / "landmarks.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(film / "landmarks.npy", "missing or no NumPy file", f"run: vivavoce prepare {film} --only landmarks") from error
    pictures = (media.read_image(film / "ori_imgs" / f"{k}.jpg") for k in range(len(dense)))
    return torch.from_numpy(regions.landmarks68(dense).astype(np.float32)), media.audio(film / "aud.wav"), pictures


def _pieces(film: Path, finder: Landmarker, side: int) -> Iterator[tuple[list[bytes], Tensor, Tensor]]:
    """Pictures, landmarks and columns of each stretch in which the face is seen."""
    points, sound, frames = _opened(film, finder)
    steps = speech.encode(speech.load("mel_wav2lip"), torch.nn.functional.pad(sound, (0, max(0, len(points) * HOP - len(sound)))))
    known = torch.isfinite(points).all((1, 2))
    pictures: list[bytes] = []
    first = 0
    for k, picture in enumerate(frames):
        if known[k]:
            data, points[k] = _crop(picture, points[k], side)
            first = first if pictures else k
            pictures.append(data)
        if pictures and (not known[k] or k == len(points) - 1):
            if len(pictures) >= LEAST:
                yield pictures, points[first : first + len(pictures)], _columns(steps[first : first + len(pictures)])
            pictures = []


def _crop(picture: NDArray[np.uint8], points: Tensor, side: int) -> tuple[bytes, Tensor]:  # [H,W,3], [68,2] -> JPEG, [68,2]
    """A square around the face, and the landmarks in it."""
    box = face_box(points[None])[0]
    scale = side / (ROOM * float((box[2:] - box[:2]).max()))
    middle = (box[:2] + box[2:]) / 2
    matrix = torch.cat([scale * torch.eye(2), (side / 2 - scale * middle)[:, None]], 1)
    where = Crop(matrix[None], (side, side))
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
    levels = (crop(image, where)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue(), where.inside(points[None])[0]


def _columns(steps: Tensor) -> Tensor:  # [T,2,640] -> [ceil(3.2 T) + 16,80]
    """The columns of the frames' windows, each once."""
    rows = steps.reshape(len(steps), COLUMNS, BINS)
    out = rows.new_zeros(-(-len(rows) * COLUMNS // 5) + COLUMNS, BINS)
    for t, window in enumerate(rows):
        out[t * COLUMNS // 5 : t * COLUMNS // 5 + COLUMNS] = window
    return out
