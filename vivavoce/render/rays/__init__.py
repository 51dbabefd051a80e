"""Rays through a density field: cast, marched through an occupancy grid, composited. One contract, three back ends.

    origins, directions = cast(camera, size)                        # [T,P,3] each; directions of length 1
    near, far = box(origins, directions, low, high)                 # [R], [R]
    samples = march(origins, directions, near, far, occupancy, step=0.02, most=64, jitter=None, cap=None)
    sigma, features = field(samples.positions, samples.ray)         # yours: [M], [M,C]
    drawn = composite(sigma, features, samples)                     # .features [R,C], .opacity [R], .depth [R]
    drawn = trace(origins, directions, near, far, occupancy, field, step=0.02, most=64)     # all of it, without gradients

The rule, the same in every back end: a ray from `near` to `far` is cut into intervals of `step`, the last one shorter. Each
has one sample, in its middle or at the ray's `jitter` (0..1) of its length. A sample whose cell is not occupied is left
out; of the others a ray keeps the first `most`. Distances are in lengths of the direction. Compositing: alpha = 1 -
exp(-sigma dt), front to back, while the transmittance in front of a sample is at least 1e-4.

Gradients reach sigma and features. Positions carry none; for gradients in the camera use
`origins[samples.ray] + samples.t[:, None] * directions[samples.ray]` in their place.

| back end | device, dtype |
|---|---|
| torch | any float: the oracle |
| numba | CPU, float32 |
| triton | CUDA, float32 |
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch as pytorch  # importing the back end of that name binds `torch` in this package
from torch import Tensor

from vivavoce.render.backends import choose, load
from vivavoce.types import Camera

from .contract import STOP, Composited, Samples
from .occupancy import Occupancy

__all__ = ["BACKENDS", "Composited", "Occupancy", "Samples", "box", "cast", "choose", "composite", "march", "pack", "resample", "trace"]

BACKENDS = ("torch", "numba", "triton")
CLOSEST = 0.05  # world units in front of a camera where nothing is looked for
Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # positions [M,3], ray [M] -> sigma [M], features [M,C]


def _load(backend: str, like: Tensor) -> ModuleType:
    return load(__name__, BACKENDS, backend, choose(like.device, like.dtype))


def cast(camera: Camera, size: tuple[int, int], pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rays through pixel centres: origins and directions of length 1, [T,P,3] each, in the world.

    Args:
        camera: T rows.
        size: height, width.
        pixels: [P] or [T,P], row * width + column; None = all of them, row by row.
    """
    if pixels is None:
        pixels = pytorch.arange(size[0] * size[1], device=camera.pose.device)
    place = pytorch.stack((pixels % size[1], pixels.div(size[1], rounding_mode="floor")), -1) + 0.5  # [P,2] or [T,P,2]
    slope = (place - camera.center[:, None]) / camera.focal[:, None]
    local = pytorch.nn.functional.normalize(pytorch.cat((slope, pytorch.ones_like(slope[..., :1])), -1), dim=-1)
    directions = local @ camera.pose[:, :3, :3].mT
    return camera.pose[:, None, :3, 3].expand_as(directions), directions


def box(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor, closest: float = CLOSEST) -> tuple[Tensor, Tensor]:
    """Where rays [...,3] enter and leave the box from low [3] to high [3]: near, far [...], not before `closest`.

    A ray that misses the box, or has it behind it, gets near == far.
    """
    first, second = (low - origins) / directions, (high - origins) / directions
    # 0 / 0: along a side of the box, in its plane; such a ray counts as inside
    enter = pytorch.minimum(first, second).nan_to_num(nan=-pytorch.inf, posinf=pytorch.inf, neginf=-pytorch.inf).amax(-1)
    leave = pytorch.maximum(first, second).nan_to_num(nan=pytorch.inf, posinf=pytorch.inf, neginf=-pytorch.inf).amin(-1)
    near = enter.clamp(min=closest)
    hit = (leave > near) & leave.isfinite()
    return pytorch.where(hit, near, closest), pytorch.where(hit, leave, closest)


def _rays(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four flattened, [R,3] [R,3] [R] [R], without gradients."""
    if origins.shape != directions.shape or origins.shape[-1] != 3 or near.shape != origins.shape[:-1] or far.shape != near.shape:
        shapes = ", ".join(str(tuple(part.shape)) for part in (origins, directions, near, far))
        raise ValueError(f"origins, directions, near, far have shapes {shapes}: [...,3], [...,3], [...], [...] wanted")
    flat = (origins.reshape(-1, 3), directions.reshape(-1, 3), near.reshape(-1), far.reshape(-1))
    return tuple(part.detach().contiguous() for part in flat)  # type: ignore[return-value]


def march(
    origins: Tensor,  # [...,3]
    directions: Tensor,  # [...,3]
    near: Tensor,  # [...]
    far: Tensor,  # [...]
    occupancy: Occupancy | None,  # None: every interval has its sample
    step: float,
    most: int = 1024,
    jitter: Tensor | None = None,  # [...] in 0..1; None: the middle of the interval
    cap: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Samples of R rays (the leading dimensions flattened), at most `most` a ray and `cap` in all.

    Beyond `cap` the last rays lose theirs; `Samples.found` says how many there were. A ray has at most 65536 intervals.
    Raises ValueError for shapes that do not fit or a step or most that is not positive.
    """
    if not step > 0 or most < 1:
        raise ValueError(f"step is {step}, most is {most}: both must be positive")
    rays = _rays(origins, directions, near, far)
    where = None if jitter is None else jitter.detach().reshape(-1).to(near)
    found, _ = _load(backend, near).march(rays, occupancy and occupancy.cells, step, most, where, cap)
    return Samples(*found)


def composite(sigma: Tensor, features: Tensor, samples: Samples, backend: str = "auto") -> Composited:
    """Sigma [M] (at least 0, per unit of t) and features [M,C] of samples summed along their rays; differentiable in both."""
    if sigma.shape != samples.t.shape or features.dim() != 2 or len(features) != len(sigma):
        raise ValueError(f"sigma {tuple(sigma.shape)}, features {tuple(features.shape)} for {len(samples)} samples: [M], [M,C] wanted")
    features = features.to(sigma.dtype)
    places = (samples.ray, samples.t.to(sigma.dtype), samples.dt.to(sigma.dtype), samples.starts)
    return Composited(*_load(backend, sigma).composite(sigma, features, *places))


@pytorch.no_grad()
def trace(
    origins: Tensor,  # [...,3]
    directions: Tensor,  # [...,3]
    near: Tensor,  # [...]
    far: Tensor,  # [...]
    occupancy: Occupancy | None,
    field: Field,
    step: float,
    most: int = 1024,
    channels: int = 3,
    turn: int = 4,
    batch: int | None = None,
    stop: float = STOP,
    backend: str = "auto",
) -> Composited:
    """What `composite` gives for the samples of `march`, for whole frames: no gradients, and no samples behind a solid surface.

    The rays go forward `turn` samples at a time, and those that are opaque or at their end are left behind. A GPU's host waits once a turn.

    Args:
        field: positions [M,3] and flat ray numbers [M] -> sigma [M], features [M,channels].
        batch: samples given to `field` at once; None = 8192 on a CPU, so that they stay in its cache, and 2**22 elsewhere.
        stop: a ray through which less than this is seen goes no further.
    Returns:
        features [...,channels], opacity [...], depth [...]; weights is empty.
    """
    if not step > 0 or most < 1:
        raise ValueError(f"step is {step}, most is {most}: both must be positive")
    rays, module = _rays(origins, directions, near, far), _load(backend, near)
    batch = batch or (2**13 if near.device.type == "cpu" else 2**22)
    count = len(rays[2])
    sums = (near.new_zeros(count, channels), near.new_zeros(count), near.new_zeros(count), near.new_zeros(count))
    alive = (rays[3] > rays[2]).nonzero()[:, 0]
    some = tuple(part[alive] for part in rays)
    begin = pytorch.zeros(len(alive), dtype=pytorch.int32, device=near.device)
    taken, found = 0, len(alive)
    while found and taken < most:
        go = min(turn, most - taken)
        (ray, t, dt, positions, starts, found), begin = module.march(some, occupancy and occupancy.cells, step, go, None, None, begin)
        if found:
            whole = alive[ray]
            parts = [field(place, owner) for place, owner in zip(positions.split(batch), whole.split(batch), strict=True)]
            sigma, features = parts[0] if len(parts) == 1 else (pytorch.cat(part) for part in zip(*parts, strict=True))
            module.accumulate(sums, alive, sigma.to(near.dtype), features.to(near.dtype), t, dt, starts)
        begin = pytorch.where((-sums[3][alive]).exp() >= stop, begin, -1)
        taken += go
    shape = near.shape
    return Composited(sums[0].view(*shape, channels), sums[1].view(shape), sums[2].view(shape), near.new_zeros(0))


def pack(origins: Tensor, directions: Tensor, t: Tensor, dt: Tensor) -> Samples:
    """The same number K of samples on every ray, at given places: [R,3], [R,3], [R,K], [R,K] -> Samples."""
    count, each = t.shape
    number = pytorch.arange(count + 1, device=t.device)
    positions = (origins[:, None] + t[..., None] * directions[:, None]).detach().reshape(-1, 3)
    return Samples(number[:-1].repeat_interleave(each), t.reshape(-1), dt.reshape(-1), positions, number * each, count * each)


def resample(edges: Tensor, weights: Tensor, count: int, jitter: Tensor | None = None) -> Tensor:
    """Places drawn where the weights are (Mildenhall et al., NeRF, section 5.2): [R,count] in rising order, no gradient.

    Args:
        edges: [R,K+1], rising: the intervals.
        weights: [R,K], at least 0; a ray whose weights are all zero is sampled evenly.
        jitter: [R,count] in 0..1: where in its share of the distribution each place lies; None = in the middle.
    """
    edges, weights = edges.detach(), weights.detach() + 1e-5
    share = pytorch.cat((weights.new_zeros(len(weights), 1), weights.cumsum(-1) / weights.sum(-1, keepdim=True)), -1)
    level = (pytorch.arange(count, device=edges.device) + (0.5 if jitter is None else jitter)) / count
    level = level.to(edges).expand(len(edges), count).contiguous()
    above = pytorch.searchsorted(share, level, right=True).clamp(1, weights.shape[1])
    low, high = share.gather(1, above - 1), share.gather(1, above)
    part = ((level - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    left = edges.gather(1, above - 1)
    return left + part * (edges.gather(1, above) - left)
