"""Losses: known values, independent references, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from vivavoce import losses


def images(count: int = 2, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(count, 3, size, size + 5, generator=generator, dtype=torch.double)
    return a, (a + 0.2 * torch.rand(a.shape, generator=generator, dtype=torch.double)).clamp(0, 1)


def test_l1_and_its_weights() -> None:
    a, b = images()
    assert losses.l1(a, b).item() == pytest.approx(np.abs(a.numpy() - b.numpy()).mean())
    weight = torch.zeros(2, 1, 24, 29, dtype=torch.double)
    assert losses.l1(a, b, weight) == 0
    weight[0, :, 3:7, 5:9] = 2
    assert losses.l1(a, b, weight).item() == pytest.approx((a - b)[0, :, 3:7, 5:9].abs().mean().item())


def test_boxes_cover_their_pixels() -> None:
    region = torch.tensor([[2.0, 3.0, 6.0, 5.0], [-5.0, -5.0, 100.0, 100.0], [1.5, 0.0, 3.0, 2.0]])
    mask = losses.boxes(region, (8, 10))
    assert mask.shape == (3, 1, 8, 10)
    assert mask[0].sum() == 8 and mask[0, 0, 3:5, 2:6].min() == 1
    assert mask[1].min() == 1
    assert mask[2, 0, 0].tolist() == [0, 0.5, 1, 0, 0, 0, 0, 0, 0, 0]
    assert losses.boxes(region[:1], (8, 10), margin=0.25)[0].sum() == 6 * 3


def test_crops_read_the_box() -> None:
    a, _ = images(1)
    region = torch.tensor([[4.0, 6.0, 12.0, 10.0]])
    assert torch.allclose(losses.crops(a, region, (4, 8))[0], a[0, :, 6:10, 4:12])
    a.requires_grad_()
    losses.crops(a, region, (2, 3)).sum().backward()
    assert a.grad is not None and a.grad.sum().item() == pytest.approx(18)


def test_ssim_map_equals_scikit_image() -> None:
    a, b = images()
    for sigma, window, gaussian in ((1.5, 11, True), (0.0, 7, False)):
        got = losses.ssim_map(a, b, window, sigma)
        for row in range(2):
            options = dict(data_range=1.0, channel_axis=0, use_sample_covariance=False, full=True)
            more = dict(gaussian_weights=True, sigma=1.5) if gaussian else dict(win_size=7)
            _, want = structural_similarity(a[row].numpy(), b[row].numpy(), **options, **more)
            pad = window // 2
            assert np.allclose(got[row].numpy(), want[:, pad:-pad, pad:-pad], atol=1e-8)
        assert torch.allclose(losses.ssim_map(a, b, window, sigma, stride=3), got[..., ::3, ::3])


@pytest.mark.parametrize("function", [losses.l1, losses.dssim, losses.edge])
def test_zero_for_equal_more_for_worse_and_differentiable(function: object) -> None:
    assert callable(function)
    a, b = images()
    assert abs(function(a, a).item()) < 1e-12
    assert 0 < function(a, (a + b) / 2) < function(a, b)
    image = a.clone().requires_grad_()
    function(image, b).backward()
    assert image.grad is not None and torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0


def test_edge_sees_contrast_not_level() -> None:
    a, _ = images()
    assert losses.edge(a, a + 0.3).item() == pytest.approx(0, abs=1e-12)


def test_regularisers_of_fields() -> None:
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    assert losses.total_variation(torch.full((2, 4, 4), 3.0)) == 0
    assert losses.total_variation(2 * x + y).item() == pytest.approx(3)
    assert losses.bending(2 * x - 3 * y + 1) == 0
    assert losses.bending(x * x).item() == pytest.approx(4)
