"""EGSTalker on a made-up person: it learns the mouth, grows, and comes back from its checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce import registry
from vivavoce.face import points as face_points
from vivavoce.face import pose, regions
from vivavoce.methods.egs_talker import EgsTalker
from vivavoce.nn.avatar import TREMBLE
from vivavoce.nn.perceptual import Perceptual
from vivavoce.nn.viewing import pose_code
from vivavoce.render.splats.torch import rotations
from vivavoce.types import Camera, Clip, InputError

NEEDS = EgsTalker.needs | EgsTalker.loss_needs


def started(**changes: object) -> tuple[EgsTalker, SyntheticPerson]:
    torch.manual_seed(0)
    method = registry.create("egs_talker", "tiny", **changes)
    assert isinstance(method, EgsTalker)
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    return method, person


def trained(steps: int, **changes: object) -> tuple[EgsTalker, SyntheticPerson, list[dict[str, Tensor]]]:
    method, person = started(steps=steps, **changes)
    optimizers, log = method.optimizers(), []
    method.train()
    for step in range(steps):
        torch.manual_seed(step)
        log.append(method.update(person.clip(torch.randint(len(person), (2,)), NEEDS), step, optimizers))
    return method.eval(), person, log


def test_the_first_picture_is_already_the_person() -> None:
    method, person = started()
    clip = person.clip(slice(0, 6), NEEDS)
    with torch.no_grad():
        frames = method.render(None, clip)
    assert clip.frames is not None
    assert (frames - clip.frames).abs().mean() < 0.4 * (person.background - clip.frames).abs().mean()


def test_the_mouth_follows_speech() -> None:
    method, person, log = trained(80, coarse=10, grow_every=30)
    first = torch.stack([step["colour"] for step in log[:5]]).mean()
    assert torch.stack([step["colour"] for step in log[-5:]]).mean() < 0.7 * first
    wide, shut = int(person.opening.argmax()), int(person.opening.argmin())
    clip = person.clip([wide, shut], NEEDS)
    assert clip.speech is not None and clip.frames is not None and clip.mouth is not None
    same_pose = dataclasses.replace(clip[[0, 0]], speech=clip.speech)  # only the sound differs
    with torch.no_grad():
        frames = method.render(method.encode(), same_pose)
    x0, y0, x1, y1 = clip.mouth[0].round().long().tolist()
    open_mouth, shut_mouth = frames[:, :, y0:y1, x0:x1].mean((1, 2, 3)).tolist()
    assert shut_mouth - open_mouth > 0.01  # the inside is dark
    assert (frames[0] - frames[1])[:, :8].abs().mean() < 0.1 * (shut_mouth - open_mouth)  # far from the mouth little follows


def test_render_reads_nothing_but_its_needs_and_rows_are_independent() -> None:
    method, person, _ = trained(8)
    full = person.clip(slice(3, 8), None)
    bare = Clip(camera=full.camera, speech=full.speech, eyes=full.eyes, body=full.body)
    with torch.no_grad():
        heard = method.encode()
        together = method.render(heard, bare)
        assert torch.allclose(together, method.render(None, full), atol=1e-5)
        assert torch.allclose(together[2:3], method.render(heard, bare[2:3]), atol=1e-5)


def test_frames_are_as_large_as_the_camera_says() -> None:
    method, person, _ = trained(4)
    clip = person.clip([0], method.needs)
    assert clip.camera is not None
    large = dataclasses.replace(clip, camera=Camera(clip.camera.pose, clip.camera.focal * 2, clip.camera.center * 2))
    with torch.no_grad():
        small, big = method.render(None, clip), method.render(None, large)
    assert big.shape == (1, 3, 96, 96)
    assert (torch.nn.functional.avg_pool2d(big, 2) - small).abs().mean() < 0.02


def test_density_control_fires_and_a_checkpoint_of_another_size_loads() -> None:
    method, person, _ = trained(14, grow_every=4, grow_until=0.9, points=200, most=230, grow_share=0.1)
    assert len(method.avatar.gaussians) != 200 and len(method.avatar.gaussians) <= 230
    other = registry.create("egs_talker", "tiny", points=200)
    assert isinstance(other, EgsTalker)
    other.load_state_dict(method.state_dict())
    clip = person.clip(slice(0, 3), method.needs)
    with torch.no_grad():
        assert torch.equal(other.eval().render(None, clip), method.render(None, clip))
    other.train()
    other.update(person.clip(slice(0, 2), NEEDS), 12, other.optimizers())


def test_coarse_steps_leave_the_deformation_alone() -> None:
    method, _, _ = trained(3, coarse=3)
    fresh, _ = started(steps=3, coarse=3)
    assert torch.equal(method.deform.weight, fresh.deform.weight)
    assert not torch.equal(method.avatar.gaussians.colours, fresh.avatar.gaussians.colours)


def test_pose_code_is_zero_at_its_center_and_tells_turn_and_place() -> None:
    person = SyntheticPerson()
    camera = person.camera
    still = int(person.yaw.abs().argmin())
    code = pose_code(camera, camera.pose[still, :3, :3])
    assert torch.allclose(code[:, 1].abs(), (person.yaw - person.yaw[still]).sin().abs(), atol=1e-6)
    assert torch.allclose(code[:, 5], torch.full((len(person),), 0.7), atol=1e-5)
    assert torch.allclose(code[:, [0, 2, 3, 4]], torch.zeros(len(person), 4), atol=1e-5)


def test_head_points_lie_on_the_head() -> None:
    torch.manual_seed(0)
    place = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))[None]
    place[0, 2, 3] = 0.8
    camera = Camera(place, torch.full((1, 2), 200.0), torch.full((1, 2), 32.0))
    mesh = torch.tensor([[-0.04, -0.05, 0.05], [0.04, -0.05, 0.05], [0.04, 0.05, 0.05], [-0.04, 0.05, 0.05]])
    head = torch.zeros(64, 64, dtype=torch.bool)
    head[8:56, 14:50] = True
    seeds = face_points.head_points(mesh, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([0, 1]), camera, head, 1000)
    assert len(seeds.means) == 1000 and [int((seeds.part == k).sum()) for k in range(3)] == [500, 420, 80]
    face, shell, mouth = (seeds.means[seeds.part == k] for k in range(3))
    assert torch.allclose(face[:, 2], torch.full((500,), 0.05)) and face[:, 0].abs().max() <= 0.04
    at = pose.project(camera, shell)[0].floor().long()
    away = face_points.depth(shell, camera)
    assert head[at[:, 1], at[:, 0]].all() and away.min() > 0.749 and away.max() > 0.76
    assert (mouth[:, 2] < 0.05).all()
    with pytest.raises(InputError, match="tracking"):
        face_points.head_points(mesh, torch.tensor([[0, 1, 2]]), torch.tensor([0, 1]), camera, torch.zeros_like(head), 100)


def test_mouth_shapes_forget_place_size_and_roll() -> None:
    torch.manual_seed(0)
    landmarks = torch.rand(3, 68, 2) * 100
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    shapes = face_points.mouth_shapes(landmarks)
    assert shapes.shape == (3, 40)
    assert torch.allclose(face_points.mouth_shapes(landmarks @ turn * 2.5 + 40), shapes, atol=1e-4)
    landmarks[:, 66] += 5  # the lower lip
    assert (face_points.mouth_shapes(landmarks) - shapes).abs().max() > 0.01


def test_each_training_row_finds_its_own_tremble() -> None:
    """Frames drawn with a pose that is off by up to 2 mm: the corrections tell by how much, and a frame to be made has none."""
    torch.manual_seed(0)
    method, person = started(steps=90, coarse=90, steady=30.0, warm=1, grow_every=1000)
    away = torch.zeros(len(person), 3)
    away[:, 0] = 0.004 * torch.sin(torch.arange(len(person)) * 2.4)
    wrong = person.camera.pose.clone()
    wrong[:, :3, 3] += away
    optimizers = method.optimizers()
    method.train()
    for step in range(90):
        rows = torch.randperm(len(person))[:6]
        clip = person.clip(rows, NEEDS)
        assert clip.camera is not None
        told = dataclasses.replace(clip, camera=dataclasses.replace(clip.camera, pose=wrong[rows]))
        method.update(told, step, optimizers)
    found = method.avatar.tremble[:, 3].detach() * TREMBLE[1]
    assert torch.corrcoef(torch.stack([found, away[:, 0]]))[0, 1] > 0.8
    clip, moved = person.clip([1], method.needs), method.avatar.moved(1)
    assert method.eval().avatar.steadied(moved, clip) is moved


def test_steadying_turns_gaussians_as_a_matrix_does() -> None:
    method, person = started(steady=1.0)
    moved, clip = method.avatar.moved(2), person.clip([4, 7], NEEDS)
    with torch.no_grad():
        method.avatar.tremble[4] = torch.tensor([0.5, -0.3, 0.2, 1.0, 0.0, -2.0])
    method.train()
    shown = method.avatar.steadied(moved, clip)
    turn = pose.matrix_from_axis(torch.tensor([0.5, -0.3, 0.2]) * TREMBLE[0])
    place = torch.tensor([1.0, 0.0, -2.0]) * TREMBLE[1]
    assert torch.allclose(shown.means[0], moved.means[0] @ turn.t() + place, atol=1e-5)
    assert torch.allclose(rotations(shown.quaternions[0]), turn @ rotations(moved.quaternions[0]), atol=1e-3)
    assert torch.equal(shown.means[1], moved.means[1])


def test_a_checkpoint_from_before_silence_was_known_still_draws() -> None:
    method, person, _ = trained(4)
    old = {name: value for name, value in method.state_dict().items() if not name.startswith(("silence.", "avatar.tremble"))}
    other = registry.create("egs_talker", "tiny")
    assert isinstance(other, EgsTalker)
    other.load_state_dict(old)
    clip = person.clip(slice(0, 2), method.needs)
    method.silence.weight = torch.zeros(0)
    with torch.no_grad():
        assert torch.equal(other.eval().render(None, clip), method.render(None, clip))


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_both_readings_of_the_paper_learn_and_grow(preset: str) -> None:
    small = {k: v for k, v in EgsTalker.presets["tiny"].items() if k not in ("embedding", "planes")}
    reading = {**EgsTalker.presets[preset], **small, "planes": (8, 16), "agents": 8, "grow_until": 0.5, "perceptual": 0.0}
    torch.manual_seed(0)
    method = registry.create("egs_talker", **{**reading, "steps": 16, "grow_share": 0.1})
    assert isinstance(method, EgsTalker) and method.config.decoder == {"paper": "kan", "code": "mlp"}[preset]
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    count, optimizers = len(method.avatar.gaussians), method.optimizers()
    touched: set[str] = set()
    for step in range(16):
        values = method.train().update(person.clip([step, step + 1], NEEDS), step, optimizers)
        assert all(torch.isfinite(v) for v in values.values())
        touched |= {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {n for n, p in method.named_parameters() if p.requires_grad} - touched <= {"silence.shut"}
    assert len(method.avatar.gaussians) > count
    other = registry.create("egs_talker", **reading)
    other.load_state_dict(method.state_dict())
    clip = person.clip([3], method.needs)
    with torch.no_grad():
        assert torch.equal(other.eval().render(None, clip), method.eval().render(None, clip))  # type: ignore[operator]


def test_lpips_joins_the_losses_late(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def untrained(net: str, device: object) -> Perceptual:
        made.append(net)
        return Perceptual(net)

    monkeypatch.setattr(Perceptual, "pretrained", untrained)
    method, person = started(perceptual=0.5, perceptual_net="alexnet", perceptual_from=0.5, size=48)
    clip = person.clip([0, 1], NEEDS)
    assert "perceptual" not in method._losses(clip, 0.4) and not made
    late = method._losses(clip, 0.6)["perceptual"]
    assert late > 0 and late.requires_grad and made == ["alexnet"]
    assert not any("judge" in name for name in method.state_dict())


@pytest.mark.parametrize("name", ["egs_talker", "gaussian_talker"])
def test_brows_are_heard_where_that_is_asked_for(name: str) -> None:
    torch.manual_seed(0)
    method: Any = registry.create(name, "tiny", brows=True)
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    assert "units" in method.needs and "units" not in registry.create(name, "tiny").needs
    with torch.no_grad():
        (method.deform if name == "egs_talker" else method.deform[-1]).weight.normal_(std=0.3)
        clip = person.clip([2, 2], method.needs)
        assert clip.units is not None
        clip.units[1, regions.BLENDSHAPES.index("browInnerUp")] += 0.8
        calm, raised = method.eval().render(method.encode(), clip)
    assert (calm - raised).abs().max() > 1e-4
