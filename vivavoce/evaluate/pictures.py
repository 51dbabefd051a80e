"""What a human looks at: a few frames of truth, made and difference; a film side by side; one sheet of all methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vivavoce.evaluate.result import FRAMES, Result
from vivavoce.evaluate.subject import Protocol
from vivavoce.media import Writer, pixels, read_image, write_image
from vivavoce.types import FPS, HOP

Picture = NDArray[np.uint8]

FILM = "film.mp4"
SHOWN = 4  # frames, the same for all methods on one person
TILE = 512  # px, longest side of a frame in frames.webp at most
SECONDS, HEIGHT = 8, 256  # of the film: its length, and px at most
LABEL, LARGE, SMALL = 200, 256, 208  # px of a sheet: the column of names, a frame's height at most, and that where rows are many
MANY = 8  # rows under each other; more stand in two columns, each with the ground truth on top


def shown(rows: int) -> list[int]:
    """Rows that are shown, evenly over the held-out part, its ends left out."""
    return torch.linspace(0, rows - 1, SHOWN + 2).round().long()[1:-1].tolist()


def fitted(image: Picture, height: int) -> Picture:
    """Not higher than `height` px."""
    if image.shape[0] <= height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


class Album:
    """Takes the frames in as they are made; pictures and film lie in the folder when the block has ended well."""

    def __init__(self, folder: Path, rows: int, size: tuple[int, int], sound: Tensor | None) -> None:
        self.folder, self.rows, self.columns = folder, shown(rows), list[Picture]()
        self.length = min(rows, SECONDS * FPS)
        height = min(HEIGHT, size[0])
        self.height = height - height % 2
        width = fitted(np.zeros((*size, 3), np.uint8), self.height).shape[1]
        audio = None if sound is None else [sound[: self.length * HOP]]
        self.writer = Writer(folder / FILM, (self.height, 2 * width), FPS, audio)

    def __enter__(self) -> Self:
        self.writer.__enter__()
        return self

    def add(self, at: int, truth: Tensor, made: Tensor) -> None:
        """Frames from row `at` on, [t,3,H,W]."""
        for k, (real, ours) in enumerate(zip(pixels(truth), pixels(made), strict=True)):
            if at + k < self.length:
                self.writer.write(np.concatenate([fitted(real, self.height), fitted(ours, self.height)], 1))
            if at + k in self.rows:
                apart = np.clip(np.abs(real.astype(np.int16) - ours) * 3, 0, 255).astype(np.uint8)
                column = np.concatenate([fitted(p, TILE) for p in (real, ours, apart)])
                self.columns += [column] * self.rows.count(at + k)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.__exit__(kind, error, trace)
        if kind is None and self.columns:
            write_image(self.folder / FRAMES, np.concatenate(self.columns, 1))


def sheets(results: Sequence[Result], folder: Path) -> list[Path]:
    """A sheet for each person and protocol: the same frames of all methods side by side, a row a method, the ground truth first.

    Gives the files written: eval.png of a single small one, else eval-PERSON.jpg each; nothing where no result has its frames beside it.
    """
    groups: dict[tuple[str, Protocol], list[tuple[str, Picture]]] = {}
    for result in results:
        file = result.place / FRAMES
        if not file.is_file():
            continue
        truth, made, _ = np.array_split(read_image(file), 3)
        rows = groups.setdefault((result.person, result.protocol), [(f"ground truth\n{result.person}", truth)])
        rows.append((result.title.replace(", ", "\n").replace("+", "\n+ "), made))
    people = [person for person, _ in groups]
    out = []
    for (person, protocol), rows in groups.items():
        size = f"-{protocol.count}-{protocol.width}x{protocol.height}" if people.count(person) > 1 else ""
        out.append(folder / ("eval.png" if len(groups) == 1 and len(rows) <= MANY else f"eval-{person}{size}.jpg"))
        write_image(out[-1], _sheet(rows))
    return out


def _sheet(rows: Sequence[tuple[str, Picture]]) -> Picture:
    """Named rows of frames, the first of which is the truth."""
    truth, methods = rows[0], rows[1:]
    halves = 2 if len(rows) > MANY else 1
    length = -(-len(methods) // halves)
    columns = [[truth, *methods[k * length : (k + 1) * length]] for k in range(halves)]
    height = min(SMALL if halves > 1 else LARGE, max(picture.shape[0] for _, picture in rows))
    images = {id(picture): Image.fromarray(_of_height(picture, height)) for _, picture in rows}
    wide = LABEL + max(image.width for image in images.values())
    page = Image.new("RGB", (wide * halves, height * (length + 1)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for across, column in enumerate(columns):
        for down, (name, picture) in enumerate(column):
            pen.multiline_text((across * wide + 8, down * height + 8), name, fill="black", font=font, spacing=6)
            page.paste(images[id(picture)], (across * wide + LABEL, down * height))
    return np.asarray(page)


def _of_height(image: Picture, height: int) -> Picture:
    """At exactly that height."""
    if image.shape[0] < height:
        size = (round(image.shape[1] * height / image.shape[0]), height)
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return fitted(image, height)
