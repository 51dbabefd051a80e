"""Metrics beside PSNR, SSIM and LMD: each against an independent reference or an exact case, and on bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage, signal, stats
from torch import Tensor

from vivavoce.face.regions import CORNERS_LEFT, CORNERS_RIGHT, LIDS_LEFT, LIDS_RIGHT
from vivavoce.metrics.av import drift, real_time
from vivavoce.metrics.beats import beat_alignment, motion_beats, sound_beats
from vivavoce.metrics.checked import checked
from vivavoce.metrics.cpbd import cpbd, edge_widths
from vivavoce.metrics.csim import SIDE, TEMPLATE, Identity, aligned, csim
from vivavoce.metrics.frechet import Inception, Statistics, VideoNetwork, fid, frechet, resampled
from vivavoce.metrics.lmd import FACE, MOUTH, lmd, lvd
from vivavoce.metrics.lpips import lpips
from vivavoce.metrics.mouth import (
    LOWER,
    UPPER,
    Trembling,
    blendshape_error,
    blinks,
    eye_openness,
    following,
    jitter,
    silence_motion,
    unit_error,
)
from vivavoce.metrics.ms_ssim import ms_ssim, with_ssim
from vivavoce.metrics.psnr import psnr
from vivavoce.metrics.ssim import ssim
from vivavoce.nn.perceptual import Perceptual
from vivavoce.types import InputError


def waves() -> tuple[Tensor, Tensor]:
    """Two pictures and noisy copies, from formulas."""
    y, x = torch.meshgrid(torch.arange(180) / 20.0, torch.arange(201) / 17.0, indexing="ij")
    rows = [torch.stack([torch.sin(x * k + y) * 0.5 + 0.5, torch.cos(x - y * k) * 0.5 + 0.5, (x * y * k / 90) % 1]) for k in (1, 2)]
    a = torch.stack(rows).float()
    return a, (a + 0.2 * torch.randn(a.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)


def test_ms_ssim_is_that_of_pytorch_msssim() -> None:
    a, b = waves()
    assert ms_ssim(b, a).tolist() == pytest.approx([0.6484133118, 0.7562239365], abs=3e-6)  # pytorch-msssim 1.0.0, float64
    assert torch.allclose(ms_ssim(a, a), torch.ones(2, dtype=torch.double))
    with pytest.raises(InputError, match="161 px"):
        ms_ssim(a[..., :160], b[..., :160])


def test_lmd_of_the_mouth_and_of_the_face_and_of_velocities() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(5, 68, 2, generator=generator) * 256, torch.rand(5, 68, 2, generator=generator) * 256
    for part, count in ((MOUTH, 20), (FACE, 68)):  # EAT's evaluation: sum of distances over frames x points
        p, q = (x[:, part].numpy() - x[:, part].numpy().mean(1, keepdims=True) for x in (a, b))
        assert float(lmd(a, b, part).mean()) == pytest.approx(np.linalg.norm(p - q, axis=2).sum() / (5 * count), rel=1e-5)
    assert torch.allclose(lvd(a, a + torch.tensor([3.0, 1.0])), torch.zeros(4), atol=1e-4)
    assert float(lvd(a, b).mean()) > 1


def test_frechet_distance_is_the_closed_form_and_that_of_a_matrix_root() -> None:
    generator = torch.Generator().manual_seed(2)
    mix = torch.randn(6, 6, generator=generator)
    x, y = torch.randn(400, 6, generator=generator), torch.randn(500, 6, generator=generator) @ mix + 0.5
    first, second = Statistics.empty(6), Statistics.empty(6)
    for piece in x.split(64):
        first.add(piece)
    second.add(y)
    c1, c2 = np.cov(x.double().numpy().T), np.cov(y.double().numpy().T)
    assert np.allclose(first.covariance.numpy(), c1)
    want = ((x.double().mean(0) - y.double().mean(0)) ** 2).sum().item() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet(first, second) == pytest.approx(want, rel=1e-8)
    assert frechet(first, first) == pytest.approx(0, abs=1e-8)
    normals = ((0.0, 1.0), (3.0, 2.0))
    line = [Statistics(2, torch.tensor([m * 2.0]).double(), torch.tensor([[2 * m * m + s * s]]).double()) for m, s in normals]
    assert frechet(*line) == pytest.approx(9 + 1 + 4 - 2 * 2)  # two normal distributions: (m1 - m2)^2 + (s1 - s2)^2
    with pytest.raises(InputError, match="it needs 2"):
        frechet(first, Statistics.empty(6))
    with pytest.raises(InputError, match="not a number"):
        first.add(torch.tensor([[math.nan] * 6]))


def test_pictures_are_resampled_for_inception_from_their_first_pixel() -> None:
    ramp = torch.arange(598.0)[None, None, None].expand(1, 1, 4, -1)
    assert torch.allclose(resampled(ramp, 299)[0, 0, 0], torch.arange(299) * 2.0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.assets
def test_fid_grows_with_what_is_wrong() -> None:
    a, _ = waves()
    shifted = torch.stack([a[0].roll(k, 2) for k in range(0, 64, 2)])
    noisy = (shifted + 0.2 * torch.randn(shifted.shape, generator=torch.Generator().manual_seed(4))).clamp(0, 1)
    network = Inception()
    same, count = fid(shifted.split(16), shifted.split(8), network)
    worse, _ = fid(noisy.split(16), shifted.split(8), network)
    assert count == 32 and same == pytest.approx(0, abs=0.05) and worse > 20


def test_a_video_network_of_the_user_is_read_or_refused(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
            return x.mean(dim=[3, 4]).flatten(1)

    torch.jit.script(Mean()).save(str(tmp_path / "net.pt"))
    frames = torch.rand(35, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    features = VideoNetwork(str(tmp_path / "net.pt"))(frames)
    assert features.shape == (2, 48)
    with pytest.raises(InputError, match="a stretch has 16"):
        VideoNetwork(str(tmp_path / "net.pt"))(frames[:15])
    (tmp_path / "bad.pt").write_text("no network")
    with pytest.raises(InputError, match="no TorchScript file"):
        VideoNetwork(str(tmp_path / "bad.pt"))


def test_sharpness_falls_with_blur_and_widths_are_those_of_the_edge() -> None:
    ramp = np.full((64, 64), 20.0)
    ramp[:, 30:36] = (22, 40, 110, 180, 198, 199)  # rises over seven steps
    ramp[:, 36:] = 200
    widths = edge_widths(ramp)[1:-1]
    assert (widths[:, 32] == 7).all() and not widths[:, :31].any() and not widths[:, 34:].any()
    generator = np.random.default_rng(0)
    blocks = np.kron(generator.uniform(0, 1, (16, 16)), np.ones((16, 16)))
    pictures = np.stack([ndimage.gaussian_filter(blocks, s) for s in (0.3, 1.5, 4.0)])
    values = cpbd(torch.from_numpy(pictures).float()[:, None].expand(-1, 3, -1, -1))
    assert values[0] > 0.8 and values[0] > values[1] >= values[2] and values[2] < 0.1
    assert cpbd(torch.zeros(1, 3, 64, 64)).tolist() == [0.0]
    with pytest.raises(InputError, match="64 px"):
        cpbd(torch.zeros(1, 3, 32, 64))


def test_faces_are_laid_onto_the_template() -> None:
    turn, scale, move = 0.3, 2.5, torch.tensor([150.0, 90.0])
    matrix = scale * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    five = torch.tensor(TEMPLATE) @ matrix.T + move
    points = torch.zeros(1, 68, 2)
    for group, place in zip((range(36, 42), range(42, 48), (30,), (48,), (54,)), five, strict=True):
        points[0, list(group)] = place
    y, x = torch.meshgrid(torch.arange(500.0), torch.arange(500.0), indexing="ij")
    back = (torch.stack([x, y], -1) - move) @ torch.linalg.inv(matrix).T  # the template's coordinates at each pixel
    frame = torch.cat([back.permute(2, 0, 1), torch.zeros(1, 500, 500)])[None] / SIDE
    got = aligned(frame, points)[0, :2] * SIDE
    want = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="xy")).float()
    inside = got.abs().sum(0) > 0
    assert inside.float().mean() > 0.5 and torch.allclose(got[:, inside][:, 50:-50], want[:, inside][:, 50:-50], atol=0.6)
    assert torch.allclose(csim(torch.eye(2), torch.tensor([[1.0, 0], [1, 0]])), torch.tensor([1.0, 0]))
    with pytest.raises(InputError, match="no such network"):
        Identity("facenet")


@pytest.mark.real
@pytest.mark.assets
def test_a_person_is_more_alike_to_himself_than_to_others(shared_data: Path) -> None:
    pytest.importorskip("onnxruntime", reason="CSIM wants the extra 'metrics'")
    from vivavoce.face.landmarker import Landmarker
    from vivavoce.media import read_image

    network, landmarker, rows = Identity(), Landmarker(), []
    names = ("liveportrait_s0.jpg", "liveportrait_s3.jpg", "liveportrait_s6.jpg", "skimage_astronaut.png")
    for name in names:
        picture = read_image(shared_data / "portrait" / name)
        for image in (picture, np.ascontiguousarray(picture[:, ::-1])):  # and its mirror image
            face = max(landmarker(image), key=lambda f: f.score)
            frame = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
            rows.append(network(frame, torch.as_tensor(face.landmarks68)[None].float())[0])
    alike = torch.stack(rows) @ torch.stack(rows).T
    own = torch.stack([alike[2 * i, 2 * i + 1] for i in range(4)])
    other = torch.stack([alike[2 * i, 2 * j] for i in range(4) for j in range(4) if i != j])
    assert own.min() > 0.6 and other.max() < 0.4, (own, other)


def test_mouth_silence_blinks_and_trembling() -> None:
    t = torch.arange(100)
    opening = torch.sin(t / 3.0) * (t < 50)
    assert following(opening, 2 * opening + 1) == pytest.approx(1) and following(opening, torch.zeros(100)) == 0.0
    assert silence_motion(opening, t < 51) == pytest.approx(0, abs=1e-6)
    assert silence_motion(torch.sin(t / 3.0), t < 51) == pytest.approx(1, rel=0.15)
    assert math.isnan(silence_motion(opening, torch.ones(100, dtype=torch.bool)))
    eyes = torch.full((100,), 0.3)
    for start, length in ((10, 4), (40, 2), (70, 1)):  # the last is too short for a blink
        eyes[start : start + length] = 0.05
    assert blinks(eyes) == pytest.approx(2 / 4)
    noise = torch.randn(4000, 3, 2, generator=torch.Generator().manual_seed(0))
    assert jitter(0.5 * noise) == pytest.approx(0.5 * math.sqrt(-2 * math.log(0.05)), rel=0.05)  # Rayleigh's 95th percentile
    smooth = torch.stack([torch.sin(t / 10.0), torch.cos(t / 10.0)], 1)[:, None] * 20
    assert jitter(smooth) < 0.01


def test_eyes_open_by_the_gap_of_their_lids_whatever_the_size_of_the_face() -> None:
    points = torch.zeros(2, 478, 3)
    for outer, inner in (CORNERS_RIGHT, CORNERS_LEFT):
        points[:, outer, 0], points[:, inner, 0] = 0, 30
    for lids, gap in ((LIDS_RIGHT, 6.0), (LIDS_LEFT, 12.0)):
        for upper, lower in lids:
            points[:, upper, 0] = points[:, lower, 0] = 10
            points[:, lower, 1] = gap
    points[1] = points[1] * 3 + 7
    assert eye_openness(points).tolist() == pytest.approx([0.3, 0.3])
    with pytest.raises(InputError, match="not a number"):
        eye_openness(points / 0)


def test_expression_errors() -> None:
    a, b = torch.zeros(4, 52), torch.full((4, 52), 0.25)
    assert blendshape_error(a, b).tolist() == [0.25] * 4
    made, real = {u: torch.zeros(3) for u in LOWER}, {u: torch.full((3,), 2.0) for u in LOWER}
    assert unit_error(made, real, LOWER).tolist() == [4.0 * len(LOWER)] * 3
    with pytest.raises(KeyError):
        unit_error(made, real)


def test_beats_fall_together_with_the_rhythm_that_made_them() -> None:
    t = torch.arange(250)
    angle = torch.cumsum(torch.sin(2 * math.pi * t / 50).abs(), 0) * 0.02  # slowest every 25 frames
    beats = motion_beats(torch.stack([angle, 0 * angle, 0 * angle], 1))
    assert (beats[1:] - beats[:-1]).tolist() == [25] * (len(beats) - 1) and abs(int(beats[0]) % 25) in (0, 24, 1)
    sound = torch.zeros(250 * 640)
    for frame in range(25, 250, 25):
        sound[frame * 640 : frame * 640 + 2000] = torch.randn(2000, generator=torch.Generator().manual_seed(frame))
    heard = sound_beats(sound)
    assert len(heard) == 9 and all(min(abs(int(h) - f) for f in range(25, 250, 25)) <= 1 for h in heard)
    assert beat_alignment(beats, heard) > 0.8 > 0.3 > beat_alignment(beats + 12, heard)
    assert math.isnan(beat_alignment(beats, heard[:0]))


def test_trembling_of_a_stream_is_that_of_the_whole() -> None:
    noise = torch.randn(300, 5, 2, generator=torch.Generator().manual_seed(1))
    stream = Trembling()
    for piece in noise.split([1, 1, 1, 7, 290]):
        stream.add(piece)
    assert stream.value() == pytest.approx(jitter(noise), rel=0.01)
    cut = Trembling()
    for piece in (noise[:3], noise[3:6] + 100):  # a jump between two shots is no trembling
        cut.add(piece)
        cut.cut()
    assert math.isnan(cut.value()) and math.isnan(Trembling().value())
    still = Trembling()
    still.add(torch.ones(9, 5, 2))
    assert still.value() == 0


def test_ssim_comes_with_ms_ssim() -> None:
    a, b = waves()
    single, scales = with_ssim(a, b)
    assert torch.allclose(single.double(), ssim(a, b), atol=1e-5) and torch.allclose(scales.double(), ms_ssim(a, b), atol=1e-5)
    single, scales = with_ssim(a[..., :100], b[..., :100])
    assert torch.allclose(single, ssim(a[..., :100], b[..., :100])) and torch.isnan(scales).all()


def talk(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Loudness in 24 bands and lips that follow it."""
    draw = np.random.default_rng(0)
    lips = ndimage.gaussian_filter1d(draw.normal(size=int(seconds * 25)), 1.5)
    bands = lips[:, None] * draw.normal(size=24) + 0.02 * draw.normal(size=(len(lips), 24))
    return bands, lips


def test_drift_is_what_was_put_in() -> None:
    bands, lips = talk(40)
    assert abs(drift(bands, lips)) < 15
    late = np.concatenate([bands[:500], np.roll(bands, 4, 0)[500:]])  # the second half 160 ms later, 20 s after the first
    assert drift(late, lips) == pytest.approx(480, abs=15)
    assert math.isnan(drift(bands[:300], lips[:300]))  # too short
    assert math.isnan(drift(bands, np.random.default_rng(5).normal(size=len(lips))))  # not sure
    with pytest.raises(InputError, match="do not match"):
        drift(bands, lips[:-1])


def test_real_time_factor() -> None:
    assert real_time(250, 5.0) == 2.0
    for frames, seconds in ((0, 1.0), (25, 0.0), (25, math.nan)):
        with pytest.raises(InputError, match="real-time factor"):
            real_time(frames, seconds)


def test_lpips_refuses_what_it_cannot_compare() -> None:
    net = Perceptual().eval()
    a = torch.rand(2, 3, 40, 40)
    assert lpips(a, a, net).tolist() == [0, 0] and (lpips(a, 1 - a, net) > 0).all()
    with pytest.raises(InputError, match=r"do not match; give \[frames, channels"):
        lpips(a, a[..., :39], net)


def test_motion_beats_are_those_of_scipy() -> None:
    rotation = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).cumsum(0)
    speed = np.linalg.norm(np.diff(rotation.double().numpy(), axis=0), axis=1)
    want = signal.argrelmin(ndimage.gaussian_filter1d(speed, 5.0))[0]
    assert motion_beats(rotation).tolist() == want.tolist() and len(want) > 3


def test_following_and_cosine_are_those_of_scipy_and_numpy() -> None:
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    assert following(a, a + b) == pytest.approx(stats.pearsonr(a.double(), (a + b).double()).statistic)
    x, y = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)).numpy()
    want = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert np.allclose(csim(torch.from_numpy(x), torch.from_numpy(y)).numpy(), want, atol=1e-6)


def _pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def _units(rows: Tensor) -> dict[int, Tensor]:
    return dict.fromkeys((*LOWER, *UPPER), rows[:, 0, 0])


# name -> (function of two sequences, rows that it takes, rows that it needs)
PAIRED: dict[str, tuple[Callable[[Tensor, Tensor], object], tuple[int, ...], int]] = {
    "PSNR": (psnr, (3, 12, 12), 1),
    "SSIM": (ssim, (3, 12, 12), 1),
    "MS-SSIM": (ms_ssim, (3, 161, 161), 1),
    "LPIPS": (lambda a, b: lpips(a, b, Perceptual()), (3, 32, 32), 1),
    "LMD": (lmd, (68, 2), 1),
    "LVD": (lvd, (68, 2), 2),
    "CSIM": (csim, (8,), 1),
    "mouth r": (following, (), 3),
    "blendshape error": (blendshape_error, (52,), 1),
    "AUE": (lambda a, b: unit_error(_units(a), _units(b)), (1, 1), 1),
    "silence motion": (lambda a, b: silence_motion(a, b > 0.5), (), 2),
}
ALONE: dict[str, tuple[Callable[[Tensor], object], tuple[int, ...], int]] = {
    "CPBD": (cpbd, (3, 64, 64), 1),
    "blink rate": (blinks, (), 25),
    "jitter": (jitter, (5, 2), 4),
    "beats of motion": (motion_beats, (3,), 3),
    "beats of sound": (sound_beats, (), 1280),
    "identity": (lambda x: Identity.__call__(object(), x, x), (68, 2), 1),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", PAIRED)
def test_every_metric_of_two_refuses_bad_input(name: str) -> None:
    metric, shape, least = PAIRED[name]
    rows = _pictures(max(least, 2), *shape)
    metric(rows, rows)
    for few in {0, least - 1}:
        with pytest.raises(InputError, match="longer clip"):
            metric(rows[:few], rows[:few])
    with pytest.raises(InputError, match="do not match"):
        metric(rows, rows[:-1])
    with pytest.raises(InputError, match="not a number"):
        metric(torch.full_like(rows, torch.nan), rows)


@pytest.mark.parametrize("name", ALONE)
def test_every_metric_of_one_refuses_bad_input(name: str) -> None:
    metric, shape, least = ALONE[name]
    for few in {0, least - 1}:
        with pytest.raises(InputError, match="longer clip"):
            metric(_pictures(few, *shape))
    with pytest.raises(InputError, match="not a number"):
        metric(torch.full((least, *shape), torch.nan))


def test_one_frame_is_enough_for_what_needs_no_motion() -> None:
    a, b = _pictures(1, 3, 32, 32), 1 - _pictures(1, 3, 32, 32)
    assert psnr(a, b).shape == ssim(a, b).shape == lpips(a, b, Perceptual()).shape == (1,)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((torch.zeros(0, 2), torch.zeros(0, 2)), "0 rows, it needs 1"),
        ((torch.zeros(3, 2), torch.zeros(4, 2)), "3 and 4 rows do not match"),
        ((torch.zeros(2, 2), torch.tensor([[1.0, math.nan], [0, 0]])), "not a number"),
    ],
)
def test_bad_input_is_one_clear_error(rows: tuple[Tensor, Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked("some metric", *rows)
