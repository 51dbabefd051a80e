"""Speed of render.splats, against plain torch on a CPU and against gsplat on CUDA, and its error against float64.

    python benchmarks/splats.py --device cpu
    python benchmarks/splats.py --device cuda --variants all

The scene is a head-like shell of anisotropic splats. On CUDA "draw" and "gather" are compositing alone (image; gradient in the
projected splats), RGB and depth together, and "lists" the depth sort and tile lists; "frame" is everything `render` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivavoce.render.splats import render
from vivavoce.render.splats import torch as oracle
from vivavoce.render.splats.contract import Projected
from vivavoce.types import Camera

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


def best(run: Callable[[], Any], repeats: int) -> float:
    """Fewest milliseconds of several runs."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


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
            row.append(best(partial(render, *plain, camera, (size, size), backend=backend), repeats))
            row.append(best(partial(values_and_gradients, parts, camera, (size, size), backend), repeats))
        ratio = f"{row[2] / row[0]:.0f}x {row[3] / row[1]:.0f}x"
        print(f"{count:6d} {size:4d} | {row[0]:8.1f} {row[1]:15.1f} | {row[2]:12.0f} {row[3]:18.0f} | {ratio}", flush=True)


def plans(which: str) -> tuple[list[Any], list[Any]]:
    """Plans to try for drawing and for the gradient."""
    from vivavoce.render.splats.triton import PLAN, Plan

    if which == "default":
        return [PLAN], [PLAN]
    make = dataclasses.replace
    draw = [make(PLAN, draw="serial", draw_splats=k, draw_warps=w, draw_bands=b) for k, w, b in (
        (4, 1, 1), (8, 1, 1), (4, 1, 2), (8, 1, 2), (8, 1, 4), (4, 2, 1), (8, 2, 1), (8, 4, 1), (8, 2, 2), (16, 1, 2))]  # fmt: skip
    draw += [make(PLAN, draw="scan", draw_splats=k, draw_warps=w) for k, w in ((8, 4), (16, 4), (16, 8), (8, 8))]
    draw += [Plan(wide=16, high=8, draw_splats=8, draw_bands=b) for b in (1, 2)]
    gather = [make(PLAN, gather="rows", gather_splats=k, gather_bands=b, store=s) for k, b, s in itertools.product(
        (4, 8), (1, 2, 4), ("scratch", "atomic"))]  # fmt: skip
    gather += [make(PLAN, gather="rows", gather_splats=16, gather_bands=b) for b in (2, 4)]
    gather += [make(PLAN, gather="serial", gather_splats=k, gather_warps=w, gather_bands=b, store=s) for k, w, b, s in (
        (2, 1, 1, "atomic"), (2, 1, 1, "scratch"), (4, 1, 2, "atomic"), (2, 1, 4, "atomic"), (2, 4, 1, "scratch"))]  # fmt: skip
    gather += [Plan(wide=8, high=8, gather=s, gather_splats=k, gather_warps=w, store=t) for s, k, w, t in (
        ("tf32x3", 16, 2, "scratch"), ("tf32x3", 16, 2, "atomic"), ("tf32", 16, 2, "atomic"), ("add", 8, 1, "atomic"))]  # fmt: skip
    gather += [make(PLAN, gather="tf32x3", gather_splats=16, gather_warps=w, store="atomic") for w in (4, 8)]
    gather += [Plan(wide=16, high=8, gather="rows", gather_splats=8, gather_bands=b) for b in (1, 2)]
    return draw, gather


def label(plan: Any, part: str) -> str:
    if part == "draw":
        bands = f" bands{plan.draw_bands}" if plan.draw == "serial" else ""
        return f"{plan.draw} {plan.wide}x{plan.high} K{plan.draw_splats} warps{plan.draw_warps}{bands}"
    bands = f" bands{plan.gather_bands}" if plan.gather in ("rows", "serial") else ""
    return f"{plan.gather} {plan.wide}x{plan.high} K{plan.gather_splats} warps{plan.gather_warps}{bands} {plan.store}"


def projected(parts: list[Tensor], camera: Camera, size: int) -> tuple[Projected, Tensor, Tensor]:
    """Splats in the image plane, opacities [1,N] and features [1,N,4] as leaves."""
    one = [part.detach()[None] for part in parts]
    flat = oracle.project(*one[:4], torch.linalg.inv(camera.pose), camera.focal, camera.center, (size, size))
    features = torch.cat((one[4], flat.depths[..., None]), -1)
    leaves = [part.detach().clone().requires_grad_() for part in (flat.means2d, flat.conics, one[3], features)]
    return Projected(leaves[0], leaves[1], flat.depths, flat.extents), leaves[2], leaves[3]


def composited(module: Any, parts: tuple[Projected, Tensor, Tensor], size: int, **plan: Any) -> list[Tensor]:
    """Image, alpha and gradients in means2d, conics, opacities, features."""
    splats, opacities, features = parts
    out = module.composite(splats, opacities, features, (size, size), **plan)
    leaves = [splats.means2d, splats.conics, opacities, features]
    return [*out, *torch.autograd.grad(list(out), leaves, pulls(list(out), features.dtype))]


def check(draws: list[Any], gathers: list[Any]) -> dict[str, float]:
    """Error of every plan against the oracle in float64 on a small scene."""
    from vivavoce.render.splats import triton as module

    size, errors = 100, {}  # an odd number of tiles, the last ones partly outside
    wanted = composited(oracle, projected(*head(2000, size, GPU, torch.float64), size), size)
    small = projected(*head(2000, size, GPU), size)
    for part, tried in (("draw", draws), ("gather", gathers)):
        for plan in tried:
            try:
                found = composited(module, small, size, plan=plan)
                errors[label(plan, part)] = error(found[:2] if part == "draw" else found, wanted[:2] if part == "draw" else wanted)
            except Exception as trouble:  # a plan may not fit this GPU: say so and go on
                print(f"{label(plan, part)}: {type(trouble).__name__}: {str(trouble).splitlines()[0][:150]}")
    return errors


def peer(parts: tuple[Projected, Tensor, Tensor], size: int, bench: Callable[[Any], float]) -> tuple[float, float, float, float]:
    """gsplat on the same projected splats: lists, draw, gather in ms and the largest difference of the image."""
    from gsplat.cuda._wrapper import isect_offset_encode, isect_tiles, rasterize_to_pixels

    from vivavoce.render.splats import triton as module

    splats, opacities, features = parts
    across = -(-size // 16)
    radii = splats.extents.ceil().to(torch.int32)
    args = (splats.means2d.detach(), radii, splats.depths, 16, across, across)

    def lists() -> tuple[Tensor, Tensor]:
        _, keys, ids = isect_tiles(*args)
        return isect_offset_encode(keys, 1, across, across), ids

    offsets, ids = lists()

    def draw() -> tuple[Tensor, Tensor]:
        return rasterize_to_pixels(splats.means2d, splats.conics, features, opacities, size, size, 16, offsets, ids)  # type: ignore[no-any-return]

    image, alpha = draw()
    wanted = pulls([image, alpha], image.dtype)
    leaves = [splats.means2d, splats.conics, opacities, features]
    gather = bench(lambda: torch.autograd.grad([image, alpha], leaves, wanted, retain_graph=True))
    ours, _ = module.composite(splats, opacities, features, (size, size))
    apart = (image.permute(0, 3, 1, 2) - ours).abs().amax().item()
    with torch.no_grad():
        return bench(lists), bench(draw), gather, apart


def cuda(sizes: tuple[tuple[int, int], ...], which: str, out: Path | None) -> None:
    """Every plan, and gsplat where it is installed."""
    from triton.testing import do_bench

    from vivavoce.render.splats import triton as module

    bench = lambda run: float(do_bench(run, warmup=10, rep=50, return_mode="median"))  # noqa: E731
    draws, gathers = plans(which)
    start = time.perf_counter()
    errors = check(draws, gathers)
    print(f"{torch.cuda.get_device_name()}: {len(errors)} plans compiled in {time.perf_counter() - start:.0f} s; error against float64:")
    for name, value in errors.items():
        print(f"  {name:45s} {value:.1e}")
    report = []
    for count, size in sizes:
        parts = projected(*head(count, size, GPU), size)
        try:
            their_lists, their_draw, their_gather, apart = peer(parts, size, bench)
        except ImportError as trouble:
            print(f"gsplat: {trouble}")
            their_lists, their_draw, their_gather, apart = (float("nan"),) * 4
        theirs_text = f"gsplat lists {their_lists:.3f} draw {their_draw:.3f} gather {their_gather:.3f} ms"
        print(f"{count} splats, {size} px: {theirs_text}; images differ by {apart:.1e}")
        for part, tried, theirs in (("draw", draws, their_draw), ("gather", gathers, their_gather)):
            rows = []
            for plan in tried:
                if label(plan, part) in errors:
                    rows.append((time_plan(module, parts, size, plan, part, bench), plan))
            for (ms, lists), plan in sorted(rows, key=lambda row: row[0][0]):
                reading = {"splats": count, "px": size, "part": part, "ms": ms, "lists": lists, "gsplat": theirs}
                report.append(reading | {"plan": dataclasses.asdict(plan)})
            for (ms, lists), plan in sorted(rows, key=lambda row: row[0][0])[:6]:
                print(f"  {part:6s} {ms:.3f} ms, {ms / theirs:.2f} of gsplat, lists {lists:.3f} | {label(plan, part)}", flush=True)
        frames(count, size, bench)
    if out:
        out.write_text(json.dumps(report))


def time_plan(
    module: Any, parts: tuple[Projected, Tensor, Tensor], size: int, plan: Any, part: str, bench: Callable[[Any], float]
) -> tuple[float, float]:
    """Milliseconds of one part and of its tile lists."""
    splats, opacities, features = (parts[0], parts[1].detach(), parts[2].detach())
    found = module.lists(splats, opacities, (size, size), plan)
    lists = bench(lambda: module.lists(splats, opacities, (size, size), plan))
    if part == "draw":
        return bench(lambda: module.draw(found, features, (size, size), plan)), lists
    picture = module.draw(found, features, (size, size), plan)
    wanted = tuple(pulls(list(picture), features.dtype))
    return bench(lambda: module.gather(found, features, picture, wanted, plan)), lists


def frames(count: int, size: int, bench: Callable[[Any], float]) -> None:
    """Whole frames, projection included."""
    parts, camera = head(count, size, GPU)
    plain = [part.detach() for part in parts]
    text = []
    for backend in ("triton", "gsplat"):
        try:
            drawn = bench(partial(render, *plain, camera, (size, size), backend=backend))
            both = bench(partial(values_and_gradients, parts, camera, (size, size), backend))
            text.append(f"{backend} {drawn:.3f} / {both:.3f}")
        except Exception as trouble:  # the peer may be missing
            text.append(f"{backend}: {type(trouble).__name__}: {str(trouble).splitlines()[0][:120]}")
    print("  frame / frame+gradient, ms: " + "; ".join(text), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", choices=("default", "all"), default="default", help="CUDA: which plans of the kernels to try")
    parser.add_argument("--sizes", help="SPLATS@PX,... instead of the usual ones")
    parser.add_argument("--threads", type=int, default=2, help="CPU: torch threads (numba: NUMBA_NUM_THREADS)")
    parser.add_argument("--out", type=Path, help="CUDA: every reading as JSON")
    options = parser.parse_args()
    sizes = CPU_SIZES if options.device == "cpu" else CUDA_SIZES
    if options.sizes:
        sizes = tuple((int(count), int(px)) for count, px in (pair.split("@") for pair in options.sizes.split(",")))
    if options.device == "cpu":
        cpu(sizes, options.threads)
    else:
        cuda(sizes, options.variants, options.out)


if __name__ == "__main__":
    main()
