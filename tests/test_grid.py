"""Feature grids: the oracle against what is known by hand, the back ends against the oracle."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from vivavoce.nn import grid as grids
from vivavoce.nn.grid import Grid, TriPlane, read
from vivavoce.types import InputError

# dimensions and features in two pairs alone: each pair is a compilation of every numba kernel
SETTINGS = [(*pair, *rest) for pair in ((3, 2), (2, 1)) for rest in product(("hash", "tiled"), (False, True), (None, 3.4))]


def small(dims: int, features: int = 2, kind: str = "hash", smooth: bool = False, log2_table: int = 8) -> Grid:
    """Six levels of 4 to 60 cells, the coarse ones dense and the fine ones not, with entries between -1 and 1."""
    torch.manual_seed(0)
    made = Grid(dims, 6, features, 4, 60, log2_table, kind, smooth, backend="torch")
    torch.nn.init.uniform_(made.table, -1, 1)
    return made


def pulled(made: Grid, points: Tensor, open_levels: float | None, backend: str) -> list[Tensor]:
    """Features, and the gradients of a fixed linear loss in the table and the points."""
    leaves = (points.detach().clone().requires_grad_(), made.table.detach().to(points).requires_grad_())
    out = read(*leaves, made.layout, open_levels, backend)
    weights = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def close(found: list[Tensor], wanted: list[Tensor], most: float = 2e-5) -> None:
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        torch.testing.assert_close(a.cpu().double(), b, rtol=0, atol=most * float(b.abs().max()), msg=lambda m, n=number: f"part {n}: {m}")


def same_as_oracle(backend: str, device: str) -> None:
    for dims, features, kind, smooth, opened in SETTINGS:
        made = small(dims, features, kind, smooth)
        points = torch.rand(300, dims) * 1.2 - 0.1
        close(pulled(made, points.to(device), opened, backend), pulled(made, points.double(), opened, "torch"))


def test_numba_is_the_oracle() -> None:
    pytest.importorskip("numba")
    same_as_oracle("numba", "cpu")


@pytest.mark.gpu
def test_triton_is_the_oracle() -> None:
    same_as_oracle("triton", "cuda")


def test_sizes_are_the_lineages() -> None:
    """Published checkpoints: 16 levels of 16 to 2048 cells have 6119864 entries hashed at 2^19, and 903480 tiled at 2^16."""
    assert Grid().table.shape == (6119864, 2)
    assert Grid(log2_table=16, kind="tiled").table.shape == (903480, 2)
    planes = TriPlane()
    assert planes.width == 36 and all(p.layout.levels[-1].size == 2**14 for p in planes.planes)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("smooth", [False, True])
def test_finite_differences(dims: int, smooth: bool) -> None:
    made = Grid(dims, 3, 1, 2, 9, 5, "hash" if smooth else "tiled", smooth, backend="torch").double()
    torch.nn.init.uniform_(made.table, -1, 1)
    points = torch.rand(4, dims, dtype=torch.float64).requires_grad_()
    leaves = (points, made.table.detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda p, t: read(p, t, made.layout, 2.5, "torch"), leaves, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_vertex_reads_its_entry_and_a_middle_the_mean(backend: str) -> None:
    made = Grid(2, 1, 1, 5, 5, 19, "dense", backend=backend)
    torch.nn.init.uniform_(made.table)
    at = lambda x, y: made.table[x + 6 * y]  # noqa: E731
    points = torch.tensor([[0.5 / 4, 1.5 / 4], [1.0 / 4, 1.5 / 4]])  # x * 4 + 0.5 = 1 and 2; 1.5 and 2
    found = made(points)
    torch.testing.assert_close(found[0], at(1, 2))
    torch.testing.assert_close(found[1], (at(1, 2) + at(2, 2)) / 2)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_kinds_agree_where_everything_fits(backend: str) -> None:
    points, made = torch.rand(50, 3), small(3, log2_table=18)
    values = [read(points, made.table, small(3, kind=kind, log2_table=18).layout, None, backend) for kind in grids.KINDS]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_hashing_spreads_where_tiles_repeat() -> None:
    """Fine levels in a table too small: both read something everywhere, and not the same."""
    points = torch.rand(200, 3)
    hashed, tiled = (read(points, small(3).table, small(3, kind=kind).layout, None, "torch") for kind in ("hash", "tiled"))
    assert torch.equal(hashed[:, :2], tiled[:, :2]) and not torch.equal(hashed[:, -2:], tiled[:, -2:])
    assert (hashed.std(0) > 0.05).all()


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_levels_open_one_after_another(backend: str) -> None:
    made, points = small(3), torch.rand(20, 3)
    whole = read(points, made.table, made.layout, None, backend)
    part = read(points, made.table, made.layout, 2.25, backend)
    assert torch.equal(part[:, :4], whole[:, :4]) and not part[:, 6:].any()
    torch.testing.assert_close(part[:, 4:6], whole[:, 4:6] * 0.25)
    assert (
        torch.equal(read(points, made.table, made.layout, 9.0, backend), whole)
        and not read(points, made.table, made.layout, -1.0, backend).any()
    )


def hostile(backend: str, device: str) -> None:
    """Outside: the border, and no gradient. NaN: NaN, and nothing else is touched. No points: no rows."""
    made, nan, inf = small(3), torch.nan, torch.inf
    wild = torch.tensor([[0.3, 0.6, 0.2], [-5.0, 0.5, 9.0], [inf, -inf, 0.5], [nan, 0.5, 0.5], [1e30, -1e30, 0.0]], device=device)
    tame = torch.tensor([[0.3, 0.6, 0.2], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5], [1.0, 0.0, 0.0]], device=device)
    rows, leaf = [0, 1, 2, 4], wild.requires_grad_()
    table = made.table.detach().to(device).requires_grad_()
    found = read(leaf, table, made.layout, None, backend)
    torch.testing.assert_close(found[rows], read(tame, table, made.layout, None, backend))
    assert found[3].isnan().all()
    to_points, to_table = torch.autograd.grad(found[[0, 1, 2, 3, 4]].sum(), (leaf, table))
    wanted = torch.autograd.grad(read(tame, table, made.layout, None, backend).sum(), table)[0]
    torch.testing.assert_close(to_table, wanted)
    assert to_points[0].all() and not to_points[3].any() and not to_points[1, [0, 2]].any() and to_points[1, 1] != 0
    empty = read(torch.zeros(0, 3, device=device, requires_grad=True), table, made.layout, None, backend)
    assert empty.shape == (0, made.width)
    assert not torch.autograd.grad(empty.sum(), table)[0].any()


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_hostile_points(backend: str) -> None:
    hostile(backend, "cpu")


@pytest.mark.gpu
def test_hostile_points_on_a_gpu() -> None:
    hostile("triton", "cuda")


def test_numba_repeats_itself_to_the_bit() -> None:
    pytest.importorskip("numba")
    made, points = small(3, log2_table=5), torch.rand(5000, 3)
    first = pulled(made, points, None, "numba")
    assert all(torch.equal(a, b) for a, b in zip(first, pulled(made, points, None, "numba"), strict=True))


def test_planes_are_three_grids() -> None:
    planes, points = TriPlane(4, 1, 8, 32, 8), torch.rand(9, 3)
    for p in planes.planes:
        torch.nn.init.uniform_(p.table)
    parts = [g(points[:, axes]) for g, axes in zip(planes.planes, ([0, 1], [1, 2], [0, 2]), strict=True)]
    assert torch.equal(planes(points), torch.cat(parts, 1)) and planes(points).shape == (9, planes.width)
    planes(points, open_levels=1.0).sum().backward()
    assert all(p.table.grad is not None and p.table.grad.any() for p in planes.planes)


def check_planes(backend: str, device: str) -> None:
    """Side by side at once what three grids give one after another, and for drawing in half precision."""
    found: list[list[Tensor]] = []
    weights, points = torch.randn(300, 18), torch.rand(300, 3)
    for name, where in (("torch", "cpu"), (backend, device)):
        torch.manual_seed(0)
        planes = TriPlane(6, 1, 8, 40, 8, backend=name)
        for plane in planes.planes:
            torch.nn.init.uniform_(plane.table, -1, 1)
        out = planes.to(where)(points.to(where), open_levels=4.5)
        (out * weights.to(where)).sum().backward()
        found.append([out.detach(), *(plane.table.grad for plane in planes.planes)])
    close(found[1], [part.double() for part in found[0]])
    with torch.no_grad():
        half = planes(points.to(device), 4.5, torch.float16)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.cpu().float(), found[0][0], atol=1e-3, rtol=0)
    one = read(points.to(device), small(3).to(device).table.detach(), small(3).layout, None, backend, torch.float16)
    torch.testing.assert_close(one.cpu().float(), small(3)(points).detach(), atol=1e-3, rtol=0)


def test_planes_and_half_precision() -> None:
    pytest.importorskip("numba")
    check_planes("numba", "cpu")


@pytest.mark.gpu
def test_planes_on_a_gpu() -> None:
    check_planes("triton", "cuda")


def test_bad_settings_are_told() -> None:
    for settings in (dict(dims=4), dict(kind="octree"), dict(levels=0), dict(log2_table=2), dict(kind="dense", finest=4096)):
        with pytest.raises(InputError):
            Grid(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cuda"):
        Grid(2, 2, 1, 4, 8, backend="cuda")(torch.rand(1, 2))
    with pytest.raises(ValueError, match=r"\[N,2\]"):
        Grid(2, 2, 1, 4, 8)(torch.rand(1, 3))
