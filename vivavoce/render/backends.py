"""What every room of kernels does alike: a room is a package with a file a back end, and knows which is best for a tensor."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivavoce.types import InputError


@cache
def installed(backend: str) -> bool:
    """Whether the package that a back end is named after is on this machine. Asked at every drawing, so looked up once."""
    return importlib.util.find_spec(backend) is not None


def choose(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """The fastest back end that a room with kernels for a CPU and for CUDA has for tensors of this device and dtype."""
    name = {"cuda": "triton", "cpu": "numba"}.get(device.type, "torch")
    return name if dtype == torch.float32 and installed(name) else "torch"


def load(room: str, known: Sequence[str], backend: str, best: str) -> ModuleType:
    """A back end of a room.

    Args:
        room: the package's `__name__`.
        known: names of its back ends.
        backend: one of them, or "auto".
        best: what "auto" stands for.
    Raises:
        InputError: it is none of them, or its package is not installed.
    """
    name = best if backend == "auto" else backend
    if name not in known:
        raise InputError(f"back end {name}", f"is not known to {room.removeprefix('vivavoce.')}", f"use auto or one of {', '.join(known)}")
    if not installed(name):
        raise InputError(f"back end {name}", "is not installed", f"run: pip install {name}, or use backend auto")
    return importlib.import_module(f"{room}.{name}")


def floats(part: Tensor) -> NDArray[np.float32]:
    """A tensor as numba kernels of float32 take it, in its own memory where that is contiguous. Raises TypeError for any other."""
    if part.device.type != "cpu" or part.dtype != torch.float32:
        raise TypeError(f"the numba back end takes float32 on the CPU, not {part.dtype} on {part.device}")
    return part.detach().contiguous().numpy()


def array(part: Tensor, kind: type = np.float32) -> NDArray[Any]:
    """A tensor of the CPU as numba kernels take it, made `kind` of whatever it is."""
    return np.ascontiguousarray(part.detach().numpy(), kind)


def plain(part: Tensor) -> Tensor:
    """A tensor as Triton kernels of float32 take it. Raises TypeError for another type."""
    if part.dtype != torch.float32:
        raise TypeError(f"the triton back end takes float32, not {part.dtype}")
    return part.detach().contiguous()
