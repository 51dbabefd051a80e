"""Metrics beside PSNR, SSIM and LMD: each against an independent reference or an exact case, and on bad input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage
from torch import Tensor

from vivavoce.metrics.beats import beat_alignment, motion_beats, sound_beats
from vivavoce.metrics.checked import checked
from vivavoce.metrics.cpbd import cpbd, edge_widths
from vivavoce.metrics.csim import SIDE, TEMPLATE, Identity, aligned, csim
from vivavoce.metrics.frechet import Inception, Statistics, VideoNetwork, fid, frechet, resampled
from vivavoce.metrics.lmd import FACE, MOUTH, lmd, lvd
from vivavoce.metrics.mouth import LOWER, blendshape_error, blinks, following, jitter, silence_motion, unit_error
from vivavoce.metrics.ms_ssim import ms_ssim
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
