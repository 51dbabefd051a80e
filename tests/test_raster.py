"""The mesh rasteriser: two back ends that agree, and values that are what geometry says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vivavoce.render import mesh as draw
from vivavoce.types import InputError


def scene(rows: int = 2, count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:  # -> [B,V,3], [F,3]
    """Triangles of all sizes, some outside the picture, some behind the camera, some of no area."""
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(rows, 3 * count, 3, generator=g) * torch.tensor([70.0, 50.0, 3.0]) - torch.tensor([10.0, 5.0, 0.2])
    triangles = torch.arange(3 * count).reshape(-1, 3)
    near = torch.cat([triangles[:, 0], triangles[:, 0]])
    target[:, triangles[1::2, 1]] = target[:, triangles[1::2, 0]] + 2 * torch.rand(rows, count // 2, 3, generator=g)
    target[:, triangles[1::2, 2]] = target[:, triangles[1::2, 0]] - 2 * torch.rand(rows, count // 2, 3, generator=g)
    return target, torch.cat([triangles, near[:3][None]])


def test_back_ends_agree() -> None:
    pytest.importorskip("numba")
    target, triangles = scene()
    plain, fast = (draw.rasterize(target, triangles, (40, 50), b) for b in ("torch", "numba"))
    assert float((plain >= 0).float().mean()) > 0.3
    assert float((plain != fast).float().mean()) < 1e-3  # a pixel on an edge may fall to either side


@pytest.mark.gpu
def test_device_agrees() -> None:
    target, triangles = scene()
    there = draw.rasterize(target.cuda(), triangles.cuda(), (40, 50)).cpu()
    assert float((there != draw.rasterize(target, triangles, (40, 50), "torch")).float().mean()) < 1e-3


def test_nearest_wins_and_first_of_equals() -> None:
    square = torch.tensor([[0.0, 0, 2], [8, 0, 2], [0, 8, 2], [0, 0, 1], [4, 0, 1], [0, 4, 1]])[None]
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 1, 2]])
    seen = draw.rasterize(square, triangles, (8, 8), "torch")[0]
    assert seen[0, 0] == 1 and seen[0, 5] == 0 and seen[7, 7] == -1
    behind = square * torch.tensor([1.0, 1.0, -1.0])
    assert bool((draw.rasterize(behind, triangles, (8, 8), "torch") == -1).all())


def test_values_are_perspective_correct() -> None:
    """A plane through space: what is interpolated at a pixel is the place where its ray meets the plane."""
    corners = torch.tensor([[-1.0, -1.0, 2.0], [1.5, -1.0, 4.0], [0.0, 1.5, 3.0]])
    focal, middle = 20.0, 16.0
    target = torch.cat([corners[:, :2] / corners[:, 2:] * focal + middle, corners[:, 2:]], 1)[None]
    triangles = torch.tensor([[0, 1, 2]])
    seen = draw.rasterize(target, triangles, (32, 32), "torch")
    share = draw.weights(target, triangles, seen)
    place = draw.interpolate(corners[None], triangles, seen, share)[0]
    there = seen[0] >= 0
    assert int(there.sum()) > 50
    line, column = there.nonzero().T
    ray = torch.stack([column + 0.5 - middle, line + 0.5 - middle, torch.full_like(line, focal, dtype=torch.float32)], 1)
    normal = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    met = ray * ((corners[0] @ normal) / (ray @ normal))[:, None]
    assert torch.allclose(place[there], met, atol=1e-4)
    assert torch.allclose(share.sum(-1), there[None].float(), atol=1e-5)


def test_gradients() -> None:
    """Of values and, through the shares, of places: against finite differences."""
    target = torch.tensor([[[1.0, 1, 2], [13, 2, 3], [4, 12, 2.5]]], dtype=torch.float64)
    triangles, values = torch.tensor([[0, 1, 2]]), torch.rand(1, 3, 2, dtype=torch.float64)
    seen = draw.rasterize(target, triangles, (14, 14), "torch")

    def picture(target: Tensor, values: Tensor) -> Tensor:
        return draw.interpolate(values, triangles, seen, draw.weights(target, triangles, seen))

    assert torch.autograd.gradcheck(picture, (target.requires_grad_(), values.requires_grad_()))


def test_hidden_vertices() -> None:
    front = torch.tensor([[2.0, 2, 1], [12, 2, 1], [2, 12, 1]])
    back = torch.tensor([[3.5, 3.5, 2], [14.5, 14.5, 2], [-3, 5, 2]])  # hidden, beside it, outside the picture
    target, triangles = torch.cat([front, back])[None], torch.tensor([[0, 1, 2], [3, 4, 5]])
    found = draw.visible(target, triangles, (16, 16), 0.1, "torch")[0]
    assert found.tolist() == [True, True, True, False, True, False]
    assert bool(draw.visible(target, triangles, (16, 16), 1.5, "torch")[0, 3])


def test_unknown_back_end_is_told() -> None:
    with pytest.raises(InputError, match="brush: is not known"):
        draw.rasterize(*scene(), (4, 4), "brush")
