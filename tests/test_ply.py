"""The .ply of a head: header and bytes as splat viewers read them, and the way back."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from vivavoce.files import PART
from vivavoce.render import splats
from vivavoce.render.splats import ply
from vivavoce.render.splats.torch import rotations
from vivavoce.types import Camera, InputError


def some(count: int = 40) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "means": torch.randn(count, 3) * 0.03,
        "quaternions": torch.randn(count, 4),
        "scales": torch.rand(count, 3) * 0.01 + 0.002,
        "opacities": torch.rand(count) * 0.8 + 0.1,
        "colours": torch.rand(count, 3),
    }


def test_the_bytes_are_those_that_viewers_expect(tmp_path: Path) -> None:
    head = some(3)
    ply.write(tmp_path / "head.ply", **head)
    text, body = (tmp_path / "head.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2] for line in text.decode().splitlines() if line.startswith("property float ")]
    assert text.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n")
    assert names[:6] == ["x", "y", "z", "nx", "ny", "nz"] and names[9:14] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0"]
    row = dict(zip(names, struct.unpack_from(f"<{len(names)}f", body, 4 * len(names)), strict=True))  # the second Gaussian
    assert len(body) == 3 * 4 * len(names)
    assert row["y"] == pytest.approx(-float(head["means"][1, 1]))  # down
    assert 0.5 + 0.28209479 * row["f_dc_2"] == pytest.approx(float(head["colours"][1, 2]), abs=1e-6)
    assert 1 / (1 + torch.tensor(-row["opacity"]).exp()) == pytest.approx(float(head["opacities"][1]), abs=1e-6)
    assert torch.tensor(row["scale_0"]).exp() == pytest.approx(float(head["scales"][1, 0]), rel=1e-5)
    turned = rotations(torch.tensor([[row[f"rot_{k}"] for k in range(4)]]))[0]
    assert torch.allclose(turned, torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ rotations(head["quaternions"])[1], atol=1e-5)


def test_what_is_read_again_is_drawn_the_same(tmp_path: Path) -> None:
    head = some()
    ply.write(tmp_path / "head.ply", **head)
    back = ply.read(tmp_path / "head.ply")
    place = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))[None].clone()
    place[0, 2, 3] = 0.5
    camera = Camera(place, torch.full((1, 2), 100.0), torch.full((1, 2), 16.0))
    first, second = (splats.render(*h.values(), camera, (32, 32), "torch").image for h in (head, back))
    assert first.max() > 0.1 and torch.allclose(first, second, atol=1e-4)
    assert not list(tmp_path.glob(PART + "*"))


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mesh.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n")
    with pytest.raises(InputError, match="Gaussians"):
        ply.read(tmp_path / "mesh.ply")
    with pytest.raises(InputError, match="cannot be written"):
        ply.write(tmp_path / "mesh.ply" / "head.ply", **some(2))  # in what is no folder
