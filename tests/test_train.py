"""The training loop, whatever the method: averages, parts of a step, looks at held-out rows, checkpoints, many processes."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vivavoce import registry
from vivavoce.method import Renderer
from vivavoce.train import How, load_run, train
from vivavoce.types import Clip, InputError, Rows

SIZE = 8


@dataclasses.dataclass
class Config:
    steps: int = 24
    batch: int = 4
    window_rows: int = 0
    wide: int = 8
    rate: float = 1e-2
    seed: int = 0


class Grey(Renderer):
    """Draws each frame in one grey, from its speech: the smallest thing that learns. Its loss is a mean over rows."""

    needs = frozenset({"speech"})
    loss_needs = frozenset({"frames"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.inner = nn.Sequential(nn.Linear(3, config.wide), nn.Tanh(), nn.Linear(config.wide, 1))
        self.scale = nn.Parameter(torch.ones(()))

    def render(self, identity: Any, clip: Clip) -> Tensor:
        assert clip.speech is not None
        level = torch.sigmoid(self.inner(clip.speech.mean(1)) * self.scale)
        return level[:, :, None, None].expand(-1, 3, SIZE, SIZE)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        assert clip.frames is not None
        return {"photo": ((self.render(None, clip) - clip.frames) ** 2).mean(), "scale": 1e-4 * self.scale**2}


class Lamp:
    """A source whose frames are as bright as its speech says."""

    size = (SIZE, SIZE)

    def __init__(self, rows: int = 40, shift: int = 0) -> None:
        self.speech = torch.sin(torch.arange(rows * 12).reshape(rows, 4, 3) * 0.7 + shift)

    def __len__(self) -> int:
        return len(self.speech)

    def clip(self, rows: Rows, needs: Any = None) -> Clip:
        speech = self.speech[rows]
        held = {"speech": speech, "frames": torch.sigmoid(2 * speech.mean((1, 2)))[:, None, None, None].expand(-1, 3, SIZE, SIZE)}
        missing = set(needs or ()) - held.keys()
        if missing:
            raise InputError("lamp", f"no {missing}")
        return Clip(**{k: v for k, v in held.items() if needs is None or k in needs})


@pytest.fixture(autouse=True)
def grey(monkeypatch: pytest.MonkeyPatch) -> None:
    card = registry.Card("grey", Grey, "test", "", "", "", "")
    found = registry.find
    monkeypatch.setattr(registry, "find", lambda name: card if name == "grey" else found(name))


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_parts_of_a_step_give_the_same_weights_as_the_step(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path / "one", Config())
    train("grey", Lamp(), tmp_path / "four", Config(), how=How(accumulate=4))
    for key, value in weights(tmp_path / "one").items():
        assert torch.allclose(value, weights(tmp_path / "four")[key], atol=1e-6), key
    with pytest.raises(InputError, match=r"--accumulate 3.*divisor of --batch"):
        train("grey", Lamp(), tmp_path / "three", Config(), how=How(accumulate=3))


def test_parts_are_refused_where_a_method_steps_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grey, "update", lambda self, clip, step, optimizers: {})
    with pytest.raises(InputError, match="a way of its own"):
        train("grey", Lamp(), tmp_path, Config(), how=How(accumulate=2))


def test_the_average_is_what_its_formula_says_and_the_run_speaks_with_it(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    inner = Grey.update

    def watched(self: Grey, clip: Clip, step: int, optimizers: Any) -> dict[str, Tensor]:
        values = inner(self, clip, step, optimizers)
        seen.append(self.scale.detach().clone())
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grey, "update", watched)
        train("grey", Lamp(), tmp_path, Config(), how=How(average=0.9))
    mean = seen[0]
    for step, value in enumerate(seen[1:], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    assert torch.allclose(weights(tmp_path)["scale"], mean, atol=1e-6)
    assert not torch.allclose(seen[-1], mean, atol=1e-6)
    last = load_file(tmp_path / "last.safetensors")
    assert torch.equal(last["model.scale"], seen[-1]) and torch.allclose(last["average.scale"], mean, atol=1e-6)


@pytest.mark.parametrize("how", [How(), How(average=0.95)], ids=["plain", "average"])
def test_any_kept_checkpoint_goes_on_to_the_same_end(tmp_path: Path, how: How) -> None:
    how = dataclasses.replace(how, keep_every=8, log_every=1)
    train("grey", Lamp(), tmp_path, Config(), how=how, held=Lamp(12, 1))
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["000008.safetensors", "000016.safetensors", "000024.safetensors"]
    whole = weights(tmp_path)
    again = dataclasses.replace(how, resume=str(tmp_path / "checkpoints" / "000008.safetensors"))
    train("grey", Lamp(), tmp_path, Config(), how=again, held=Lamp(12, 1))
    assert all(torch.equal(v, weights(tmp_path)[k]) for k, v in whole.items())
    assert [int(r["step"]) for r in rows_of(tmp_path / "log.csv")] == list(range(24))
    with pytest.raises(InputError, match=r"no such checkpoint.*--keep-every"):
        train("grey", Lamp(), tmp_path, Config(), how=How(resume=str(tmp_path / "nothing")))
    (tmp_path / "last.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="no whole checkpoint"):
        train("grey", Lamp(), tmp_path, Config())


def test_held_out_rows_are_looked_at_and_drawn(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path, Config(), held=Lamp(30, 1), how=How(check_every=6))
    looks = rows_of(tmp_path / "held.csv")
    assert [int(r["step"]) for r in looks] == [5, 11, 17, 23]
    assert float(looks[-1]["photo"]) < float(looks[0]["photo"])
    method, _ = load_run(tmp_path)
    from PIL import Image

    from vivavoce.media import probe

    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.size == (4 * SIZE, 2 * SIZE)
    info = probe(tmp_path / "preview.mp4")
    assert (info.size, round(info.duration * 25)) == ((SIZE, 2 * SIZE), 30)
    train("grey", Lamp(), tmp_path / "blind", Config(), held=Lamp(30, 1), how=How(check_every=0))
    assert all(torch.equal(v, weights(tmp_path / "blind")[k]) for k, v in weights(tmp_path).items()), "looking changes nothing"
    assert isinstance(method, Grey) and not (tmp_path / "blind" / "preview.png").exists()


def test_training_ends_when_it_no_longer_helps_with_the_best_weights(tmp_path: Path) -> None:
    class Other(Lamp):  # what is learned is wrong here: the first look is the best
        def clip(self, rows: Rows, needs: Any = None) -> Clip:
            clip = super().clip(rows, needs)
            return clip if clip.frames is None else dataclasses.replace(clip, frames=1 - clip.frames)

    train("grey", Lamp(), tmp_path, Config(steps=400), held=Other(30), how=How(check_every=10, patience=3))
    looks = rows_of(tmp_path / "held.csv")
    totals = [float(r["photo"]) + float(r["scale"]) for r in looks]
    assert len(looks) < 40 and totals.index(min(totals)) == len(totals) - 4
    method, _ = load_run(tmp_path)
    from vivavoce.train import look

    assert abs(sum(look.loss(method, Other(30), "cpu").values()) - min(totals)) < 1e-6


def test_half_precision_learns(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path, Config(steps=60), how=How(precision="bf16", log_every=1))
    table = rows_of(tmp_path / "log.csv")
    assert float(table[-1]["photo"]) < 0.5 * float(table[0]["photo"])
    assert all(v.dtype == torch.float32 for v in weights(tmp_path).values())
    with pytest.raises(InputError, match=r"float16.*choose from: float32, bf16"):
        train("grey", Lamp(), tmp_path / "other", Config(), how=How(precision="float16"))


def test_a_profile_says_where_the_time_goes(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path, Config(steps=30), how=How(profile=4))
    assert "aten::" in (tmp_path / "profile.txt").read_text() and (tmp_path / "profile.json").stat().st_size > 1000


def test_curves_go_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("grey", Lamp(), tmp_path, Config(), held=Lamp(20, 1), how=How(log="tensorboard", log_every=4, check_every=12))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/photo", "held/photo"} <= set(events.Tags()["scalars"]) and events.Tags()["images"] == ["preview"]
    table = rows_of(tmp_path / "log.csv")
    assert [e.value for e in events.Scalars("train/photo")] == pytest.approx([float(r["photo"]) for r in table], rel=1e-4)
    with pytest.raises(InputError, match=r"--log tensorbord.*choose from: tensorboard, wandb"):
        train("grey", Lamp(), tmp_path / "other", Config(), how=How(log="tensorbord"))


def test_curves_go_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in of the same three calls: the package itself brings a program of 100 MB."""
    calls: list[tuple[str, dict[str, Any]]] = []
    (tmp_path / "wandb.py").write_text("Image = list\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import wandb

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            calls.append(("log", values | {"step": step}))

        def finish(self, quiet: bool) -> None:
            calls.append(("finish", {}))

    monkeypatch.setattr(wandb, "init", lambda **settings: (calls.append(("init", settings)), Run())[1], raising=False)
    train("grey", Lamp(), tmp_path / "run", Config(), how=How(log="wandb", log_every=8))
    assert [name for name, _ in calls] == ["init", "log", "log", "log", "log", "finish"]
    assert calls[0][1]["mode"] == "offline" and calls[0][1]["config"]["steps"] == 24
    assert calls[1][1]["step"] == 0 and "train/photo" in calls[1][1]
    sys.modules.pop("wandb")


# ---- many processes: torchrun for real, on this machine, through gloo ----

WORKER = """
import sys
from pathlib import Path
from tests import test_train as t
from vivavoce import registry
from vivavoce.train import How, ranks, train
card = registry.Card("grey", t.Grey, "test", "", "", "", "")
registry.find = lambda name: card
wide, window, steps, shard, slow = map(int, sys.argv[2:7])
ranks.LARGE = 100
if slow:
    import time
    inner = t.Grey.update
    t.Grey.update = lambda self, *rest: (time.sleep(0.05), inner(self, *rest))[1]
if shard == 2:
    t.Grey.update = lambda self, clip, step, optimizers: (self.scale.data.add_(clip.speech.mean()), {"photo": self.scale.detach()})[1]
with ranks.joined("cpu") as device:
    how = How(log_every=1, shard=shard == 1, save_every=0, average=0.9)
    config = t.Config(steps=steps, wide=wide, window_rows=window)
    train("grey", t.Lamp(), Path(sys.argv[1]), config, how=how, held=t.Lamp(16, 1), device=device)
"""


def start(processes: int, folder: Path, wide: int = 8, window: int = 0, steps: int = 24, shard: int = 0, slow: int = 0) -> Any:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0", "--standalone"]
    script = folder.parent / "worker.py"
    script.write_text(WORKER)
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [*words, str(script), str(folder), *map(str, (wide, window, steps, shard, slow))]
    return subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def run(*args: Any, **settings: Any) -> str:
    process = start(*args, **settings)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return str(said)


def agree(a: Path, b: Path) -> None:
    for key, value in weights(a).items():
        assert torch.allclose(value, weights(b)[key], atol=2e-6), key
    for one, two in zip(rows_of(a / "log.csv"), rows_of(b / "log.csv"), strict=True):
        assert float(one["photo"]) == pytest.approx(float(two["photo"]), rel=1e-4), one["step"]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path / "one", Config(), how=How(log_every=1, average=0.9))
    run(2, tmp_path / "two")
    agree(tmp_path / "one", tmp_path / "two")
    assert len(rows_of(tmp_path / "two" / "held.csv")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 2])
def test_eight_processes_train_as_one(tmp_path: Path, window: int) -> None:
    config = Config(batch=8, window_rows=window)
    train("grey", Lamp(), tmp_path / "one", config, how=How(log_every=1, average=0.9))
    worker = WORKER.replace("window_rows=window)", "window_rows=window, batch=8)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "WORKER", worker)
        run(8, tmp_path / "eight", window=window)
    agree(tmp_path / "one", tmp_path / "eight")


@pytest.mark.slow
def test_networks_cut_up_among_processes_train_as_whole_ones(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path / "one", Config(wide=64), how=How(log_every=1, average=0.9))
    run(2, tmp_path / "two", wide=64, shard=1, steps=12)
    run(2, tmp_path / "two", wide=64, shard=1)  # goes on from the checkpoint of the first twelve
    agree(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_run_whose_process_was_killed_goes_on(tmp_path: Path) -> None:
    train("grey", Lamp(), tmp_path / "one", Config(steps=60), how=How(log_every=1, average=0.9))
    process = start(2, tmp_path / "two", steps=60, slow=1)
    while not (tmp_path / "two" / "log.csv").is_file() or len(rows_of(tmp_path / "two" / "log.csv")) < 10:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()[0]
    children = subprocess.run(["pgrep", "-f", f"worker.py {tmp_path / 'two'}"], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0 and not (tmp_path / "two" / "model.safetensors").exists()
    run(2, tmp_path / "two", steps=60)
    agree(tmp_path / "one", tmp_path / "two")


def test_processes_whose_weights_come_apart_are_stopped(tmp_path: Path) -> None:
    process = start(2, tmp_path / "two", shard=2)
    said, _ = process.communicate(timeout=240)
    assert process.returncode != 0 and "train it in one process" in said


def test_a_step_that_cannot_be_shared_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivavoce.train import ranks, rows

    with monkeypatch.context() as patch, pytest.raises(InputError, match="multiple of 3"):
        patch.setattr(ranks, "count", lambda: 3)
        rows.mine(torch.arange(4), Config())
    with pytest.raises(InputError, match="torchrun"):
        train("grey", Lamp(), tmp_path, Config(), how=How(shard=True))


class Refusing(Lamp):
    """Gives rows until it has been asked often enough, then lacks something, as a person folder does that is not wholly prepared."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.asked = asked

    def clip(self, rows: Rows, needs: Any = None) -> Clip:
        self.asked -= 1
        if self.asked < 0:
            raise InputError("lamp", "parsing/ is not there")
        return super().clip(rows, needs)


REFUSALS: dict[str, tuple[Any, dict[str, Any]]] = {
    "data that lack something": (Refusing(0), {}),
    "no such checkpoint": (Lamp(), {"how": How(resume="gone.safetensors")}),
    "no such log": (Lamp(), {"how": How(log="paper")}),
    "too few frames": (Lamp(), {"config": Config(window_rows=400)}),
    "parts that do not come out even": (Lamp(), {"how": How(accumulate=3)}),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refused_run_leaves_nothing(why: str, tmp_path: Path) -> None:
    """Neither its folder nor the folders above it that it made; and of a folder that was there, all that was in it stays."""
    source, settings = REFUSALS[why]
    settings = {"config": Config(steps=2)} | settings
    with pytest.raises(InputError):
        train("grey", source, tmp_path / "runs" / "grey", held=Lamp(8, 1), **settings)
    assert not list(tmp_path.iterdir())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    with pytest.raises(InputError):
        train("grey", source, mine, held=Lamp(8, 1), **settings)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"] and (mine / "notes.txt").read_text() == "keep me"


def test_a_run_that_has_begun_stays(tmp_path: Path) -> None:
    """Whether it stumbles after its first step, or is refused when it is to go on."""
    with pytest.raises(InputError, match="parsing"):
        train("grey", Refusing(1), tmp_path / "run", Config(steps=400))
    assert (tmp_path / "run" / "last.safetensors").is_file() and (tmp_path / "run" / "log.csv").is_file()
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.name != "log.csv"}  # whose rows after the checkpoint are cut
    with pytest.raises(InputError, match="another run"):
        train("grey", Lamp(), tmp_path / "run", Config(steps=400, wide=4))
    with pytest.raises(InputError, match="parsing"):
        train("grey", Refusing(0), tmp_path / "run", Config(steps=400))
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.name != "log.csv"} == before


@pytest.mark.gpu
def test_the_log_tells_how_much_of_the_gpu_was_needed(tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    train("grey", Lamp(), tmp_path, Config(), how=How(log_every=1), device="cuda")
    needed = [float(r["gpu_gigabytes"]) for r in rows_of(tmp_path / "log.csv")]
    assert needed == sorted(needed) and 0 < needed[-1] <= torch.cuda.max_memory_allocated() / 1e9 * (1 + 1e-5)
