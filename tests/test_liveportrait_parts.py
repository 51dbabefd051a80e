"""LivePortrait's networks against the authors' code: keys, shapes, sizes and outputs on weights that anyone can make again."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tests import liveportrait_weights as rule
from vivavoce.face import pose
from vivavoce.nn import grid_sample3d
from vivavoce.nn.liveportrait import SMALL, Networks, keypoints, onnx, weights
from vivavoce.types import InputError, Motion

RECORD = Path(__file__).with_name("liveportrait.npz")
PARAMETERS = {"appearance": 836_224, "motion": 28_118_728, "warping": 45_529_829, "decoder": 55_365_388, "stitching": 227_263}


@cache
def record() -> dict[str, np.ndarray]:
    with np.load(RECORD) as held:
        return dict(held)


@cache
def networks() -> Networks:
    """At the published widths, with the weights of the rule."""
    with torch.device("meta"):
        made = Networks()
    for part in weights.PARTS:
        weights.load(made, part, rule.make({k: tuple(v.shape) for k, v in weights.keys(made, part).items()}))
    return made.eval()


def check(name: str, values: Tensor, tolerance: float = 1e-4) -> None:
    wanted = record()[name]
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(rule.sample(values), wanted, atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("part", weights.PARTS)
def test_keys_and_shapes_are_the_published_ones(part: str) -> None:
    ours = sorted(f"{k} {'x'.join(map(str, v.shape))}" for k, v in weights.keys(networks(), part).items())
    assert ours == str(record()[f"keys.{part}"]).splitlines()


def test_as_many_parameters_as_published() -> None:
    for part, count in PARAMETERS.items():
        assert sum(p.numel() for p in networks().get_submodule(part).parameters()) == count, part
    assert sum(p.numel() for p in networks().parameters()) == 130_077_432


@torch.no_grad()
def test_appearance_motion_and_key_points_as_the_authors_code() -> None:
    net, given = networks(), rule.inputs()
    check("volume", net.appearance(given["image"]))
    heads = net.motion(given["image"])
    for name in ("pitch", "yaw", "roll", "t", "exp", "scale", "kp"):
        check(name, heads[name])
    points, motion = keypoints.measured(heads)
    check("turning", keypoints.turning(motion.rotation))
    check("degrees", keypoints.authors_degrees(keypoints.turning(motion.rotation)))
    check("points", keypoints.compose(points, motion))


@torch.no_grad()
def test_warping_as_the_authors_code() -> None:
    given = rule.inputs()
    warped = networks().warping(given["volume"], given["driving"], given["source"])
    check("warped", warped.features)
    check("occlusion", warped.occlusion)
    check("flow", warped.flow)


@torch.no_grad()
def test_decoder_and_corrections_as_the_authors_code() -> None:
    net, given = networks(), rule.inputs()
    check("picture", net.decoder(given["features"]))
    ratios = given["ratios"]
    check("stitched", net.stitching.stitch(given["source"], given["driving"]))
    check("lips", net.stitching.lips(given["source"], ratios[:, :1], ratios[:, 1:2]))
    check("eyes", net.stitching.eyes(given["source"], ratios[:, :2], ratios[:, 2:]))


def test_authors_files_and_mirrors_load(tmp_path: Path) -> None:
    """A folder of the authors' .pth files and of the mirror's safetensors gives the same networks."""
    net = networks()
    for part, name in weights.PARTS.items():
        state = {k: v.contiguous() for k, v in weights.keys(net, part).items()}
        if part in ("warping", "decoder"):
            save_file(state, tmp_path / f"{name}.safetensors")
            continue
        nested: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            nested.setdefault(key.split(".")[0], {})[key.split(".", 1)[1]] = value
        torch.save(nested if part == "stitching" else state, tmp_path / f"{name}.pth")
    again = weights.published(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))
    assert not again.training
    mirror = {k.replace(".module.", "."): v + 1 for k, v in weights.keys(net, "stitching").items()}
    weights.load(again, "stitching", mirror)
    assert torch.equal(again.stitching.eye.mlp[0].weight, net.stitching.eye.mlp[0].weight + 1)


def test_wrong_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"holds no appearance_feature_extractor\.safetensors"):
        weights.published(tmp_path)
    (tmp_path / "appearance_feature_extractor.pth").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        weights.published(tmp_path)
    small = Networks(SMALL)
    state = weights.keys(small, "motion")
    lost = next(iter(state))
    with pytest.raises(InputError, match=f"not the weights of LivePortrait's motion_extractor .*{lost}"):
        weights.load(small, "motion", {k: v for k, v in state.items() if k != lost})
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="vivavoce assets fetch liveportrait_appearance_feature_extractor"):
        weights.published()


def test_own_sampling_of_volumes_is_torchs() -> None:
    g = torch.Generator().manual_seed(0)
    volume = torch.randn(2, 3, 4, 5, 6, generator=g, dtype=torch.float64, requires_grad=True)
    grid = (torch.randn(2, 3, 4, 5, 3, generator=g, dtype=torch.float64) * 0.8).requires_grad_()
    wanted = functional.grid_sample(volume, grid, align_corners=False)
    found = grid_sample3d.gathered(volume, grid)
    assert torch.allclose(found, wanted, atol=1e-12)
    weight = torch.randn(wanted.shape, generator=g, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((made * weight).sum(), (volume, grid)) for made in (found, wanted))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs))


def test_sampling_along_shifted_grids_is_torchs() -> None:
    g = torch.Generator().manual_seed(1)
    volume = torch.randn(2, 3, 4, 6, 5, generator=g, dtype=torch.float64)
    shifts = 0.6 * torch.randn(3, 2, 7, 1, generator=g, dtype=torch.float64)
    axes = tuple(torch.linspace(-1, 1, n, dtype=torch.float64) + shift for n, shift in zip((5, 6, 4), shifts))
    found = grid_sample3d.shifted(volume, axes)  # type: ignore[arg-type]
    for slot in range(7):
        x, y, z = (a[:, slot] for a in axes)
        grid = torch.stack(
            [x[:, None, None].expand(-1, 4, 6, -1), y[:, None, :, None].expand(-1, 4, -1, 5), z[:, :, None, None].expand(-1, -1, 6, 5)], -1
        )
        assert torch.allclose(found[:, slot], functional.grid_sample(volume, grid, align_corners=False), atol=1e-12)


def test_pose_is_in_the_one_convention() -> None:
    """A face that nods, turns or leans as face/pose.py says does so in the picture's axes (x right, y down, z away)."""
    nose = torch.tensor([[[0.0, 0.0, -1.0]]])
    top = torch.tensor([[[0.0, -1.0, 0.0]]])
    nod, turn, lean = (keypoints.turning(torch.eye(3)[k : k + 1] * 0.3) for k in range(3))
    assert (nose @ nod)[0, 0, 1] > 0.2  # the nose points down
    assert (nose @ turn)[0, 0, 0] > 0.2  # to the picture's right
    assert (top @ lean)[0, 0, 0] < -0.2  # the top leans to the left
    some = torch.tensor([[0.2, -0.4, 0.1], [-0.5, 0.3, -0.2]])
    assert torch.allclose(keypoints.angles(keypoints.turning(some)), some, atol=1e-6)
    degrees = torch.tensor([[12.0, -20.0, 7.0]])
    assert torch.allclose(keypoints.authors_degrees(keypoints.authors_turning(degrees)), degrees, atol=1e-4)
    flip = torch.diag(torch.tensor(pose.FLIP))
    assert torch.allclose(keypoints.turning(some), flip @ pose.matrix_from_euler(some).mT @ flip)


def motion(seed: int, rows: int = 1) -> Motion:
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: 0.2 * torch.randn(*shape, generator=g)  # noqa: E731
    return Motion(make(rows, 3), make(rows, 3), 1 + make(rows, 1), make(rows, 63), "keypoints")


def close(a: Motion, b: Motion) -> bool:
    return all(torch.allclose(getattr(a, f), getattr(b, f), atol=1e-5) for f in ("rotation", "translation", "scale", "expression"))


def test_relative_motion_brings_a_face_to_itself_and_to_another() -> None:
    source, driving = motion(0), motion(1, 4)
    still = Motion(torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 1), torch.zeros(1, 63), "keypoints")
    assert close(keypoints.follow(source, still), source)
    assert close(keypoints.follow(driving[[0]], keypoints.relative(driving, driving[[0]])), driving)  # driven by its own film
    moved = keypoints.follow(source, keypoints.relative(driving, driving[[0]]))
    turn = keypoints.turning
    wanted = turn(driving.rotation) @ turn(driving.rotation[:1]).mT @ turn(source.rotation)  # R_i R_0^T R_s
    assert torch.allclose(turn(moved.rotation), wanted, atol=1e-5)
    lips = keypoints.relative(driving, driving[[0]], "lips")
    assert not lips.rotation.any() and not lips.translation.any() and (lips.scale == 1).all()
    assert set(lips.expression.unflatten(1, (21, 3)).abs().sum((0, 2)).nonzero()[:, 0].tolist()) == set(keypoints.LIPS)


def test_absolute_motion_keeps_what_holds_identity() -> None:
    source, driving = motion(0), motion(1, 3)
    put = keypoints.replaced(source, driving)
    assert torch.equal(put.rotation, driving.rotation) and torch.equal(put.scale, source.scale.expand(3, 1))
    taken = keypoints.mask("carried").bool()
    assert int(taken.sum()) == 3 * 13 + 6
    assert torch.equal(put.expression[:, taken], driving.expression[:, taken])
    assert torch.equal(put.expression[:, ~taken], source.expression.expand(3, -1)[:, ~taken])


def test_a_larger_face_moves_more() -> None:
    g = torch.Generator().manual_seed(2)
    source, first = torch.randn(1, 21, 3, generator=g), torch.randn(1, 21, 3, generator=g)
    driven = first + 0.1
    out = keypoints.milder(2 * source, first, driven)
    factor = math.sqrt(keypoints.volume(2 * source[0]) / keypoints.volume(first[0]))
    assert torch.allclose(out - 2 * source, torch.full_like(source, 0.1 * factor), atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_onnx_files_give_our_outputs(tmp_path: Path) -> None:
    """Every part, run by ONNX Runtime at another batch size than it was traced with."""
    pytest.importorskip("onnxscript", reason="an optional package: pip install onnx onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = Networks(SMALL).eval()
    paths = onnx.export(net, tmp_path, 32)
    assert not list(tmp_path.glob(".part-*"))
    for part, path in zip(onnx.parts(net, 32), paths, strict=True):
        given = {k: torch.rand(3, *v.shape[1:]) - (0.5 if k != "img" else 0) for k, v in part.inputs.items()}
        wanted = part.module(*given.values())
        found = runtime.InferenceSession(str(path)).run(list(part.outputs), {k: v.numpy() for k, v in given.items()})
        for name, a, b in zip(part.outputs, found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-4, err_msg=f"{part.name} {name}")


def test_export_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        onnx.export(Networks(SMALL), tmp_path)
