"""What a run folder keeps: the finished model, and checkpoints with everything needed to go on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivavoce import __version__, files, registry
from vivavoce.method import Method
from vivavoce.train import ranks
from vivavoce.train.average import Average
from vivavoce.types import InputError

LAST = "last.safetensors"


class About(NamedTuple):
    """What a run is called: goes into config.json beside the settings."""

    name: str  # of the method
    preset: str
    extra: dict[str, Any]  # the data's folder, its split


class Checkpoint(NamedTuple):
    """A run at one step."""

    step: int  # done
    tensors: dict[str, Tensor]  # model.*, average.*, optimizer.<i>.<parameter>.<field>
    groups: list[list[dict[str, Any]]]  # of each optimizer
    best: float  # lowest held-out loss so far


def save_model(state: dict[str, Tensor], method: Method, folder: Path, about: About) -> None:
    """Write model.safetensors and config.json, each whole or not at all."""
    name = about.name
    atomic(folder / "model.safetensors", lambda path: save_file(state, path, {"method": name, "vivavoce": __version__}))
    page = {
        "method": name,
        "preset": about.preset,
        "vivavoce": __version__,
        "speech": method.speech,
        "config": dataclasses.asdict(method.config),
        **about.extra,
    }
    atomic(folder / "config.json", lambda path: path.write_text(json.dumps(page, indent=2)))


def load_run(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Method, dict[str, Any]]:
    """The trained method of a run folder and its config.json. Raises InputError when it is not a whole run."""
    folder = Path(folder)
    again = "train it again: vivavoce train"
    if (folder / "transforms_train.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(folder, "is a person folder, not a run", f"give a run trained on it: {folder / 'runs'}/METHOD")
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise InputError(folder, "not a run folder (config.json and model.safetensors are needed)", again)
    try:
        about = json.loads((folder / "config.json").read_text())
        method = registry.create(about["method"], **about["config"])
        if about.get("speech"):
            method.speech = about["speech"]
        state = load_file(folder / "model.safetensors")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(folder, f"the run cannot be read ({error})", again) from error
    except Exception as error:  # safetensors raises its own SafetensorError, a bare Exception
        if type(error).__name__ != "SafetensorError":
            raise
        raise InputError(folder / "model.safetensors", f"damaged ({error})", again) from error
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        cause = f"holds other weights than {about['method']} with this config.json has"
        raise InputError(folder / "model.safetensors", cause, again) from error
    return method.to(device).eval(), about


def read(path: Path, name: str, config: Any) -> Checkpoint:
    """A checkpoint of a run of this method with this config. Raises InputError when it is another's, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["run"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except Exception as error:
        if not isinstance(error, OSError | ValueError | KeyError | TypeError) and type(error).__name__ != "SafetensorError":
            raise
        raise InputError(path, f"no whole checkpoint ({error})", "delete it; give an earlier one with --resume, or train anew") from error
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    if meta["method"] != name or {**meta["config"], "steps": 0} != {**now, "steps": 0}:
        different = [k for k in now if k != "steps" and meta["config"].get(k) != now[k]] or ["method"]
        raise InputError(path.parent, f"it holds another run ({', '.join(different)} differ)", "choose another --out, or delete it")
    return Checkpoint(int(meta["step"]), tensors, meta["groups"], float(meta.get("best", "inf")))


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def restore(optimizer: torch.optim.Optimizer, index: int, found: Checkpoint) -> None:
    """An optimizer as it was; tensors are cut as the parameters are where those lie on several devices."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in part(found.tensors, f"optimizer.{index}.").items():
        place, field = key.split(".", 1)
        state.setdefault(int(place), {})[field] = ranks.like(value, parameters[int(place)])
    full = optimizer.state_dict()["param_groups"]
    groups = [{**a, **b} for a, b in zip(full, found.groups[index], strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class Saver:
    """Checkpoints: model, its average, optimizers and step in one file, renamed into place when whole.

    Args:
        folder: the run folder.
        about: the run's name and preset.
        every: seconds between checkpoints.
        keep_every: steps between checkpoints that stay (`checkpoints/<step>.safetensors`); 0: only the last one.
    """

    def __init__(self, folder: Path, about: About, every: float = 60.0, keep_every: int = 0) -> None:
        self.folder, self.about, self.every, self.keep_every = folder, about, every, keep_every
        self.saved = time.monotonic()
        self.best = float("inf")

    def due(self, step: int, sound: bool) -> bool:
        """Whether now is the time, with `step` steps done; the same answer in every process. `sound`: the losses were just looked at."""
        if self.keep_every and step % self.keep_every == 0:
            return True
        return sound and ranks.agreed(time.monotonic() - self.saved >= self.every)

    def __call__(self, method: Method, average: Average, optimizers: list[torch.optim.Optimizer], step: int) -> None:
        ranks.same(method, step)
        tensors = {f"model.{k}": v for k, v in ranks.whole(method.state_dict()).items()}
        tensors |= {f"average.{k}": v for k, v in ranks.whole(average.state).items()}
        groups = []
        for i, optimizer in enumerate(optimizers):
            state = optimizer.state_dict()
            fields = {f"{place}.{field}": torch.as_tensor(v) for place, entry in state["state"].items() for field, v in entry.items()}
            tensors |= {f"optimizer.{i}.{k}": v for k, v in ranks.whole(fields).items()}
            groups.append([{k: v for k, v in g.items() if _plain(v)} for g in state["param_groups"]])
        self.saved = time.monotonic()
        if ranks.first():
            run = {"method": self.about.name, "step": step, "config": dataclasses.asdict(method.config), "groups": groups}
            meta = {"run": json.dumps(run | {"best": self.best})}
            atomic(self.folder / LAST, lambda path: save_file(tensors, path, meta))
            if self.keep_every and step and step % self.keep_every == 0:
                (self.folder / "checkpoints").mkdir(exist_ok=True)
                atomic(self.folder / "checkpoints" / f"{step:06d}.safetensors", lambda path: save_file(tensors, path, meta))


def _plain(value: Any) -> bool:
    """Whether JSON gives the value back as it was (the parameter indices of a group are rebuilt, not stored)."""
    return isinstance(value, int | float | bool | str | type(None)) or (isinstance(value, tuple) and all(map(_plain, value)))


def atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """A file under its name when it is whole, or not at all. Raises InputError when the disk says no."""
    try:
        with files.written(path) as part:
            write(part)
    except Exception as error:  # safetensors tells a full disk by its own SafetensorError
        if type(error).__name__ != "SafetensorError":
            raise
        raise InputError(path, f"cannot be written ({error})", "free some space or choose another --out") from error
