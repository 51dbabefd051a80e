"""Looks at a run from outside, on rows that it does not train on: the loss there, a strip of pictures, a film at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vivavoce.media import Writer, pixels, write_image
from vivavoce.method import Method, Renderer
from vivavoce.train.rows import draw, seed
from vivavoce.types import FPS, Clip, InputError, Source

ROWS = 16  # held-out rows whose loss is looked at
SHOWN = 4  # of them in the strip
FILM = 10 * FPS  # rows of the film, at most
PIECE = 4  # rows drawn at once


def loss(method: Method, held: Source, device: str | torch.device) -> dict[str, float]:
    """Named losses of the same held-out rows each time, with the same randomness each time; the method stays as it is."""
    config = method.config
    window = int(getattr(config, "window_rows", 0))
    steps = max(1, ROWS // max(int(getattr(config, "batch", 1)) * max(window, 1), 1))
    sums: dict[str, float] = {}
    training = method.training
    method.eval()
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        for step in range(steps):
            torch.manual_seed(seed(config, -3 - step))
            clip = held.clip(_spread(held, config, step, steps), method.needs | method.loss_needs).to(device)
            for name, value in method.loss(clip).items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps
    method.train(training)
    return sums


def _spread(held: Source, config: object, step: int, steps: int) -> Tensor:
    """Rows of one look, evenly over the source, in the form in which the method trains."""
    if getattr(config, "window_rows", 0) or getattr(config, "contiguous", False):
        return draw(held, config, step)
    batch = min(int(getattr(config, "batch", 1)), len(held))
    return torch.linspace(0, len(held) - 1, steps * batch).long()[step::steps]


def possible(held: Source | None, config: object) -> bool:
    """Whether there are held-out rows, and a window of training fits into them."""
    try:
        return held is not None and len(held) > 0 and len(draw(held, config, 0)) > 0
    except InputError:
        return False


def can_be_drawn(method: Method, held: Source) -> bool:
    """Whether its frames can be shown from the source alone: a renderer, and the source has what it reads."""
    if not isinstance(method, Renderer):
        return False
    try:
        held.clip([0], method.needs | method.source_needs | {"frames"})
    except Exception:  # a source may lack any field, each with its own error
        return False
    return True


def drawn(method: Renderer, held: Source, rows: Tensor, device: str | torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(true frames, made frames) of a few rows at a time, [t,3,H,W] on the CPU."""
    training = method.training
    method.eval()
    with torch.no_grad():
        first = held.clip([0], method.source_needs) if method.source_needs else Clip()
        identity = method.encode(first.to(device))
        for piece in rows.split(PIECE):
            clip = held.clip(piece, method.needs | {"frames"})
            assert clip.frames is not None
            truth = clip.frames.cpu()
            yield truth, method.render(identity, clip.to(device)).float().cpu().clamp(0, 1)
    method.train(training)


def strip(method: Renderer, held: Source, path: Path, device: str | torch.device) -> np.ndarray:
    """A few held-out frames, truth above and made below, written as a picture; uint8 [2H,n*W,3]."""
    rows = torch.linspace(0, len(held) - 1, SHOWN + 2).long()[1:-1]
    columns = [torch.cat([t, m], 1) for truth, made in drawn(method, held, rows, device) for t, m in zip(truth, made, strict=True)]
    image: np.ndarray = pixels(torch.cat(columns, 2)[None])[0]
    write_image(path, image)
    return image


def film(method: Renderer, held: Source, path: Path, device: str | torch.device) -> None:
    """The first seconds of the held-out rows, truth at the left and made at the right, with their sound when there is any."""
    rows = torch.arange(min(len(held), FILM))
    height, width = held.size
    try:
        audio = held.clip(rows, {"audio"}).audio
    except Exception:  # as above: a film without sound is a film
        audio = None
    sound = None if audio is None else [audio.reshape(-1).cpu()]
    with Writer(path, (height, 2 * width), FPS, sound) as writer:
        for truth, made in drawn(method, held, rows, device):
            writer.write(pixels(torch.cat([truth, made], 3)))
