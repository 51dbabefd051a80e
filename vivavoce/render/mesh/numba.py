"""The CPU back end of `render.mesh`: the autograd side of the numba kernels. float32 tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vivavoce.render.backends import array
from vivavoce.render.mesh import EDGE, numba_kernels, numba_light
from vivavoce.render.mesh.outlines import HOPS, Links, blend
from vivavoce.render.threads import kernels


def rasterize(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:  # [B,V,3], [F,3], (H, W) -> [B,H,W] int64
    """See the package."""
    seen = np.full((len(target), *size), -1, np.int64)
    with kernels():
        numba_kernels.nearest(array(target), array(triangles, np.int64), seen, EDGE)
    return torch.from_numpy(seen)


def antialias(image: Tensor, target: Tensor, triangles: Tensor, linked: Links, seen: Tensor) -> Tensor:
    """See the package."""
    found = np.empty((2, *seen.shape), np.int64)
    whole = [array(part, np.int64) for part in (triangles, linked.triangle, linked.corner, seen)]
    with kernels():
        numba_kernels.crossed(array(target), *whole, HOPS, found)
    return blend(image, target, triangles, torch.from_numpy(found))


def shares(target: Tensor, corners: Tensor, place: Tensor, width: int) -> Tensor:
    """As `pixels.shares`, with first derivatives only."""
    found: Tensor = _Shares.apply(target, corners, place, width)
    return found


def carry(values: Tensor, corners: Tensor, share: Tensor) -> Tensor:
    """As `pixels.carry`, with first derivatives only."""
    found: Tensor = _Carry.apply(values, corners, share)
    return found


def lit(looks: Tensor, normal: Tensor, place: Tensor, row: Tensor, lens: Tensor, light: Tensor, bump: float, shine: float) -> Tensor:
    """See the package."""
    out = np.empty((len(looks), 6), np.float32)
    with kernels():
        numba_light.lit(*map(array, (looks, normal, place)), array(row, np.int64), array(lens), array(light), bump, shine, out)
    return torch.from_numpy(out)


class _Shares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, corners: Tensor, place: Tensor, width: int) -> Tensor:
        share = np.empty((len(place), 3), np.float32)
        numba_kernels.shares(array(target), array(corners, np.int64), array(place, np.int64), width, share)
        out = torch.from_numpy(share)
        ctx.save_for_backward(target, corners, place, out)
        ctx.width = width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, None, None, None]:
        target, corners, place, share = ctx.saved_tensors
        out = np.zeros(target.shape, np.float32)
        whole = array(corners, np.int64), array(place, np.int64)
        numba_kernels.shares_back(array(target), *whole, ctx.width, array(share), array(pull), out)
        return torch.from_numpy(out), None, None, None


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, corners: Tensor, share: Tensor) -> Tensor:
        out = np.empty((len(corners), values.shape[1]), np.float32)
        numba_kernels.carry(array(values), array(corners, np.int64), array(share), out)
        ctx.save_for_backward(values, corners, share)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, None, Tensor]:
        values, corners, share = ctx.saved_tensors
        to_values, to_share = np.zeros(values.shape, np.float32), np.empty(share.shape, np.float32)
        numba_kernels.carry_back(array(values), array(corners, np.int64), array(share), array(pull), to_values, to_share)
        return torch.from_numpy(to_values), None, torch.from_numpy(to_share)
