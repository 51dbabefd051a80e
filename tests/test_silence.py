"""Silence shuts the mouth: the gate on made-up features, and the code of shut lips on a made-up person."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.synthetic import SyntheticPerson
from vivavoce import registry, speech
from vivavoce.methods.egs_talker import EgsTalker
from vivavoce.nn import silence
from vivavoce.nn.silence import Silence, lip_gap
from vivavoce.types import Clip, InputError


def test_lip_gap_is_in_distances_of_the_eyes() -> None:
    landmarks = torch.zeros(2, 68, 2)
    landmarks[:, 36:42, 0], landmarks[:, 42:48, 0] = -20.0, 20.0
    landmarks[1, 65:68, 1] = 8.0
    assert torch.allclose(lip_gap(landmarks), torch.tensor([0.0, 0.2]))
    assert torch.allclose(lip_gap(landmarks * 3), lip_gap(landmarks))


def spoken(count: int = 200, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Speech windows, audio, landmarks of a voice with pauses: the first feature tells a pause, the others are noise."""
    torch.manual_seed(0)
    loud = (torch.arange(count) % 40 < 28).float()
    steps = torch.randn(count, 2, dim)
    steps[..., 0] = loud[:, None] * 4 + 0.3 * torch.randn(count, 2)
    padded = torch.nn.functional.pad(steps.flatten(0, 1), (0, 0, 8, 8), mode="constant")
    windows = torch.stack([padded[2 * t : 2 * t + 16] for t in range(count)])
    audio = torch.randn(count, 640) * (0.2 * loud + 1e-4)[:, None]
    landmarks = torch.zeros(count, 68, 2)
    landmarks[:, 36:42, 0] = -20.0
    landmarks[:, 42:48, 0] = 20.0
    landmarks[:, 65:68, 1] = (loud * (2 + torch.rand(count) * 8))[:, None]
    return windows, audio, landmarks, torch.randn(count, 5)


def test_the_gate_knows_pauses_and_what_the_encoder_makes_of_noise() -> None:
    windows, audio, landmarks, codes = spoken()
    gate = Silence(5, 8)
    assert (gate.quiet(windows) == 0).all()  # nobody told it anything yet
    others = torch.randn(80, 6) + torch.tensor([4.0, 0, 0, 0, 0, 9.0])  # as loud as speech, but elsewhere
    gate.fit(windows, audio, landmarks, codes, others)
    quiet, at = gate.quiet(windows), torch.arange(200) % 40
    assert (quiet[at == 34] > 0.7).all()  # the middle of a pause
    assert (quiet[(at > 1) & (at < 26)] < 0.1).all()
    assert (quiet[:160][((at == 29) | (at == 38))[:160]] < 0.5).all()  # somebody speaks 100 ms away
    assert (gate.quiet(others[:16][None].expand(3, -1, -1)) > 0.7).all()
    edge = windows[15][None].clone()  # amid speech, were it not the start of a recording and its end
    edge[:, :10], edge[:, 12:] = 0, 0
    edge[:, 10:12] = others[:2]
    assert gate.quiet(edge) > 0.7
    assert torch.equal(gate.shut, codes[lip_gap(landmarks) <= gate.narrow].mean(0))


def test_codes_are_exchanged_in_silence_and_for_some_shut_rows_of_training() -> None:
    windows, audio, landmarks, codes = spoken()
    gate = Silence(5, 8, share=0.5)
    gate.fit(windows, audio, landmarks, codes)
    clip = Clip(speech=windows, landmarks=landmarks)
    told = gate.eval()(codes, clip)
    at = torch.arange(200) % 40
    assert torch.allclose(told[at == 34], gate.shut.expand(5, -1), atol=0.2) and torch.allclose(told[at == 10], codes[at == 10], atol=0.2)
    taught = (gate.train()(codes, clip) == gate.shut).all(1)
    shut = lip_gap(landmarks) <= gate.narrow
    assert not taught[~shut].any() and 0.2 < taught[shut].float().mean() < 0.8
    assert torch.equal(gate(codes, Clip(speech=windows)), codes)  # training rows without landmarks teach nothing


def test_without_a_pause_and_without_an_encoder_nothing_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, _, landmarks, codes = spoken()
    gate = Silence(5, 8)
    gate.fit(windows, torch.randn(200, 640), landmarks, codes)
    assert (gate.quiet(windows) == 0).all()

    def missing(name: str) -> None:
        raise InputError(name, "its weights cannot be had")

    monkeypatch.setattr(speech, "load", missing)
    silence.not_speech.cache_clear()
    assert silence.not_speech("whisper") is None
    silence.not_speech.cache_clear()


def test_what_is_no_speech_is_heard_by_an_encoder() -> None:
    steps = silence.not_speech("mel")
    assert steps is not None and steps.shape[0] == (1 + 3 * len(silence.LOUDNESS)) * silence.SECONDS * 50
    assert steps.isfinite().all()


def test_a_head_shuts_its_mouth_in_silence() -> None:
    torch.manual_seed(0)
    method = registry.create("egs_talker", "tiny", steps=80, coarse=10, grow_every=30)
    assert isinstance(method, EgsTalker)
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    optimizers = method.optimizers()
    method.train()
    for step in range(80):
        torch.manual_seed(step)
        method.update(person.clip(torch.randint(len(person), (2,)), method.needs | method.loss_needs), step, optimizers)
    method.eval()
    wide = int(person.opening.argmax())
    clip = person.clip([wide, wide], method.needs | {"mouth"})
    assert clip.speech is not None and clip.mouth is not None
    method.silence.weight, method.silence.bias = torch.full((8,), -400.0), torch.tensor(40.0)  # quiet where nothing is heard
    clip = dataclasses.replace(clip, speech=torch.stack([clip.speech[0], torch.zeros_like(clip.speech[0])]))
    with torch.no_grad():
        frames = method.render(method.encode(), clip)
    x0, y0, x1, y1 = clip.mouth[0].round().long().tolist()
    speaking, silent = frames[:, :, y0:y1, x0:x1].mean((1, 2, 3)).tolist()
    assert silent - speaking > 0.01  # the inside of a mouth is dark
