"""LPIPS: the network against a plain walk through its layers, on a weights file of the published format."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vivavoce import assets
from vivavoce.nn.perceptual import Perceptual
from vivavoce.types import InputError

ALEX = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]
VGG = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), *[(512, 512)] * 5]


def weights_file(path: Path, net: str) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Random weights, laid out as in the published file: nested dictionaries, kernels [height,width,in,out]."""
    draw = np.random.default_rng(0)
    shapes = [(k, k, a, b) for a, b, k in ALEX] if net == "alexnet" else [(3, 3, a, b) for a, b in VGG]
    trunk = {
        f"Conv_{i}": {
            "kernel": (draw.normal(size=s) * (2 / np.prod(s[:3])) ** 0.5).astype(np.float32),
            "bias": draw.normal(0, 0.1, s[3]).astype(np.float32),
        }
        for i, s in enumerate(shapes)
    }
    taps = [64, 192, 384, 256, 256] if net == "alexnet" else [64, 128, 256, 512, 512]
    held = {{"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[net]: trunk}
    held |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": draw.random((1, 1, c, 1), np.float32)}} for i, c in enumerate(taps)}
    path.write_bytes(pickle.dumps(held))
    return held


@pytest.fixture(params=["alexnet", "vgg16"])
def net(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, dict[str, dict[str, np.ndarray]]]]:
    file = tmp_path / "lpips.ckpt"
    held = weights_file(file, request.param)
    monkeypatch.setattr(assets, "path", lambda name: file)
    return request.param, held


def walked(net: str, held: dict[str, dict[str, dict[str, np.ndarray]]], a: torch.Tensor, b: torch.Tensor) -> float:
    """LPIPS of one pair, layer by layer as the paper draws it."""
    trunk = held["AlexNet_0" if net == "alexnet" else "VGG16_0"]
    pools, taps = ((1, 2), range(5)) if net == "alexnet" else ((2, 4, 7, 10), (1, 3, 6, 9, 12))
    total, seen = 0.0, []
    for picture in (a, b):
        x = (picture * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        out = []
        for i in range(len(trunk)):
            if i in pools:
                x = F.max_pool2d(x, 3, 2) if net == "alexnet" else F.max_pool2d(x, 2)
            kernel, bias = (torch.from_numpy(trunk[f"Conv_{i}"][k]) for k in ("kernel", "bias"))
            stride, padding = (4, 2) if net == "alexnet" and i == 0 else (1, kernel.shape[0] // 2)
            x = F.conv2d(x[None], kernel.permute(3, 2, 0, 1), bias, stride, padding)[0].clamp_min(0)
            if i in taps:
                out.append(F.normalize(x, dim=0))
        seen.append(out)
    for i, (p, q) in enumerate(zip(*seen, strict=True)):
        weight = torch.from_numpy(held[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])[0, 0, :, 0]
        total += float((((p - q) ** 2) * weight[:, None, None]).sum(0).mean())
    return total


def test_every_layer_is_where_the_paper_has_it(net: tuple[str, dict[str, dict[str, dict[str, np.ndarray]]]]) -> None:
    name, held = net
    a, b = torch.rand(2, 2, 3, 70, 64, generator=torch.Generator().manual_seed(1))
    judge = Perceptual.pretrained(name)
    got = judge(a, b)
    assert got.tolist() == pytest.approx([walked(name, held, x, y) for x, y in zip(a, b, strict=True)], rel=1e-4)
    assert judge(a, a).abs().max() == 0
    nearer = judge(a, a + 0.3 * (b - a))
    assert (nearer < got).all() and (nearer > 0).all()
    a.requires_grad_()
    judge(a, b).sum().backward()  # a loss as well as a measure
    assert a.grad is not None and a.grad.abs().max() > 0


def test_a_file_of_another_network_is_refused(net: tuple[str, dict[str, dict[str, dict[str, np.ndarray]]]]) -> None:
    other = {"alexnet": "vgg16", "vgg16": "alexnet"}[net[0]]
    with pytest.raises(InputError, match=r"not the weights of LPIPS.*assets fetch"):
        Perceptual.pretrained(other)
