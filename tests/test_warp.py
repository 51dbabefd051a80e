"""Mesh warp, soft polygons, strokes and affine maps: known answers, and the two back ends against each other."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial import Delaunay
from torch import Tensor

from vivavoce.render import warp
from vivavoce.types import InputError

BACKENDS = ["numba", "torch"]


def mesh(height: int, width: int, count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random vertices over a picture, its corners among them, and their triangles."""
    torch.manual_seed(seed)
    limit = torch.tensor([float(width), float(height)])
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]) * limit
    points = torch.cat([corners, torch.rand(count, 2) * limit])
    return points, torch.from_numpy(Delaunay(points.numpy()).simplices).long()


def flat(points: Tensor, depth: float = 0.0) -> Tensor:  # [V,2] -> [1,V,3]
    return torch.cat([points, torch.full_like(points[:, :1], depth)], 1)[None]


def smooth_picture(height: int, width: int) -> Tensor:
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([0.01 * xs, 0.01 * ys, 0.002 * xs + 0.005 * ys])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(40, 40), (33, 57), (1, 7)])
def test_an_unmoved_mesh_gives_the_picture(backend: str, size: tuple[int, int]) -> None:
    points, triangles = mesh(*size)
    picture = torch.rand(3, *size)
    drawn = warp.warp(picture, points, flat(points), triangles, size, backend)
    assert drawn.image.shape == (1, 3, *size) and drawn.alpha.shape == (1, 1, *size)
    assert drawn.alpha.min() == 1
    assert torch.allclose(drawn.image[0], picture, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_known_affine_map(backend: str) -> None:
    """On a linear picture, bilinear reading is exact: pixel p shows the value at A^-1 (p - b)."""
    size = (48, 64)
    points, triangles = mesh(*size)
    matrix, shift = torch.tensor([[1.1, 0.15], [-0.1, 0.9]]), torch.tensor([2.0, 3.0])
    drawn = warp.warp(smooth_picture(*size), points, flat(points @ matrix.T + shift), triangles, size, backend)
    back = torch.linalg.inv(matrix)
    for y, x in ((10, 12), (20, 40), (30, 25)):
        place = back @ (torch.tensor([x + 0.5, y + 0.5]) - shift)
        expected = torch.stack([0.01 * place[0], 0.01 * place[1], 0.002 * place[0] + 0.005 * place[1]])
        assert torch.allclose(drawn.image[0, :, y, x], expected, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearer_triangle_covers(backend: str) -> None:
    square = torch.tensor([[0.0, 0], [8, 0], [0, 8], [8, 8]])
    source = torch.cat([square, square + torch.tensor([8.0, 0])])
    target = torch.cat([flat(square, 2.0), flat(square, 1.0)], 1)
    triangles = torch.tensor([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]])
    picture = torch.cat([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)], 2)
    for order, expected in ((triangles, 1.0), (triangles.flip(0), 1.0)):
        assert warp.warp(picture, source, target, order, (8, 8), backend).image.mean() == pytest.approx(expected)
    behind = target * torch.tensor([1.0, 1, -1])
    assert warp.warp(picture, source, behind, triangles, (8, 8), backend).image.mean() == pytest.approx(0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_degenerate_and_outside_triangles_draw_nothing(backend: str) -> None:
    target = torch.tensor([[[1.0, 1, 0], [1, 1, 0], [5, 5, 0], [100, 100, 0], [120, 100, 0], [100, 130, 0], [float("nan"), 1, 0]]])
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 2, 6]])
    under = torch.full((3, 9, 9), 0.25)
    drawn = warp.warp(torch.ones(3, 9, 9), target[0, :, :2].nan_to_num(), target, triangles, (9, 9), backend, under)
    assert drawn.alpha.sum() == 0 and torch.equal(drawn.image[0], under)


@pytest.mark.parametrize("size", [(64, 64), (51, 83)])
@pytest.mark.parametrize("sliding", [False, True])
def test_back_ends_agree(size: tuple[int, int], sliding: bool) -> None:
    points, triangles = mesh(*size, count=150)
    picture = torch.rand(2, 4, *size) if sliding else torch.rand(4, *size)
    target = torch.cat([points + 4 * torch.randn(2, len(points), 2), 10 * torch.randn(2, len(points), 1)], 2)
    source = points + torch.randn(2, len(points), 2) if sliding else points
    one, two = (warp.warp(picture, source, target, triangles, size, b) for b in BACKENDS)
    assert torch.equal(one.alpha, two.alpha)
    assert ((one.image - two.image).abs() > 1e-3).float().mean() < 1e-3  # equal but for ties of depth
    points = 20 * torch.randn(3, 11, 2) + 30
    lengths = torch.tensor([0.5, 2.0, 9.0])
    assert torch.allclose(*(warp.polygon(points, size, lengths, b) for b in BACKENDS), atol=1e-4)
    assert torch.allclose(*(warp.stroke(points, size, 1.5, b) for b in BACKENDS), atol=1e-4)
    matrix = torch.tensor([[[0.9, 0.2, 3.0], [-0.1, 1.1, -2.0]]])
    assert torch.allclose(*(warp.affine(picture.reshape(-1, *size), matrix, size, b) for b in BACKENDS), atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_polygon_fades_inwards_only(backend: str) -> None:
    square = torch.tensor([[[10.0, 10], [30, 10], [30, 30], [10, 30]]])
    mask = warp.polygon(square, (40, 40), 2.0, backend)[0, 0]
    assert mask[20, 20] == 1 and mask[9, 20] == 0 and mask[:10].sum() == 0
    assert 0 < mask[10, 20] < mask[11, 20] < 1  # half a pixel and one and a half inside
    assert mask[10, 20] == pytest.approx(0.25**2 * (3 - 0.5), abs=1e-4)
    shut = square.clone()
    shut[..., 1] = 20.3
    assert warp.polygon(shut, (40, 40), 2.0, backend).sum() == 0
    assert torch.allclose(warp.polygon(square.flip(1), (40, 40), 2.0, backend)[0, 0], mask)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stroke_is_one_on_its_line(backend: str) -> None:
    line = torch.tensor([[[5.5, 8.5], [20.5, 8.5]]])
    mask = warp.stroke(line, (16, 30), 2.0, backend)[0, 0]
    assert torch.allclose(mask[8, 5:21], torch.ones(16))
    assert mask[10, 12] == pytest.approx(torch.e**-1, abs=1e-5) and mask[8, 28] < 1e-5


def test_the_picture_is_differentiable_in_torch() -> None:
    points, triangles = mesh(12, 12)
    picture = torch.rand(1, 12, 12, requires_grad=True)
    warp.warp(picture, points, flat(points + 1), triangles, (12, 12), "torch").image.sum().backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 50


def test_an_unknown_back_end_is_named() -> None:
    with pytest.raises(InputError, match="auto or one of torch, numba"):
        warp.polygon(torch.zeros(1, 3, 2), (4, 4), backend="cuda")
