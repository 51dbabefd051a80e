"""Speed of render.splats, against plain torch on a CPU and against gsplat on CUDA, and its error against float64.

    python benchmarks/splats.py --device cpu
    python benchmarks/splats.py --device cuda

The scene is a head-like shell of anisotropic splats. On CUDA "project", "lists" (depth sort and tile lists), "draw" and "gather"
(the gradient in the projected splats) are the steps by themselves, RGB and depth together; "frame" is everything `render` does.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from timing import fewest
from torch import Tensor

from vivavoce.render.splats import render
from vivavoce.render.splats.contract import Projected
from vivavoce.types import Camera

Bench = Callable[[Callable[[], Any]], float]
GPU = "cuda"
CPU_SIZES = ((2000, 128), (5000, 256), (10000, 512), (15000, 512), (20000, 256), (20000, 512), (50000, 512))
CUDA_SIZES = ((20000, 256), (20000, 512), (20000, 1024), (50000, 512), (50000, 1024), (100000, 512))


def head(count: int, size: int, device: str, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Camera]:
    """Splats on an ellipsoid's shell, 4 units in front of a camera that it nearly fills."""
    g = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    side = torch.nn.functional.normalize(make(count, 3), dim=-1)
    means = side * torch.tensor([0.75, 1.0, 0.85], dtype=torch.float64) * (1 + 0.02 * make(count, 1))
    spread = 1.2 * (4 * torch.pi * 0.75 / count) ** 0.5
    scales = spread * torch.exp(0.4 * make(count, 3)) * torch.tensor([1, 1, 0.4], dtype=torch.float64)
    parts = [means, make(count, 4), scales, torch.sigmoid(0.5 + make(count)), 0.5 + 0.5 * side]
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = -4
    camera = Camera(pose[None], torch.full((1, 2), 1.6 * size), torch.full((1, 2), size / 2))
    return [part.to(device, dtype).requires_grad_() for part in parts], camera.to(device).to(dtype=dtype)


def error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference of any tensor, relative to its largest entry."""
    pairs = zip(found, wanted, strict=True)
    return max(((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12)).item() for a, b in pairs)


@cache
def pull(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A fixed gradient, made once: drawing the numbers and moving them takes longer than what is timed."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(device, dtype)


def pulls(shapes: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """A fixed gradient for each tensor."""
    return [pull(part.shape, part.device, dtype) for part in shapes]


def values_and_gradients(parts: list[Tensor], camera: Camera, size: tuple[int, int], backend: str) -> tuple[list[Tensor], list[Tensor]]:
    drawn = render(*parts, camera, size, backend=backend)
    out = [drawn.image, drawn.alpha, drawn.depth]
    return out, list(torch.autograd.grad(out, parts, pulls(out, parts[0].dtype)))


def cpu(sizes: tuple[tuple[int, int], ...], threads: int) -> None:
    """numba against the oracle in float32, which is plain torch with the same tile lists."""
    torch.set_num_threads(threads)
    parts, camera = head(1500, 96, "cpu", torch.float64)
    wanted = values_and_gradients(parts, camera, (96, 96), "torch")
    parts, camera = head(1500, 96, "cpu")
    found = values_and_gradients(parts, camera, (96, 96), "numba")
    print(f"1500 splats at 96 px against float64: values {error(found[0], wanted[0]):.1e}, gradients {error(found[1], wanted[1]):.1e}")
    print("splats   px | numba frame  frame+gradient | plain torch frame  frame+gradient | ratio      (ms)")
    for count, size in sizes:
        parts, camera = head(count, size, "cpu")
        plain = [part.detach() for part in parts]
        row = []
        for backend, repeats in (("numba", 9), ("torch", 1)):
            row.append(fewest(partial(render, *plain, camera, (size, size), backend=backend), "cpu", repeats))
            row.append(fewest(partial(values_and_gradients, parts, camera, (size, size), backend), "cpu", repeats))
        ratio = f"{row[2] / row[0]:.0f}x {row[3] / row[1]:.0f}x"
        print(f"{count:6d} {size:4d} | {row[0]:8.1f} {row[1]:15.1f} | {row[2]:12.0f} {row[3]:18.0f} | {ratio}", flush=True)


def check(backend: str) -> str:
    """Error of a back end on CUDA against the oracle in float64, two images of a size that fills no tile."""
    size = (100, 77)
    parts, camera = head(2000, 90, GPU, torch.float64)
    wanted = values_and_gradients(parts, Camera.cat([camera, camera]), size, "torch")
    parts, camera = head(2000, 90, GPU)
    found = values_and_gradients(parts, Camera.cat([camera, camera]), size, backend)
    return f"values {error(found[0], wanted[0]):.1e}, gradients {error(found[1], wanted[1]):.1e}"


def ours(parts: list[Tensor], camera: Camera, size: tuple[int, int], bench: Bench) -> dict[str, float]:
    """The steps of the Triton back end, in ms."""
    from vivavoce.render.splats import triton as module

    rows = tuple(part.detach()[None] for part in parts)
    view = (camera.pose, camera.focal, camera.center)
    _, packed, keys, counts, _ = module.project(rows, view, size)
    found = module.lists(packed, keys, counts, size)
    picture = module.draw(packed, found, 3, size)
    wanted = tuple(pulls(list(picture), torch.float32))
    return {
        "project": bench(lambda: module.project(rows, view, size)),
        "lists": bench(lambda: module.lists(packed, keys, counts, size)),
        "draw": bench(lambda: module.draw(packed, found, 3, size)),
        "gather": bench(lambda: module.gather(packed, found, picture, wanted)),
    }


def theirs(parts: list[Tensor], camera: Camera, size: tuple[int, int], bench: Bench) -> dict[str, float]:
    """The same steps of gsplat."""
    from vivavoce.render.splats import gsplat as module

    points, turns, spreads, opaque, paint = (part.detach()[None] for part in parts)
    view = (torch.linalg.inv(camera.pose), camera.focal, camera.center)

    def project() -> Projected:
        return module.project(points, turns, spreads, opaque, *view, size)

    flat = project()
    leaves = [
        part.detach().requires_grad_() for part in (flat.means2d, flat.conics, opaque, torch.cat((paint, flat.depths[..., None]), -1))
    ]
    splats = Projected(leaves[0], leaves[1], flat.depths, flat.extents)
    offsets, ids = module.lists(splats, size)
    image, alpha = module.draw(splats, leaves[2], leaves[3], (offsets, ids), size)
    wanted = pulls([image, alpha], torch.float32)
    found = {"gather": bench(lambda: torch.autograd.grad([image, alpha], leaves, wanted, retain_graph=True))}
    with torch.no_grad():
        found["project"] = bench(project)
        found["lists"] = bench(lambda: module.lists(splats, size))
        found["draw"] = bench(lambda: module.draw(splats, leaves[2], leaves[3], (offsets, ids), size))
    return found


def whole(parts: list[Tensor], camera: Camera, size: tuple[int, int], backend: str, bench: Bench) -> dict[str, float]:
    """Frames as `render` draws them, projection and autograd included."""
    plain = [part.detach() for part in parts]
    return {
        "frame": bench(partial(render, *plain, camera, size, backend=backend)),
        "frame+gradient": bench(partial(values_and_gradients, parts, camera, size, backend)),
    }


def cuda(sizes: tuple[tuple[int, int], ...]) -> None:
    """The Triton back end against gsplat's kernels in the same run, medians in ms."""
    from triton.testing import do_bench

    bench: Bench = lambda run: float(do_bench(run, warmup=20, rep=100, return_mode="median"))  # noqa: E731
    peer = importlib.util.find_spec("gsplat") is not None
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; medians in ms" + ("" if peer else "; gsplat is not installed"))
    for backend in ("triton", "gsplat") if peer else ("triton",):
        print(f"2000 splats, 2 images of 77 x 100 against float64: {backend}: {check(backend)}", flush=True)
    names = ("project", "lists", "draw", "gather", "frame", "frame+gradient")
    print("splats   px | back end  " + " ".join(f"{name:>14s}" for name in names))
    for count, px in sizes:
        size, rows = (px, px), []
        parts, camera = head(count, px, GPU)
        for backend, steps in (("triton", ours), ("gsplat", theirs)) if peer else (("triton", ours),):
            rows.append(steps(parts, camera, size, bench) | whole(parts, camera, size, backend, bench))
            print(f"{count:6d} {px:4d} | {backend:8s}  " + " ".join(f"{rows[-1][name]:14.3f}" for name in names), flush=True)
        if peer:
            print("            | ratio     " + " ".join(f"{rows[0][name] / rows[1][name]:14.2f}" for name in names), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", help="SPLATS@PX,... instead of the usual ones")
    parser.add_argument("--threads", type=int, default=2, help="CPU: torch threads (numba: NUMBA_NUM_THREADS)")
    options = parser.parse_args()
    sizes = CPU_SIZES if options.device == "cpu" else CUDA_SIZES
    if options.sizes:
        sizes = tuple((int(count), int(px)) for count, px in (pair.split("@") for pair in options.sizes.split(",")))
    if options.device == "cpu":
        cpu(sizes, options.threads)
    else:
        cuda(sizes)


if __name__ == "__main__":
    main()
