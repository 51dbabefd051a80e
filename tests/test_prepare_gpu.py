"""What preparation does on a GPU is what it does on a CPU: trackers, their equations, the parser's net, and the helpers of a face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.drawn import Scene, folder_of, points_of, shot
from tests.models import Shot, film, pictures, take, write_bfm, write_ict
from tests.test_bisenet import state as bisenet_weights
from vivavoce import assets
from vivavoce.face import blendshapes, crop, fit_video, idle, mesh, morphable, morphable_bfm, morphable_ict, parse, pose, regions, rings
from vivavoce.face.fit import Fitter, State
from vivavoce.face.fit_colour import Skin
from vivavoce.face.morphable import Morphable
from vivavoce.media import write_image
from vivavoce.nn.bisenet import BiSeNet
from vivavoce.prepare import parsing, shots, tracking
from vivavoce.prepare.folder import Options

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Morphable]:
    """Small models in the real files' formats; the catalogue finds no others."""
    mesh.vertices()
    write_bfm(tmp_path)
    write_ict(tmp_path / "ict_facekit.npz")
    take(monkeypatch, tmp_path)
    return {"bfm": morphable_bfm.load(), "ict": morphable_ict.load()}


@pytest.fixture(autouse=True)
def whole_precision() -> Iterator[None]:
    """float32 means float32: what is compared is the code, not the ten bits of tensor cores."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def close(here: Tensor, there: Tensor, share: float = 1e-3) -> None:
    """The same numbers, to a share of the largest, one of them from the GPU."""
    assert there.device.type == DEVICE.type and here.shape == there.shape
    assert float((here - there.cpu()).abs().max()) <= share * max(float(here.abs().max()), 1e-6)


@pytest.mark.parametrize("name", ["bfm", "ict"])
def test_a_head_whose_focal_length_is_not_known(models: dict[str, Morphable], name: str) -> None:
    """The whole fit: identity, focal length, pose, expression; nothing of it stays on the GPU."""
    model = models[name]
    seen = film(model, 40, side=256)
    found = torch.ones(40, dtype=torch.bool)
    (here, who), (there, whose) = (fit_video.fit_video(m, seen.points.__getitem__, found, seen.size) for m in (model, model.to(DEVICE)))
    assert whose.device.type == "cpu" and abs(there.focal / here.focal - 1) < 0.01
    assert float((here.rotation - there.rotation).abs().max().rad2deg()) < 0.1
    away = pose.project(here.camera, here.deformed) - pose.project(there.camera, there.deformed)
    assert float(away.norm(dim=-1).max()) < 0.1  # px
    assert float((who - whose).abs().max()) < 0.05


def state_of(seen: Shot) -> State:
    """Nearly the truth."""
    away = torch.tensor([0.0, 0.0, -0.9]).expand(len(seen.points), 3)
    return State(pose.matrix_from_euler(seen.rotation), away, 0.5 * seen.expression)


@pytest.mark.parametrize("name", ["bfm", "ict"])
def test_the_equations_of_landmarks(models: dict[str, Morphable], name: str) -> None:
    """Residuals and Jacobians, the normal equations with their prior, one step of what all frames share, and what lies beside."""
    seen = film(models[name], 12, side=256)
    found = []
    for device in (torch.device("cpu"), DEVICE):
        model = models[name].to(device)
        fitter = Fitter(model, torch.tensor([128.0, 128.0], device=device), 69.0, 600.0)
        person = fit_video.nobody(model, 600.0)
        points, state = fitter.observed(seen.points.to(device)), on(state_of(seen), device)
        more, moved = fitter.share(points, state, person)
        beside = fitter.set_beside(points, state, person).beside
        found.append([*fitter.equations(points, state, person, shared=True), *fitter.normal(points, state, person),
                      more.identity, more.focal, moved.expression, beside])  # fmt: skip
    for here, there in zip(*found, strict=True):
        close(here, there)


def on(state: State, device: torch.device) -> State:
    return State(state.rotation.to(device), state.translation.to(device), state.expression.to(device))


def test_the_equations_of_pictures(models: dict[str, Morphable]) -> None:
    """Visible vertices, light, texture, and the photometric normal equations."""
    seen, rows = film(models["bfm"], 6, side=256), torch.arange(6)
    images = pictures(models["bfm"], seen, rows)
    found = []
    for device in (torch.device("cpu"), DEVICE):
        model = models["bfm"].to(device)
        fitter = Fitter(model, torch.tensor([128.0, 128.0], device=device), 69.0)
        person = fit_video.nobody(model, 600.0)
        state = on(state_of(seen), device)
        skin = Skin.learn(fitter, person, state, rows, images.__getitem__)
        found.append((skin.look(images.to(device), state).there.float(), skin.albedo, skin.extra(images.to(device), state)(state)))
    (there, albedo, equations), (there_gpu, albedo_gpu, equations_gpu) = found
    assert float((there != there_gpu.cpu()).float().mean()) < 0.005  # a vertex on an outline may be seen or not
    close(albedo, albedo_gpu, 0.01)
    for here, other in zip(equations, equations_gpu, strict=True):
        close(here, other, 0.03)


@pytest.mark.parametrize("name", ["bfm", "ict"])
def test_the_step_chooses_the_gpu_and_writes_the_same(
    models: dict[str, Morphable], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, points = shot(Scene(), 30)
    folder = folder_of(tmp_path / "she", images, points)
    folder.choose(Options(tracker=name))
    shots.run(folder, lambda done, total: None)
    for k in range(len(images)):  # no head in any: the poses stay as the landmarks give them
        write_image(folder.file("parsing", f"{k}.png"), np.full_like(images[k], 255))
    used, tables = list[str](), list[dict[str, Tensor]]()
    to = Morphable.to

    def noted(model: Morphable, device: torch.device) -> Morphable:
        used.append(device.type)
        return to(model, device)

    monkeypatch.setattr(Morphable, "to", noted)
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        tracking.run(folder, lambda done, total: None)
        tables.append(torch.load(folder.file("track_params.pt"), weights_only=True))
    here, there = tables
    assert used == ["cpu", "cuda"] and all(v.device.type == "cpu" for v in there.values())
    assert abs(float(there["focal"] / here["focal"]) - 1) < 0.02
    assert float((here["euler"] - there["euler"]).abs().max().rad2deg()) < 0.5
    assert float((here["error"] - there["error"]).abs().max()) < 0.1  # px of 128


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 2e-3), (torch.bfloat16, 0.1)])
def test_the_parsers_net(dtype: torch.dtype, share: float) -> None:
    weights, images = bisenet_weights(), torch.randint(0, 256, (3, 3, 90, 70), dtype=torch.uint8)
    here, there = BiSeNet.published(weights), BiSeNet.published(weights, DEVICE, dtype)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        scores = there(x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last))
        close(here(x), scores.float(), share)
    labels = there.labels(images, 64)
    assert labels.device.type == DEVICE.type and labels.dtype == torch.uint8
    if dtype == torch.float32:
        assert float((labels.cpu() == here.labels(images, 64)).float().mean()) > 0.99


def test_the_parser_by_bisenet_takes_batches_to_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, points = shot(Scene(), 5)
    folder = folder_of(tmp_path / "she", images, points)
    weights = bisenet_weights()
    monkeypatch.setattr(assets, "state_dict", lambda name: weights)
    monkeypatch.setattr(parse, "Selfie", lambda: lambda picture: np.zeros((256, 256), np.float32))
    seen: list[tuple[int, str]] = []
    labels = BiSeNet.labels

    def noted(net: BiSeNet, x: Tensor) -> Tensor:
        seen.append((len(x), net.conv_out.conv_out.weight.device.type))
        return labels(net, x, 64)

    monkeypatch.setattr(BiSeNet, "labels", noted)
    found = list(parsing.bisenet(folder)(list(range(5))))
    assert seen == [(5, "cuda")] and len(found) == 5
    for (picture, classes), image in zip(found, images, strict=True):
        assert classes.shape == picture.shape[:2] == image.shape[:2] and classes.max() < len(regions.COLOURS)


def faces() -> Tensor:  # -> [6,478,3] px
    return torch.from_numpy(points_of(Scene(), 6))


HELPERS: dict[str, Callable[[torch.device], list[Tensor]]] = {
    "parsing colours": lambda d: [
        regions.labels_from_colours(torch.arange(3 * 64 * 64, device=d).remainder(251).to(torch.uint8).reshape(1, 3, 64, 64)).float(),
        regions.colours_from_labels(torch.arange(28, device=d).remainder(7).reshape(1, 4, 7)).float(),
    ],
    "pose": lambda d: [
        *pose.solve(faces()[:, :468, :2].to(d), torch.from_numpy(mesh.vertices()).to(d), torch.tensor(300.0, device=d),
                    torch.tensor([64.0, 64.0], device=d), torch.ones(468, device=d), steps=8),
    ],
    "blendshapes": lambda d: [*blendshapes.align(faces().to(d)), blendshapes.load().to(d).gap(torch.rand(5, 52, generator=seeded()).to(d))],
    "surround": lambda d: [rings.surround(faces()[0].to(d), (128, 128)).points],
    "crop and paste": lambda d: [
        crop.crop(torch.rand(6, 3, 128, 128, generator=seeded()).to(d), crop.around(faces(), (64, 64))),
        crop.paste(torch.zeros(6, 3, 128, 128, device=d), torch.ones(6, 3, 64, 64, device=d), crop.around(faces(), (64, 64))),
    ],
    "idle": lambda d: [*idle.sway(torch.arange(80, device=d), 3), idle.blink(torch.arange(200, device=d), 3)],
    "normals": lambda d: [morphable.normals(torch.from_numpy(mesh.vertices()).to(d), torch.from_numpy(mesh.triangles()).to(d))],
}  # fmt: skip


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_of_faces(name: str) -> None:
    for here, there in zip(HELPERS[name](torch.device("cpu")), HELPERS[name](DEVICE), strict=True):
        close(here, there, 2e-3)
