"""Many processes against one: the same losses, the same weights, faster; and one of them killed.

    python benchmarks/ranks.py CORPUS --work FOLDER [--device cuda] [--processes 1 2 4] [--steps 120] [--batch 512] [--preset large]

Each run is a `torchrun` of its own: NCCL on GPUs, gloo on CPUs.

equal   a small method without random numbers, on each number of processes; then on the most of them with the second killed (SIGKILL) after
        some 20 steps, and the same command again. Losses are held against those of one process.
large   dit_motion on CORPUS (a folder that `benchmarks/motion.py pack` made) the same way: its noise is each process's own, so losses agree
        on average alone; its steps are long enough for their number a second to tell something. `--no-killed` leaves out the kill.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Row = dict[str, float]
ASIDE = ("step", "seconds", "gpu_gigabytes")
LAST = 20  # steps whose losses are averaged where noise differs


def rows(run: Path) -> list[Row]:
    """log.csv as far as it is written."""
    if not (run / "log.csv").is_file():
        return []
    with (run / "log.csv").open(newline="") as file:
        return [{k: float(v) for k, v in r.items()} for r in csv.DictReader(file) if None not in r.values()]


def start(words: list[str], processes: int, log: Path, device: str) -> subprocess.Popen[bytes]:
    """torchrun in a session of its own, so that all its processes can be ended."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *words]
    with log.open("ab") as out:
        return subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)


def end(running: subprocess.Popen[bytes], seconds: float) -> str:
    """Its exit status, or that it had to be ended."""
    try:
        return str(running.wait(seconds))
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        return "hung, killed"


def second_of(running: subprocess.Popen[bytes]) -> int:
    """Process number 1 of a torchrun."""
    for child in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split():
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise RuntimeError(f"process {running.pid} has no second worker")


def apart(a: Path, b: Path) -> str:
    """How losses and weights of two runs differ, in words."""
    from vivavoce.assets import tensors

    one, other = rows(a), {r["step"]: r for r in rows(b)}
    both = [(r, other[r["step"]]) for r in one if r["step"] in other]
    said = []
    for key in (k for k in one[0] if k not in ASIDE):
        most = max(abs(x[key] - y[key]) / max(abs(x[key]), 1e-9) for x, y in both)
        means = (sum(pair[i][key] for pair in both[-LAST:]) / len(both[-LAST:]) for i in (0, 1))
        said.append(f"{key}: at most {most:.1e} of it, the last {LAST} steps {' and '.join(f'{m:.5f}' for m in means)}")
    x, y = tensors(a / "model.safetensors"), tensors(b / "model.safetensors")
    weight = max(float((x[k].double() - y[k].double()).abs().max()) for k in x)
    return f"{len(both)} steps; {'; '.join(said)}; a weight at most {weight:.1e}"


def speed(run: Path) -> float:
    """Steps a second of the second half of a run."""
    table = rows(run)
    half = table[len(table) // 2 :]
    if len(half) < 2:
        return math.nan
    return (half[-1]["step"] - half[0]["step"]) / max(half[-1]["seconds"] - half[0]["seconds"], 1e-9)


def part(name: str, command: Callable[[Path, float], list[str]], o: argparse.Namespace) -> None:
    """Runs on each number of processes, then the most of them killed and resumed."""
    base = o.work / f"{name}{o.processes[0]}"
    for n in o.processes:
        run = o.work / f"{name}{n}"
        code = end(start(command(run, 0), n, o.work / f"{run.name}.log", o.device), o.limit)
        print(f"{name}, {n} processes: exit status {code}, {speed(run):.2f} steps a second", flush=True)
        if n != o.processes[0] and rows(run):
            print(f"    ({speed(run) / speed(base):.2f} times the first) {apart(base, run)}", flush=True)
    if not o.killed:
        return
    most, run = o.processes[-1], o.work / f"{name}_killed"
    running, begun = start(command(run, 0.05), most, o.work / f"{run.name}.log", o.device), time.monotonic()
    while running.poll() is None and time.monotonic() - begun < o.limit:
        if len(rows(run)) >= LAST and (run / "last.safetensors").exists():
            break
        time.sleep(0.1)
    at = len(rows(run))
    os.kill(second_of(running), signal.SIGKILL)
    code, there = end(running, 60), (run / "model.safetensors").exists()
    print(f"{name}, {most} processes, the second killed after {at} steps: exit status {code}, a model was there: {there}", flush=True)
    code = end(start(command(run, 0), most, o.work / f"{run.name}.log", o.device), o.limit)
    same = apart(o.work / f"{name}{most}", run)
    print(f"{name}, the same command again: exit status {code}; against {most} not killed: {same}", flush=True)


def equal(folder: Path, steps: int, slow: float, device: str) -> None:
    """One process of `equal`, each step `slow` seconds longer: the method of tests/test_train.py that draws no random numbers."""
    from tests import test_train as small
    from vivavoce import registry
    from vivavoce.train import How, ranks, train

    card = registry.Card("grey", small.Grey, "test", "", "", "", "")
    registry.find = lambda name: card  # type: ignore[assignment]
    update = small.Grey.update
    small.Grey.update = lambda self, *rest: (time.sleep(slow), update(self, *rest))[1]  # type: ignore[method-assign]
    with ranks.joined(device) as place:
        how = How(log_every=1, save_every=0, average=0.9)
        train("grey", small.Lamp(), folder, small.Config(steps=steps), how=how, held=small.Lamp(16, 1), device=place)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("corpus", type=Path)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--device", default="cuda")
    p.add_argument("--parts", nargs="+", default=["equal", "large"])
    p.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    p.add_argument("--steps", type=int, default=120)
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--preset", default="large")
    p.add_argument("--set", nargs="*", default=[], help="more settings of dit_motion")
    p.add_argument("--killed", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--limit", type=float, default=120, help="seconds of a run")
    p.add_argument("--one", nargs=2, metavar=("FOLDER", "SLOW"), help="be one process of `equal`")
    o = p.parse_args()
    if o.one:
        return equal(Path(o.one[0]), o.steps, float(o.one[1]), o.device)
    o.work.mkdir(parents=True, exist_ok=True)

    def small(run: Path, slow: float) -> list[str]:
        words = [__file__, o.corpus, "--work", o.work, "--device", o.device, "--steps", 60, "--one", run, slow]
        return [str(w) for w in words]

    def large(run: Path, slow: float) -> list[str]:
        words = ["benchmarks/teach.py", "dit_motion", o.corpus, "--out", run, "--device", o.device, "--preset", o.preset]
        words += ["--steps", o.steps, "--check", 0, "--save-every", 4, "--log-every", 1, "--set", f"batch={o.batch}", *o.set]
        return [str(w) for w in words]

    for name, command in (("equal", small), ("large", large)):
        if name in o.parts:
            part(name, command, o)


if __name__ == "__main__":
    main()
