"""The blendshape basis: shape and sense of the shipped one, and learning one from measurements whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivavoce.face import blendshapes, mesh, regions
from vivavoce.face.pose import FLIP, matrix_from_euler
from vivavoce.types import InputError

NUMBER = {name: i for i, name in enumerate(regions.BLENDSHAPES)}


def only(*names: str, score: float = 1.0) -> Tensor:
    scores = torch.zeros(52)
    scores[[NUMBER[n] for n in names]] = score
    return scores


def test_the_shipped_basis_is_small_and_symmetric() -> None:
    basis = blendshapes.load()
    assert basis.offsets.shape == (52, 468, 3) and basis.lips.shape == (53, 9)
    assert blendshapes.FILE.stat().st_size <= 150_000
    vertices, names = blendshapes.exchange()
    mirrored = basis.offsets[names][:, vertices] * torch.tensor([-1.0, 1, 1])
    assert (mirrored - basis.offsets).abs().max() < 3e-4  # metres: the steps it is stored in
    assert torch.allclose(basis.lips[:-1][names].flip(1), basis.lips[:-1], atol=1e-5)


@pytest.mark.parametrize(
    ("names", "vertex", "axis", "sign", "least"),
    [
        (["jawOpen"], 152, 1, -1, 0.008),  # chin down
        (["mouthSmileLeft", "mouthSmileRight"], 291, 1, 1, 0.003),  # corners up
        (["mouthSmileLeft", "mouthSmileRight"], 291, 0, 1, 0.002),  # and out
        (["mouthPucker"], 291, 0, -1, 0.002),  # corners in
        (["mouthFunnel"], 17, 1, -1, 0.002),
        (["browInnerUp"], 107, 1, 1, 0.003),
        (["browDownLeft", "browDownRight"], 336, 1, -1, 0.002),
        (["mouthUpperUpLeft", "mouthUpperUpRight"], 0, 1, 1, 0.0),
        (["mouthLeft"], 13, 0, 1, 0.003),
    ],
)
def test_shapes_move_what_their_names_say(names: list[str], vertex: int, axis: int, sign: int, least: float) -> None:
    moved = blendshapes.load().move(only(*names))[vertex, axis]
    assert moved * sign > least, f"{names} move vertex {vertex} by {1e3 * moved:.1f} mm"


def test_lips_part_when_the_jaw_opens_and_brows_do_not_open_them() -> None:
    basis = blendshapes.load()
    gaps = [float(basis.gap(only("jawOpen", score=s)).max()) for s in (0.0, 0.1, 0.3, 0.6)]
    assert gaps[0] < 0.002 < gaps[1] < gaps[2] < gaps[3]
    assert torch.equal(basis.gap(only("browInnerUp")), basis.gap(torch.zeros(52)))
    assert basis.gap(only("jawOpen", "mouthClose", score=0.5)).max() < 0.5 * gaps[3]
    assert basis.move(only("eyeBlinkLeft", "eyeBlinkRight"))[[152, 61, 291, 17]].abs().max() < 1e-3  # lids leave the mouth alone


def test_the_curve_keeps_its_ends_and_order() -> None:
    scores = torch.linspace(0, 1, 101)
    bent = blendshapes.curve(scores)
    assert bent[0] == pytest.approx(0) and bent[-1] == pytest.approx(1) and (bent.diff() > 0).all()


def synthetic(frames: int, clips: int, noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Heads of several shapes that turn, move two known shapes and are seen in pixels: points, scores, clips, the shapes [2,468,3]."""
    torch.manual_seed(1)
    model = torch.from_numpy(mesh.vertices())
    low = torch.sigmoid((-0.02 - model[:, 1]) / 0.01)[:, None]
    shapes = torch.stack([low * torch.tensor([0.0, -0.02, -0.01]), low * model[:, :1].abs() / 0.06 * torch.tensor([0.0, 0.01, 0.0])])
    used = [NUMBER["jawOpen"], NUMBER["mouthClose"]]
    scores, rows = torch.zeros(frames * clips, 52), torch.arange(clips).repeat_interleave(frames)
    scores[:, used] = torch.rand(frames * clips, 2)
    head = model + 0.003 * torch.randn(clips, 1, 3) + 0.05 * model * torch.randn(clips, 1, 3)
    face = head[rows] + torch.einsum("tk,kvj->tvj", blendshapes.curve(scores[:, used]), shapes)
    turned = face @ matrix_from_euler(0.2 * torch.randn(len(rows), 3)).transpose(1, 2)
    pixels = 1000 * turned * torch.tensor(FLIP) + torch.tensor([256.0, 200, 0])
    return pixels + noise * torch.randn_like(pixels), scores, rows, shapes


def test_fit_finds_known_shapes() -> None:
    points, scores, rows, shapes = synthetic(60, 4, noise=0.3)
    basis = blendshapes.fit(points, scores, rows, ridge=0.1)
    region = blendshapes.regional()[NUMBER["jawOpen"]][:, None]
    found = basis.offsets[[NUMBER["jawOpen"], NUMBER["mouthClose"]]]
    assert (found - shapes * region).abs().max() < 0.0015  # metres, of shapes of 22 and 12 mm
    unused = [i for i in range(52) if i not in (NUMBER["jawOpen"], NUMBER["mouthClose"])]
    assert basis.offsets[unused].abs().max() == 0


def test_align_recovers_pose_and_size() -> None:
    model = torch.from_numpy(mesh.vertices())
    rotation = matrix_from_euler(torch.tensor([[0.1, -0.3, 0.2]]))
    points = 900 * (model @ rotation[0].T) * torch.tensor(FLIP) + torch.tensor([100.0, 120, 5])
    canonical, turned, scale, shift = blendshapes.align(points[None])
    assert torch.allclose(canonical[0], model, atol=1e-5) and torch.allclose(turned, rotation, atol=1e-4)
    assert scale[0] == pytest.approx(900, rel=1e-4)
    assert torch.allclose(shift[0], torch.tensor([100.0, -120, -5]), atol=0.01)


def test_save_and_load_keep_a_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    basis = blendshapes.load()
    blendshapes.save(basis, tmp_path / "b.npz")
    monkeypatch.setattr(blendshapes, "FILE", tmp_path / "b.npz")
    again = blendshapes.load.__wrapped__()
    assert (again.offsets - basis.offsets).abs().max() < 3e-4 and torch.equal(again.lips, basis.lips)
    assert [p.name for p in tmp_path.iterdir()] == ["b.npz"]
    (tmp_path / "b.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="reinstall"):
        blendshapes.load.__wrapped__()
