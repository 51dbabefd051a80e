"""Rays: the oracle against what is known by hand, the back ends against the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vivavoce.render import rays
from vivavoce.render.rays import Occupancy, Samples, box, cast, composite, march, pack, resample, trace
from vivavoce.render.rays.occupancy import EMPTY
from vivavoce.types import Camera, InputError

BOTH = pytest.mark.parametrize("backend", ["torch", "numba"])
Rays = tuple[Tensor, Tensor, Tensor, Tensor]


def front(size: int = 32) -> Camera:
    """3 units in front of the origin, looking along z; the unit cube fills most of the picture."""
    pose = torch.eye(4)
    pose[2, 3] = -3
    return Camera(pose[None], torch.tensor([[1.9 * size, 1.8 * size]]), torch.tensor([[size / 2, size / 2]]))


def shot(size: int = 32, device: str = "cpu") -> Rays:
    """Rays of a picture, and where they meet the cube from -1 to 1."""
    origins, directions = (part[0].to(device) for part in cast(front(size), (size, size)))
    side = torch.ones(3, device=device)
    return origins, directions, *box(origins, directions, -side, side)


def shell(points: Tensor) -> Tensor:
    """Density of a hollow ball."""
    away = points.norm(dim=-1)
    return 40.0 * ((away < 0.7) & (away > 0.45))


def learned(device: str = "cpu", resolution: int = 32) -> Occupancy:
    grid = Occupancy(resolution=resolution).to(device)
    grid.update(shell, generator=torch.Generator(device).manual_seed(0))
    return grid


def field(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return shell(points), points * 0.5 + 0.5


def test_a_ray_goes_through_its_pixel() -> None:
    camera = front()
    origins, directions = cast(camera, (32, 32))
    points = (origins + 2.7 * directions)[0]
    local = points - camera.pose[0, :3, 3]
    seen = local[:, :2] / local[:, 2:] * camera.focal + camera.center
    wanted = torch.stack((torch.arange(1024) % 32, torch.arange(1024) // 32), -1) + 0.5
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 1024))
    assert torch.equal(cast(camera, (32, 32), torch.tensor([5, 77]))[1][0], directions[0, [5, 77]])


def test_boxes() -> None:
    low, high = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 2.0, 3.0])
    origins = torch.tensor([[0.0, 0, -5], [0, 0, 0], [0, 0, 5], [5, 0, -5], [1, 0, -5], [0, 0, -5]])
    directions = torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, 1], [0, 0, 1], [0, 0, 1], [torch.nan, 0, 1]])
    near, far = box(origins, directions, low, high)
    torch.testing.assert_close(near[:2], torch.tensor([2.0, 0.05]))
    torch.testing.assert_close(far[:2], torch.tensor([8.0, 1.5]))
    assert (near[2:4] == far[2:4]).all(), "behind and beside"
    torch.testing.assert_close(far[4] - near[4], torch.tensor(6.0))  # along a side
    assert (far - near).isfinite().all()


@BOTH
@pytest.mark.parametrize("step", [0.31, 0.05])
def test_a_slab_of_constant_density(backend: str, step: float) -> None:
    """1 - exp(-sigma d), to rounding at any step: the last interval ends with the ray."""
    lines = shot()
    samples = march(*lines, None, step, backend=backend)
    drawn = composite(torch.full((len(samples),), 0.7), torch.ones(len(samples), 2), samples, backend)
    length = lines[3] - lines[2]
    torch.testing.assert_close(drawn.opacity, 1 - torch.exp(-0.7 * length), atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn.features, drawn.opacity[:, None].expand(-1, 2), atol=1e-6, rtol=0)


@BOTH
def test_a_wall_has_its_depth_and_hides_what_is_behind(backend: str) -> None:
    lines = shot()
    samples = march(*lines, None, 0.01, backend=backend)
    z = samples.positions[:, 2]
    features = torch.stack((torch.ones_like(z), (z > 0.5).float()), -1)
    drawn = composite(torch.where(z > 0, 500.0, 0.0), features, samples, backend)
    middle = drawn.opacity > 0.99
    assert middle.sum() > 500
    wanted = (3 / lines[1][:, 2])[middle]
    torch.testing.assert_close((drawn.depth / drawn.opacity)[middle], wanted, atol=0.02, rtol=0)
    assert drawn.features[middle, 1].max() == 0, "behind the early stop"


def check_march(backend: str, device: str, strays: float) -> None:
    """The same samples as the oracle's, up to `strays` of them that lie on a cell's border."""
    lines, grid = shot(48, device), learned(device)
    jitter = torch.rand(len(lines[2]), generator=torch.Generator().manual_seed(1)).to(device)
    for shift, most, cap, step in ((None, 16, None, 0.027), (jitter, 64, None, 0.013), (jitter, 8, 5000, 0.027), (None, 400, None, 0.006)):
        wanted = march(*lines, grid, step, most, shift, cap, "torch")
        found = march(*lines, grid, step, most, shift, cap, backend)
        assert abs(found.found - wanted.found) <= strays * wanted.found and len(found) == min(found.found, cap or found.found)
        assert found.starts.shape == wanted.starts.shape and int(found.starts[-1]) == len(found)
        both = [set((s.ray * 10**6 + (s.t * 1000).round().long()).tolist()) for s in (found, wanted)]
        assert len(both[0] ^ both[1]) <= strays * len(both[1]) * 4
        assert torch.equal(found.ray, torch.repeat_interleave(torch.arange(len(lines[2]), device=device), found.starts.diff()))
        torch.testing.assert_close(found.positions, lines[0][found.ray] + found.t[:, None] * lines[1][found.ray], atol=1e-5, rtol=0)
        assert grid.occupied(found.positions).float().mean() >= 1 - strays and found.dt.min() > 0


def test_numba_marches_as_the_oracle() -> None:
    pytest.importorskip("numba")
    check_march("numba", "cpu", 0.0)


@pytest.mark.gpu
def test_triton_marches_as_the_oracle() -> None:
    check_march("triton", "cuda", 2e-3)


def test_marching_leaves_out_exactly_what_is_empty() -> None:
    lines, grid = shot(), learned()
    every = march(*lines, None, 0.02, backend="torch")
    kept = march(*lines, grid, 0.02, backend="torch")
    assert len(kept) == grid.occupied(every.positions).sum() and 0 < len(kept) < len(every) / 3


def pulled(backend: str, dtype: torch.dtype, device: str = "cpu", channels: int = 5) -> list[Tensor]:
    """Everything `composite` gives and its gradients in a fixed linear loss, of the same samples in any dtype."""
    lines = shot(24)
    samples = march(*lines, learned(), 0.02, backend="torch")
    g = torch.Generator().manual_seed(2)
    sigma = 60 * torch.rand(len(samples), generator=g, dtype=torch.float64) ** 3
    features = torch.randn(len(samples), channels, generator=g, dtype=torch.float64)
    moved = Samples(*(getattr(samples, name).to(device) for name in ("ray", "t", "dt", "positions", "starts")), samples.found)
    leaves = [part.to(device, dtype).requires_grad_() for part in (sigma, features)]
    drawn = composite(leaves[0], leaves[1], moved, backend)
    parts = (drawn.features, drawn.opacity, drawn.depth)
    loss = sum((torch.randn(part.shape, generator=g, dtype=torch.float64).to(part) * part).sum() for part in parts)
    assert isinstance(loss, Tensor)
    return [*(part.detach() for part in parts), drawn.weights, *torch.autograd.grad(loss, leaves)]


def check_composite(backend: str, device: str) -> None:
    for channels in (1, 3, 5):
        wanted, found = pulled("torch", torch.float64, channels=channels), pulled(backend, torch.float32, device, channels)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.cpu().double(), b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_numba_composites_as_the_oracle() -> None:
    pytest.importorskip("numba")
    check_composite("numba", "cpu")


@pytest.mark.gpu
def test_triton_composites_as_the_oracle() -> None:
    check_composite("triton", "cuda")


def test_finite_differences() -> None:
    starts = torch.tensor([0, 4, 4, 9])
    t = torch.rand(9, dtype=torch.float64)
    samples = Samples(torch.tensor([0] * 4 + [2] * 5), t, 0.1 + 0.1 * t, t[:, None].expand(9, 3), starts, 9)

    def summed(sigma: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawn = composite(sigma, features, samples, "torch")
        return drawn.features, drawn.opacity, drawn.depth

    leaves = (torch.rand(9, dtype=torch.float64) * 5, torch.rand(9, 2, dtype=torch.float64))
    assert torch.autograd.gradcheck(summed, tuple(part.requires_grad_() for part in leaves))


def wanted_all(lines: Rays, grid: Occupancy, backend: str) -> rays.Composited:
    samples = march(*lines, grid, 0.027, 40, backend=backend)
    return composite(*field(samples.positions, samples.ray), samples, backend)


def check_trace(backend: str, device: str) -> None:
    """Whole frames in turns are the samples of `march` composited at once."""
    lines, grid = shot(32, device), learned(device)
    for most, turn in ((16, 4), (40, 7), (3, 4)):
        samples = march(*lines, grid, 0.027, most, backend=backend)
        wanted = composite(*field(samples.positions, samples.ray), samples, backend)
        found = trace(*lines, grid, field, 0.027, most, turn=turn, batch=1000, backend=backend)
        for a, b in ((found.features, wanted.features), (found.opacity, wanted.opacity), (found.depth, wanted.depth)):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
    early = trace(*lines, grid, field, 0.027, 40, turn=2, stop=0.05, backend=backend)
    left = wanted_all(lines, grid, backend).opacity - early.opacity
    assert left.min() > -2e-5 and 1e-4 < left.max() < 0.05, "what is left behind is less than `stop`"
    square = tuple(part.view(32, 32, *part.shape[1:]) for part in lines)
    assert trace(*square, grid, field, 0.027, backend=backend).features.shape == (32, 32, 3)


@BOTH
def test_tracing_is_marching_and_compositing(backend: str) -> None:
    check_trace(backend, "cpu")


@pytest.mark.gpu
def test_tracing_on_a_gpu() -> None:
    check_trace("triton", "cuda")


def test_occupancy_learns_forgets_and_packs() -> None:
    grid = learned()
    volume = 4 / 3 * math.pi * (0.7**3 - 0.45**3) / 8
    assert abs(grid.share - volume) < 0.01
    g = torch.Generator().manual_seed(0)
    for _ in range(40):
        grid.update(lambda p: torch.zeros(len(p)), generator=g)
    assert grid.share > 0.01, "40 * 0.95^40 is above the mean still"
    for _ in range(60):
        grid.update(lambda p: 20.0 * (p[:, 0] > 0.5), share=0.25, generator=g)
    assert grid.occupied(torch.tensor([[0.8, 0.0, 0.9], [2.0, 0, 0], [torch.nan, 0, 0]])).tolist() == [True, False, False]
    again = Occupancy(resolution=32)
    again.load_state_dict(grid.state_dict())
    assert again.share == grid.share
    some = torch.rand(500, 3, generator=g) * 2 - 1
    assert torch.equal(again.occupied(some), grid.occupied(some))


def test_what_never_holds_anything_stays_empty() -> None:
    grid = Occupancy(resolution=32)
    grid.density[len(grid.density) // 8 :] = EMPTY
    grid.update(lambda p: torch.full((len(p),), 99.0))
    assert grid.share == 1 / 8 and not grid.occupied(torch.tensor([0.9, 0.9, 0.0]))


def hostile(backend: str, device: str) -> None:
    """No rays, rays that miss, infinite and NaN ends, opaque and NaN densities."""
    grid = learned(device)
    none = march(*(part[:0] for part in shot(8, device)), grid, 0.1, backend=backend)
    assert len(none) == 0 and none.starts.tolist() == [0]
    assert composite(none.t, none.positions, none, backend).features.shape == (0, 3)
    assert trace(*(part[:0] for part in shot(8, device)), grid, field, 0.1, backend=backend).opacity.shape == (0,)
    origins = torch.zeros(4, 3, device=device)
    directions = torch.tensor([[0.0, 0, 1], [0, 0, 1], [torch.nan, 0, 1], [0, 0, 0]], device=device)
    near = torch.tensor([0.0, 0.5, 0, 0], device=device)
    far = torch.tensor([torch.nan, 0.5, 1, 1], device=device)
    lost = march(origins, directions, near, far, grid, 0.1, backend=backend)
    assert len(lost) == 0, "the middle of the shell is empty, and NaN is nowhere"
    endless = march(origins[:1], directions[:1], near[:1], far[:1] + torch.inf, grid, 0.1, most=5, backend=backend)
    assert len(endless) <= 5
    line = march(origins[:1], directions[:1], near[:1], near[:1] + 1, None, 0.1, backend=backend)
    sigma = torch.zeros(10, device=device)
    sigma[3] = torch.inf
    solid = composite(sigma, torch.ones(10, 1, device=device), line, backend)
    assert solid.opacity.item() == 1 and solid.weights[3] == 1
    sigma[3] = torch.nan
    assert composite(sigma, torch.ones(10, 1, device=device), line, backend).opacity.isnan().all()


@BOTH
def test_hostile_rays(backend: str) -> None:
    hostile(backend, "cpu")


@pytest.mark.gpu
def test_hostile_rays_on_a_gpu() -> None:
    hostile("triton", "cuda")


def test_bad_settings_are_told() -> None:
    lines = shot(4)
    for settings in (dict(resolution=30), dict(low=(1.0, 0.0, 0.0), high=(1.0, 1.0, 1.0))):
        with pytest.raises(InputError):
            Occupancy(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cuda"):
        march(*lines, None, 0.1, backend="cuda")
    with pytest.raises(ValueError, match="positive"):
        march(*lines, None, 0.0)
    with pytest.raises(ValueError, match="wanted"):
        march(lines[0], lines[1], lines[2][:3], lines[3], None, 0.1)
    samples = march(*lines, None, 0.5)
    with pytest.raises(ValueError, match="samples"):
        composite(samples.t[:-1], samples.positions, samples)
    assert rays.choose(torch.device("cpu"), torch.float64) == "torch"


def test_packed_samples_and_resampling() -> None:
    """Coarse to fine: places crowd where the weights are, evenly where there are none."""
    edges = torch.linspace(0, 1, 11).expand(2, 11)
    weights = torch.zeros(2, 10)
    weights[0, 7] = 5.0
    places = resample(edges, weights, 100)
    assert ((places[0] > 0.7 - 1e-3) & (places[0] < 0.8 + 1e-3)).float().mean() > 0.98
    torch.testing.assert_close(places[1], (torch.arange(100) + 0.5) / 100, atol=1e-4, rtol=0)
    assert (places.diff() >= 0).all()
    origins, directions = torch.zeros(2, 3), torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    samples = pack(origins, directions, places, torch.full_like(places, 0.01))
    drawn = composite(torch.ones(200), torch.ones(200, 1), samples, "torch")
    torch.testing.assert_close(drawn.opacity, torch.full((2,), 1 - math.exp(-1)))
