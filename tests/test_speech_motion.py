"""speech_motion: what its weights in the package do on real features, and the procedural part of its motion."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce import speech
from vivavoce.face import blendshapes, idle
from vivavoce.face.regions import BLENDSHAPES
from vivavoce.methods.speech_motion import Config, SpeechMotion
from vivavoce.types import FPS, RATE, Clip, InputError, Motion

JAW = BLENDSHAPES.index("jawOpen")
LIDS = [BLENDSHAPES.index("eyeBlinkLeft"), BLENDSHAPES.index("eyeBlinkRight")]


def vowels(seconds: float, level: float = 0.2) -> Tensor:  # [N]
    """A buzz at 120 Hz through the formants of /a/, on and off four times a second: no speech, but a voice."""
    t = torch.arange(int(seconds * RATE)) / RATE
    sound = torch.zeros_like(t)
    for k in range(1, 40):
        height = sum(1 / (1 + ((120 * k - f) / w) ** 2) for f, w in ((730, 60), (1090, 70), (2440, 100)))
        sound += (0.05 + height) / k**0.5 * torch.sin(2 * math.pi * 120 * k * t)
    beat = (0.5 - 0.5 * torch.cos(2 * math.pi * 4 * t)) ** 0.5
    return level * sound / sound.abs().max() * beat


def moved(method: SpeechMotion, encoder: speech.Encoder, audio: Tensor, source: Clip | None = None) -> Motion:
    """Motion for a sound."""
    rows = speech.windows(speech.encode(encoder, audio), *method.window)
    with torch.no_grad():
        return method.generate(Clip(speech=rows), method.start(source or Clip()))[0]


def gap(motion: Motion) -> Tensor:  # [T] metres
    return blendshapes.load().gap(motion.expression).mean(1)


@pytest.fixture(scope="module")
def mel() -> tuple[SpeechMotion, speech.Encoder]:
    return SpeechMotion.shipped(speech="mel"), speech.load("mel")


@pytest.fixture
def whisper(asset: Callable[[str], Path]) -> tuple[SpeechMotion, speech.Encoder]:
    asset("whisper_tiny_en")
    return SpeechMotion.shipped(), speech.load("whisper")


@pytest.fixture(params=["mel", pytest.param("whisper", marks=pytest.mark.assets)])
def pair(request: pytest.FixtureRequest) -> tuple[SpeechMotion, speech.Encoder]:
    """The weights in the package, with the encoder they hear."""
    made: tuple[SpeechMotion, speech.Encoder] = request.getfixturevalue(request.param)
    return made


def steady(kind: str) -> Tensor:
    """Three seconds without a voice."""
    random = torch.Generator().manual_seed(4)
    white = torch.randn(3 * RATE, generator=random)
    if kind == "white noise":
        return 0.02 * white
    if kind == "rumble":
        rumble = torch.fft.irfft(torch.fft.rfft(white) / torch.arange(3 * RATE // 2 + 1).clamp(min=90), 3 * RATE)
        return 0.05 * rumble / rumble.std()
    if kind == "mains hum":
        t = torch.arange(3 * RATE) / RATE
        return 0.02 * sum(torch.sin(2 * math.pi * 50 * k * t) / k for k in range(1, 8))  # type: ignore[return-value]
    return torch.zeros(3 * RATE)


@pytest.mark.parametrize("kind", ["silence", "white noise", "rumble", "mains hum"])
def test_without_a_voice_the_mouth_stays_shut_and_still(pair: tuple[SpeechMotion, speech.Encoder], kind: str) -> None:
    motion = moved(*pair, steady(kind))
    blinks = motion.expression[:, LIDS].clone()
    motion.expression[:, LIDS] = 0
    assert float(gap(motion)[12:].max()) < 5e-4
    assert float(motion.expression[12:].std(0).max()) < 0.01
    assert float(blinks.max()) > 0.5  # but the eyes go on living


def test_a_voice_opens_the_mouth_and_its_end_shuts_it(pair: tuple[SpeechMotion, speech.Encoder]) -> None:
    sound = torch.cat([torch.zeros(RATE), vowels(2.0), torch.zeros(RATE)])
    opening = gap(moved(*pair, sound))
    assert float(opening[:20].max()) < 5e-4  # nothing before, but for the frames in which a mouth gets ready
    assert float(opening[27:75].mean()) > 2e-3
    assert float(opening[27:75].std()) > 3e-4  # it moves with the beats
    assert float(opening[83:].max()) < 5e-4  # shut within eight frames
    assert float(opening.diff().abs().max()) < 6e-3  # and never at once


@pytest.mark.parametrize("level", [0.02, 0.1, 0.4])
def test_a_soft_voice_is_a_voice_too(pair: tuple[SpeechMotion, speech.Encoder], level: float) -> None:
    opening = gap(moved(*pair, vowels(2.0, level)))[10:]
    assert float(opening.quantile(0.9)) > 2e-3


def test_smiling_source_shuts_its_mouth_in_silence_and_keeps_its_eyes(mel: tuple[SpeechMotion, speech.Encoder]) -> None:
    units = torch.zeros(1, 52)
    units[0, [JAW, BLENDSHAPES.index("mouthUpperUpLeft"), BLENDSHAPES.index("mouthSmileLeft")]] = torch.tensor([0.2, 0.3, 0.8])
    units[0, BLENDSHAPES.index("eyeSquintLeft")] = 0.4
    assert float(blendshapes.load().gap(units).max()) > 2e-3
    motion = moved(*mel, torch.zeros(RATE), Clip(units=units))
    assert float(gap(motion).max()) < 5e-4
    assert torch.allclose(motion.expression[:, BLENDSHAPES.index("eyeSquintLeft")], torch.tensor(0.4), atol=1e-4)


def test_closed_source_is_left_as_it_is_in_silence(mel: tuple[SpeechMotion, speech.Encoder]) -> None:
    units = torch.rand(1, 52, generator=torch.Generator().manual_seed(0)) * 0.2
    units[0, JAW] = 0
    units[0, [BLENDSHAPES.index(n) for n in BLENDSHAPES if n.startswith(("mouthLowerDown", "mouthUpperUp", "mouthFunnel"))]] = 0
    if float(blendshapes.load().gap(units).max()) > 5e-4:
        units[0, list(blendshapes.MOUTH)] = 0
    motion = moved(*mel, torch.zeros(RATE), Clip(units=units))
    awake = idle.blink(torch.arange(25), 0) == 0
    assert torch.allclose(motion.expression[awake], units.expand(int(awake.sum()), -1), atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 50])
def test_a_stream_of_sound_gives_the_motion_of_a_file(mel: tuple[SpeechMotion, speech.Encoder], rows: int) -> None:
    method, encoder = mel
    audio = vowels(3.1)
    whole = moved(method, encoder, audio)
    cutter, hearing, state, pieces = speech.Windows(*method.window, encoder.dim), encoder.start(), method.start(Clip()), []
    for chunk in [*audio.split(640 * rows), None]:
        steps, hearing = encoder.push(audio[:0] if chunk is None else chunk, hearing, last=chunk is None)
        with torch.no_grad():
            motion, state = method.generate(Clip(speech=cutter.push(steps, last=chunk is None)), state)
        pieces.append(motion)
    joined = Motion.cat(pieces)
    assert len(joined) == len(whole) == 78
    for field in ("rotation", "translation", "scale", "expression"):
        assert (getattr(joined, field) - getattr(whole, field)).abs().max() <= 1e-5


def test_the_same_seed_gives_the_same_motion_and_another_seed_another() -> None:
    audio, encoder = vowels(1.0), speech.load("mel")
    a, b, c = (moved(SpeechMotion.shipped(seed, "mel"), encoder, audio) for seed in (1, 1, 2))
    assert torch.equal(a.rotation, b.rotation) and torch.equal(a.expression, b.expression)
    assert (a.rotation - c.rotation).abs().max() > 1e-4


def test_blinks_come_every_two_to_six_seconds_and_last_a_third_of_one() -> None:
    for seed in range(4):
        shut = idle.blink(torch.arange(600 * FPS), seed).numpy()
        begins = np.flatnonzero((shut[1:] > 0) & (shut[:-1] == 0))
        between = np.diff(begins) / FPS
        assert between.min() >= 1.9 and between.max() <= 6.1 and between.std() > 0.3
        assert 13 <= len(begins) / 10 <= 17  # a minute
        assert 0.2 <= (shut > 0).mean() * 600 / len(begins) <= 0.36  # s each
        assert (shut > 0.95).sum() >= len(begins)  # every one of them shuts the eyes


def test_sway_begins_at_rest_and_is_small_smooth_and_never_still() -> None:
    rotation, translation = idle.sway(torch.arange(120 * FPS), 3)
    assert rotation[0].abs().max() == 0 and translation[0].abs().max() == 0
    assert rotation.abs().max() < math.radians(3) and translation.abs().max() < 0.004
    assert rotation.diff(dim=0).abs().max() < math.radians(0.2)  # 5 degrees a second
    assert rotation.diff(n=2, dim=0).abs().max() < math.radians(0.03)
    assert (rotation[FPS:].unfold(0, 5 * FPS, FPS).std(-1) > 1e-4).all()
    later = idle.sway(torch.arange(1000, 1010), 3)[0]
    assert torch.equal(later, rotation[1000:1010])  # any frame by itself
    hour = idle.sway(torch.arange(90_000, 90_250), 3)[0]
    assert hour.diff(n=2, dim=0).abs().max() < math.radians(0.03)


def test_random_numbers_are_even_and_those_of_yesterday() -> None:
    values = idle.random(torch.arange(100_000), 5, 2)
    assert torch.histc(values, 10, 0, 1).sub(10_000).abs().max() < 400
    assert abs(float(np.corrcoef(values[1:], values[:-1])[0, 1])) < 0.01
    assert torch.allclose(idle.random(torch.tensor([0, 1, 7]), 0, 0), torch.tensor(RECORDED), atol=1e-7)


RECORDED = (0.7795742154121399, 0.2341514229774475, 0.9328547716140747)


def test_weights_written_are_the_weights_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivavoce.methods import speech_motion

    method = SpeechMotion(Config(speech_dim=8, hidden=16, past=4, future=4)).eval()
    method.ship(tmp_path / "speech_motion_whisper.safetensors")
    monkeypatch.setattr(speech_motion, "WEIGHTS", tmp_path)
    again = SpeechMotion.shipped(seed=9)
    assert again.config.seed == 9 and again.window == (4, 4)
    row = torch.randn(3, 8, 8)
    assert torch.allclose(method(row)[0], again(row)[0], atol=1e-3)
    with pytest.raises(InputError, match="whisper"):
        SpeechMotion.shipped(speech="wav2vec2")


def test_weights_in_the_package_are_small() -> None:
    from vivavoce.methods.speech_motion import WEIGHTS

    for path in (WEIGHTS / "speech_motion_whisper.safetensors", WEIGHTS / "speech_motion_mel.safetensors"):
        assert path.stat().st_size <= 2_000_000
    assert sum(p.numel() for p in SpeechMotion.shipped().parameters()) <= 1_000_000


def test_a_window_that_cannot_be_halved_twice_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 4"):
        SpeechMotion(Config(past=5, future=4))


def test_features_of_another_encoder_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="preset mel"):
        SpeechMotion(Config(speech_dim=384)).setup(SyntheticPerson(dim=80))
