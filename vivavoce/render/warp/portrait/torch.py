"""The steps between the convolutions in plain torch: what the kernels are tested against, and what runs without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from . import even


def _lines(shape: Sequence[int], like: Tensor) -> list[Tensor]:  # (D,H,W) -> [W], [H], [D]
    return [torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype) for n in reversed(shape)]


def _grid(shape: Sequence[int], like: Tensor) -> Tensor:  # (D,H,W) -> [D,H,W,3], x first
    return torch.stack(torch.meshgrid(*reversed(_lines(shape, like)), indexing="ij")[::-1], -1)


def _bumps(points: Tensor, shape: Sequence[int]) -> Tensor:  # [T,K,3] -> [T,K,D,H,W]
    away = [((line - points[..., k, None]).square() * -50).clamp(min=-28) for k, line in enumerate(_lines(shape, points))]
    x, y, z = away
    return torch.exp(z[..., :, None, None] + y[..., None, :, None] + x[..., None, None, :])


def slots(small: Tensor, driving: Tensor, source: Tensor, row: int) -> Tensor:
    shape, channels = small.shape[1:4], small.permute(0, 4, 1, 2, 3).to(driving.dtype)
    heats, parts = [], []
    for slot in range(driving.shape[1] + 1):
        shift = source[:, slot - 1] - driving[:, slot - 1] if slot else torch.zeros_like(source[:, 0])
        heat = _bumps(driving[:, slot - 1 : slot], shape) - _bumps(source[:, slot - 1 : slot], shape) if slot else None
        moved = functional.grid_sample(channels, _grid(shape, shift) + shift[:, None, None, None], align_corners=False)
        heats.append(torch.zeros_like(moved[:, :1]) if heat is None else heat)
        parts.append(moved)
    seen = torch.cat([*heats, torch.stack(parts, 2).flatten(1, 2)], 1).permute(0, 2, 3, 4, 1).flatten(0, 1)
    return functional.pad(seen, (0, row - seen.shape[-1])).to(small.dtype).contiguous()


def _summed(y: Tensor, depth: int, taps: int) -> Tensor:  # [T*D,H,W,taps,...] -> [T*D,H,W,...]
    """Tap k of a slice is for the slice that lies k - taps // 2 before it."""
    levels = y.unflatten(0, (-1, depth))
    total = torch.zeros_like(levels[:, :, :, :, 0])
    for tap in range(taps):
        step = tap - taps // 2
        total[:, max(0, -step) : depth - max(0, step)] += levels[:, max(0, step) : depth - max(0, -step), :, :, tap]
    return total.flatten(0, 1)


def shrink(y: Tensor, bias: Tensor, depth: int, taps: int) -> Tensor:
    whole = _summed(y[..., : taps * len(bias)].unflatten(-1, (taps, -1)), depth, taps) + bias.to(y)
    return functional.avg_pool2d(functional.relu(whole).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()


def spread(y: Tensor, bias: Tensor, depth: int = 1, taps: int = 1, factor: int = 1, groups: int = 1, skip: Tensor | None = None) -> Tensor:
    kinds, count, more = min(factor, 3), len(bias), int(factor > 1)
    parts = y[..., : kinds * kinds * taps * count].unflatten(-1, (kinds * kinds, taps, count)).transpose(3, 4)
    parts = _summed(parts, depth, taps).unflatten(3, (kinds, kinds))  # [T*D,h,w,kinds,kinds,C]
    i, kind_i = _places((y.shape[1] - more) * factor, factor, y.device)
    j, kind_j = _places((y.shape[2] - more) * factor, factor, y.device)
    out = functional.relu(parts[:, i[:, None], j, kind_i[:, None], kind_j] + bias.to(y))
    if skip is not None:
        return torch.cat([out, skip], -1)
    return out if groups == 1 else torch.stack(out.chunk(groups, -1))


def _places(length: int, factor: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of the places of an enlarged line: the place in the small one's results, and which of the results there."""
    at = torch.arange(length, device=device)
    inner, last = at % factor, (at % factor == factor - 1) & (factor > 1)
    return at // factor + last.long(), (inner > 0).long() + (last & (factor > 2)).long()


def sample(y: Tensor, bias: Tensor, shift: Tensor, volume: Tensor, taps: int, more: Tensor | None = None) -> Tensor:
    y = y if more is None else y + more
    depth, count = volume.shape[1], shift.shape[1]
    logits = _summed(y[..., : taps * even(count)].unflatten(-1, (taps, -1)), depth, taps)[..., :count]
    share = (logits + bias.to(y)).softmax(-1)
    flow = _grid(volume.shape[1:4], shift) + torch.einsum("tdhws,tsk->tdhwk", share.unflatten(0, (-1, depth)).to(shift), shift)
    moved = functional.grid_sample(volume.permute(0, 4, 1, 2, 3).to(flow.dtype), flow, align_corners=False)  # [T,C,D,H,W]
    return moved.permute(0, 3, 4, 2, 1).flatten(3).to(volume.dtype).contiguous()


def _all(x: Tensor, other: Tensor | None, beside: Tensor | None) -> Tensor:
    x = x if other is None else x + other
    return x if beside is None else x + beside[..., -x.shape[-1] :]


def statistics(x: Tensor, other: Tensor | None = None, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    total = _all(x, other, beside)
    spread, mean = torch.var_mean(total, (1, 2), correction=0)
    return total, torch.stack([mean, spread * (total.shape[1] * total.shape[2])], 1)[:, None]


def modulate(x: Tensor, moments: Tensor, maps: Tensor, bias: Tensor, slope: float) -> Tensor:
    mean, spread = moments[:, 0, :, None, None].unbind(1)  # [T,1,1,C]
    normal = (x - mean) * (spread / (x.shape[1] * x.shape[2]) + 1e-5).rsqrt()
    factor = maps.shape[1] // x.shape[1]
    parts = (maps[..., : len(bias)] + bias.to(maps)).split(x.shape[-1], -1)
    value = normal.repeat_interleave(factor, 1).repeat_interleave(factor, 2) * parts[0]
    return functional.leaky_relu(value + parts[1] if len(parts) > 1 else value, slope)


def finish(x: Tensor, bias: Tensor, slope: float, other: Tensor | None = None, beside: Tensor | None = None) -> Tensor:
    return functional.leaky_relu(_all(x + bias.to(x), other, beside), slope)


def hide(x: Tensor, bias: Tensor, y: Tensor, first: int, level: Tensor, more: Tensor | None = None) -> Tensor:
    y = y if more is None else y + more
    depth = len(y) // len(x)
    parts = y[..., first : first + depth].unflatten(0, (-1, depth)).diagonal(dim1=1, dim2=4).sum(-1)  # [T,H,W]
    return (x + bias.to(x)) * torch.sigmoid(parts + level.to(x))[..., None]


def picture(x: Tensor, bias: Tensor) -> Tensor:
    whole = x[..., : len(bias)] + bias.to(x)
    return torch.sigmoid(functional.pixel_shuffle(whole.permute(0, 3, 1, 2), 2)).contiguous()
