"""Where the numbers of a run go: log.csv always, TensorBoard and wandb when asked for."""

from __future__ import annotations

import csv
import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from vivavoce.types import InputError

KINDS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}  # name -> module


class Log:
    """One row a call. Rows after the step of a resumed checkpoint are dropped first.

    Args:
        folder: the run folder.
        start: step that the run goes on from.
        kinds: of KINDS, comma-separated; wandb keeps its files in the folder (offline) unless WANDB_MODE says otherwise.
        about: settings shown beside the curves.
    Raises:
        InputError: an unknown kind, or one that is not installed.
    """

    def __init__(self, folder: Path, start: int, kinds: str = "", about: dict[str, Any] | None = None) -> None:
        self.folder, self.begun, self.before = folder, time.monotonic(), 0.0
        self.heads: dict[str, list[str]] = {}
        for name in ("log.csv", "held.csv"):
            self._cut(folder / name, start)
        self.board: Any = None
        self.wandb: Any = None
        for kind in filter(None, kinds.split(",")):
            if kind not in KINDS:
                raise InputError(f"--log {kind}", "no such kind of log", f"choose from: {', '.join(KINDS)}")
            try:
                module = importlib.import_module(KINDS[kind])
            except ImportError as error:
                raise InputError(f"--log {kind}", f"not installed ({error})", "run: pip install 'vivavoce[log]'") from error
            if kind == "tensorboard":
                self.board = module.SummaryWriter(str(folder / "tensorboard"), purge_step=start)
            else:
                mode: Any = os.environ.get("WANDB_MODE", "offline")
                self.wandb = module.init(project="vivavoce", name=folder.name, dir=str(folder), mode=mode, config=about or {})

    def _cut(self, path: Path, start: int) -> None:
        rows: list[list[str]] = []
        if path.is_file() and start:
            with path.open(newline="") as file:
                rows = [r for i, r in enumerate(csv.reader(file)) if i == 0 or (r and int(r[0]) < start)]
            if path.name == "log.csv" and len(rows) > 1:
                self.before = float(rows[-1][1])
        if rows or path.is_file() or path.name == "log.csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(rows)
        self.heads[path.name] = rows[0] if rows else []

    @property
    def seconds(self) -> float:
        """Of training, earlier sessions included."""
        return self.before + time.monotonic() - self.begun

    def __call__(self, step: int, values: dict[str, float], name: str = "log.csv", group: str = "train") -> None:
        """A row of a table (of held-out values: held.csv, "held"), and a point on each curve."""
        with (self.folder / name).open("a", newline="") as file:
            out = csv.writer(file)
            if not self.heads[name]:
                self.heads[name] = ["step", "seconds", *values]
                out.writerow(self.heads[name])
            out.writerow([step, f"{self.seconds:.1f}", *(f"{values[k]:.6g}" if k in values else "" for k in self.heads[name][2:])])
        if self.board is not None:
            for key, value in values.items():
                self.board.add_scalar(f"{group}/{key}", value, step)
        if self.wandb is not None:
            self.wandb.log({f"{group}/{k}": v for k, v in values.items()}, step=step)

    def picture(self, step: int, image: np.ndarray) -> None:  # uint8 [H,W,3]
        """A preview beside the curves."""
        if self.board is not None:
            self.board.add_image("preview", image, step, dataformats="HWC")
        if self.wandb is not None:
            self.wandb.log({"preview": importlib.import_module("wandb").Image(image)}, step=step)

    def close(self) -> None:
        """Whole files on disk."""
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish(quiet=True)
