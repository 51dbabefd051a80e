"""Splats: the oracle against what is known by hand, the back ends against the oracle."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivavoce.render import splats
from vivavoce.render.splats import Splatted, render
from vivavoce.types import Camera, InputError

ROOT = Path(__file__).parents[1]


def camera(size: tuple[int, int], rows: int = 1, dtype: torch.dtype = torch.float64, focal: float = 1.5) -> Camera:
    """Rows of cameras about 0.4 in front of the origin, turned a little, the middle of the picture moved off centre."""
    poses = []
    for row in range(rows):
        turn = torch.tensor(0.2 + 0.1 * row)
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 0] = pose[2, 2] = turn.cos()
        pose[0, 2], pose[2, 0] = turn.sin(), -turn.sin()
        pose[:3, 3] = pose[:3, :3] @ torch.tensor([0.01, -0.02, -0.4], dtype=torch.float64)
        poses.append(pose)
    height, width = size
    focals = torch.tensor([[focal * width, 0.95 * focal * width]]).expand(rows, 2)
    centers = torch.tensor([[width / 2 + 2.0, height / 2 - 3.0]]).expand(rows, 2)
    return Camera(torch.stack(poses), focals, centers).to(dtype)


def shell(count: int, channels: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Anisotropic splats on a head-sized shell: means, quaternions, scales, opacities, colours as leaves."""
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    side = torch.nn.functional.normalize(make(count, 3), dim=-1)
    means = side * torch.tensor([0.075, 0.1, 0.085], dtype=torch.float64)
    scales = 0.12 * (9.4 / max(count, 1)) ** 0.5 * torch.exp(0.4 * make(count, 3))
    parts = [means, make(count, 4), scales, torch.sigmoid(1 + make(count)), torch.rand(count, channels, generator=g, dtype=torch.float64)]
    return [part.to(dtype).requires_grad_() for part in parts]


def outputs(drawn: Splatted) -> list[Tensor]:
    return [drawn.image, drawn.alpha, drawn.depth]


def pulled(drawn: Splatted, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of a fixed linear loss in the leaves, and what densification reads."""
    g = torch.Generator().manual_seed(7)
    loss = sum((torch.randn(part.shape, generator=g, dtype=torch.float64).to(part) * part).sum() for part in outputs(drawn))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    assert drawn.means2d.grad is not None
    grads = [leaf.grad for leaf in leaves]
    assert all(grad is not None for grad in grads)
    return [*(grad for grad in grads if grad is not None), drawn.means2d.grad]


def close(found: list[Tensor], wanted: list[Tensor], most: float, strays: float = 0.0) -> None:
    """Equal to `most` of the largest entry. `strays`: share of entries that may differ by the height of a switch (1/255 of alpha):
    of millions of splat-pixel pairs some lie so near it that float32 and float64 take different sides."""
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        if a.numel():
            off = (a.double() - b.double()).abs() / b.double().abs().max().clamp(min=1e-6)
            assert (off > most).double().mean() <= strays and off.max() <= max(most, bool(strays) * 1e-2), f"part {number}: {off.max()}"


def front(size: tuple[int, int], focal: float = 100.0) -> Camera:
    """At the origin, looking along z."""
    return Camera(torch.eye(4)[None].double(), torch.tensor([[focal, focal]]).double(), torch.tensor([[size[1] / 2, size[0] / 2]]).double())


def ball(place: tuple[float, float, float], radius: float, opacity: float, colour: tuple[float, ...]) -> list[Tensor]:
    rows = ([place], [[1.0, 0, 0, 0]], [[radius] * 3], [opacity], [colour])
    return [torch.tensor(part, dtype=torch.float64) for part in rows]


def stacked(*balls: list[Tensor]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*balls, strict=True)]


def test_one_round_splat_is_the_gaussian_of_the_formula() -> None:
    size = (31, 40)
    drawn = render(*ball((0.0, 0.0, 2.0), 0.05, 0.8, (0.2, 0.5, 1.0)), front(size), size, backend="torch")
    variance = (100 * 0.05 / 2) ** 2 + 0.3  # px^2: projected, and the low-pass filter
    y, x = torch.meshgrid(torch.arange(31) + 0.5 - 15.5, torch.arange(40) + 0.5 - 20.0, indexing="ij")
    alpha = 0.8 * torch.exp(-(x.double() ** 2 + y.double() ** 2) / (2 * variance))
    alpha[alpha < 1 / 255] = 0
    assert torch.allclose(drawn.alpha, alpha, atol=1e-12)
    assert torch.allclose(drawn.image, alpha * torch.tensor([0.2, 0.5, 1.0]).double()[:, None, None], atol=1e-7)
    assert torch.allclose(drawn.depth, 2 * alpha, atol=1e-12)
    assert drawn.radii[0] == pytest.approx(math.sqrt(2 * math.log(255 * 0.8) * variance))


def test_a_turned_flat_splat_is_thin_across_its_short_axis() -> None:
    size = (64, 64)
    half = math.radians(45) / 2  # about z: the long axis from x towards y
    parts = ball((0.0, 0.0, 2.0), 0.2, 0.9, (1.0,))
    parts[1] = torch.tensor([[math.cos(half), 0, 0, math.sin(half)]]).double() * 3  # its length does not matter
    parts[2] = torch.tensor([[0.2, 0.02, 0.02]]).double()
    alpha = render(*parts, front(size), size, backend="torch").alpha
    assert alpha[40, 40] > 0.3 > alpha[40, 24]


def test_a_sphere_of_splats_is_a_disc() -> None:
    size, count = (96, 96), 3000
    i = torch.arange(count).double() + 0.5
    polar, around = torch.acos(1 - 2 * i / count), math.pi * (1 + 5**0.5) * i
    side = torch.stack((torch.sin(polar) * torch.cos(around), torch.sin(polar) * torch.sin(around), torch.cos(polar)), -1)
    means, still = side * 0.5 + torch.tensor([0, 0, 3.0]).double(), torch.eye(4).double()[:1].expand(count, 4)
    drawn = render(
        means,
        still,
        torch.full((count, 3), 0.02).double(),
        torch.full((count,), 0.95).double(),
        torch.ones(count, 2).double(),
        front(size, 180.0),
        size,
        backend="torch",
    )
    y, x = torch.meshgrid(torch.arange(96) + 0.5 - 48, torch.arange(96) + 0.5 - 48, indexing="ij")
    distance, limb = (x**2 + y**2).sqrt(), 180 * 0.5 / math.sqrt(3**2 - 0.5**2)  # px: where rays graze the sphere
    assert drawn.alpha[distance < limb - 3].min() > 0.98
    assert drawn.alpha[distance > limb + 6].max() == 0
    nearest = (drawn.depth / drawn.alpha)[48, 48].item()
    assert nearest == pytest.approx(2.5, abs=0.02)  # the near side hides the far one


def test_the_nearer_splat_is_in_front_whatever_the_order() -> None:
    size = (21, 21)
    red, blue = ball((0, 0, 2.0), 0.1, 0.9, (1.0, 0, 0)), ball((0, 0, 3.0), 0.15, 0.9, (0, 0, 1.0))
    one, other = (render(*stacked(*pair), front(size), size, backend="torch") for pair in ((red, blue), (blue, red)))
    assert torch.equal(one.image, other.image)
    middle = one.image[:, 10, 10]
    assert middle[0] == pytest.approx(0.9, abs=0.01) and middle[2] == pytest.approx(0.09, abs=0.01)


def test_alpha_stops_at_its_maximum_and_transmittance_at_the_stop() -> None:
    size = (9, 9)
    wall = [ball((0, 0, 2.0 + 0.1 * i), 5.0, 1.0, (1.0,)) for i in range(5)]
    drawn = render(*stacked(*wall), front(size), size, backend="torch")
    assert 1 - drawn.alpha[4, 4].item() == pytest.approx(1e-6, rel=1e-6)  # 0.01^3: two leave exactly 1e-4, which is not below it
    drawn = render(*stacked(wall[0]), front(size), size, backend="torch")
    assert drawn.alpha[4, 4].item() == pytest.approx(0.99)


def test_the_oracle_does_not_depend_on_its_tiles() -> None:
    size = (50, 37)
    parts = [part.detach()[None] for part in shell(80)]
    view = torch.linalg.inv(camera(size).pose)
    flat = splats.torch.project(*parts[:4], view, camera(size).focal, camera(size).center, size)  # type: ignore[attr-defined]
    whole, tiled = (splats.torch.composite(flat, parts[3], parts[4], size, tile=tile) for tile in (64, 7))  # type: ignore[attr-defined]
    assert torch.allclose(whole[0], tiled[0], atol=1e-14) and torch.allclose(whole[1], tiled[1], atol=1e-14)


def smooth() -> list[Tensor]:
    """Few large splats whose alpha stays between the switches on every pixel of a small picture."""
    g = torch.Generator().manual_seed(3)
    means = 0.05 * torch.randn(4, 3, generator=g, dtype=torch.float64)
    scales = 0.15 + 0.1 * torch.rand(4, 3, generator=g, dtype=torch.float64)
    opacities = 0.3 + 0.3 * torch.rand(4, generator=g, dtype=torch.float64)
    turns, colours = torch.randn(4, 4, generator=g, dtype=torch.float64), torch.rand(4, 4, generator=g, dtype=torch.float64)
    parts = [means, turns, scales, opacities, colours]
    return [part.requires_grad_() for part in parts]


def test_the_oracles_gradients_are_those_of_finite_differences() -> None:
    size = (7, 9)
    drawn = render(*smooth(), camera(size), size, backend="torch")
    assert 0.01 < drawn.alpha.min() < drawn.alpha.max() < 0.99
    assert torch.autograd.gradcheck(lambda *parts: tuple(outputs(render(*parts, camera(size), size, backend="torch"))), smooth(), atol=1e-6)


@pytest.mark.parametrize(("count", "size", "channels"), [(1, (16, 16), 3), (150, (61, 83), 3), (400, (48, 33), 1), (60, (17, 130), 7)])
def test_numba_agrees_with_the_oracle(count: int, size: tuple[int, int], channels: int) -> None:
    wanted_parts, parts = shell(count, channels), shell(count, channels, torch.float32)
    wanted = render(*wanted_parts, camera(size), size, backend="torch")
    found = render(*parts, camera(size, dtype=torch.float32), size, backend="numba")
    close([*outputs(found), found.radii], [*outputs(wanted), wanted.radii], 2e-5)
    close(pulled(found, parts), pulled(wanted, wanted_parts), 2e-5)


def test_numba_keeps_the_clamp_of_directions_far_outside_the_picture() -> None:
    """A large splat beside the picture reaches into it; its Jacobian is taken at the guard band's edge."""
    size = (40, 40)
    parts = ball((0.9, 0.1, 1.0), 0.3, 0.9, (1.0, 0.5))
    parts[2] = torch.tensor([[0.3, 0.2, 0.25]]).double()
    mine = [part.float().requires_grad_() for part in parts]
    parts = [part.requires_grad_() for part in parts]
    wanted = render(*parts, front(size, 40.0), size, backend="torch")
    assert wanted.alpha.max() > 0.1
    found = render(*mine, front(size, 40.0).to(torch.float32), size, backend="numba")
    close(outputs(found), outputs(wanted), 2e-5)
    close(pulled(found, mine), pulled(wanted, parts), 5e-5)


def test_numba_gives_the_same_gradient_every_time() -> None:
    def once() -> list[Tensor]:
        parts = shell(200, dtype=torch.float32)
        return pulled(render(*parts, camera((60, 60), dtype=torch.float32), (60, 60), backend="numba"), parts)

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_batch_is_its_rows(backend: str) -> None:
    size, dtype = (40, 50), torch.float32
    views = camera(size, 3, dtype)
    rows = [shell(40, dtype=dtype, seed=seed) for seed in range(3)]
    batch = [torch.stack(parts).detach().requires_grad_() for parts in zip(*rows, strict=True)]
    together = render(*batch, views, size, backend=backend)
    assert together.image.shape == (3, 3, 40, 50) and together.alpha.shape == (3, 40, 50) and together.radii.shape == (3, 40)
    apart = [render(*row, views[t : t + 1], size, backend=backend) for t, row in enumerate(rows)]
    for t, one in enumerate(apart):
        close([part[t] for part in outputs(together)], outputs(one), 1e-6)
    torch.stack([part.square().sum() for part in outputs(together)]).sum().backward()  # type: ignore[no-untyped-call]
    torch.stack([part.square().sum() for one in apart for part in outputs(one)]).sum().backward()  # type: ignore[no-untyped-call]
    for part, alone in zip(batch, zip(*rows, strict=True), strict=True):
        close([part.grad], [torch.stack([leaf.grad for leaf in alone])], 1e-5)  # type: ignore[list-item, misc]


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_without_depth_the_picture_is_the_same(backend: str) -> None:
    parts = shell(20, dtype=torch.float32)
    deep, flat = (render(*parts, camera((19, 35), 2, torch.float32), (19, 35), backend=backend, deep=wanted) for wanted in (True, False))
    assert torch.allclose(flat.image, deep.image, atol=1e-6) and torch.equal(flat.alpha, deep.alpha)
    assert flat.depth.numel() == 0 and deep.depth.shape == deep.alpha.shape


def test_one_set_of_splats_serves_several_cameras() -> None:
    size = (30, 30)
    parts = shell(30, dtype=torch.float32)
    views = camera(size, 2, torch.float32)
    both = render(*parts, views, size)
    assert both.image.shape == (2, 3, 30, 30)
    close([both.image[1]], [render(*parts, views[1:], size).image], 1e-6)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_nothing_to_draw_is_an_empty_picture_with_gradients_of_zero(backend: str) -> None:
    size = (20, 24)
    behind = shell(10, dtype=torch.float32)
    away = camera(size, dtype=torch.float32)
    away.pose[:, :3, :3] = away.pose[:, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # looks the other way
    for parts, view in ((behind, away), (shell(0, dtype=torch.float32), camera(size, dtype=torch.float32))):
        drawn = render(*parts, view, size, backend=backend)
        assert all((part == 0).all() for part in outputs(drawn)) and (drawn.radii == 0).all()
        assert drawn.image.shape == (3, 20, 24)
        assert all((grad == 0).all() for grad in pulled(drawn, parts))


def test_threads_may_draw_at_once() -> None:
    size = (64, 64)
    parts = [part.detach() for part in shell(100, dtype=torch.float32)]
    view = camera(size, dtype=torch.float32)
    wanted = render(*parts, view, size, backend="numba").image
    found: list[Tensor] = []

    def draw() -> None:
        found.extend(render(*parts, view, size, backend="numba").image for _ in range(5))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(torch.equal(image, wanted) for image in found)


def test_the_choice_of_back_end() -> None:
    assert splats.choose(torch.device("cpu")) == "numba"
    assert splats.choose(torch.device("cpu"), torch.float64) == "torch"
    with pytest.raises(InputError, match="use auto or one of"):
        render(*shell(3), camera((8, 8)), (8, 8), backend="opengl")
    with pytest.raises(TypeError, match="float32"):
        render(*shell(3), camera((8, 8)), (8, 8), backend="numba")
    with pytest.raises(ValueError, match="scales has shape"):
        parts = shell(3)
        render(parts[0], parts[1], parts[2][0], parts[3], parts[4], camera((8, 8)), (8, 8))


TRITON = """
import torch, test_splats as t
from vivavoce.render.splats import bounded, render
for count, size, channels, rows in ((0, (8, 8), 3, 1), (8, (7, 6), 1, 1), (12, (19, 35), 5, 2)):
    parts, wanted_parts = t.shell(count, channels, torch.float32), t.shell(count, channels)
    wanted = render(*wanted_parts, t.camera(size, rows), size, backend="torch")
    found = render(*parts, t.camera(size, rows, torch.float32), size, backend="triton")
    t.close([*t.outputs(found), found.radii], [*t.outputs(wanted), wanted.radii], 2e-5)
    t.close(t.pulled(found, parts), t.pulled(wanted, wanted_parts), 2e-5)
    with bounded() as counted:
        render(*parts, t.camera(size, rows, torch.float32), size, backend="triton")
    pairs = int(counted.taken[0])
    with bounded((pairs + 37, max(pairs // 2, 1))) as room:
        roomy, full = (render(*parts, t.camera(size, rows, torch.float32), size, backend="triton") for _ in range(2))
    assert torch.equal(roomy.image, found.image) and torch.equal(roomy.alpha, found.alpha)
    assert [int(n) for n in room.taken] == [pairs, pairs] and (pairs < 2 or not torch.equal(full.image, found.image))
print("agrees")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed (it comes with CUDA builds of torch)")
def test_tritons_kernels_agree_with_the_oracle_in_its_interpreter() -> None:
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    result = subprocess.run(
        [sys.executable, "-c", TRITON], env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.stdout.strip() == "agrees", result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("count", "size", "channels", "rows"),
    [
        (0, (32, 32), 3, 1),
        (1, (16, 16), 3, 1),
        (50, (8, 5), 1, 1),
        (300, (61, 83), 6, 1),
        (2000, (100, 77), 3, 2),
        (3000, (1030, 1025), 3, 2),
    ],
)
def test_triton_agrees_with_the_oracle(count: int, size: tuple[int, int], channels: int, rows: int) -> None:
    wanted_parts = [part.detach().cuda().requires_grad_() for part in shell(count, channels)]
    parts = [part.detach().float().requires_grad_() for part in wanted_parts]
    wanted = render(*wanted_parts, camera(size, rows).to("cuda"), size, backend="torch")
    found = render(*parts, camera(size, rows, torch.float32).to("cuda"), size, backend="triton")
    near = 1e-3 if count > 2000 else 0.0
    close([*outputs(found), found.radii], [*outputs(wanted), wanted.radii], 5e-5, near)
    close(pulled(found, parts), pulled(wanted, wanted_parts), 5e-5, 10 * near)


@pytest.mark.gpu
def test_triton_draws_more_tiles_than_16_bits_count() -> None:
    size = (1030, 1025)  # 129 x 129 tiles, twice
    views = camera(size, 2, torch.float32)
    parts, other = ([part.detach().cuda().requires_grad_() for part in shell(3000, dtype=torch.float32)] for _ in range(2))
    together = render(*parts, views, size, backend="triton")
    apart = [render(*other, views[t : t + 1], size, backend="triton") for t in range(2)]
    for t, one in enumerate(apart):
        close([part[t] for part in outputs(together)], outputs(one), 1e-6)
    torch.stack([part.square().sum() for part in outputs(together)]).sum().backward()  # type: ignore[no-untyped-call]
    torch.stack([part.square().sum() for one in apart for part in outputs(one)]).sum().backward()  # type: ignore[no-untyped-call]
    close([part.grad for part in parts], [part.grad for part in other], 1e-4)  # type: ignore[misc]


@pytest.mark.gpu
def test_triton_takes_splats_of_their_own_for_every_image_and_cameras_on_the_host() -> None:
    size = (60, 45)
    parts = [torch.stack(pair).detach().cuda().requires_grad_() for pair in zip(shell(200), shell(200, seed=1), strict=True)]
    mine = [part.detach().float().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for part in parts]
    wanted = render(*parts, camera(size, 2), size, backend="torch")
    found = render(*mine, camera(size, 2, torch.float32), size, backend="triton")
    close([*outputs(found), found.radii], [*outputs(wanted), wanted.radii], 5e-5)
    close(pulled(found, mine), pulled(wanted, parts), 5e-5)
    with torch.no_grad():
        close(outputs(render(*mine, camera(size, 2, torch.float32), size, backend="triton")), outputs(found), 1e-6)


@pytest.mark.gpu
def test_triton_passes_on_a_gradient_in_the_places_and_draws_nothing_behind() -> None:
    size = (40, 40)
    turned = camera(size, dtype=torch.float32)
    turned.pose[:, :3, :3] = turned.pose[:, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    parts = [part.detach().cuda().requires_grad_() for part in shell(50, dtype=torch.float32)]
    empty = render(*parts, turned, size, backend="triton")
    assert all((part == 0).all() for part in outputs(empty))
    assert all((grad == 0).all() for grad in pulled(empty, parts))
    places = []
    for backend in ("torch", "triton"):
        leaves = [part.detach().requires_grad_() for part in parts]
        drawn = render(*leaves, camera(size, dtype=torch.float32), size, backend=backend)
        (drawn.means2d.sin().sum() + drawn.image.sum()).backward()  # type: ignore[no-untyped-call]
        assert drawn.means2d.grad is not None and leaves[0].grad is not None
        places.append([drawn.means2d.grad, leaves[0].grad])
    close(places[1], places[0], 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")
def test_gsplat_agrees_with_the_oracle_but_for_its_own_switches() -> None:
    size = (100, 77)
    wanted_parts = [part.detach().cuda().requires_grad_() for part in shell(500)]
    parts = [part.detach().float().requires_grad_() for part in wanted_parts]
    wanted = render(*wanted_parts, camera(size, 2), size, backend="torch")
    found = render(*parts, camera(size, 2, torch.float32), size, backend="gsplat")
    close(outputs(found), outputs(wanted), 1e-2)
    close(pulled(found, parts), pulled(wanted, wanted_parts), 5e-2)
