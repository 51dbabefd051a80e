"""A film as a source for dubbing: its own frames, and where the chosen face lies in each.

Played forwards, frames come straight out of the decoder and nothing is kept. When it is played backwards (a sound longer than the film)
or at random, they are kept on disk as JPEG from then on, so memory does not grow with the length of the film.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vivavoce.media import frames, read_image
from vivavoce.types import Clip, InputError, Rows

QUALITY = 97  # of the JPEGs
HOLDS = ("frames", "landmarks", "index")


class Dubbed:
    """Rows of a film.

    Args:
        film: a video, or a picture: a film of one frame.
        landmarks: [T,68,2] px of the face to dub, NaN in frames without it; a row for every frame of the film.
        size: longest side of the frames, px; 0: the film's.
    Raises:
        InputError: no film, or another number of frames.
    """

    def __init__(self, film: str | Path, landmarks: NDArray[np.floating] | Tensor, size: int = 0) -> None:
        self.film = Path(film)
        self.landmarks = torch.as_tensor(landmarks, dtype=torch.float32)
        first = next(frames(self.film))
        height, width = first.shape[:2]
        self.scale = size / max(height, width) if size else 1.0
        # even sides, which every encoder takes
        self.size = (round(height * self.scale / 2) * 2, round(width * self.scale / 2) * 2) if size else (height, width)
        self._ahead: Iterator[NDArray[np.uint8]] = iter(())
        self._next = -1  # number of the frame that the decoder gives next; -1: not begun
        self._last: tuple[int, NDArray[np.uint8]] | None = None
        self._kept: TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        return len(self.landmarks)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The given rows. Raises InputError for a field that a film does not hold."""
        wanted = set(HOLDS if needs is None else needs)
        if lost := sorted(wanted - set(HOLDS)):
            raise InputError(self.film, f"a film that is to be dubbed holds no {', '.join(lost)}", "run: vivavoce prepare FILM")
        index = torch.arange(len(self))[rows if isinstance(rows, slice | Tensor) else list(rows)]
        pictures = None
        if "frames" in wanted:
            pictures = torch.stack([torch.from_numpy(self._frame(int(k))) for k in index]).permute(0, 3, 1, 2).float() / 255
        places = self.landmarks[index] * self.scale if "landmarks" in wanted else None
        return Clip(frames=pictures, landmarks=places, index=index)

    def _frame(self, number: int) -> NDArray[np.uint8]:  # -> [H,W,3]
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        if number == 0 and self._kept is None:
            self._ahead, self._next = frames(self.film), 0
        if number == self._next:
            picture = next(self._ahead, None)
            if picture is None:
                raise InputError(self.film, f"it ends before frame {number}, of {len(self)}", "do not change a film while it is dubbed")
            self._next += 1
            picture = self._sized(picture)
        else:
            picture = read_image(self._folder() / f"{number}.jpg")
        self._last = number, picture
        return picture

    def _sized(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if picture.shape[:2] == self.size:
            return np.array(picture)  # the decoder's own memory may not be written to
        return np.array(Image.fromarray(picture).resize(self.size[::-1], Image.Resampling.LANCZOS))

    def _folder(self) -> Path:
        """All frames as files, made once; they go with this source."""
        if self._kept is None:
            self._kept = TemporaryDirectory(prefix="vivavoce-")
            for k, picture in enumerate(frames(self.film)):
                sized = Image.fromarray(self._sized(picture))
                sized.save(Path(self._kept.name) / f"{k}.jpg", quality=QUALITY, subsampling=0)
        return Path(self._kept.name)
