"""The one training loop: rows, update, log, checkpoint, resume.

A run folder holds `config.json` (reproduces the run), `model.safetensors`, `log.csv`, `last.safetensors` (everything
needed to go on) and pictures. Each step seeds its own randomness from (seed, step), so a run that was killed and resumed
makes the same weights as one that was not.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivavoce import __version__, registry
from vivavoce.method import Method
from vivavoce.types import Clip, InputError, Rows, Source

Progress = Callable[[int, int, dict[str, float]], None]  # step, steps, losses
SAVE_EVERY = 60.0  # seconds between checkpoints
LOG_EVERY = 20  # steps between log rows


def save_model(method: Method, folder: Path, name: str, preset: str, extra: dict[str, Any]) -> None:
    """Write model.safetensors and config.json, each whole or not at all."""
    state = {k: v.contiguous() for k, v in method.state_dict().items()}
    _atomic(folder / "model.safetensors", lambda path: save_file(state, path, {"method": name, "vivavoce": __version__}))
    about = {
        "method": name,
        "preset": preset,
        "vivavoce": __version__,
        "speech": method.speech,
        "config": dataclasses.asdict(method.config),
        **extra,
    }
    _atomic(folder / "config.json", lambda path: path.write_text(json.dumps(about, indent=2)))


def load_run(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Method, dict[str, Any]]:
    """The trained method of a run folder and its config.json. Raises InputError when it is not a whole run."""
    folder = Path(folder)
    again = "train it again: vivavoce train"
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
    method.load_state_dict(state)
    return method.to(device).eval(), about


def train(
    name: str,
    source: Source,
    folder: str | Path,
    config: Any,
    *,
    preset: str = "",
    speech: str = "",
    device: str | torch.device = "cpu",
    extra: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a method on a source, going on from `last.safetensors` when the folder has one of the same config.

    Args:
        name: the method's name in the registry.
        source: gives Clips with the method's needs; its length is the number of rows.
        folder: the run folder, made when absent.
        config: the method's Config.
        speech: the encoder whose features the source gives, kept in config.json.
        extra: more facts for config.json (the data's folder, its split).
    Returns:
        the run folder.
    Raises:
        InputError: the folder holds another run; a loss that stays infinite or NaN.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(_seed(config, -1))  # the first weights are the run's too
    method = registry.find(name).cls(config)
    if speech:
        method.speech = speech
    start, optimizers = _begin(method, source, folder, device, name)
    saver = _Saver(folder, name, preset, extra or {})
    log = _Log(folder / "log.csv", start)
    steps = int(config.steps)
    method.train()
    needs = method.needs | method.loss_needs
    if start == 0:
        saver(method, optimizers, 0, force=True)  # what setup made is kept too: a kill in the first minute loses nothing
    for step, clip in _batches(source, method, needs, start, steps, device):
        torch.manual_seed(_seed(config, step))
        losses = method.update(clip, step, optimizers)
        if step % LOG_EVERY == 0 or step == steps - 1:
            values = {k: float(v) for k, v in losses.items()}
            if not all(math.isfinite(v) for v in values.values()):
                remedy = "run the same command again: it goes on from the last good checkpoint; a lower --rate helps if it recurs"
                raise InputError(folder, f"the loss is not finite at step {step}: {values}", remedy)
            log(step, values)
            if progress is not None:
                progress(step + 1, steps, values)
            saver(method, optimizers, step + 1)
    saver(method, optimizers, steps, force=True)
    save_model(method, folder, name, preset, extra or {})
    return folder


def _begin(
    method: Method, source: Source, folder: Path, device: str | torch.device, name: str
) -> tuple[int, list[torch.optim.Optimizer]]:
    """A new run, or the one in the folder at the step where it stopped."""
    last = folder / "last.safetensors"
    if not last.is_file():
        torch.manual_seed(_seed(method.config, -1))
        method.setup(_OnCpu(source))
        method.to(device)
        return 0, method.optimizers()
    with safe_open(last, "pt") as file:
        meta = json.loads(file.metadata()["run"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    now = json.loads(json.dumps(dataclasses.asdict(method.config)))
    if meta["method"] != name or {**meta["config"], "steps": 0} != {**now, "steps": 0}:
        different = [k for k in now if k != "steps" and meta["config"].get(k) != now[k]] or ["method"]
        raise InputError(folder, f"it holds another run ({', '.join(different)} differ)", "choose another --out, or delete it")
    method.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    method.to(device)
    optimizers = method.optimizers()
    for i, optimizer in enumerate(optimizers):
        _restore(optimizer, f"optimizer.{i}.", tensors, meta["groups"][i])
    return int(meta["step"]), optimizers


def _restore(optimizer: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, field = key.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[field] = value
    full = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": [{**a, **b} for a, b in zip(full, groups, strict=True)]})


class _OnCpu:
    """The source as `setup` sees it: every Clip on the CPU, wherever training reads its own."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        return self.source.clip(rows, needs).to("cpu")


class _Saver:
    """Checkpoints: model, optimizers and step in one file, renamed into place when whole."""

    def __init__(self, folder: Path, name: str, preset: str, extra: dict[str, Any]) -> None:
        self.folder, self.name, self.preset, self.extra = folder, name, preset, extra
        self.saved = time.monotonic()

    def __call__(self, method: Method, optimizers: list[torch.optim.Optimizer], step: int, force: bool = False) -> None:
        if not force and time.monotonic() - self.saved < SAVE_EVERY:
            return
        tensors = {f"model.{k}": v.contiguous() for k, v in method.state_dict().items()}
        groups = []
        for i, optimizer in enumerate(optimizers):
            state = optimizer.state_dict()
            for index, entry in state["state"].items():
                for field, value in entry.items():
                    tensors[f"optimizer.{i}.{index}.{field}"] = torch.as_tensor(value).contiguous()
            groups.append([{k: v for k, v in g.items() if _plain(v)} for g in state["param_groups"]])
        run = {"method": self.name, "step": step, "config": dataclasses.asdict(method.config), "groups": groups}
        _atomic(self.folder / "last.safetensors", lambda path: save_file(tensors, path, {"run": json.dumps(run)}))
        self.saved = time.monotonic()


class _Log:
    """log.csv: one row every LOG_EVERY steps; rows after the step of a resumed checkpoint are dropped first."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.begun = path, time.monotonic()
        self.before = 0.0
        rows: list[list[str]] = []
        if path.is_file() and start:
            with path.open(newline="") as file:
                rows = [r for i, r in enumerate(csv.reader(file)) if i == 0 or (r and int(r[0]) < start)]
            self.before = float(rows[-1][1]) if len(rows) > 1 else 0.0
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        self.head = rows[0] if rows else []

    def __call__(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            out = csv.writer(file)
            if not self.head:
                self.head = ["step", "seconds", *values]
                out.writerow(self.head)
            elapsed = self.before + time.monotonic() - self.begun
            out.writerow([step, f"{elapsed:.1f}", *(f"{values[k]:.6g}" if k in values else "" for k in self.head[2:])])


def _batches(
    source: Source, method: Method, needs: frozenset[str], start: int, steps: int, device: str | torch.device
) -> Iterator[tuple[int, Clip]]:
    """(step, clip) with the next clips read by a thread while this one trains. The rows of a step depend on the step alone."""
    ahead: queue.Queue[tuple[int, Clip] | BaseException] = queue.Queue(maxsize=3)
    stop = threading.Event()

    def read() -> None:
        try:
            for step in range(start, steps):
                item = (step, source.clip(draw(source, method.config, step), needs).to(device))
                while not stop.is_set():
                    try:
                        ahead.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
        except BaseException as error:  # handed to the training thread, which raises it
            ahead.put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        for _ in range(start, steps):
            item = ahead.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=5)


def draw(source: Source, config: Any, step: int) -> Tensor:  # -> [batch], or [batch * window_rows]
    """Rows of a step: every row once before any comes twice (a permutation an epoch); `batch` consecutive rows where the
    config says `contiguous`; or, where it has `window_rows`, `batch` windows of that many consecutive rows one after another,
    each from one piece of one video."""
    length = len(source)
    batch, window = int(getattr(config, "batch", 1)), int(getattr(config, "window_rows", 0))
    generator = torch.Generator().manual_seed(_seed(config, step))
    if window:
        return _windows(source, window, batch, generator).flatten()
    batch = min(batch, length)
    if getattr(config, "contiguous", False):
        return torch.randint(length - batch + 1, (1,), generator=generator) + torch.arange(batch)
    places = torch.arange(step * batch, (step + 1) * batch)
    parts = []
    for epoch in torch.unique(places // length).tolist():
        generator = torch.Generator().manual_seed(_seed(config, -2 - int(epoch)))
        parts.append(torch.randperm(length, generator=generator)[places[places // length == epoch] % length])
    return torch.cat(parts)


def _windows(source: Source, rows: int, count: int, generator: torch.Generator) -> Tensor:  # -> [count,rows]
    """Places are equally likely wherever a whole window fits. Raises InputError when none does."""
    whole = torch.tensor([[0, len(source)]])  # a source that does not say otherwise is one piece
    spans: Tensor = getattr(source, "spans", whole)
    places = (spans[:, 1] - rows + 1).clamp(min=0)
    if not int(places.sum()):
        cause = f"its longest piece has {int(spans[:, 1].max())} frames, a window {rows}"
        raise InputError("training data", cause, "give longer videos, or a shorter window")
    at = torch.randint(int(places.sum()), (count,), generator=generator)
    ends = places.cumsum(0)
    span = torch.searchsorted(ends, at, right=True)
    return (spans[span, 0] + at - (ends - places)[span])[:, None] + torch.arange(rows)


def _seed(config: Any, step: int) -> int:
    return (int(getattr(config, "seed", 0)) * 1_000_003 + step * 7919) % (2**63)


def _plain(value: Any) -> bool:
    """Whether JSON gives the value back as it was (the parameter indices of a group are rebuilt, not stored)."""
    return isinstance(value, int | float | bool | str | type(None)) or (isinstance(value, tuple) and all(map(_plain, value)))


def _atomic(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(path, f"cannot be written ({error.strerror or error})", "free some space or choose another --out") from error
