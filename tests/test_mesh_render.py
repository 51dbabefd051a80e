"""What is drawn of a mesh against exact geometry, and how the picture's gradient moves the mesh."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.test_raster import scene
from vivavoce.render import mesh as draw


def sphere(rings: int = 24, radius: float = 1.0) -> tuple[Tensor, Tensor]:  # -> [V,3], [F,3] counter-clockwise from outside
    """A globe of `rings` x 2 `rings` cells."""
    down = torch.linspace(0, math.pi, rings + 1, dtype=torch.float64)[:, None]
    around = torch.arange(2 * rings, dtype=torch.float64) * math.pi / rings
    points = torch.stack([down.sin() * around.cos(), down.cos().expand(-1, 2 * rings), down.sin() * around.sin()], -1)
    i, j = torch.meshgrid(torch.arange(rings), torch.arange(2 * rings), indexing="ij")
    a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
    faces = torch.cat([torch.stack([a, b, a + 2 * rings], -1), torch.stack([b, b + 2 * rings, a + 2 * rings], -1)])
    return points.reshape(-1, 3) * radius, faces.reshape(-1, 3)


def seen_from(points: Tensor, focal: float, size: tuple[int, int], distance: float = 4.0) -> Tensor:  # [V,3] -> [1,V,3]
    """By a camera at -z, looking along z."""
    depth = points[:, 2] + distance
    at = points[:, :2] / depth[:, None] * focal + points.new_tensor([size[1] / 2, size[0] / 2])
    return torch.cat([at, depth[:, None]], 1)[None]


def smooth(target: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:  # -> [B,H,W]
    """The antialiased silhouette."""
    seen = draw.rasterize(target, triangles, size, "torch")
    image = (seen >= 0).to(target)[:, None]
    return draw.antialias(image, target, triangles, draw.links(triangles), seen)[:, 0]


def test_a_sphere_is_a_disc_at_the_right_depth() -> None:
    size, focal = (61, 75), 60.0  # no multiple of 8
    points, faces = sphere(48)
    target = seen_from(points.float(), focal, size)
    seen = draw.rasterize(target, faces, size)
    pixels = draw.covered(target, faces, seen)
    ray = torch.stack([pixels.place % 75 + 0.5 - 37.5, pixels.place // 75 + 0.5 - 30.5, torch.full_like(pixels.share[:, 0], focal)], 1)
    ray = ray / ray.norm(dim=1, keepdim=True)
    half = ray[:, 2] * 4  # of the quadratic: |s ray - (0, 0, 4)| = 1
    inside = half.square() - 15
    assert float((inside < 0).float().mean()) < 0.01
    met = (half - inside.clamp(min=0).sqrt()) * ray[:, 2]
    depth = draw.carry(target[..., 2:], pixels)[:, 0]
    middle = inside > 0.1
    assert float((depth - met)[middle].abs().max()) < 5e-3
    area = math.pi * (focal / math.sqrt(15)) ** 2
    assert abs(len(pixels.row) / area - 1) < 0.02


def test_what_is_nearer_hides() -> None:
    points, faces = sphere(16)
    both = torch.cat([points, points * 0.3 - torch.tensor([0.0, 0, 2])]).float()  # a small one before a large one
    target = seen_from(both, 40, (50, 50))
    seen = draw.rasterize(target, torch.cat([faces, faces + len(points)]), (50, 50))[0]
    radius = 40 * 0.3 / math.sqrt(4 - 0.09)
    line, column = torch.meshgrid(torch.arange(50) + 0.5 - 25, torch.arange(50) + 0.5 - 25, indexing="ij")
    away = torch.hypot(line, column)
    assert bool((seen[away < radius - 1] >= len(faces)).all()) and bool((seen[away > radius + 1] < len(faces)).all())


def test_the_list_holds_what_the_picture_holds() -> None:
    target, triangles = scene()
    seen = draw.rasterize(target, triangles, (40, 50), "torch")
    values = torch.rand(*target.shape[:2], 5)
    dense = draw.interpolate(values, triangles, seen, draw.weights(target, triangles, seen)).permute(0, 3, 1, 2)
    pixels = draw.covered(target, triangles, seen)
    assert torch.allclose(draw.paint(draw.carry(values, pixels), pixels, 2), dense, atol=1e-6)
    assert torch.equal(draw.carry(values[0], pixels)[pixels.row == 0], draw.carry(values, pixels)[pixels.row == 0])


def test_gradients_of_the_list() -> None:
    target = torch.tensor([[[1.0, 1, 2], [13, 2, 3], [4, 12, 2.5]]], dtype=torch.float64).repeat(2, 1, 1)
    target[1] += 0.3
    triangles, values = torch.tensor([[0, 1, 2]]), torch.rand(2, 3, 2, dtype=torch.float64)
    seen = draw.rasterize(target, triangles, (14, 14), "torch")

    def picture(target: Tensor, values: Tensor) -> Tensor:
        return draw.carry(values, draw.covered(target, triangles, seen))

    assert torch.autograd.gradcheck(picture, (target.requires_grad_(), values.requires_grad_()))


def test_slopes_are_what_shares_change_by() -> None:
    target = torch.tensor([[[1.0, 1, 2], [13, 2, 3], [4, 12, 2.5]]], dtype=torch.float64)
    triangles = torch.tensor([[0, 1, 2]])
    seen = draw.rasterize(target, triangles, (14, 14), "torch")
    pixels = draw.covered(target, triangles, seen)
    found, step = draw.slopes(target, pixels), 1e-5
    for axis in range(2):  # the mesh a little to the left is the pixel a little to the right
        moved = target - step * torch.eye(3, dtype=torch.float64)[axis]
        change = (draw.covered(moved, triangles, seen).share - pixels.share) / step
        assert torch.allclose(found[..., axis], change, atol=1e-4)


def test_neighbours_across_edges() -> None:
    triangles = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 1, 4], [3, 1, 5]])  # the last edge is shared by three: a border to each
    found = draw.links(triangles)
    assert found.corner.tolist() == [[3, -1, -1], [-1, -1, 0], [-1, -1, -1], [-1, -1, -1]]
    assert found.triangle.tolist() == [[1, -1, -1], [-1, -1, 0], [-1, -1, -1], [-1, -1, -1]]


def test_an_outline_covers_pixels_in_part() -> None:
    """The sum over the picture is the area, within the pixels that corners lie in."""
    corners = torch.tensor([[3.2, 4.1], [40.7, 9.6], [17.3, 33.4]], dtype=torch.float64)
    target = torch.cat([corners, torch.full((3, 1), 2.0)], 1)[None]
    one, two = corners[1] - corners[0], corners[2] - corners[0]
    area = float(one[0] * two[1] - one[1] * two[0]) / 2
    triangles = torch.tensor([[0, 1, 2]])
    assert abs(float(smooth(target, triangles, (40, 50)).sum()) - area) < 0.6
    points, faces = sphere(20)
    disc = math.pi * (60 / math.sqrt(15)) ** 2
    assert abs(float(smooth(seen_from(points, 60, (50, 50)), faces, (50, 50)).sum()) / disc - 1) < 1e-2


def test_gradients_of_the_outline() -> None:
    """Exact with the visibility held still, and near the change of the area."""
    triangles = torch.tensor([[0, 1, 2]])
    small = torch.tensor([[[1.2, 1.1, 2], [8.7, 2.6, 2], [4.3, 7.4, 2]]], dtype=torch.float64, requires_grad=True)
    seen = draw.rasterize(small, triangles, (9, 10), "torch")
    image = torch.rand(1, 1, 9, 10, dtype=torch.float64, requires_grad=True)

    def picture(target: Tensor, image: Tensor) -> Tensor:
        return draw.antialias(image, target, triangles, draw.links(triangles), seen)

    assert torch.autograd.gradcheck(picture, (small, image))
    target = torch.tensor([[[3.2, 4.1, 2], [40.7, 9.6, 2], [17.3, 33.4, 2]]], dtype=torch.float64, requires_grad=True)
    smooth(target, triangles, (40, 50)).sum().backward()
    x, y = target.detach()[0, :, 0], target.detach()[0, :, 1]
    wanted = torch.stack([y.roll(-1) - y.roll(1), x.roll(1) - x.roll(-1)], 1) / 2  # of the shoelace formula
    assert target.grad is not None
    assert torch.allclose(target.grad[0, :, :2], wanted, atol=0.12 * float(wanted.abs().max()))


def test_the_outline_finds_its_place() -> None:
    """Descent on the silhouette alone moves and scales a sphere onto another; without antialiasing nothing would move."""
    points, faces = sphere(10)
    size = (40, 40)
    wanted = smooth(seen_from(points * 1.2 + torch.tensor([0.25, -0.2, 0]), 34, size), faces, size)
    place = torch.zeros(4, dtype=torch.float64, requires_grad=True)  # x, y, z, log of the size
    optimizer = torch.optim.Adam([place], 0.05)
    for _ in range(40):
        found = smooth(seen_from(points * place[3].exp() + place[:3] * torch.tensor([1.0, 1, 0]), 34, size), faces, size)
        optimizer.zero_grad()
        (found - wanted).square().sum().backward()
        optimizer.step()
    assert torch.allclose(place.detach(), torch.tensor([0.25, -0.2, 0, math.log(1.2)], dtype=torch.float64), atol=0.02)


def test_inner_edges_are_left_alone() -> None:
    """A flat square of two triangles in two colours: only its border is blended."""
    target = torch.tensor([[[2.0, 2, 1], [12, 2, 1], [12, 12, 1], [2, 12, 1]]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    seen = draw.rasterize(target, triangles, (14, 14), "torch")
    image = torch.where(seen == 0, 1.0, 0.5)[:, None]
    out = draw.antialias(image, target, triangles, draw.links(triangles), seen)
    assert torch.equal(out[0, 0, 3:11, 3:11], image[0, 0, 3:11, 3:11])


def test_texture() -> None:
    ramp = torch.arange(16.0)[None, None].expand(1, 8, 16) + 0.5
    u = torch.linspace(0.05, 0.95, 7)
    place = torch.stack([u, torch.full_like(u, 0.5)], 1)
    assert torch.allclose(draw.texture(ramp, place)[:, 0], u * 16, atol=1e-4)
    noise = torch.rand(3, 8, 8)
    wide = torch.full((7, 2, 2), 10.0)  # a pixel sees all of it
    assert torch.allclose(draw.texture(noise, place, wide), noise.mean((1, 2)).expand(7, 3), atol=1e-5)
    change = torch.tensor([[2 / 8, 0.0], [0.0, 0.1]]).expand(7, 2, 2)  # two texels a pixel: the first mean
    half = torch.nn.functional.avg_pool2d(noise[None], 2)[0]
    assert torch.allclose(draw.texture(noise, place, change), draw.texture(half, place), atol=1e-5)
    args = (torch.rand(2, 4, 4, dtype=torch.float64).requires_grad_(), (place.double()[:5] + 0.013).requires_grad_())
    assert torch.autograd.gradcheck(lambda t, p: draw.texture(t, p, change[:5].double() * 1.3), args)


def drawn(backend: str, device: str, target: Tensor, faces: Tensor, values: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Shares, the antialiased picture of carried values, and the gradients of a sum over it in places and values."""
    seen = draw.rasterize(target, faces, size, "torch").to(device)  # of one device: a centre on an edge may go to either side
    target, values, faces = (part.clone().to(device) for part in (target, values, faces))
    for part in (target, values):
        part.requires_grad_()
    pixels = draw.covered(target, faces, seen, backend)
    image = draw.paint(draw.carry(values, pixels, backend), pixels, len(target))
    smooth = draw.antialias(image, target, faces, draw.links(faces), seen, backend)
    weight = torch.rand(smooth.shape, generator=torch.Generator().manual_seed(1)).to(device)
    pulled = torch.autograd.grad((smooth * weight).sum(), (target, values))
    return [part.detach().cpu() for part in (pixels.share, smooth, *pulled)]


@pytest.mark.parametrize(
    ("backend", "device"), [pytest.param("numba", "cpu", id="numba"), pytest.param("triton", "cuda", id="triton", marks=pytest.mark.gpu)]
)
def test_kernels_agree_with_plain_torch(backend: str, device: str) -> None:
    """A small globe before a large one, and triangles of all sizes that hang on nothing."""
    pytest.importorskip(backend)
    points, faces = sphere(16)
    both = torch.cat([points, points * 0.4 - torch.tensor([0.3, 0.2, 2.0])]).float()
    globes = torch.cat([seen_from(both, 60, (61, 75)), seen_from(both * 0.8, 60, (61, 75))])
    for target, triangles, size in ((globes, torch.cat([faces, faces + len(points)]), (61, 75)), (*scene(), (40, 50))):
        values = torch.rand(*target.shape[:2], 5, generator=torch.Generator().manual_seed(0))
        plain = drawn("torch", "cpu", target, triangles, values, size)
        fast = drawn(backend, device, target, triangles, values, size)
        pixels = draw.covered(target, triangles, draw.rasterize(target, triangles, size, "torch"))
        assert float((plain[1] - draw.paint(draw.carry(values, pixels), pixels, 2)).detach().abs().sum()) > 10  # there are outlines
        for wanted, found in zip(plain, fast, strict=True):
            gap = (found - wanted).abs()
            other = gap > 1e-3 * wanted.abs().max()  # an outline through the middle between two pixels may go to either on a GPU
            assert float(other.float().mean()) < (4e-3 if device == "cuda" else 1e-9)
            assert float(gap[~other].mean()) < 5e-4 * float(wanted.abs().mean())


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(40, 50), (61, 75), (512, 512)])
def test_triton_agrees(size: tuple[int, int]) -> None:
    points, faces = sphere(40)
    target = torch.cat([seen_from(points.float(), 1.4 * size[0], size), seen_from(points.float() * 0.7, 1.4 * size[0], size)]).cuda()
    seen = draw.rasterize(target, faces.cuda(), size, "triton").cpu()
    wanted = draw.rasterize(target.cpu(), faces, size, "torch")
    assert float((seen != wanted).float().mean()) < 5e-3  # a pixel centre on an edge may go to either side; small triangles have many
    assert float(((seen >= 0) != (wanted >= 0)).float().mean()) < 5e-4
    pictures, corners = scene()
    there = draw.rasterize(pictures.cuda(), corners.cuda(), (40, 50), "triton").cpu()
    assert float((there != draw.rasterize(pictures, corners, (40, 50), "torch")).float().mean()) < 1e-3
