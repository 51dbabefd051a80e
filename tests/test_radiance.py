"""The radiance-field family on a made-up person: what the room holds, looks at and draws, and that heads are learned in it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import SyntheticPerson
from vivavoce import registry
from vivavoce.face import pose
from vivavoce.method import Renderer
from vivavoce.nn import radiance
from vivavoce.nn.fields import Individual, Rows, Told, Views, exponential, spherical, waves
from vivavoce.nn.pixels import Looked, look
from vivavoce.nn.radiance import Radiance, Recipe
from vivavoce.nn.signals import signals
from vivavoce.types import Camera, Clip, InputError

METHODS = ["ad_nerf", "dfrf", "er_nerf", "rad_nerf"]
NEEDS = radiance.NEEDS | radiance.LOSS_NEEDS | {"speech", "eyes"}


class Nothing(NamedTuple):
    """A condition that says nothing."""

    code: Tensor


class Ball(nn.Module):
    """A known field: an opaque ball of one colour, half as wide as the box, that fills the box's middle."""

    room: Radiance

    def density(self, points: Tensor, told: Nothing, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        away = (points - 0.5).norm(dim=1)
        return 1e4 * (away < 0.25).float(), points, points[:, 0]

    def colour(self, features: Tensor, views: Views, told: Nothing, rows: Rows) -> Tensor:
        return features.new_tensor([0.2, 0.5, 0.9]).expand(len(features), 3)


def started(**changes: Any) -> tuple[Radiance, SyntheticPerson]:
    torch.manual_seed(0)
    person = SyntheticPerson()
    room = Radiance(person.size, Recipe(**{**radiance.TINY, **changes}))
    room.start(person, signals(person))
    return room.eval(), person


def begun(name: str, **changes: Any) -> tuple[Renderer, SyntheticPerson]:
    torch.manual_seed(0)
    method = registry.create(name, "tiny", **changes)
    assert isinstance(method, Renderer)
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    return method, person


def test_the_head_is_in_the_box_and_what_no_ray_needs_is_empty() -> None:
    room, person = started(cells=32)
    grid = room.occupancy
    assert ((person.mesh > grid.low) & (person.mesh < grid.high)).all()
    assert grid.occupied(person.mesh).all()
    corners = torch.cartesian_prod(*torch.stack([grid.low + 1e-4, grid.high - 1e-4], 1))
    assert not grid.occupied(corners).any()
    grid.update(lambda points: torch.full((len(points),), 1e3))
    assert grid.occupied(person.mesh).all() and not grid.occupied(corners).all()  # far from the head nothing ever is


def test_a_known_ball_is_drawn_as_its_disc() -> None:
    room, person = started(samples=80, most=80)
    ball, told, clip = Ball(), Nothing(torch.zeros(2, 1)), person.clip([0, 6], radiance.NEEDS)
    room.occupancy.density.fill_(0)
    room.occupancy.update(lambda points: torch.full((len(points),), 1e3))
    low, high = room.occupancy.low, room.occupancy.high
    assert clip.camera is not None
    picture, depth = room.head(ball, told, clip.camera, person.size)
    surface = torch.nn.functional.normalize(torch.randn(4000, 3), dim=1) * 0.25 * (high - low) + (low + high) / 2
    seen = pose.project(clip.camera, surface)
    for row in range(2):
        alpha = picture[row, 3]
        wanted = seen[row].amax(0) - seen[row].amin(0)
        got = torch.tensor([(alpha.amax(0) > 0.5).sum(), (alpha.amax(1) > 0.5).sum()])
        assert (got - wanted).abs().max() <= 1.5
        full = alpha > 0.99
        assert torch.allclose(picture[row, :3, full], torch.tensor([[0.2], [0.5], [0.9]]) * alpha[full], atol=1e-4)
        place = (low + high) / 2
        middle = ((place - clip.camera.pose[row, :3, 3]) ** 2).sum().sqrt()
        assert 0.5 * 0.25 * float((high - low).min()) < middle - depth[row][full].min() < 0.3 * float((high - low).max())


def test_training_rays_meet_what_the_picture_shows() -> None:
    room, person = started(samples=60, most=60, rays=400)
    ball, clip = Ball(), person.clip([0, 3, 6], NEEDS)
    assert clip.camera is not None and clip.labels is not None
    head = clip.labels == 1
    looked = look(clip, head, 2, 400, 8)
    told = Nothing(torch.zeros(3, 1))
    traced = room.trace(ball, told, clip.camera, looked, person.size)
    picture, _ = room.head(ball, told, clip.camera, person.size)
    there = looked.read(picture)
    assert (traced.alpha - there[..., 3]).abs().mean() < 0.02  # the samples are jittered
    assert (traced.colour - there[..., :3]).abs().mean() < 0.02
    assert traced.aside.shape == traced.alpha.shape and (traced.aside <= traced.alpha + 1e-5).all()


def test_most_rays_look_at_the_head_and_the_patch_is_a_square_at_the_lips() -> None:
    clip = SyntheticPerson().clip([0, 5], NEEDS)
    assert clip.labels is not None and clip.mouth is not None and clip.frames is not None
    head = clip.labels == 1
    looked = look(clip, head, 0, 2000, 8)
    assert looked.patch == 0 and looked.column.shape == (2, 1000)
    share = looked.read(head[:, None].float())[..., 0].mean()
    assert share > 1.3 * head.float().mean() and share > 0.5
    at = torch.stack([looked.column, looked.line], 2) + 0.5
    inside = ((at > clip.mouth[:, None, :2]) & (at < clip.mouth[:, None, 2:])).all(2)
    assert inside.float().mean() > 0.2  # pixels that its edge cuts are not counted
    looked = look(clip, head, 1, 2000, 8)
    square = looked.square(looked.read(clip.frames))
    for row in range(2):
        x, y = looked.column[row, -64].item(), looked.line[row, -64].item()
        assert torch.equal(square[row], clip.frames[row, :, y : y + 8, x : x + 8])
        if row == 0:
            assert (torch.tensor([x + 4.0, y + 4.0]) - (clip.mouth[0, :2] + clip.mouth[0, 2:]) / 2).abs().max() <= 5


def test_pixels_outside_are_never_asked_for() -> None:
    clip = Clip(mouth=torch.tensor([[-5.0, 40.0, 60.0, 60.0]]))
    looked = look(clip, torch.zeros(1, 48, 48, dtype=torch.bool), 2, 256, 8)
    for places in (looked.column, looked.line):
        assert places.min() >= 0 and places.max() <= 47


def test_stages_follow_the_shares_of_the_recipe() -> None:
    room = Radiance((48, 48), Recipe(steps=100, lips_from=0.5, torso_from=0.8, cells=16))
    assert [room.stage(step) for step in (0, 49, 50, 79, 80, 100)] == [0, 0, 1, 1, 2, 2]


def test_the_torso_is_learned_in_the_last_stage_alone() -> None:
    method, person = begun("er_nerf", steps=30, lips_from=0.3, torso_from=0.6)
    clip, optimizers = person.clip([0, 5], method.needs | method.loss_needs), method.optimizers()
    method.train()
    names = []
    for step in (3, 12, 25):
        values = method.update(clip, step, optimizers)
        names.append(set(values))
        touched = method.room.torso.picture.grad is not None
        assert touched == (step == 25)
    assert names[1] - names[0] == {"patch"} and names[2] - names[1] == {"bend"}


def test_rates_rise_when_their_part_begins_and_fall_to_the_end() -> None:
    method, person = begun("rad_nerf", steps=1000, lips_from=0.5, torso_from=0.7)
    optimizer = method.optimizers()[0]
    clip = person.clip([0, 5], method.needs | method.loss_needs)
    torso = next(g for g in optimizer.param_groups if any(p is method.room.torso.picture for p in g["params"]))
    grids = next(g for g in optimizer.param_groups if any(p is method.field.places.table for p in g["params"]))
    rates = []
    for step in (0, 500, 700, 715, 730, 999):
        method.update(clip, step, [optimizer])
        rates.append((grids["lr"] / grids["base"], torso["lr"] / torso["base"]))
    assert rates[0][0] == pytest.approx(0.02) and rates[-1][0] == pytest.approx(method.config.decay, rel=0.01)
    assert rates[2][1] < 0.1 * rates[2][0] and rates[3][1] == pytest.approx(rates[3][0] * 0.52) and rates[4][1] == rates[4][0]
    assert grids["base"] == 10 * method.config.rate


def test_a_trained_eye_judges_the_patches_when_asked_to() -> None:
    method, person = begun("rad_nerf", steps=20, lips_from=0.0, perceptual=0.5)
    clip = person.clip([0, 5], method.needs | method.loss_needs)
    seen = []

    def judge(image: Tensor, target: Tensor) -> Tensor:
        seen.append(image.shape)
        return (image - target).abs().mean((1, 2, 3))

    values = []
    for weight in (0.0, 0.5):
        method.config.perceptual, method.room.__dict__["judge"] = weight, judge
        torch.manual_seed(0)
        values.append(method.room.losses(method, method.tell(clip), clip, 3)["patch"].item())
    assert seen == [(2, 3, 8, 8)] and values[1] > values[0]


def test_planes_open_from_coarse_to_fine() -> None:
    method, person = begun("er_nerf", steps=10, first=1, opened=0.5)
    clip, optimizers = person.clip([0, 5], method.needs | method.loss_needs), method.optimizers()
    seen = []
    for step in (0, 3, 6):
        method.update(clip, step, optimizers)
        moved = method.planes.planes[0].table.grad[method.planes.planes[0].layout.levels[-1].start :]
        seen.append((float(method.open_levels), bool(moved.any())))
    assert [opened for opened, _ in seen] == pytest.approx([1.0, 2.8, 4.0]) and [finest for _, finest in seen] == [False, False, True]
    told, points = method.tell(clip[:1]), torch.rand(50, 3)
    every = method.planes(points)
    method.open_levels.fill_(2.5)
    method.density(points, told, Rows(None, 1))
    look = method.still(told).places.look(points, torch.float32)
    assert not look[:, 3::4].any() and torch.equal(look[:, 2::4], every[:, 2::4] / 2) and torch.equal(look[:, ::4], every[:, ::4])


@pytest.mark.parametrize("name", ["rad_nerf", "er_nerf"])
def test_the_head_is_learned_and_the_mouth_follows_speech(name: str) -> None:
    method, person = begun(name, steps=140, rays=400, warm=60, lips_from=1.0, torso_from=1.0, dropout=0.0, rate=5e-3)
    optimizers, needs = method.optimizers(), method.needs | method.loss_needs
    method.train()
    log = []
    for step in range(140):
        torch.manual_seed(step)
        log.append(float(method.update(person.clip(torch.randint(len(person), (2,)), needs), step, optimizers)["colour"]))
    assert sum(log[-8:]) / 8 < 0.5 * sum(log[:4]) / 4
    wide, shut = int(person.opening.argmax()), int(person.opening.argmin())
    clip = person.clip([wide, shut], needs)
    assert clip.speech is not None and clip.mouth is not None
    same_pose = dataclasses.replace(clip[[0, 0]], speech=clip.speech)  # only the sound differs
    with torch.no_grad():
        frames = method.eval().render(method.encode(Clip()), same_pose)
    x0, y0, x1, y1 = clip.mouth[0].round().long().tolist()
    open_mouth, shut_mouth = frames[:, :, y0:y1, x0:x1].mean((1, 2, 3)).tolist()
    assert shut_mouth - open_mouth > 0.002, (shut_mouth, open_mouth)  # the inside is dark


def test_frames_are_as_large_as_the_camera_says() -> None:
    method, person = begun("rad_nerf")
    clip = person.clip([0], method.needs)
    assert clip.camera is not None
    large = dataclasses.replace(clip, camera=Camera(clip.camera.pose, clip.camera.focal * 2, clip.camera.center * 2))
    with torch.no_grad():
        small, big = method.eval().render(None, clip), method.render(None, large)
    assert big.shape == (1, 3, 96, 96)
    assert (torch.nn.functional.avg_pool2d(big, 2) - small).abs().mean() < 0.03


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_of_another_size_loads(name: str) -> None:
    method, person = begun(name)
    other = registry.create(name, "tiny", size=64)
    other.load_state_dict(method.state_dict())
    clip = person.clip(slice(0, 2), method.needs)
    with torch.no_grad():
        assert torch.equal(other.eval().render(other.encode(Clip()), clip), method.eval().render(method.encode(Clip()), clip))


def test_conditions_are_encoders_of_this_package() -> None:
    assert registry.create("rad_nerf", "tiny").speech == "whisper"
    assert registry.create("er_nerf", "tiny", condition="ds").speech == "deepspeech"
    with pytest.raises(InputError, match="r2_talker"):
        registry.create("rad_nerf", "tiny", condition="idexp")
    with pytest.raises(InputError, match="choose from"):
        registry.create("rad_nerf", "tiny", condition="dss")


def test_a_layer_told_once_a_row_is_the_layer_over_both() -> None:
    torch.manual_seed(0)
    net, points, told = Told(5, 3, 7, 2).double(), torch.randn(11, 5).double(), torch.randn(4, 3).double()
    index = torch.randint(4, (11,))
    both = torch.cat([net.point.weight, net.row.weight], 1)
    wanted = net.rest(torch.cat([points, told[index]], 1) @ both.t())
    assert torch.allclose(net(points, told, Rows(index, 4)), wanted)
    assert torch.allclose(net(points, told[:1], Rows(None, 1)), net(points, told[:1], Rows(torch.zeros(11, dtype=torch.long), 1)))


def test_waves_harmonics_and_bounded_exponential() -> None:
    points = torch.rand(6, 2).double()
    assert torch.allclose(waves(points, 3)[:, 2 + 4 : 2 + 6], (4 * points).sin())
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(400_000, 3).double(), dim=1)
    products = spherical(directions).t() @ spherical(directions) / len(directions) * 4 * torch.pi
    assert torch.allclose(products, torch.eye(16).double(), atol=0.03)  # orthonormal over the sphere
    x = torch.tensor([-3.0, 0.0, 2.0, 80.0], dtype=torch.float64, requires_grad=True)
    exponential(x).sum().backward()
    assert torch.allclose(exponential(x)[:3], x[:3].exp()) and x.grad is not None
    assert torch.allclose(x.grad[:3], x.detach()[:3].exp()) and x.grad[3] <= torch.tensor(15.0).exp() * 1.01


def test_a_frame_nobody_trained_on_has_the_mean_code() -> None:
    codes = Individual(4, 3)
    codes.codes.data.copy_(torch.arange(12).view(4, 3).float())
    clip = Clip(index=torch.tensor([2, 0]))
    assert torch.equal(codes(clip, 2), codes.codes[[2, 0]])
    assert torch.equal(codes.eval()(clip, 2), codes.codes.mean(0).expand(2, 3))


def test_a_patch_reads_back_the_picture() -> None:
    images = torch.rand(1, 2, 6, 6)
    y, x = torch.meshgrid(torch.arange(2, 5), torch.arange(1, 4), indexing="ij")
    looked = Looked(x.reshape(1, -1), y.reshape(1, -1), 3)
    assert torch.equal(looked.square(looked.read(images)), images[:, :, 2:5, 1:4])


@pytest.mark.parametrize("name", METHODS)
def test_networks_in_half_precision_lose_as_much(name: str) -> None:
    method, person = begun(name)
    clip, values = person.clip([0, 5], method.needs | method.loss_needs), []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            values.append({key: value.item() for key, value in method.loss(clip).items()})
    for key, value in values[0].items():
        assert abs(value - values[1][key]) < 0.02 * value + 1e-3, key
