"""Weights and inputs that anyone can make again: each tensor from a NumPy generator seeded by its name.

So a network of the authors and ours can be compared without their weights: both are filled by name, and the authors' output is
recorded in `published_lips.npz`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def _numbers(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32))


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values for every entry of a state dict, of a size at which signals neither die nor grow."""
    out = {}
    for name, value in state.items():
        if not value.is_floating_point():
            out[name] = torch.zeros(value.shape, dtype=value.dtype)
        elif value.ndim > 1:
            out[name] = _numbers(name, tuple(value.shape)) * (1.5 / value[0].numel()) ** 0.5
        elif "var" in name:
            out[name] = 1 + 0.2 * _numbers(name, tuple(value.shape)).abs()
        else:
            out[name] = 0.1 * _numbers(name, tuple(value.shape)) + (1.0 if name.endswith("weight") else 0.0)
    return out


def fill(kind: Callable[[], Net]) -> Net:
    """A net with those weights."""
    with torch.device("meta"):  # its own first weights would take longer than these
        net = kind()
    net.load_state_dict(weights(net.state_dict()), assign=True)
    return net.eval()


def inputs() -> dict[str, Tensor]:
    """What the networks are shown."""
    return {
        "mel": _numbers("mel", (2, 1, 80, 16)).clamp(-2, 2) * 2,
        "lips": torch.sigmoid(_numbers("lips", (2, 15, 48, 96))),
        "faces": torch.sigmoid(_numbers("faces", (2, 6, 96, 96))),
        "mfcc": _numbers("mfcc", (2, 1, 13, 20)) * 10,
        "frames": torch.sigmoid(_numbers("frames", (2, 3, 5, 224, 224))) * 255,
    }


def voice(seconds: float = 2.0) -> Tensor:  # [N]
    """A tone that glides, swells and hisses: sound that can be made again anywhere."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * (110 * k * time + 9 * k * np.sin(2 * np.pi * 1.3 * time))) / k for k in range(1, 30))
    hiss = np.random.default_rng(1).standard_normal(len(time)) * 0.05
    return torch.from_numpy(((0.1 * buzz + hiss) * (0.55 + 0.45 * np.sin(2 * np.pi * 2.5 * time))).astype(np.float32))


def film(count: int = 14) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:  # -> [T,120,160,3], [T,4] px
    """A patterned head that sways and changes, partly out of the picture, and a box around it as a detector would give it."""
    y, x = np.mgrid[:120, :160].astype(np.float64)
    frames, boxes = [], []
    for t in range(count):
        middle = np.array([70 + 12 * np.sin(t / 2), 80 + 5 * np.cos(t)])
        pattern = [127 + 100 * np.sin((x - middle[0]) / (5 + c)) * np.cos((y - middle[1]) / (7 - c) + 0.3 * t) for c in range(3)]
        frames.append(np.stack(pattern, -1).round().astype(np.uint8))
        half = np.array([27 + t % 3, 35 + t % 2])
        boxes.append(np.concatenate([middle - half, middle + half]))
    return np.stack(frames), np.stack(boxes)
