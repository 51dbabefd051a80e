"""Speed of nn.grid against plain torch and torch.compile, and against tiny-cuda-nn where it is installed.

    python benchmarks/grid.py --device cpu
    python benchmarks/grid.py --device cuda

Points lie on rays (neighbours read near entries, as a picture's do) or anywhere. torch.compile is given one level with its numbers as
tensors: all levels at once keep it busy for minutes. It is measured for the first and the last setting. "table" and "points" are the
value and the gradient in the table or in the points together. Times are the fewest milliseconds of several runs (fewer of slow ones);
ratios are to plain torch.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from timing import fewest
from torch import Tensor

from vivavoce.nn import grid as grids
from vivavoce.nn.grid import Grid, read
from vivavoce.nn.grid.plan import PRIMES, Plan

SETTINGS = {
    "hash 3-D 16x2 2^19": dict(dims=3, levels=16, features=2, base=16, finest=2048, log2_table=19, kind="hash"),
    "tiled 3-D 16x2 2^16": dict(dims=3, levels=16, features=2, base=16, finest=2048, log2_table=16, kind="tiled"),
    "hash 2-D 12x1 2^14": dict(dims=2, levels=12, features=1, base=64, finest=512, log2_table=14, kind="hash"),
}


PATIENCE = 2.0  # seconds after which the second run of something is the last


def points(count: int, dims: int, where: str) -> Tensor:
    """16 samples a ray of a square picture, or anywhere."""
    if where == "anywhere":
        return torch.rand(count, dims)
    side = int((count // 16) ** 0.5)
    line = torch.linspace(0.2, 0.8, side)
    return torch.cartesian_prod(line, line, torch.linspace(0.3, 0.6, 16))[:, :dims].contiguous()


def measure(encode: Callable[[Tensor, Tensor], Tensor], places: Tensor, table: Tensor, device: str, repeats: int) -> list[float]:
    """Value, value and gradient in the table, value and gradient in the points."""
    leaves = (places.clone().requires_grad_(), table.detach().clone().requires_grad_())
    with torch.no_grad():
        pull = torch.randn_like(encode(places, table))
        found = [fewest(lambda: encode(places, table), device, repeats, PATIENCE)]
    found.append(fewest(lambda: torch.autograd.grad(encode(places, leaves[1]), leaves[1], pull), device, repeats, PATIENCE))
    found.append(fewest(lambda: torch.autograd.grad(encode(leaves[0], table), leaves[0], pull), device, repeats, PATIENCE))
    return found


def one_level(points: Tensor, table: Tensor, scale: Tensor, start: Tensor, mask: Tensor, hashed: Tensor, strides: Tensor) -> Tensor:
    """As the oracle's level, with numbers that a compiler does not know."""
    place = points * scale + 0.5
    corner = place.detach().floor()
    share, corner = place - corner, corner.long()
    total = points.new_zeros(len(points), table.shape[1])
    for step in product((0, 1), repeat=points.shape[1]):
        weight, mixed, along = torch.ones_like(share[:, 0]), torch.zeros_like(corner[:, 0]), torch.zeros_like(corner[:, 0])
        for d, up in enumerate(step):
            weight = weight * (share[:, d] if up else 1 - share[:, d])
            mixed = mixed ^ ((corner[:, d] + up) * PRIMES[d])
            along = along + (corner[:, d] + up) * strides[d]
        total = total + weight[:, None] * table[start + (torch.where(hashed, mixed, along) & mask)]
    return total


def every_level(layout: Plan, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Plain torch, compiled once for all levels."""
    numbers = [
        tuple(torch.tensor(part, device=device) for part in (float(f.scale), f.start, f.mask, f.hashed, f.strides)) for f in layout.levels
    ]
    level = torch.compile(one_level, dynamic=False)
    return lambda points, table: torch.cat([level(points, table, *each) for each in numbers], -1)


def peers(made: Grid, settings: dict[str, Any], compiled: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Everything that is measured, by name."""
    layout = made.layout
    oracle = importlib.import_module("vivavoce.nn.grid.torch").read
    opened = (1.0,) * len(layout.levels)
    fast = grids.choose(made.table.device)
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "torch": lambda p, t: oracle(p, t, layout, opened),
        fast: partial(read, layout=layout, backend=fast),
    }
    if compiled:
        torch._dynamo.reset()
        found["compile"] = every_level(layout, made.table.device)
    try:
        tiny = importlib.import_module("tinycudann")
    except (ImportError, OSError):
        return found
    growth = (settings["finest"] / settings["base"]) ** (1 / (settings["levels"] - 1))
    theirs = tiny.Encoding(settings["dims"], {
        "otype": "HashGrid", "n_levels": settings["levels"], "n_features_per_level": settings["features"],
        "log2_hashmap_size": settings["log2_table"], "base_resolution": settings["base"], "per_level_scale": growth,
    }, dtype=torch.float32)  # fmt: skip
    found["tcnn"] = lambda p, _: theirs(p)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--points", type=int, default=0, help="how many; 0: 65536 on a CPU, 1048576 on CUDA")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.device == "cpu":
        import numba

        numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    count = options.points or (2**16 if options.device == "cpu" else 2**20)
    print(f"{options.device}, {count} points: ms (times faster than plain torch)", flush=True)
    for name, settings in SETTINGS.items():
        made = Grid(**settings).to(options.device)  # type: ignore[arg-type]
        for where in ("on rays", "anywhere"):
            places = points(count, settings["dims"], where).to(options.device)  # type: ignore[arg-type]
            base: list[float] = []
            compiled = options.compile and where == "on rays" and name in (next(iter(SETTINGS)), list(SETTINGS)[-1])
            for peer, encode in peers(made, settings, compiled).items():
                found = measure(encode, places, made.table.detach(), options.device, options.repeats)
                base = base or found
                shown = "  ".join(f"{what} {ms:8.2f} ({b / ms:5.1f}x)" for what, ms, b in zip(("value", "table", "points"), found, base))
                print(f"{name:20s} {where:9s} {peer:8s} {shown}", flush=True)


if __name__ == "__main__":
    main()
