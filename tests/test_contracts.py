"""The contract, for every registered method: no skip list."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.synthetic import LoudnessEncoder, SyntheticPerson, expression
from vivavoce import registry, train
from vivavoce.method import Generator, Method, Renderer
from vivavoce.talker import MADE, Talker
from vivavoce.types import Clip, InputError, Motion

NAMES = registry.names()
TRAINED = [n for n in NAMES if registry.find(n).cls.loss is not Method.loss]
RENDERERS = [n for n in NAMES if issubclass(registry.find(n).cls, Renderer)]
GENERATORS = [n for n in NAMES if issubclass(registry.find(n).cls, Generator)]


def made(name: str, steps: int = 0) -> tuple[Method, SyntheticPerson]:
    """A tiny method set up (and trained a little) on the made-up person, hearing its features."""
    torch.manual_seed(0)
    method = registry.create(name, "tiny")
    person = SyntheticPerson(window=method.window, dim=width(method), space=method.space or "blendshapes")
    method.setup(person)
    needs = method.needs | method.loss_needs
    optimizers = method.optimizers() if steps else []
    method.train()
    for step in range(steps):
        torch.manual_seed(step)
        method.update(person.clip(train.draw(person, method.config, step), needs), step, optimizers)
    return method.eval(), person


@functools.cache
def heard(name: str) -> tuple[Renderer, SyntheticPerson, Tensor, Tensor]:
    """A method after a few steps, its person, 18 rows of sound and the frames [18,3,H,W] of it as a file. For reading only."""
    method, person = made(name, 3 if name in TRAINED else 0)
    assert isinstance(method, Renderer)
    audio = person.audio()[: 640 * 17 + 100]
    return method, person, audio, talker(name, method, person)(audio)


def width(method: Method) -> int:
    """D of the speech features the tiny method is built for: its Config's `speech_dim` when it has one."""
    return int(getattr(method.config, "speech_dim", 8))


class Wide(LoudnessEncoder):
    """The made-up encoder with any number of features."""

    def __init__(self, dim: int, name: str) -> None:
        self.dim, self.name = dim, name

    def push(self, samples: torch.Tensor, state: torch.Tensor, last: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        steps, state = super().push(samples, state, last)
        return steps[:, :1] ** (1 + torch.arange(self.dim) / 8), state


class Mouth(Generator):
    """Opens the mouth with loudness: drives portrait renderers in these tests."""

    needs = frozenset({"speech"})

    def __init__(self, space: str) -> None:
        super().__init__(None)
        self.speech, self.window, self.space = "whisper", (2, 2), space

    def start(self, source: Clip) -> int:
        return 0

    def generate(self, clip: Clip, state: int) -> tuple[Motion, int]:
        assert clip.speech is not None
        count, code = len(clip.speech), expression(self.space, clip.speech.mean((1, 2)))
        return Motion(torch.zeros(count, 3), torch.zeros(count, 3), torch.ones(count, 1), code, self.space), state + count


def talker(name: str, method: Renderer, person: SyntheticPerson, block: int = 8) -> Talker:
    generator = None
    if "motion" in method.needs:
        generator = Mouth(method.space)
    encoder = Wide(width(method), method.speech or "whisper")
    return Talker(method, person, {encoder.name: encoder, "whisper": encoder}, generator, block=block)


@pytest.mark.parametrize("name", TRAINED)
def test_losses_are_finite_and_every_parameter_learns(name: str) -> None:
    method, person = made(name)
    method.train()
    touched: set[str] = set()
    optimizers = method.optimizers()
    for step in range(int(method.config.steps)):
        clip = person.clip(train.draw(person, method.config, step), method.needs | method.loss_needs)
        losses = method.update(clip, step, optimizers)
        assert losses and all(torch.isfinite(v) for v in losses.values()), losses
        touched |= {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {n for n, p in method.named_parameters() if p.requires_grad} <= touched


@pytest.mark.parametrize("name", TRAINED)
def test_twenty_steps_lower_the_loss(name: str) -> None:
    method, person = made(name)
    clip = person.clip(slice(0, 8), method.needs | method.loss_needs)
    optimizers = method.optimizers()
    method.train()
    totals = []
    for step in range(20):
        torch.manual_seed(0)
        totals.append(sum(float(v) for v in method.update(clip, step, optimizers).values()))
    assert min(totals[-3:]) < totals[0]


@pytest.mark.parametrize("name", RENDERERS)
def test_render_reads_only_what_it_names_and_draws_pictures(name: str) -> None:
    method, person = made(name)
    assert isinstance(method, Renderer)
    identity = method.encode(person.clip([0], method.source_needs))
    clip = person.clip(slice(2, 5), method.needs)
    held = {f.name for f in dataclasses.fields(Clip) if getattr(clip, f.name) is not None} - {"index"}
    assert held == set(method.needs)
    with torch.no_grad():
        frames = method.render(identity, clip)
    assert frames.shape == (3, 3, *person.size)
    assert frames.dtype == torch.float32 and frames.min() >= 0 and frames.max() <= 1


@pytest.mark.parametrize("rows", [1, 2, 3, 50])
@pytest.mark.parametrize("name", RENDERERS)  # nearest to the test: all cuts of one method follow each other
def test_a_stream_gives_the_frames_of_a_file(name: str, rows: int) -> None:
    method, person, audio, whole = heard(name)
    assert len(whole) == 18
    pieces = list(talker(name, method, person, block=4).stream(audio.split(640 * rows)))
    assert torch.allclose(torch.cat(pieces), whole, atol=2e-5)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("rows", [1, 2, 3, 50])
def test_a_generator_does_not_care_how_rows_are_cut(name: str, rows: int) -> None:
    method, person = made(name)
    assert isinstance(method, Generator)
    clip = person.clip(slice(0, 20), method.needs)
    first = person.clip([0], None)
    with torch.no_grad():
        whole, _ = method.generate(clip, method.start(first))
        state, pieces = method.start(first), []
        for at in range(0, 20, rows):
            motion, state = method.generate(clip[at : at + rows], state)
            pieces.append(motion)
    joined = Motion.cat(pieces)
    assert joined.space == method.space and len(joined) == 20
    for field in ("rotation", "translation", "scale", "expression"):
        assert torch.allclose(getattr(joined, field), getattr(whole, field), atol=1e-5), field


@pytest.mark.parametrize("name", TRAINED)
def test_a_killed_run_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    often = train.How(save_every=0, log_every=2)
    config = registry.configure(name, "tiny")
    config = dataclasses.replace(config, steps=8)
    method = registry.create(name, "tiny")
    person = SyntheticPerson(window=method.window, dim=width(method), space=method.space or "blendshapes")
    train.train(name, person, tmp_path / "whole", config, how=often)

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, losses: dict[str, float]) -> None:
        if step >= 5:
            raise Killed

    with pytest.raises(Killed):
        train.train(name, person, tmp_path / "cut", config, progress=kill, how=often)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    train.train(name, person, tmp_path / "cut", config, how=often)
    whole, _ = train.load_run(tmp_path / "whole")
    cut, _ = train.load_run(tmp_path / "cut")
    for (key, a), (_, b) in zip(whole.state_dict().items(), cut.state_dict().items(), strict=True):
        assert torch.allclose(a.double(), b.double(), atol=1e-6), key
    assert len((tmp_path / "cut" / "log.csv").read_text().splitlines()) == len((tmp_path / "whole" / "log.csv").read_text().splitlines())


@pytest.mark.parametrize("name", RENDERERS)
def test_same_seed_same_frames(name: str) -> None:
    frames = []
    for method, person in (heard(name)[:2], made(name, 3 if name in TRAINED else 0)):
        assert isinstance(method, Renderer)
        with torch.no_grad():
            frames.append(method.render(method.encode(person.clip([0], method.source_needs)), person.clip(slice(0, 3), method.needs)))
    assert torch.equal(*frames)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_filled_and_the_file_is_short(name: str) -> None:
    card = registry.find(name)
    assert card.family and card.paper and card.origin and card.license and card.summary
    assert "tiny" in card.cls.presets
    assert len(inspect.getsource(inspect.getmodule(card.cls)).splitlines()) <= 300  # type: ignore[arg-type]
    for preset in card.cls.presets:
        registry.configure(name, preset)
    assert card.cls.needs - MADE <= {f.name for f in dataclasses.fields(Clip)}


def test_a_misspelt_name_or_setting_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean"):
        registry.find(NAMES[0][:-1] + "z")
    with pytest.raises(InputError, match="did you mean steps"):
        registry.configure("egs_talker", "tiny", stepz=3)
