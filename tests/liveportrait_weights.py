"""Weights and inputs that anyone can make again from a name: for comparing LivePortrait's networks with the authors' code.

Every tensor comes from the raw 64-bit stream of NumPy's PCG64 seeded with the CRC-32 of its name (a stream that NumPy promises never
to change): the upper 24 bits of each half, the lower half first, as a number in -1..1. No version of torch or NumPy matters. Sizes
are chosen by the key's name so that signals neither vanish nor grow. The recorded outputs in liveportrait.npz were made with these
weights by the authors' code.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

KEPT = 240  # numbers kept of an output


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in -1..1, float32."""
    count = math.prod(shape)
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
    values = (raw >> np.uint32(8)).astype(np.float32)
    values *= np.float32(2.0**-23)
    values -= np.float32(1)
    return values.reshape(shape)


def make(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict of the given keys and shapes."""
    out: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            out[key] = torch.zeros((), dtype=torch.long)
        elif not key.endswith(("weight_u", "weight_v")):
            out[key] = torch.from_numpy(_scaled(key, shape))
    for key in shapes:
        if key.endswith("weight_u"):
            out[key], out[key.replace("weight_u", "weight_v")] = _spectral(out[key.replace("weight_u", "weight_orig")], key)
    return out


def _scaled(key: str, shape: tuple[int, ...]) -> np.ndarray:
    values = noise(key, shape)
    if key.endswith("running_var"):
        return 1 + values / 2
    if "grn" in key or key.endswith("running_mean"):
        return values / 5
    if len(shape) > 1:
        return values * np.float32(math.sqrt(6 / math.prod(shape[1:])))
    return 1 + values / 5 if key.endswith("weight") else values / 10


def _spectral(weight: Tensor, key: str) -> tuple[Tensor, Tensor]:
    """u and v after four power iterations in double precision."""
    rows = weight.flatten(1).double()
    u = torch.from_numpy(noise(key, (len(rows),))).double()
    for _ in range(4):
        v = torch.nn.functional.normalize(rows.T @ u, dim=0)
        u = torch.nn.functional.normalize(rows @ v, dim=0)
    return u.float(), v.float()


def inputs() -> dict[str, Tensor]:
    """Small pictures, a volume, features and key points."""
    shapes = {
        "image": (2, 3, 64, 64),
        "volume": (1, 32, 16, 32, 32),
        "features": (1, 256, 8, 8),
        "driving": (1, 21, 3),
        "source": (1, 21, 3),
        "ratios": (1, 3),
    }
    out = {name: torch.from_numpy(noise(name, shape)) for name, shape in shapes.items()}
    out["image"], out["ratios"] = out["image"] / 2 + 0.5, out["ratios"] / 4 + 0.3
    out["driving"] = 0.7 * out["source"] + 0.25 * out["driving"]
    return out


def sample(values: Tensor) -> np.ndarray:
    """Evenly spread numbers of an output, and last its mean and its root mean square."""
    flat = values.detach().double().flatten()
    places = torch.linspace(0, len(flat) - 1, min(KEPT, len(flat))).round().long()
    return torch.cat([flat[places], flat.mean()[None], flat.square().mean().sqrt()[None]]).float().numpy()
