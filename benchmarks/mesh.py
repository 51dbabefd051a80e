"""Speed of render.mesh against a plain torch version, and beside nvdiffrast where it is installed.

    python benchmarks/mesh.py --device cpu
    python benchmarks/mesh.py --device cuda

A bumpy globe that nearly fills the picture. "raster" finds the triangle of each pixel; "frame" is raster, shares, six values carried to
the pixels and the antialiased outline; "frame+gradient" also their gradient in places and values. The plain version is the torch
back end of the same contract, on the same device.

The peer is built on the machine itself, without a network (it needs nvcc, a C++ compiler, torch and setuptools; version 0.4.0, of which the
folders csrc and nvdiffrast, setup.py, pyproject.toml and README.md are enough, 77 kB packed):

    mkdir /tmp/peer && tar -C /tmp/peer -xzf nvdiffrast-0.4.0.tar.gz && cd /tmp/peer
    TORCH_CUDA_ARCH_LIST=9.0 MAX_JOBS=16 python setup.py build_ext --inplace egg_info && cd -
    PYTHONPATH=.:/tmp/peer python benchmarks/mesh.py --device cuda
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import partial

import torch
from timing import fewest
from torch import Tensor

from vivavoce.render import mesh

PEER = "nvdiffrast"  # not needed by anything: a peer where somebody built it
SCENES = ((50, 256), (50, 512), (100, 512), (100, 1024))  # rings of the globe, px
CHANNELS = 6


def globe(rings: int, size: int, batch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Places [B,V,3] px, px, depth; triangles [F,3]; values [B,V,6]."""
    down = torch.linspace(0, math.pi, rings + 1)[:, None]
    around = torch.arange(2 * rings) * math.pi / rings
    radius = 1 + 0.03 * torch.sin(9 * down) * torch.cos(7 * around)
    x, y, z = radius * down.sin() * around.cos() * 0.75, -radius * down.cos(), radius * down.sin() * around.sin() * 0.85
    i, j = torch.meshgrid(torch.arange(rings), torch.arange(2 * rings), indexing="ij")
    a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
    faces = torch.cat([torch.stack([a, b, a + 2 * rings], -1), torch.stack([b, b + 2 * rings, a + 2 * rings], -1)]).reshape(-1, 3)
    depth = 4 + z.flatten()
    focal = 1.6 * size
    target = torch.stack([x.flatten() / depth * focal + size / 2, y.flatten() / depth * focal + size / 2, depth], 1)
    values = torch.rand(batch, len(target), CHANNELS, generator=torch.Generator().manual_seed(0))
    return target.expand(batch, -1, -1).contiguous().to(device), faces.to(device), values.to(device)


def frame(target: Tensor, faces: Tensor, values: Tensor, linked: mesh.Links, size: int, backend: str) -> Tensor:
    """[B,6,H,W]"""
    seen = mesh.rasterize(target, faces, (size, size), backend)
    pixels = mesh.covered(target, faces, seen, backend)
    image = mesh.paint(mesh.carry(values, pixels, backend), pixels, len(target))
    return mesh.antialias(image, target, faces, linked, seen, backend)


def plain(target: Tensor, faces: Tensor, values: Tensor, linked: mesh.Links, size: int) -> Tensor:
    """The same by the torch back end and dense pictures."""
    seen = mesh.rasterize(target, faces, (size, size), "torch")
    image = mesh.interpolate(values, faces, seen, mesh.weights(target, faces, seen)).permute(0, 3, 1, 2)
    return mesh.antialias(image, target, faces, linked, seen, "torch")


def peer(target: Tensor, faces: Tensor, values: Tensor, size: int) -> Callable[[], Tensor] | None:
    """nvdiffrast's rasterize, interpolate and antialias on the same triangles; None where it is not installed."""
    if target.device.type != "cuda" or importlib.util.find_spec(PEER) is None:
        return None
    module = importlib.import_module(f"{PEER}.torch")
    context = module.RasterizeCudaContext()
    triangles = faces.int()
    linked = module.antialias_construct_topology_hash(triangles)  # once, as ours

    def run() -> Tensor:
        x, y, z = target.unbind(2)
        flat = torch.stack([(x / size * 2 - 1) * z, (y / size * 2 - 1) * z, (z - 4) * 0.5 * z, z], 2)  # clip space
        found, _ = module.rasterize(context, flat, triangles, (size, size))
        image, _ = module.interpolate(values, found, triangles)
        return module.antialias(image.contiguous(), found, flat, triangles, linked)

    return run


def gradient(run: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run().square().sum(), inputs)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--device", default="cpu")
    words.add_argument("--batch", type=int, default=1)
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--repeats", type=int, default=9)
    o = words.parse_args()
    torch.set_num_threads(o.threads)
    fast = "triton" if o.device == "cuda" else "numba"
    print(f"{o.device}, batch {o.batch}, {fast}; ms a batch, and how many times as long the others take")
    print(" faces   px |  raster   frame  +grad | plain raster frame +grad | ratio           | nvdiffrast frame  +grad")
    for rings, size in SCENES:
        target, faces, values = globe(rings, size, o.batch, o.device)
        linked = mesh.links(faces)
        row = []
        for name in (fast, "torch"):
            repeats, whole = (o.repeats, partial(frame, backend=name)) if name == fast else (3, plain)
            row.append(fewest(partial(mesh.rasterize, target, faces, (size, size), name), o.device, repeats))
            row.append(fewest(partial(whole, target, faces, values, linked, size), o.device, repeats))
            inputs = (target.clone().requires_grad_(), values.clone().requires_grad_())
            one = partial(whole, inputs[0], faces, inputs[1], linked, size)
            row.append(fewest(partial(gradient, one, inputs), o.device, repeats))
        ratio = " ".join(f"{row[3 + k] / row[k]:4.1f}x" for k in range(3))
        ours, theirs = ("{:7.2f} {:7.2f} {:6.2f}".format(*part) for part in (row[:3], row[3:]))
        text = f"{len(faces):6d} {size:4d} | {ours} | {theirs} | {ratio} | "
        inputs = (target.clone().requires_grad_(), values.clone().requires_grad_())
        other = peer(inputs[0], faces, inputs[1], size)
        if other is not None:
            text += f"{fewest(other, o.device, o.repeats):7.2f} {fewest(partial(gradient, other, inputs), o.device, o.repeats):6.2f}"
        print(text, flush=True)


if __name__ == "__main__":
    main()
