"""Layers: the algebra of "over" and what masks keep."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vivavoce.nn.torso import Torso
from vivavoce.render import backdrop
from vivavoce.render.layers import feather, grow, over, premultiply, soften


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[1]), dtype=torch.float64)


def test_over_mixes_by_alpha() -> None:
    top, under = picture(2, 4, 5, 7), picture(2, 3, 5, 7)
    mixed = over(top, under)
    at = (1, 2, 3, 4)
    assert mixed[at] == pytest.approx(top[at] * top[1, 3, 3, 4] + under[at] * (1 - top[1, 3, 3, 4]))
    assert torch.allclose(over(premultiply(top), under, premultiplied=True), mixed)
    clear, opaque = top.clone(), top.clone()
    clear[:, 3], opaque[:, 3] = 0, 1
    assert torch.equal(over(clear, under), under)
    assert torch.allclose(over(opaque, under), top[:, :3])


def test_one_background_serves_all_rows() -> None:
    top, under = picture(3, 4, 4, 4), picture(1, 3, 4, 4)
    assert torch.equal(over(top, under)[2:], over(top[2:], under))


def test_layers_are_differentiable() -> None:
    top, under = picture(1, 4, 2, 3).requires_grad_(), picture(1, 3, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(over, (top, under))
    assert torch.autograd.gradcheck(premultiply, (top,))


def test_channels_are_checked() -> None:
    with pytest.raises(ValueError, match="T,4,H,W"):
        over(picture(1, 3, 2, 2), picture(1, 3, 2, 2))


def test_layers_may_be_joined_before_the_ground_is_known() -> None:
    top, middle, ground = premultiply(picture(2, 4, 6, 6)), premultiply(picture(1, 4, 6, 6)), picture(2, 3, 6, 6)
    joined = over(top, middle, premultiplied=True)
    assert joined.shape == (2, 4, 6, 6)
    apart = over(top, over(middle, ground, premultiplied=True), premultiplied=True)
    assert torch.allclose(over(joined, ground, premultiplied=True), apart)
    with pytest.raises(ValueError, match="premultiplied"):
        over(top, middle)


def test_soften_keeps_flat_masks_and_the_sum() -> None:
    assert torch.allclose(soften(torch.ones(1, 9, 12), 4), torch.ones(1, 9, 12))
    dot = torch.zeros(1, 41, 41, dtype=torch.float64)
    dot[0, 20, 20] = 1
    soft = soften(dot, 6)
    assert soft.sum().item() == pytest.approx(1)
    spread = (soft.sum(1)[0] * (torch.arange(41) - 20.0) ** 2).sum().sqrt().item()
    assert spread == pytest.approx(3, rel=0.05)  # two standard deviations are the radius
    assert torch.equal(soften(dot, 0), dot)


def test_grow_and_shrink_a_square() -> None:
    mask = torch.zeros(1, 30, 30)
    mask[0, 10:20, 12:18] = 1
    assert grow(mask, 3).sum() == 16 * 12
    assert grow(mask, -2).sum() == 6 * 2
    assert torch.equal(grow(grow(mask, 3), -3), mask)


def test_feather_stays_inside_and_rises_to_one() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[0, 12:52, 12:52] = 1
    soft = feather(mask, 8)
    assert (soft[mask == 0] == 0).all()
    assert soft[0, 32, 32] == pytest.approx(1, abs=1e-5)
    profile = soft[0, 32, 12:32]
    assert (profile.diff() >= -1e-6).all() and profile[0] < 0.2


@pytest.mark.parametrize(("bends", "size"), [(True, (37, 70)), (False, (20, 9))])
def test_backdrops_agree_with_the_oracle(bends: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    page, plate, flow = torch.rand(4, 17, 22), torch.rand(3, *size), torch.randn(2, 2, 8, 8) * 0.2
    affine = torch.eye(2, 3).repeat(2, 1, 1) + torch.randn(2, 2, 3) * 0.2  # some places lie beyond the picture
    field = torch.randn(2, 2, 9, 9) * 0.1 if bends else None
    wanted, found = (backdrop.draw(page, plate, flow, affine, field, size, name) for name in ("torch", "numba"))
    assert torch.allclose(found, wanted, atol=2e-5)
    assert torch.equal(found, backdrop.draw(page, plate, flow, affine, field, size))
    again = backdrop.draw(page, plate, flow[1:], affine[1:], field[1:] if field is not None else None, size)
    assert torch.equal(again[0], found[1])  # a row alone
    plate.requires_grad_()
    assert backdrop.draw(page, plate, flow, affine, field, size).requires_grad
    with pytest.raises(ValueError, match="without gradients"):
        backdrop.draw(page, plate, flow, affine, field, size, "numba")


def test_a_torso_that_only_draws_keeps_its_pages_until_they_change() -> None:
    torso, still, code = Torso((16, 20), cells=4), torch.eye(2, 3)[None], torch.zeros(1, 6)
    nn.init.uniform_(torso.picture)
    nn.init.uniform_(torso.plate)

    def check() -> None:
        learned = torso(code, still, (32, 40))[0].detach()
        with torch.no_grad():
            assert torch.allclose(torso(code, still, (32, 40))[0], learned, atol=2e-5)

    check()
    nn.init.uniform_(torso.picture)
    check()
    torso.plate.data = torch.rand(3, 16, 20)
    check()
    with torch.no_grad():
        kept = torso._pages((32, 40))
        assert torso._pages((32, 40)) is kept and torso._pages((16, 20)) is not kept
