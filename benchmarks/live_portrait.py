"""Speed and memory of live_portrait's warping and decoding (W + G), against the authors' code in the same run.

    python benchmarks/live_portrait.py --device cuda
    python benchmarks/live_portrait.py --device cuda --batches 1 8 --compiled --peer LivePortrait     (a checkout of KwaiVGI/LivePortrait)
    python benchmarks/live_portrait.py --device cpu --batches 1

Weights are random: neither speed nor memory depends on them. "networks" is the trainable module in float32 (on CUDA under float16
autocast as the authors run theirs), "drawer" the folded one, "flat" the one of pictures with Triton kernels, "ready" what the method
draws with: the flat one as a CUDA graph. The authors' code is run as their inference does, under float16 autocast, and with --compiled
under torch.compile too: by default with mode="reduce-overhead" (CUDA graphs; half a minute for each number of frames), their
"max-autotune" searches for minutes. --compiled adds our plain drawer so compiled. Differences are from the networks in float32.
Times are of one call divided by its frames, in ms, the fastest of several; memory is the peak of the call, in MiB, weights included.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivavoce.nn.liveportrait import Networks, drawing, flat

Draw = Callable[[Tensor, Tensor, Tensor], Tensor]
DENSE = dict(block_expansion=32, max_features=1024, num_blocks=5, reshape_depth=16, compress=4)


def authors(folder: Path, ours: Networks, device: str, mode: str = "") -> Draw:
    """Their W and G with our weights."""
    for name, place in (("src", "src"), ("src.modules", "src/modules")):  # their packages import cv2 on the way; the modules do not need it
        package = types.ModuleType(name)
        package.__path__ = [str(folder / place)]
        sys.modules[name] = package
    warping = importlib.import_module("src.modules.warping_network").WarpingNetwork
    decoder = importlib.import_module("src.modules.spade_generator").SPADEDecoder
    shape = dict(block_expansion=64, max_features=512, num_down_blocks=2)
    w = warping(num_kp=21, reshape_channel=32, estimate_occlusion_map=True, dense_motion_params=DENSE, **shape)
    g = decoder(upscale=2, **shape)
    w.load_state_dict(ours.warping.state_dict())
    g.load_state_dict(ours.decoder.state_dict())
    w, g = w.to(device).eval(), g.to(device).eval()
    if mode:
        w, g = (torch.compile(part, mode=mode, dynamic=False) for part in (w, g))

    def draw(volume: Tensor, driving: Tensor, source: Tensor) -> Tensor:
        if mode and device.startswith("cuda"):
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(device):
            return g(feature=w(volume, kp_source=source, kp_driving=driving)["out"]).float()

    return draw


def autocast(device: str) -> Any:
    if device.startswith("cuda"):
        return torch.autocast("cuda", dtype=torch.float16)
    return contextlib.nullcontext()


def timed(draw: Draw, given: tuple[Tensor, Tensor, Tensor], repeats: int) -> tuple[float, float, Tensor]:
    """Fewest ms a call, peak MiB, and what came out."""
    cuda = given[0].is_cuda
    with torch.no_grad():
        out = draw(*given)
        best = float("inf")
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            begun = time.perf_counter()
            out = draw(*given)
            if cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begun)
    return 1e3 * best, torch.cuda.max_memory_allocated() / 2**20 if cuda else float("nan"), out


def inputs(batch: int, side: int, device: str, ours: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    volume = torch.randn(1, 32, 16, side // 4, side // 4, generator=g).to(device)
    if volume.is_cuda and ours:
        volume = volume.contiguous(memory_format=torch.channels_last_3d)  # as the method keeps it
    source = 0.5 * torch.randn(1, 21, 3, generator=g)
    driving = (source + 0.1 * torch.randn(batch, 21, 3, generator=g)).to(device)
    return volume.expand(batch, -1, -1, -1, -1), driving, source.to(device).expand(batch, -1, -1)


def drawers(net: Networks, device: str, compiled: bool) -> dict[str, Draw]:
    def networks(volume: Tensor, driving: Tensor, source: Tensor) -> Tensor:
        with autocast(device):
            return net.draw(volume, driving, source)[0].float()

    cuda = device.startswith("cuda")
    dtype = torch.float16 if cuda else torch.float32
    out: dict[str, Draw] = {"networks": networks, "drawer": drawing.Drawer(net, dtype), "flat": flat.FlatDrawer(net, dtype)}
    if cuda:
        out["ready"] = drawing.ready(net)
    if compiled:
        made = torch.compile(drawing.Drawer(net, dtype), dynamic=False)
        out["compiled"] = drawing.graphed(made, next(net.parameters()).device, dtype) if cuda else made
    return out


def largest(net: Networks, given: tuple[Tensor, Tensor, Tensor], out: Tensor) -> float:
    """Difference from the networks in float32, one frame at a time."""
    rows = zip(*given, out, strict=True)
    with torch.no_grad():
        return max(float((net.draw(v[None], d[None], s[None])[0][0] - drawn).abs().max()) for v, d, s, drawn in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--side", type=int, default=256, help="px of the pictures read; twice as many are drawn")
    parser.add_argument("--repeats", type=int, default=0, help="0: 20 on CUDA, 2 elsewhere")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--mode", default="reduce-overhead", help="of torch.compile, for the authors' code")
    parser.add_argument("--ways", nargs="*", default=[], help="of those named above, by name; none: all")
    parser.add_argument("--peer", type=Path, help="a checkout of KwaiVGI/LivePortrait")
    given = parser.parse_args()
    torch.manual_seed(0)
    net = Networks().eval().requires_grad_(False).to(given.device)
    ways = drawers(net, given.device, given.compiled)
    if given.peer:
        ways["authors"] = authors(given.peer, net, given.device)
        if given.compiled:
            ways["authors compiled"] = authors(given.peer, net, given.device, given.mode)
    ways = {name: draw for name, draw in ways.items() if name in (given.ways or ways)}
    repeats = given.repeats or (20 if given.device.startswith("cuda") else 2)
    print(f"| batch | way | ms a frame | frames a second | MiB | against {next(reversed(ways))} | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for batch in given.batches:
        rows = {}
        for name, draw in ways.items():
            try:
                rows[name] = timed(draw, inputs(batch, given.side, given.device, not name.startswith("authors")), repeats)
            except torch.cuda.OutOfMemoryError:
                print(f"| {batch} | {name} | out of memory | | | | |")
        last = rows[next(reversed(rows))]
        for name, (ms, memory, out) in rows.items():
            apart = largest(net, inputs(batch, given.side, given.device), out)
            print(f"| {batch} | {name} | {ms / batch:.2f} | {1e3 * batch / ms:.1f} | {memory:.0f} | {last[0] / ms:.2f} | {apart:.1e} |")


if __name__ == "__main__":
    main()
