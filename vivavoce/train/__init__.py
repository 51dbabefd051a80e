"""The one training loop: rows, update, log, checkpoint, resume; in one process or in many.

A run folder holds `config.json` (reproduces the run), `model.safetensors`, `log.csv`, `last.safetensors` (everything
needed to go on) and, where there are held-out rows, `held.csv`, `preview.png` and `preview.mp4`. Each step seeds its own
randomness from (seed, step), so a run that was killed and resumed makes the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivavoce import heap, registry
from vivavoce.how import How
from vivavoce.method import Method, Renderer
from vivavoce.train import look, ranks
from vivavoce.train.average import Average
from vivavoce.train.checkpoint import LAST, About, Checkpoint, Saver, load_run, part, read, restore, save_model
from vivavoce.train.log import Log
from vivavoce.train.place import made
from vivavoce.train.rows import batches, draw, seed
from vivavoce.types import Clip, InputError, Rows, Source

__all__ = ["How", "draw", "load_run", "ranks", "train"]

Progress = Callable[[int, int, dict[str, float]], None]  # step, steps, losses
LOOKS = 8  # at the held-out rows, when nothing else is said
KINDS = {"float32": None, "bf16": torch.bfloat16}


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
    held: Source | None = None,
    how: How | None = None,
) -> Path:
    """Train a method on a source, going on from `last.safetensors` when the folder has one of the same config.

    Args:
        name: the method's name in the registry.
        source: gives Clips with the method's needs; its length is the number of rows.
        folder: the run folder, made when absent; a run that is refused before its first step is over leaves nothing in it.
        config: the method's Config.
        speech: the encoder whose features the source gives, kept in config.json.
        extra: more facts for config.json (the data's folder, its split).
        held: rows that are never trained on, to look at now and then.
        how: precision, averaging, looks, logs.
    Returns:
        the run folder.
    Raises:
        InputError: the folder holds another run; a loss that stays infinite or NaN; settings that do not go together.
    """
    how, folder = how or How(), Path(folder)
    heap.keep()
    torch.manual_seed(seed(config, -1))  # the first weights are the run's too
    method = registry.find(name).cls(config)
    if speech:
        method.speech = speech
    _check(method, how)
    method.pieces = how.accumulate
    run = _Run(method, folder, About(name, preset, extra or {}), how, device, held, progress)
    needs = method.needs | method.loss_needs
    with made(folder, LAST) as begun:
        start = run.begin(source)
        method.train()
        with _profiled(how, folder, start) as tick:
            for step, clip in batches(source, config, needs, range(start, int(config.steps)), device):
                torch.manual_seed(seed(config, step) + ranks.number())
                with _half(how, device):
                    losses = method.update(clip, step, run.optimizers)
                begun()
                if run.after(step, losses):
                    break
                tick()
        run.end()
    return folder


class _Run:
    """What happens around the updates."""

    def __init__(
        self,
        method: Method,
        folder: Path,
        about: About,
        how: How,
        device: str | torch.device,
        held: Source | None,
        progress: Progress | None,
    ) -> None:
        self.method, self.folder, self.about, self.how, self.device = method, folder, about, how, device
        self.held = held if how.check_every and look.possible(held, method.config) else None
        self.progress = progress
        self.steps = int(method.config.steps)
        self.check_every = how.check_every if how.check_every > 0 else max(1, self.steps // LOOKS)
        self.average = Average(how.average)
        self.saver = Saver(folder, about, how.save_every, how.keep_every)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.worse = 0  # looks since the best one
        self.step = 0  # done
        self.visible = False  # whether frames can be shown

    def begin(self, source: Source) -> int:
        """A new run, or the one in the folder at the step where it stopped."""
        path = Path(self.how.resume) if self.how.resume else self.folder / LAST
        if self.how.resume and not path.is_file():
            raise InputError(path, "no such checkpoint", f"they are in {self.folder / 'checkpoints'} when trained with --keep-every")
        found: Checkpoint | None = read(path, self.about.name, self.method.config) if path.is_file() else None
        if found is None:
            torch.manual_seed(seed(self.method.config, -1))
            self.method.setup(OnCpu(source))
        else:
            self.method.load_state_dict(part(found.tensors, "model."))
        self.method.to(self.device)
        ranks.spread(self.method, self.how.shard)
        self.optimizers = self.method.optimizers()
        if found is not None:
            for i, optimizer in enumerate(self.optimizers):
                restore(optimizer, i, found)
            now = self.method.state_dict(keep_vars=True)
            kept = part(found.tensors, "average.")
            self.average.state = {k: ranks.like(v.to(now[k].device), now[k]) for k, v in kept.items()}
            self.saver.best, self.step = found.best, found.step
        ranks.average(self.optimizers)
        settings = dataclasses.asdict(self.method.config) | {"method": self.about.name}
        self.log = Log(self.folder, self.step, self.how.log, settings) if ranks.first() else None
        # where the first process draws alone, the others' parts of a network that is cut up are missing
        self.visible = self.held is not None and not self.how.shard and look.can_be_drawn(self.method, self.held)
        if found is None:
            self._save()  # what setup made is kept too: a kill in the first minute loses nothing
        return self.step

    def after(self, step: int, losses: dict[str, Tensor]) -> bool:
        """Average, log, look, save. Returns whether training ends early."""
        self.average.update(self.method, step)
        self.step = step + 1
        looked = step % self.how.log_every == 0 or self.step == self.steps
        if looked:
            values = ranks.mean(losses)
            if not all(math.isfinite(v) for v in values.values()):
                remedy = "run the same command again: it goes on from the last good checkpoint; a lower --rate helps if it recurs"
                raise InputError(self.folder, f"the loss is not finite at step {step}: {values}", remedy)
            if self.log is not None:
                self.log(step, values | _memory(self.device))
            if self.progress is not None and ranks.first():
                self.progress(self.step, self.steps, values)
        if self.held is not None and (self.step % self.check_every == 0 or self.step == self.steps):
            self._look(step)
        if self.saver.due(self.step, looked):
            self._save()
        return bool(self.how.patience) and self.worse >= self.how.patience

    def _look(self, step: int) -> None:
        """At the held-out rows, with the weights that the run would speak with; every process does the same."""
        assert self.held is not None
        with self.average.worn(self.method):
            values = look.loss(self.method, self.held, self.device)
            if self.log is not None:
                self.log(step, values, "held.csv", "held")
                if self.visible and isinstance(self.method, Renderer):
                    self.log.picture(step, look.strip(self.method, self.held, self.folder / "preview.png", self.device))
            total = sum(values.values())
            self.worse += 1
            if total < self.saver.best:
                self.saver.best, self.worse = total, 0
                if self.how.patience:
                    self._write()

    def _save(self) -> None:
        self.saver(self.method, self.average, self.optimizers, self.step)

    def _write(self) -> None:
        state = ranks.whole(self.method.state_dict())
        if ranks.first():
            save_model(state, self.method, self.folder, self.about)

    def end(self) -> None:
        """The last checkpoint, the model, a film of the held-out rows."""
        self._save()
        with self.average.worn(self.method):
            if not self.how.patience or self.held is None or not (self.folder / "model.safetensors").is_file():
                self._write()  # with patience the best weights are there already
            if ranks.first() and self.visible and self.held is not None and isinstance(self.method, Renderer):
                look.film(self.method, self.held, self.folder / "preview.mp4", self.device)
        if self.log is not None:
            self.log.close()


def _memory(device: str | torch.device) -> dict[str, float]:
    """What the process has needed of the GPU at most so far, 10^9 bytes; nothing on other devices."""
    on = torch.device(device)
    return {"gpu_gigabytes": torch.cuda.max_memory_allocated(on) / 1e9} if on.type == "cuda" else {}


def _check(method: Method, how: How) -> None:
    """Raises InputError for settings that this method or machine cannot do."""
    if how.precision not in KINDS:
        raise InputError(f"--precision {how.precision}", "no such precision", f"choose from: {', '.join(KINDS)}")
    if how.accumulate < 1 or not 0 <= how.average < 1:
        raise InputError("train", "--accumulate is 1 or more, --average from 0 to below 1", "see: vivavoce train --help")
    if how.accumulate > 1 and type(method).update is not Method.update:
        cause = "it takes its training steps in a way of its own, which cannot be cut into parts"
        raise InputError(f"--accumulate {how.accumulate}", cause, "use a smaller --batch")


def _half(how: How, device: str | torch.device) -> contextlib.AbstractContextManager[Any]:
    kind = KINDS[how.precision]
    return torch.autocast(torch.device(device).type, kind) if kind is not None else contextlib.nullcontext()


@contextlib.contextmanager
def _profiled(how: How, folder: Path, start: int) -> Iterator[Callable[[], None]]:
    """Gives the function to call after every step; where asked, the profile is written when its steps are over."""
    if not how.profile or not ranks.first():
        yield lambda: None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    def write(made: Any) -> None:
        (folder / "profile.txt").write_text(made.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
        made.export_chrome_trace(str(folder / "profile.json"))

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    plan = schedule(wait=20, warmup=1, active=how.profile, repeat=1)
    with profile(activities=kinds, schedule=plan, on_trace_ready=write) as made:
        yield made.step


class OnCpu:
    """The source as `setup` sees it: every Clip on the CPU, wherever training reads its own."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        return self.source.clip(rows, needs).to("cpu")
