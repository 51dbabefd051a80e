"""LivePortrait as a method: drawing for production, motion, retargeting, training, and another film as the driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests import liveportrait_weights as rule
from tests.synthetic import LoudnessEncoder, SyntheticPerson
from tests.test_liveportrait_parts import check, networks
from vivavoce import registry, run
from vivavoce.data import driving
from vivavoce.data.playback import Playback
from vivavoce.face.crop import Crop
from vivavoce.media import Writer
from vivavoce.methods.live_portrait import LivePortrait
from vivavoce.nn.liveportrait import SMALL, Networks, Widths, drawing, flat, keypoints, training
from vivavoce.nn.together import Rows
from vivavoce.render.warp import portrait
from vivavoce.talker import Talker
from vivavoce.types import Clip, InputError, Motion


def tiny(**changes: object) -> LivePortrait:
    torch.manual_seed(0)
    method = registry.create("live_portrait", "tiny", **changes)
    assert isinstance(method, LivePortrait)
    return method.eval()


def lively(method: LivePortrait) -> LivePortrait:
    """With corrections that do something (training begins with none)."""
    for net in (method.networks.stitching.shoulder, method.networks.stitching.mouth, method.networks.stitching.eye):
        torch.nn.init.normal_(net.mlp[-1].weight, std=0.1)  # type: ignore[arg-type]
    return method


def moved(rows: int, seed: int = 0) -> Motion:
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: 0.2 * torch.randn(*shape, generator=g)  # noqa: E731
    return Motion(make(rows, 3), make(rows, 3), 1 + make(rows, 1), make(rows, 63), "keypoints")


def still(rows: int) -> Motion:
    return Motion(torch.zeros(rows, 3), torch.zeros(rows, 3), torch.ones(rows, 1), torch.zeros(rows, 63), "keypoints")


# ---- drawing ----


@torch.no_grad()
def test_production_draws_the_authors_pictures() -> None:
    """Folded and rearranged, at the published widths, against the recorded outputs of the authors' code."""
    drawer, given = drawing.Drawer(networks()), rule.inputs()
    check("picture", drawer.decoder(given["features"]))
    check("warped", drawer.warping(given["volume"], given["driving"], given["source"]).features)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_convolution_of_an_enlarged_map_from_the_small_one(factor: int) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 3, 4, 5), (6, 3, 3, 3), (6,)))
    wanted = functional.conv2d(functional.interpolate(x, scale_factor=factor), weight, bias, padding=1)
    assert torch.allclose(drawing.Enlarged(weight, bias, factor)(x), wanted, atol=1e-12)


@torch.no_grad()
def test_production_keeps_pace_with_training() -> None:
    """After a step of training the frames are those of the new weights."""
    method, person = tiny(), SyntheticPerson(space="keypoints")
    source, clip = person.clip([0], method.source_needs), Clip(motion=moved(2))
    before = method.render(method.encode(source), clip)
    method.train()
    with torch.enable_grad():
        method.update(person.clip(slice(0, 4), method.needs | method.loss_needs), 0, method.optimizers())
    method.eval()
    identity = method.encode(source)
    after = method.render(identity, clip)
    assert not torch.allclose(before, after, atol=1e-3)
    points = method.driven(identity, clip.motion)  # type: ignore[arg-type]
    plain, _ = method.networks.draw(identity.volume.expand(2, -1, -1, -1, -1), points, identity.points.expand(2, -1, -1))
    assert torch.allclose(method.draw(identity, clip.motion), plain, atol=1e-5)  # type: ignore[arg-type]


def wild(widths: Widths) -> Networks:
    """Networks none of whose norms leaves its map as it is."""
    torch.manual_seed(0)
    net = Networks(widths).double().eval()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            for values, low, high in (
                (part.running_mean, -0.3, 0.3),
                (part.running_var, 0.5, 2.0),
                (part.weight, 0.5, 2.0),
                (part.bias, -0.3, 0.3),
            ):
                torch.nn.init.uniform_(values, low, high)  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize("side", [4, 8])
@torch.no_grad()
def test_flat_drawing_is_that_of_the_networks(side: int) -> None:
    """Volumes as slices, enlarged maps from small ones, biases dropped before norms: in float64 nothing is lost."""
    net, g = wild(replace(SMALL, middle=2)), torch.Generator().manual_seed(side)
    volume, driving, source = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 4, 4, side, side), (2, 21, 3), (2, 21, 3)))
    wanted, warped = net.draw(volume, 0.4 * driving, 0.4 * source)
    drawer = flat.FlatDrawer(net, torch.float64)
    features = drawer.warping(volume.permute(0, 2, 3, 4, 1).contiguous(), 0.4 * driving, 0.4 * source)
    assert torch.allclose(features.permute(0, 3, 1, 2), warped.features, atol=1e-12)
    found = drawer(volume, 0.4 * driving, 0.4 * source)
    assert wanted.std() > 0.02 and torch.allclose(found, wanted, atol=1e-12)


STEPS: list[tuple[str, tuple[tuple[int, ...] | float | None, ...], dict[str, object]]] = [  # shapes of tensors, and numbers
    ("slots", ((2, 3, 5, 6, 4), (2, 21, 3), (2, 21, 3), 112), {}),
    ("shrink", ((6, 10, 12, 72), (20,), 3, 3), {}),
    ("spread", ((6, 6, 8, 240), (20,), 3, 3), dict(factor=2, skip=(6, 10, 14, 24))),
    ("spread", ((6, 5, 7, 64), (20,), 3, 3), {}),
    ("spread", ((2, 6, 8, 9 * 48), (48,)), dict(factor=4, groups=3)),
    ("spread", ((2, 5, 7, 64), (64,)), dict(groups=2)),
    ("sample", ((6, 5, 7, 72), (22,), (2, 22, 3), (2, 3, 5, 7, 12), 3), {}),
    ("sample", ((6, 9, 7, 72), (22,), (2, 22, 3), (2, 3, 5, 7, 12), 3), dict(more=(6, 9, 7, 72))),
    ("statistics", ((2, 21, 33, 40),), {}),
    ("statistics", ((2, 21, 33, 40), (2, 21, 33, 40), (2, 21, 33, 88)), {}),
    ("modulate", ((2, 21, 33, 40), None, (2, 21, 33, 80), (80,), 0.2), {}),
    ("modulate", ((2, 21, 33, 40), None, (2, 42, 66, 88), (40,), 1.0), {}),
    ("finish", ((2, 5, 7, 40), (40,), 0.2), dict(other=(2, 5, 7, 40), beside=(2, 5, 7, 88))),
    ("hide", ((2, 5, 7, 40), (40,), (6, 9, 7, 80), 72, (1,)), dict(more=(6, 9, 7, 80))),
    ("picture", ((2, 5, 7, 16), (12,)), {}),
]


@pytest.mark.gpu
@pytest.mark.parametrize("case", range(len(STEPS)))
@torch.no_grad()
def test_kernels_between_convolutions(case: int) -> None:
    """Odd sizes, in float32, against plain torch in float64."""
    name, given, named = STEPS[case]
    g = torch.Generator().manual_seed(case)
    make = lambda v: 0.5 * torch.randn(*v, generator=g) if isinstance(v, tuple) else v  # noqa: E731
    arguments, keywords = [make(v) for v in given], {k: make(v) for k, v in named.items()}
    made = []
    for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
        steps = portrait.steps(torch.device("cuda"), backend)
        to = lambda v: v.cuda().to(dtype) if isinstance(v, Tensor) else v  # noqa: E731, B023
        values = [to(v) for v in arguments]
        further = {k: to(v) for k, v in keywords.items()}
        if "more" in further:  # both are cut from higher ones
            place = 0 if name == "sample" else 2
            values[place], further["more"] = values[place][:, :5], further["more"][:, 4:]
        if name == "modulate":
            values[1] = steps.statistics(values[0])[1]
        out = getattr(steps, name)(*values, **further)
        made.append(out[0] if isinstance(out, tuple) else out)
    assert made[0].shape == made[1].shape and made[0].dtype == torch.float32
    assert torch.allclose(made[0].double(), made[1], atol=1e-5, rtol=1e-5), float((made[0] - made[1]).abs().max())


@pytest.mark.gpu
@torch.no_grad()
def test_graphs_in_half_precision_draw_the_same() -> None:
    """Every number of rows, with graphs filled up and used again, against float32 without any of it."""
    net, given = networks().cuda(), {k: v.cuda() for k, v in rule.inputs().items()}
    try:
        draw = drawing.ready(net)
        assert isinstance(draw, Rows) and isinstance(draw.work, drawing.Graphs)
        for rows in (1, 3, 4, 2, 3):
            g = torch.Generator().manual_seed(rows)
            source = given["source"].expand(rows, -1, -1)
            driving = source + 0.1 * torch.randn(rows, 21, 3, generator=g).cuda()
            volume = given["volume"].expand(rows, -1, -1, -1, -1)
            wanted = net.draw(volume, driving, source)[0]
            found = draw(volume, driving, source)
            assert found.shape == wanted.shape and found.dtype == torch.float32
            assert float((found - wanted).abs().mean()) < 0.01, rows  # these weights make the most of every rounding
        assert sorted(draw.work.made) == [1, 2, 4]
    finally:
        net.cpu()


@pytest.mark.gpu
@torch.no_grad()
def test_no_pixel_of_half_precision_is_far_off() -> None:
    """At the published widths, with weights as training begins with."""
    net, g = wild(Widths()).float().cuda(), torch.Generator().manual_seed(0)
    volume, source = torch.randn(1, 32, 16, 64, 64, generator=g).cuda(), 0.5 * torch.randn(1, 21, 3, generator=g).cuda()
    driving = source + 0.1 * torch.randn(2, 21, 3, generator=g).cuda()
    found = drawing.ready(net)(volume.expand(2, -1, -1, -1, -1), driving, source.expand(2, -1, -1))
    for row in range(2):
        wanted = net.draw(volume, driving[row : row + 1], source)[0][0]
        assert float((found[row] - wanted).abs().max()) < 0.01


@pytest.mark.gpu
@torch.no_grad()
def test_graphs_of_narrow_networks_in_single_precision() -> None:
    net, g = wild(replace(SMALL, middle=2)).float().cuda(), torch.Generator().manual_seed(0)
    draw = drawing.ready(net, half=False)
    for rows in (3, 1):
        volume, driving, source = (0.4 * torch.randn(rows, *s, generator=g).cuda() for s in ((4, 4, 8, 8), (21, 3), (21, 3)))
        wanted = net.draw(volume, driving, source)[0]
        assert wanted.std() > 0.02 and torch.allclose(draw(volume, driving, source), wanted, atol=5e-3)  # cuDNN multiplies in TF32


# ---- motion ----


@torch.no_grad()
def test_no_motion_leaves_the_key_points_and_every_motion_the_surroundings() -> None:
    method, narrow = tiny(stitch=False), SyntheticPerson().clip([0], {"frames", "landmarks"})
    assert narrow.frames is not None and narrow.landmarks is not None
    source = replace(narrow, frames=functional.pad(narrow.frames, (60, 60, 60, 60), mode="replicate"), landmarks=narrow.landmarks + 60)
    identity = method.encode(source)
    assert torch.allclose(method.driven(identity, still(1)), identity.points, atol=1e-5)
    frame = method.render(identity, Clip(motion=moved(1)))
    middles = torch.cartesian_prod(torch.arange(168), torch.arange(168)).flip(1)[None] + 0.5
    away = (identity.where.inside(middles)[0] - 16).abs().amax(1).reshape(168, 168) > 18  # beside the crop of 32 px
    assert 1000 < int(away.sum()) < 168 * 168 - 1000
    assert torch.allclose(frame[0][:, away], identity.frame[0][:, away], atol=1e-6)
    assert not torch.allclose(frame[0][:, ~away], identity.frame[0][:, ~away], atol=0.05)


@torch.no_grad()
def test_options_of_motion_do_what_they_say() -> None:
    person, motion = SyntheticPerson(), moved(2)
    method = lively(tiny())
    identity = method.encode(person.clip([3], method.source_needs))
    free = method.driven(identity, motion)
    method.config.stitch = False
    plain = method.driven(identity, motion)
    assert torch.allclose(plain, keypoints.compose(identity.canonical, keypoints.follow(identity.motion, motion)), atol=1e-6)
    assert not torch.allclose(free, plain, atol=1e-3)
    method.config.multiplier = 0.5
    assert torch.allclose(method.driven(identity, motion) - identity.points, (plain - identity.points) / 2, atol=1e-6)
    method.config.multiplier, method.config.absolute = 1.0, True
    there = keypoints.compose(identity.canonical, keypoints.replaced(identity.motion, motion))
    assert torch.allclose(method.driven(identity, motion), there, atol=1e-6)


@torch.no_grad()
def test_eyes_and_lips_are_retargeted_in_addition_to_the_motion() -> None:
    person, motion = SyntheticPerson(), moved(1)
    base, method = lively(tiny(stitch=False)), lively(tiny(stitch=False, eyes=0.4, lips=0.2))
    method.load_state_dict(base.state_dict())
    source = person.clip([5], method.source_needs)
    a, b = base.encode(source), method.encode(source)
    eyes, lips = training.opened(source.landmarks)  # type: ignore[arg-type]
    ask = lambda value: torch.full((1, 1), value)  # noqa: E731
    wanted = base.networks.stitching.eyes(a.points, eyes, ask(0.4)) + base.networks.stitching.lips(a.points, lips, ask(0.2))
    assert float(wanted.abs().max()) > 1e-3
    assert torch.allclose(method.driven(b, motion) - base.driven(a, motion), wanted, atol=1e-5)
    method.config.eyes = method.config.lips = -1.0
    method.config.calm_lips = True
    shut = method.encode(source).offset
    assert torch.allclose(shut, base.networks.stitching.lips(a.points, lips, ask(0.0)), atol=1e-6) and float(lips) > 0.03


def test_openness_is_the_gap_over_the_width() -> None:
    points = torch.zeros(1, 68, 2)
    points[0, [48, 54]] = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    points[0, [62, 66]] = torch.tensor([[2.0, 0.0], [2.0, 1.0]])
    points[0, [42, 45]] = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    points[0, [43, 44]], points[0, [46, 47]] = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.6])
    points[0, [36, 39]] = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    eyes, lips = training.opened(points)
    assert torch.allclose(lips, torch.tensor([[0.25]])) and torch.allclose(eyes, torch.tensor([[0.3, 0.0]]))


def test_bad_input_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"live_portrait: its weights are not on this machine.*KlingTeam/LivePortrait.*assets fetch"):
        LivePortrait.shipped()
    with pytest.raises(InputError, match="no such widths"):
        tiny(widths="huge")
    method, person = tiny(), SyntheticPerson()
    with pytest.raises(InputError, match="no landmarks"):
        method.encode(person.clip([0], {"frames"}))
    identity = method.encode(person.clip([0], method.source_needs))
    with pytest.raises(InputError, match="52 numbers"):
        method.render(identity, Clip(motion=replace(still(1), expression=torch.zeros(1, 52))))


# ---- training ----


def step_losses(method: LivePortrait, steps: range) -> list[dict[str, float]]:
    person, out = SyntheticPerson(count=8), []
    clip = person.clip(slice(0, 4), method.needs | method.loss_needs)
    optimizers = method.train().optimizers()
    for step in steps:
        torch.manual_seed(0)
        out.append({k: float(v) for k, v in method.update(clip, step, optimizers).items()})
    return out


def test_stage_one_learns_pictures_pose_and_landmarks() -> None:
    method = tiny(steps=100, second=1.0)
    frozen = {k: v.clone() for k, v in method.networks.stitching.state_dict().items()}
    found = step_losses(method, range(25))
    for name, share in (("pixels", 0.7), ("head", 0.5), ("guidance", 0.7), ("judge whole", 0.99), ("judge lips", 0.99)):
        assert found[-1][name] < share * found[0][name], name
    assert all(torch.equal(v, frozen[k]) for k, v in method.networks.stitching.state_dict().items())


def test_stage_two_learns_corrections_alone() -> None:
    method = lively(tiny(steps=100, second=0.0))
    kept = {k: v.clone() for k, v in method.networks.state_dict().items() if not k.startswith("stitching")}
    found = step_losses(method, range(25))
    for name in ("stitching", "eyes", "lips"):
        assert found[-1][name] < 0.9 * found[0][name], name
    assert all(torch.equal(method.networks.state_dict()[k], v) for k, v in kept.items()), "the rest is frozen, batch norms too"


def test_pairs_are_of_one_window_and_its_landmarks_fit() -> None:
    person = SyntheticPerson(count=8)
    clip = person.clip(slice(0, 8), {"frames", "landmarks", "camera"})
    assert clip.frames is not None
    marked = replace(clip, frames=(torch.arange(8) // 4).float()[:, None, None, None].expand(8, 3, 48, 48).contiguous())
    given = training.pairs(marked, 4, 2, 32, (2.3, (0.0, 0.0)))
    assert given.source.shape == (2, 3, 32, 32) and given.driving.shape == (4, 3, 32, 32) and given.landmarks.shape == (6, 68, 2)
    assert torch.allclose(given.source.mean((1, 2, 3)), torch.tensor([0.0, 1.0]))
    assert torch.allclose(given.driving.mean((1, 2, 3)), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert given.landmarks[:, 48:].abs().max() < 1


def test_key_points_of_a_bent_picture() -> None:
    """What a bent picture shows at p, the straight one shows at the bend of p."""
    torch.manual_seed(0)
    line = (torch.arange(64) + 0.5) / 32 - 1
    ramp = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64), torch.zeros(64, 64)])[None]
    bend = training.Bend(1, ramp, 0.03, 0.003)
    shown = bend.pictures(ramp)[0, :2, 32, 20]
    assert torch.allclose(bend(torch.tensor([[[line[20], line[32]]]]))[0, 0], shown, atol=2e-3)
    assert float((shown - torch.stack([line[20], line[32]])).abs().max()) > 5e-3


def test_losses_on_key_points_against_numbers_by_hand() -> None:
    two = torch.tensor([[[0.0, 0.0, 0.33], [0.1, 0.0, 0.33]]])  # 0.01 apart, squared; 0.1 is wanted
    assert training.spread(two).item() == pytest.approx(2 * 0.09 / 2, abs=1e-6)
    assert training.wing(torch.tensor(0.5)).item() == pytest.approx(0.5 - (0.1 - 0.1 * np.log(11)), abs=1e-6)
    assert training.wing(torch.tensor(0.05)).item() == pytest.approx(0.1 * np.log(6), abs=1e-6)
    ones = [torch.full((2, 1, 3, 3), 0.5)]
    assert training.tell_apart(ones, ones).item() == pytest.approx(0.5 + 1.5)
    assert training.convince(ones).item() == pytest.approx(-0.5)


def test_training_begins_with_a_face_without_pose() -> None:
    torch.manual_seed(0)
    points, motion = training.begin(Networks(SMALL)).eval().measure(torch.rand(2, 3, 16, 16))
    assert motion.rotation.abs().max() < 0.3 and (motion.scale - 1).abs().max() < 0.3
    assert training.spread(points).item() < 0.2


# ---- a film as the driver ----


class Brightness:
    """Measures what can be checked by hand: the mean of a crop turns the head and opens the mouth."""

    device, source_needs = torch.device("cpu"), frozenset({"frames"})

    def encode(self, source: Clip) -> SimpleNamespace:
        assert source.frames is not None
        return SimpleNamespace(motion=moved(1))

    def measure(self, frames: Tensor, where: Crop) -> Motion:
        value = frames.mean((1, 2, 3))[:, None]
        expression = torch.zeros(len(frames), 63)
        expression[:, 3 * 19 + 1] = value[:, 0]
        return Motion(value * torch.tensor([[0.0, 1.0, 0.0]]), 0 * value.expand(-1, 3), 1 + value, expression, "keypoints")


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten grey frames, ever brighter; the face is said to be in the middle."""
    path = tmp_path / "driver.mp4"
    with Writer(path, (64, 64), 25, None) as writer:
        for k in range(10):
            writer.write(np.full((1, 64, 64, 3), 40 + 20 * k, np.uint8))
    middle = Crop(torch.tensor([[[8.0, 0, 0], [0, 8.0, 0]]]), (512, 512))
    monkeypatch.setattr(driving, "face_of", lambda path: middle)
    return path


def all_of(film: Path, own: Motion, mode: str, region: str = "all") -> Motion:
    return Motion.cat(list(driving.motions(film, Brightness(), own, mode, region, block=4)))  # type: ignore[arg-type]


def test_a_film_drives_relative_to_its_first_frame(film: Path) -> None:
    own = moved(1)
    change = all_of(film, own, "relative")
    assert len(change) == 10
    assert change.rotation[0].abs().max() < 1e-5 and (change.scale[0] - 1).abs() < 1e-5 and change.expression[0].abs().max() < 1e-5
    assert change.rotation[9, 1].item() == pytest.approx(180 / 255, abs=0.02)
    assert change.expression[9, 3 * 19 + 1].item() == pytest.approx(180 / 255, abs=0.02)
    lips = all_of(film, own, "relative", "lips")
    assert not lips.rotation.any() and lips.expression[9, 3 * 19 + 1] > 0.6


def test_a_film_drives_absolutely(film: Path) -> None:
    own = moved(1)
    there = keypoints.follow(own, all_of(film, own, "absolute"))
    assert there.rotation[0, 1].item() == pytest.approx(40 / 255, abs=0.02)
    assert torch.allclose(there.scale, own.scale.expand(10, 1), atol=1e-5)
    assert there.expression[0, 3 * 19 + 1].item() == pytest.approx(40 / 255, abs=0.02)
    assert torch.allclose(there.expression[:, :3], own.expression[:, :3].expand(10, -1), atol=1e-5), "point 0 holds identity"


def test_a_driver_takes_the_place_of_a_generator(film: Path) -> None:
    """Through the Talker, with a portrait's frames: the driver's motion for as long as the sound lasts, to and fro."""
    person, method = SyntheticPerson(), tiny()
    driver = driving.played(film, Brightness(), person)  # type: ignore[arg-type]
    motion, state = driver.generate(Clip(speech=torch.zeros(12, 2, 4)), driver.start(Clip()))
    turned = motion.rotation[:, 1]
    assert state == 12 and turned[9] > turned[5] > turned[0] and turned[10] == turned[9] and turned[11] == turned[8]
    encoder = LoudnessEncoder()
    encoder.name = "mel"
    frames = Talker(method, person, {"mel": encoder}, driver)(torch.zeros(640 * 12))
    assert frames.shape == (12, 3, 48, 48)
    assert torch.allclose(frames[10], frames[9], atol=1e-5) and not torch.allclose(frames[9], frames[0], atol=1e-4)


@torch.no_grad()
def test_run_drives_a_portrait_by_a_film(film: Path) -> None:
    """What `vivavoce run PORTRAIT --drive FILM --renderer live_portrait` builds."""
    method, person = tiny(), SyntheticPerson()
    talker = run._talker(method, person, run.Options(drive=str(film)), "cpu", None, [])
    assert isinstance(talker.generator, Playback) and len(talker.generator.motion) == 10
    own = method.encode(person.clip([0], method.source_needs)).motion
    wanted = Motion.cat(list(driving.motions(film, method, own)))
    assert torch.allclose(talker.generator.motion.expression, wanted.expression, atol=1e-6)
    assert talker(torch.zeros(640 * 3)).shape == (3, 3, 48, 48)


def test_unknown_modes_and_films_without_a_face(tmp_path: Path, film: Path) -> None:
    with pytest.raises(InputError, match="no such mode"):
        all_of(film, moved(1), "sideways")
    with pytest.raises(InputError, match="no such region"):
        all_of(film, moved(1), "relative", "ears")


def test_a_driver_needs_a_face(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        driving.face_of(tmp_path / "none.mp4")
    path = tmp_path / "grey.mp4"
    with Writer(path, (96, 96), 25, None) as writer:
        writer.write(np.full((3, 96, 96, 3), 90, np.uint8))
    with pytest.raises(InputError, match="no face found"):
        driving.face_of(path)
