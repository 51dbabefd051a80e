"""Metrics against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vivavoce.metrics.lmd import EYES, lmd
from vivavoce.metrics.psnr import psnr
from vivavoce.metrics.ssim import ssim


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(3, 3, 40, 52, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_psnr_equals_scikit_image() -> None:
    a, b = pictures()
    want = [peak_signal_noise_ratio(x.double().numpy(), y.double().numpy(), data_range=1.0) for x, y in zip(a, b, strict=True)]
    assert np.allclose(psnr(b, a).numpy(), want, atol=1e-6)
    assert torch.isinf(psnr(a, a)).all()


def test_psnr_over_a_mask_sees_the_mask_alone() -> None:
    a, b = pictures()
    mask = torch.zeros(3, 1, 40, 52)
    mask[..., 10:20, 5:30] = 1
    assert torch.allclose(psnr(a, b, mask), psnr(a[..., 10:20, 5:30], b[..., 10:20, 5:30]))


def test_ssim_equals_scikit_image() -> None:
    a, b = pictures()
    for got, x, y in zip(ssim(a, b), a, b, strict=True):
        options = dict(data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        want = structural_similarity(x.double().numpy(), y.double().numpy(), **options)
        assert got.item() == pytest.approx(want, abs=1e-8)
    assert torch.allclose(ssim(a, a), torch.ones(3, dtype=torch.double))


def test_lmd_counts_shape_and_not_place() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(0, 512, (4, 68, 2)), generator.uniform(0, 512, (4, 68, 2))
    want = []
    for p, q in zip(a[:, 48:68], b[:, 48:68], strict=True):
        want.append(np.mean(np.sqrt((((p - p.mean(0)) - (q - q.mean(0))) ** 2).sum(1))))
    first, second = torch.from_numpy(a), torch.from_numpy(b)
    assert np.allclose(lmd(first, second).numpy(), want)
    assert torch.allclose(lmd(first, first + torch.tensor([7.0, -3.0])), torch.zeros(4, dtype=torch.double), atol=1e-9)
    assert not torch.allclose(lmd(first, second, EYES), lmd(first, second))
