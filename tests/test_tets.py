"""The grid of tetrahedra and the surface in it, against solids whose volume and surface are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vivavoce.nn import tets
from vivavoce.render.mesh import links


def made(resolution: int = 20) -> tuple[Tensor, Tensor]:
    return tets.grid(torch.tensor([-1.0, -1.2, -0.8]), torch.tensor([1.0, 1.2, 0.8]), resolution)


def volume(points: Tensor, faces: Tensor) -> float:
    a, b, c = points[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def test_the_grid_fills_its_box_with_tetrahedra_that_are_all_alike() -> None:
    points, corners = made(12)
    p = points[corners].double()
    size = torch.linalg.det(p[:, 1:] - p[:, :1]).abs() / 6
    assert torch.allclose(size, size[:1].expand_as(size), rtol=1e-4)
    sides = torch.stack([(p[:, i] - p[:, j]).norm(dim=1) for i in range(4) for j in range(i)], 1).sort(1).values
    assert torch.allclose(sides, sides[:1].expand_as(sides), atol=1e-5) and float(sides[0, -1] / sides[0, 0]) < 1.16
    assert float(size.sum()) > 2 * 2.4 * 1.6
    inner = (points.abs() < torch.tensor([1.0, 1.2, 0.8])).all(1)
    assert set(inner.nonzero()[:, 0].tolist()) <= set(corners.flatten().tolist())


def test_a_sphere_is_closed_round_and_faces_outward() -> None:
    points, corners = made()
    distance = points.norm(dim=1) - 0.7
    surface = tets.march(points, distance, corners)
    at = tets.place(points, tets.share(distance, surface.edges), surface.edges)
    assert float((at.norm(dim=1) - 0.7).abs().max()) < 5e-3
    assert abs(volume(at, surface.faces) / (4 / 3 * math.pi * 0.343) - 1) < 0.02
    assert bool((links(surface.faces).triangle >= 0).all())  # every edge has two triangles: no hole
    count = len(surface.edges) - 3 * len(surface.faces) // 2 + len(surface.faces)
    assert count == 2  # Euler's number of a sphere
    assert bool((distance[surface.edges[:, 0]] < 0).all() and (distance[surface.edges[:, 1]] >= 0).all())


def test_cells_are_narrower_where_more_is_wanted() -> None:
    low, high = torch.tensor([-1.0, -1.2, -0.8]), torch.tensor([1.0, 1.2, 0.8])
    even, corners = made(20)
    points, same = tets.grid(low, high, 20, torch.tensor([0.3, -0.4, 0.5]), 0.3, 3.0)
    assert torch.equal(corners, same) and torch.allclose(points.amin(0), even.amin(0)) and torch.allclose(points.amax(0), even.amax(0))
    size = torch.linalg.det(points[same][:, 1:] - points[same][:, :1])
    assert bool((size.sign() == torch.linalg.det(even[corners][:, 1:] - even[corners][:, :1]).sign()).all())  # none is turned inside out
    near = (points[same].mean(1) - torch.tensor([0.3, -0.4, 0.5])).norm(dim=1)
    assert float(size[near < 0.2].abs().mean()) < 0.15 * float(size[near > 1.2].abs().mean())
    distance = points.norm(dim=1) - 0.7
    surface = tets.march(points, distance, same)
    at = tets.place(points, tets.share(distance, surface.edges), surface.edges)
    assert abs(volume(at, surface.faces) / (4 / 3 * math.pi * 0.343) - 1) < 0.03


def test_a_ring_has_its_hole_and_a_crumb_is_dropped() -> None:
    points, corners = made(24)
    around = (points[:, :2].norm(dim=1) - 0.6).square() + points[:, 2].square()
    distance = torch.minimum(around.sqrt() - 0.25, (points - torch.tensor([0.9, 1.1, 0.6])).norm(dim=1) - 0.12)
    whole = tets.march(points, distance, corners)
    ring = tets.largest(whole)
    assert len(ring.edges) < len(whole.edges)
    assert len(ring.edges) - 3 * len(ring.faces) // 2 + len(ring.faces) == 0
    part, used = tets.narrow(ring)
    both = (tets.place(p, tets.share(d, s.edges), s.edges) for p, d, s in ((points, distance, ring), (points[used], distance[used], part)))
    assert torch.equal(*both)


def test_the_surface_follows_the_distance_and_the_grid() -> None:
    """Its gradient, and vertices that move with the grid's while the triangles stay."""
    points, corners = made(8)
    points = points.double()
    distance = (points.norm(dim=1) - 0.7).requires_grad_()
    surface = tets.march(points, distance, corners)
    at = tets.place(points, tets.share(distance, surface.edges), surface.edges)
    assert torch.autograd.gradcheck(lambda d: tets.place(points, tets.share(d, surface.edges), surface.edges), (distance,))
    (slope,) = torch.autograd.grad(at.norm(dim=1).mean(), distance)
    assert float(slope.sum()) < -0.5  # a larger distance is a smaller solid
    moved = tets.place(points + torch.tensor([0.1, 0, 0]), tets.share(distance, surface.edges), surface.edges)
    assert torch.allclose(moved, at + torch.tensor([0.1, 0, 0]).double())


def test_laplacian_is_zero_on_a_flat_sheet() -> None:
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    number = torch.arange(25).reshape(5, 5)
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    flat = torch.stack([x, y, 2 * x - y], -1).reshape(1, 25, 3)
    middle = number[1:-1, 1:-1].flatten()
    assert torch.allclose(tets.laplacian(flat, faces)[:, middle], torch.zeros(1, 9, 3), atol=1e-5)
    peak = flat.clone()
    peak[0, 12, 2] += 1
    assert torch.allclose(tets.laplacian(peak, faces)[0, 12], torch.tensor([0.0, 0, -1]), atol=1e-5)
