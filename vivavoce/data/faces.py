"""Faces of many films in a few files: small crops as JPEG, their landmarks, and the mel columns of Wav2Lip. What dubbing trains on.

A folder of `faces_<n>.safetensors` made by `prepare/faces.py`; a film of three seconds takes 0.34 MB (75 faces of GRID).

| tensor | |
|---|---|
| `pictures` uint8 [bytes], `ends` int64 [N] | JPEGs one after another, and where each ends |
| `landmarks` float32 [N,68,2] | px of the crops |
| `films` int64 [n,3] | first row, number of rows, first column of each film |
| `columns` float16 [C,80] | mel columns, 3.2 a row and 16 more a film, in the form of speech/mel_wav2lip.py |
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from vivavoce.speech.mel_wav2lip import BINS, COLUMNS
from vivavoce.types import STEPS, Clip, InputError, Rows

PATTERN = "faces_*.safetensors"
HELD = 11  # of so many films the last is never trained on; of fewer films, the last 1/11 of each
HOLDS = ("frames", "landmarks", "speech", "index")
WORKERS = 4


def packed(folder: str | Path) -> bool:
    """Whether there are packed faces in the folder."""
    return any(Path(folder).glob(PATTERN))


class Faces:
    """Rows of all films of a folder, one after another.

    Args:
        folder: of packed faces.
        split: "train", "val" or "all".
        window: (past, future) 50 Hz steps a row of speech holds; even, for two steps make a frame's columns.
    Raises:
        InputError: no packed faces, a damaged file, or an odd window.
    """

    def __init__(self, folder: str | Path, split: str = "train", window: tuple[int, int] = (2, 0)) -> None:
        self.folder, self.window = Path(folder), window
        if window[0] % STEPS or window[1] % STEPS:
            raise InputError(folder, f"packed columns have no windows of {window} steps", "use a method that hears mel_wav2lip")
        files = sorted(self.folder.glob(PATTERN))
        if not files:
            raise InputError(folder, f"no {PATTERN} in it", "pack films: vivavoce.prepare.faces.pack")
        shards = [_read(file) for file in files]
        self.bytes = [s["pictures"].numpy() for s in shards]
        ends = [torch.cat([s["ends"].new_zeros(1), s["ends"]]) for s in shards]
        counts = torch.tensor([len(s["ends"]) for s in shards])
        widths = torch.tensor([len(s["columns"]) for s in shards])
        self.begin = torch.cat([e[:-1] for e in ends])
        self.end = torch.cat([e[1:] for e in ends])
        self.shard = torch.repeat_interleave(torch.arange(len(shards)), counts)
        self.landmarks = torch.cat([s["landmarks"] for s in shards])
        self.columns = torch.cat([s["columns"] for s in shards])
        before = torch.stack([counts.cumsum(0) - counts, torch.zeros_like(counts), widths.cumsum(0) - widths], 1)
        films = torch.cat([s["films"] + before[k] for k, s in enumerate(shards)])  # [n,3]
        self.film = torch.repeat_interleave(torch.arange(len(films)), films[:, 1])  # [N]
        self.first, self.column = films[:, 0], films[:, 2]
        self.spans, self.rows = _split(films, split)
        if not len(self.rows):
            raise InputError(folder, f"no film of split {split!r}", "pack more films")
        with Image.open(io.BytesIO(self._jpeg(0))) as picture:
            self.size = (picture.height, picture.width)
        self.pool = ThreadPoolExecutor(WORKERS)

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The given rows. Raises InputError for a field that is not packed."""
        wanted = set(HOLDS if needs is None else needs)
        if lost := sorted(wanted - set(HOLDS)):
            raise InputError(self.folder, f"packed faces hold no {', '.join(lost)}", "train on person folders: vivavoce prepare VIDEO")
        index = self.rows[rows if isinstance(rows, slice | Tensor) else list(rows)]
        pictures = None
        if "frames" in wanted:
            levels = np.stack(list(self.pool.map(self._picture, index.tolist())))
            pictures = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
        return Clip(
            frames=pictures,
            landmarks=self.landmarks[index] if "landmarks" in wanted else None,
            speech=self._speech(index) if "speech" in wanted else None,
            index=index,
        )

    def _jpeg(self, row: int) -> bytes:
        data: bytes = self.bytes[int(self.shard[row])][int(self.begin[row]) : int(self.end[row])].tobytes()
        return data

    def _picture(self, row: int) -> np.ndarray:  # -> uint8 [S,S,3]
        with Image.open(io.BytesIO(self._jpeg(row))) as picture:
            return np.asarray(picture.convert("RGB"))

    def _speech(self, index: Tensor) -> Tensor:  # [T] -> [T,W,640]
        film = self.film[index]
        near = torch.arange(-self.window[0] // STEPS, self.window[1] // STEPS)
        frame = (index - self.first[film])[:, None] + near  # [T,W/2], of its film
        start = self.column[film][:, None] + (frame.clamp(min=0) * COLUMNS) // 5
        places = (start[..., None] + torch.arange(COLUMNS)).clamp(max=len(self.columns) - 1)
        found = self.columns[places].float()  # [T,W/2,16,80]
        found[frame < 0] = 0  # silence
        return found.reshape(len(index), -1, COLUMNS // STEPS * BINS)


def _split(films: Tensor, split: str) -> tuple[Tensor, Tensor]:  # [n,3] -> [m,2] pieces of rows of the split, [M] rows
    """Pieces by number in the split, and the rows themselves."""
    pieces = []
    for k, (first, count, _) in enumerate(films.tolist()):
        held = count if len(films) >= HELD and k % HELD == HELD - 1 else 0 if len(films) >= HELD else count // HELD
        begin, end = {"train": (0, count - held), "val": (count - held, count), "all": (0, count)}[split]
        if end > begin:
            pieces.append((first + begin, end - begin))
    table = torch.tensor(pieces, dtype=torch.long).reshape(-1, 2)
    rows = torch.cat([torch.arange(a, a + n) for a, n in pieces]) if pieces else torch.zeros(0, dtype=torch.long)
    return torch.stack([table[:, 1].cumsum(0) - table[:, 1], table[:, 1]], 1), rows


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as held:
            return {k: held.get_tensor(k) for k in ("pictures", "ends", "landmarks", "films", "columns")}
    except Exception as error:  # safetensors raises its own, a bare Exception
        raise InputError(file, f"damaged ({' '.join(str(error).split())[:120]})", "pack the films again") from error
