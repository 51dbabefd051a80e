"""Speed of render.rays against plain torch and torch.compile, and against nerfacc where it is installed.

    python benchmarks/rays.py --device cpu
    python benchmarks/rays.py --device cuda

A hollow ball seen at 256 px (512 on CUDA) through a grid of 128 cells a side. "march" finds the samples, "composite" sums them,
"gradient" is both directions of that, "frame" is `trace` with a field of a tiled grid and two small layers: what a radiance field
does for a picture. Times are the fewest milliseconds of several runs; ratios are to plain torch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable

import torch
from timing import fewest
from torch import Tensor, nn

from vivavoce.nn.grid import Grid
from vivavoce.render import rays as package
from vivavoce.render.rays import Occupancy, Samples, box, cast, composite, march, trace
from vivavoce.types import Camera

STEP, MOST = 0.027, 16  # what RAD-NeRF marches with


def shell(points: Tensor) -> Tensor:
    away = points.norm(dim=-1)
    return 40.0 * ((away < 0.7) & (away > 0.5))


class Head(nn.Module):
    """Density from the shell, colour from a grid and two layers: the cost of a small radiance field."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.grid = Grid(3, 16, 2, 16, 2048, 16, "tiled", backend=backend)
        self.net = nn.Sequential(nn.Linear(32, 64, bias=False), nn.ReLU(), nn.Linear(64, 3, bias=False))

    def forward(self, points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return shell(points), torch.sigmoid(self.net(self.grid(points * 0.5 + 0.5)))


def theirs(samples: Samples, sigma: Tensor, features: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """nerfacc's compositing of the same samples."""
    nerfacc = importlib.import_module("nerfacc")
    start = samples.t - 0.5 * samples.dt
    weights, _, _ = nerfacc.render_weight_from_density(start, start + samples.dt, sigma, ray_indices=samples.ray, n_rays=rays)
    drawn = nerfacc.accumulate_along_rays(weights, features, samples.ray, rays)
    return drawn, nerfacc.accumulate_along_rays(weights, None, samples.ray, rays)[:, 0]


def compositors(samples: Samples, count: int, device: str) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Ways from sigma and features to colour and opacity, by name."""

    def ours(backend: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def run(sigma: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
            drawn = composite(sigma, features, samples, backend)
            return drawn.features, drawn.opacity

        return run

    fast = package.choose(torch.device(device))
    found = {"torch": ours("torch"), fast: ours(fast)}
    oracle = importlib.import_module("vivavoce.render.rays.torch").composite
    found["compile"] = torch.compile(lambda s, f: oracle(s, f, samples.ray, samples.t, samples.dt, samples.starts)[:2], dynamic=False)
    if importlib.util.find_spec("nerfacc"):
        found["nerfacc"] = lambda s, f: theirs(samples, s, f, count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=0, help="px; 0: 256 on a CPU, 512 on CUDA")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device, size = options.device, options.size or (256 if options.device == "cpu" else 512)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if device == "cpu":
        import numba

        numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    fast = package.choose(torch.device(device))
    pose = torch.eye(4)
    pose[2, 3] = -3
    camera = Camera(pose[None], torch.full((1, 2), 1.9 * size), torch.full((1, 2), size / 2)).to(device)
    origins, directions = (part[0] for part in cast(camera, (size, size)))
    grid = Occupancy().to(device)
    grid.update(shell)
    lines = (origins, directions, *box(origins, directions, grid.low, grid.high))
    samples = march(*lines, grid, STEP, MOST)
    print(f"{device}, {size} px, {len(samples)} samples: ms (times faster than plain torch)", flush=True)
    base = fewest(lambda: march(*lines, grid, STEP, MOST, backend="torch"), device, 2)
    ms = fewest(lambda: march(*lines, grid, STEP, MOST), device, options.repeats)
    print(f"march      torch {base:8.2f}   {fast} {ms:8.2f} ({base / ms:.1f}x)", flush=True)
    sigma = torch.rand(len(samples), device=device, requires_grad=True)
    features = torch.rand(len(samples), 3, device=device, requires_grad=True)
    first: list[float] = []
    for name, run in compositors(samples, len(origins), device).items():
        pulls = [torch.randn_like(part) for part in run(sigma, features)]
        with torch.no_grad():
            found = [fewest(lambda r=run: r(sigma, features), device, options.repeats)]  # type: ignore[misc]
        found.append(fewest(lambda r=run, p=pulls: torch.autograd.grad(r(sigma, features), (sigma, features), p), device, options.repeats))  # type: ignore[misc]
        first = first or found
        shown = "  ".join(f"{what} {ms:8.2f} ({b / ms:5.1f}x)" for what, ms, b in zip(("composite", "gradient"), found, first))
        print(f"           {name:8s} {shown}", flush=True)
    frames = []
    for backend, repeats in (("torch", 1), (fast, options.repeats)):
        head = Head(backend).to(device)
        frames.append(fewest(lambda b=backend, h=head: trace(*lines, grid, h, STEP, MOST, backend=b), device, repeats))  # type: ignore[misc]
    print(f"frame      torch {frames[0]:8.2f}   {fast} {frames[1]:8.2f} ({frames[0] / frames[1]:.1f}x)", flush=True)


if __name__ == "__main__":
    main()
