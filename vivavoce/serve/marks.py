"""That a film was made, said in the film: always in its metadata, and on request in its pictures, seen or hidden.

The hidden mark is additive spread spectrum (Cox et al. 1997, "Secure spread spectrum watermarking for multimedia"): a fixed noise of
+-1 in soft cells of 8 px, in the brightness, found again by correlation in which calm places count more. It survives encoding, in films
of 256 px and more; it does not survive scaling, cropping or somebody who wants it gone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vivavoce import __version__
from vivavoce.media import frames
from vivavoce.types import InputError

MARKS = ("none", "seen", "hidden", "both")
LABEL = "AI-generated"
CELL = 8  # px
STRENGTH = 1.5  # grey levels of the hidden mark: 46 dB below white
SURE = 6.0  # standard deviations of chance from which a mark counts as found: one in a thousand million
LOOKED = 25  # frames looked at
CALM, WILD = 4.0, 400.0  # squared grey levels between cells: of the coder's own noise, and from which on all are alike

Pictures = NDArray[np.uint8]  # [T,H,W,3]


def about(source: str) -> dict[str, str]:
    """Words for the metadata of a film; `source` says what spoke: "portrait", "video" or the name of a trained run."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "comment": f"made with vivavoce {__version__}; synthetic speech, source: {source}; consent was declared",
        "description": f"{LABEL}: this face was made to speak by a program",
        "date": now,
    }


def pen(mark: str) -> Callable[[Pictures], Pictures]:
    """What puts the wished mark on pictures. Raises InputError for an unknown one."""
    if mark not in MARKS:
        raise InputError("mark", f"{mark[:40]!r} is not to be had", f"choose from: {', '.join(MARKS)}")

    def put(images: Pictures) -> Pictures:
        if mark in ("hidden", "both"):
            images = hidden(images)
        return seen(images) if mark in ("seen", "both") else images

    return put


def seen(images: Pictures) -> Pictures:
    """A label in the lower right corner."""
    label = _label(images.shape[1])
    height, width = (min(a, b) for a, b in zip(label.shape, images.shape[1:3]))
    out = images.copy()
    corner = out[:, -height:, -width:].astype(np.float32)
    weight = label[:height, :width, None]
    shade = corner * 0.45  # the label lies on its own dark ground, readable before anything
    out[:, -height:, -width:] = (shade + weight * (235 - shade)).round().astype(np.uint8)
    return out


@cache
def _label(height: int) -> NDArray[np.float32]:  # [h,w] 0..1
    size = max(9, height // 32)
    font = ImageFont.load_default(size)
    _, _, right, bottom = font.getbbox(LABEL)
    plate = Image.new("L", (int(right) + size, int(bottom) + size // 2), 0)
    ImageDraw.Draw(plate).text((size // 2, size // 4), LABEL, 255, font)
    return np.asarray(plate, np.float32) / np.float32(255)


def hidden(images: Pictures) -> Pictures:
    """The noise added to all three colours, so that only the brightness changes."""
    up, down, most = _noise(*images.shape[1:3])
    out = np.minimum(images, most)  # 8 bits throughout: twelve times as quick as in 16
    out += up
    np.maximum(out, down, out=out)
    out -= down
    return out


def found(path: str | Path) -> float:
    """How many standard deviations the hidden mark stands out of chance in a film's first second; from SURE on it is there.

    Raises InputError for what is no film.
    """
    total: NDArray[np.float64] | None = None
    count = 0
    for image in islice(frames(path), LOOKED):
        grey = image.astype(np.float64).mean(2)
        total = grey if total is None else total + grey
        count += 1
    assert total is not None
    rows, columns = (s // CELL for s in total.shape)
    inner = (total / count)[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)[
        :, CELL // 4 : -CELL // 4, :, CELL // 4 : -CELL // 4
    ]
    detail = _detail(inner.mean((1, 3)))
    around = np.pad(np.minimum(detail**2, WILD), 1, "reflect")
    restless = sum(around[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / 9
    told = detail / (restless + CALM)  # what the picture itself does there is the noise
    products = np.clip(told, *np.percentile(told, [2, 98])) * _detail(_signs()[:rows, :columns].astype(np.float64))
    return float(products.sum() / max(float(np.sqrt((products**2).sum())), 1e-9))


def _detail(cells: NDArray[np.float64]) -> NDArray[np.float64]:  # [h,w] -> [h,w]
    """What a cell has more than its four neighbours."""
    around = np.pad(cells, 1, "reflect")
    return cells - (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 4


@lru_cache(maxsize=4)
def _noise(height: int, width: int) -> tuple[Pictures, Pictures, Pictures]:  # [1,H,W,3] each
    """What is added, what is taken away, and the brightest that the first may be added to."""
    rows, columns = -(-height // CELL), -(-width // CELL)
    signs = Image.fromarray(_signs()[:rows, :columns].astype(np.float32))
    soft = np.asarray(signs.resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC))[:height, :width]
    steps = np.repeat(np.rint(STRENGTH * soft).astype(np.int16)[None, :, :, None], 3, 3)
    up, down = (np.maximum(s, 0).astype(np.uint8) for s in (steps, -steps))
    return up, down, np.uint8(255) - up


@cache
def _signs() -> NDArray[np.int8]:  # [2048,2048] of +-1, for pictures up to 16384 px
    return np.random.default_rng(0x76697661).integers(0, 2, (2048, 2048), np.int8) * np.int8(2) - np.int8(1)
