"""Weights that come with the package: small files of half-precision numbers and the settings they were trained with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.files import whole
from vivavoce.types import InputError

WEIGHTS = Path(__file__).parent.parent / "weights"


def write(path: Path, config: Any, state: dict[str, Tensor]) -> None:
    """A file as `read` reads it; `config`: a dataclass of plain settings."""
    halves = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    with whole(path) as part:
        save_file(halves, part, {"config": json.dumps(asdict(config))})
        part.chmod(0o644)  # safetensors makes private files


def read(method: str, speech: str, folder: Path | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of a method for an encoder. Raises InputError when none come with vivavoce."""
    folder = folder or WEIGHTS
    path = folder / f"{method}_{speech}.safetensors"
    if not path.is_file():
        known = sorted(p.stem.removeprefix(f"{method}_") for p in folder.glob(f"{method}_*.safetensors"))
        there = f"there are some for: {', '.join(known)}" if known else f"train it: vivavoce train {method} FOLDER"
        raise InputError(f"{method} for {speech}", "no weights come with vivavoce", there)
    with safe_open(path, "pt") as file:
        config: dict[str, Any] = json.loads(file.metadata()["config"])
        stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    return config, {k: v.float() if v.dtype == torch.half else v for k, v in stored.items()}
