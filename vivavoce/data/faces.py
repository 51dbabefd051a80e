"""Small crops of many people's faces, with their landmarks and the mel columns of Wav2Lip: what dubbing trains on.

Read from shards (`data/shards.py`), which `vivavoce prepare --data NAME:PATH` makes, and from the single files before them, a folder of
`faces_<n>.safetensors`:

| tensor | |
|---|---|
| `pictures` uint8 [bytes], `ends` int64 [N] | JPEGs one after another, and where each ends |
| `landmarks` float32 [N,68,2] | px of the crops |
| `films` int64 [n,3] | first row, number of rows, first column of each film |
| `columns` float16 [C,80] | mel columns, 3.2 a row and 16 more a film, in the form of speech/mel_wav2lip.py |
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from vivavoce.data.shards import INDEX, Film, Shards, whole
from vivavoce.speech.mel_wav2lip import BINS, COLUMNS
from vivavoce.types import STEPS, Clip, InputError, Rows

PATTERN = "faces_*.safetensors"
HELD = 11  # of films without a split: of so many the last is never trained on; of fewer films, the last 1/11 of each
SPLITS = ("train", "val", "test", "all")
HOLDS = ("frames", "landmarks", "speech", "index")
WORKERS = 4


def packed(folder: str | Path) -> bool:
    """Whether there are packed faces in the folder, all of them."""
    return whole(folder) is not None or any(Path(folder).glob(PATTERN))


class _Store(Protocol):
    """Films of a folder, by number."""

    frames: list[int]
    splits: list[str]  # "": not said

    def film(self, number: int) -> Film: ...


class Faces:
    """Rows of all films of a folder, or of several, one after another.

    Args:
        folders: of packed faces.
        split: "train", "val", "test" or "all".
        window: (past, future) 50 Hz steps a row of speech holds; even, for two steps make a frame's columns.
    Raises:
        InputError: no packed faces, a damaged file, no film of the split, crops of different sizes, or an odd window.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path], split: str = "train", window: tuple[int, int] = (2, 0)) -> None:
        places = [Path(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
        self.folder, self.window = places[0], window
        if window[0] % STEPS or window[1] % STEPS:
            raise InputError(self.folder, f"packed columns have no windows of {window} steps", "use a method that hears mel_wav2lip")
        if split not in SPLITS:
            raise InputError(f"split {split!r}", "no such split", f"choose from: {', '.join(SPLITS)}")
        stores: list[_Store] = [Shards(p) if whole(p) is not None else _Single(p) for p in places]
        self.films = [(store, k) for store in stores for k in range(len(store.frames))]
        counts = torch.tensor([n for store in stores for n in store.frames])
        begin, length = torch.tensor([piece for store in stores for piece in _pieces(store, split)]).unbind(1)  # frames of each film
        self.film = length.nonzero()[:, 0]  # [m] of each piece
        if not len(self.film):
            raise InputError(self.folder, f"no film of split {split!r}", "pack more films")
        self.begin, length = begin[self.film], length[self.film]
        self.ends = length.cumsum(0)
        self.spans = torch.stack([self.ends - length, length], 1)  # [m,2] as of Person
        self.first = (counts.cumsum(0) - counts)[self.film]  # [m] number, among all frames, of the film's first
        self.size = self._size(stores)
        self.pool = ThreadPoolExecutor(WORKERS)

    def _size(self, stores: list[_Store]) -> tuple[int, int]:
        sizes = {_decoded(store.film(0), 0).shape[:2] for store in stores}
        if len(sizes) > 1:
            raise InputError(self.folder, f"crops of different sizes: {sorted(sizes)}", "prepare all with one --size")
        height, width = sizes.pop()
        return height, width

    def __len__(self) -> int:
        return int(self.ends[-1])

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The given rows. Raises InputError for a field that is not packed."""
        wanted = set(HOLDS if needs is None else needs)
        if lost := sorted(wanted - set(HOLDS)):
            raise InputError(self.folder, f"packed faces hold no {', '.join(lost)}", "train on person folders: vivavoce prepare VIDEO")
        row = torch.arange(*rows.indices(len(self))) if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        piece = torch.searchsorted(self.ends, row.contiguous(), right=True)
        frame = row - self.spans[piece, 0] + self.begin[piece]
        owner = self.film[piece]
        films = {k: self.films[k][0].film(self.films[k][1]) for k in torch.unique(owner).tolist()}
        pictures = landmarks = heard = None
        if "frames" in wanted:
            levels = np.stack(list(self.pool.map(lambda at: _decoded(films[at[0]], at[1]), zip(owner.tolist(), frame.tolist()))))
            pictures = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
        if "landmarks" in wanted:
            landmarks = torch.zeros(len(row), 68, 2)
        if "speech" in wanted:
            heard = torch.zeros(len(row), sum(self.window), COLUMNS // STEPS * BINS)
        for k, film in films.items():
            mine = owner == k
            if landmarks is not None:
                landmarks[mine] = torch.from_numpy(film.landmarks[frame[mine].numpy()])
            if heard is not None:
                heard[mine] = self._speech(film, frame[mine])
        return Clip(frames=pictures, landmarks=landmarks, speech=heard, index=self.first[piece] + frame)

    def _speech(self, film: Film, frame: Tensor) -> Tensor:  # [T] of the film -> [T,W,640]
        near = frame[:, None] + torch.arange(-self.window[0] // STEPS, self.window[1] // STEPS)  # [T,W/2]
        start = (near.clamp(min=0) * COLUMNS) // 5
        places = (start[..., None] + torch.arange(COLUMNS)).clamp(max=len(film.columns) - 1)
        found = torch.from_numpy(film.columns[places.numpy()]).float()  # [T,W/2,16,80]
        found[near < 0] = 0  # silence
        return found.reshape(len(frame), -1, COLUMNS // STEPS * BINS)


def _decoded(film: Film, frame: int) -> NDArray[np.uint8]:  # -> [S,S,3]
    data = film.data[int(film.bounds[frame]) : int(film.bounds[frame + 1])].tobytes()
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def _pieces(store: _Store, split: str) -> list[tuple[int, int]]:
    """First frame and number of frames of each film that the split takes."""
    pieces, passed, few = list[tuple[int, int]](), 0, store.splits.count("") < HELD
    for count, given in zip(store.frames, store.splits, strict=True):
        if given:
            pieces.append((0, count if split in (given, "all") else 0))
            continue
        held = count // HELD if few else count * (passed % HELD == HELD - 1)
        pieces.append({"train": (0, count - held), "val": (count - held, held), "test": (0, 0), "all": (0, count)}[split])
        passed += 1
    return pieces


class _Single:
    """The films of `faces_<n>.safetensors`, in memory."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob(PATTERN))
        if not files:
            cause = f"no packed faces in it: no {INDEX} of shards, no {PATTERN}"
            raise InputError(folder, cause, f"run: vivavoce prepare --data NAME:PATH --folder {folder}")
        self.parts = [_read(file) for file in files]
        self.places = [(part, *row) for part in self.parts for row in part["films"].tolist()]
        self.frames = [count for _, _, count, _ in self.places]
        self.splits = [""] * len(self.frames)

    def film(self, number: int) -> Film:
        part, first, count, column = self.places[number]
        bounds = part["bounds"][first : first + count + 1].numpy()
        columns = part["columns"][column : column + count * COLUMNS // 5 + COLUMNS + 1].numpy()
        return Film(part["pictures"].numpy(), bounds, part["landmarks"][first : first + count].numpy(), columns)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as held:
            found = {k: held.get_tensor(k) for k in ("pictures", "ends", "landmarks", "films", "columns")}
    except Exception as error:  # safetensors raises its own, a bare Exception
        raise InputError(file, f"damaged ({' '.join(str(error).split())[:120]})", "pack the films again") from error
    return found | {"bounds": torch.cat([found["ends"].new_zeros(1), found["ends"]])}
