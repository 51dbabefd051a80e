"""Decoded images as uint8 rows: a file on disk, or the GPU's memory when they fit there."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from vivavoce.files import whole

GPU_SHARE = 0.25  # of the free GPU memory that one field may take
WORKERS = min(8, os.cpu_count() or 1)


class RowCache:
    """Images by frame number, each decoded once.

    The file is `cache/<field>_<H>x<W>x<C>.u8` in the person folder with a flag a row; a row's flag is set after its pixels,
    so a killed process leaves no half row that counts. It is thrown away when the field's folder is newer.
    """

    def __init__(
        self,
        folder: Path,
        field: str,
        count: int,
        shape: tuple[int, int, int],  # H, W, C
        read: Callable[[int], Any],  # frame number -> uint8 [H,W,C]
        device: torch.device,
    ) -> None:
        self.read, self.device, self.shape = read, device, shape
        self.resident: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if count * int(np.prod(shape)) < GPU_SHARE * free:
                self.resident = torch.empty((count, *shape), dtype=torch.uint8, device=device)
        self.have = np.zeros(count, bool) if self.resident is not None else self._open(folder, field, count)
        self.pool = ThreadPoolExecutor(WORKERS)

    def _open(self, folder: Path, field: str, count: int) -> Any:
        place = folder / "cache"
        place.mkdir(exist_ok=True)
        stem = place / f"{field}_{'x'.join(map(str, self.shape))}"
        pixels, flags = stem.with_suffix(".u8"), stem.with_suffix(".have")
        size = count * int(np.prod(self.shape))
        with FileLock(stem.with_suffix(".lock")):  # two processes that train on one folder
            fresh = pixels.is_file() and flags.is_file() and pixels.stat().st_size == size and flags.stat().st_size == count
            if not fresh or flags.stat().st_ctime < (folder / field).stat().st_mtime:
                flags.unlink(missing_ok=True)
                for path, length in ((pixels, size), (flags, count)):
                    with whole(path) as part, part.open("wb") as file:  # whoever has the old file mapped keeps it
                        file.truncate(length)  # sparse: takes disk only as rows are decoded
            self.rows = np.memmap(pixels, np.uint8, "r+", shape=(count, *self.shape))
            return np.memmap(flags, np.bool_, "r+", shape=(count,))

    def __call__(self, index: Tensor) -> Tensor:  # [T] -> [T,C,H,W] float in 0..1, on the device
        numbers = index.cpu().numpy()
        new = sorted({int(n) for n in numbers if not self.have[n]})
        if new:
            for number, image in zip(new, self.pool.map(self.read, new), strict=True):
                if self.resident is not None:
                    self.resident[number] = torch.from_numpy(np.array(image)).to(self.device)
                else:
                    self.rows[number] = image
                self.have[number] = True
        if self.resident is not None:
            chosen = self.resident[index.to(self.device)]
        else:
            chosen = torch.from_numpy(self.rows[numbers]).to(self.device)
        return chosen.permute(0, 3, 1, 2).float() / 255
