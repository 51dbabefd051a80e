"""r2_talker and geneface: what landmarks do to the picture, how far they may go, levels that open one after another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce import registry, train
from vivavoce.method import Renderer
from vivavoce.methods.r2_talker import R2Talker
from vivavoce.nn import marks
from vivavoce.types import Clip, InputError

METHODS = ("r2_talker", "geneface")


def learned(name: str, steps: int, **changes: object) -> tuple[Renderer, SyntheticPerson]:
    torch.manual_seed(0)
    method, person = registry.create(name, "tiny", steps=steps, **changes), SyntheticPerson(space="landmarks")
    method.setup(person)
    optimizers = method.optimizers()
    method.train()
    for step in range(steps):
        torch.manual_seed(step)
        method.update(person.clip(train.draw(person, method.config, step), method.needs | method.loss_needs), step, optimizers)
    assert isinstance(method, Renderer)
    return method.eval(), person


def drawn(method: Renderer, clip: Clip, code: Tensor | None = None) -> Tensor:
    assert clip.motion is not None
    with torch.no_grad():
        return method.render(None, clip if code is None else replace(clip, motion=replace(clip.motion, expression=code)))


@pytest.fixture(scope="module", params=METHODS)
def made(request: pytest.FixtureRequest) -> tuple[Renderer, SyntheticPerson]:
    return learned(request.param, 6)


def test_lids_say_nothing_and_landmarks_are_kept_within_what_the_person_does(made: tuple[Renderer, SyntheticPerson]) -> None:
    method, person = made
    clip = person.clip([3, 9], method.needs)
    assert clip.motion is not None
    code = clip.motion.expression
    usual = drawn(method, clip)
    lids = code.clone()
    lids[:, 3 * 36 : 3 * 48] += 7
    assert torch.equal(drawn(method, clip, lids), usual)
    jaw, far, farther = (code.clone() for _ in range(3))
    jaw[:, 3 * 8 + 1] -= 0.2
    far[:, 3 * 8 + 1] = -50.0
    farther[:, 3 * 8 + 1] = -90.0
    assert not torch.equal(drawn(method, clip, jaw), usual)
    assert torch.equal(drawn(method, clip, far), drawn(method, clip, farther))
    shut = replace(clip, eyes=torch.zeros(2, 2))
    assert not torch.equal(drawn(method, shut), usual)


def test_noise_on_landmarks_is_of_training_alone(made: tuple[Renderer, SyntheticPerson]) -> None:
    method, person = made
    clip = person.clip([1, 2], method.needs)
    assert isinstance(method.marks, marks.Marks) and torch.equal(method.marks(clip), method.marks(clip))
    method.marks.train()
    assert not torch.equal(method.marks(clip), method.marks(clip))
    assert float(method.marks(clip).abs().max()) <= marks.WITHIN
    method.marks.eval()


def test_levels_open_from_coarse_to_fine_and_stay_open() -> None:
    method, person = registry.create("r2_talker", "tiny", steps=10, first=1, opened=0.5, warm=0), SyntheticPerson(space="landmarks")
    assert isinstance(method, R2Talker)
    method.setup(person)
    optimizers, seen = method.optimizers(), []
    for step in range(8):
        method.update(person.clip([0, 1], method.needs | method.loss_needs), step, optimizers)
        seen.append(float(method.open_levels))
        if step < 3:  # the finest of four levels is shut until three are open: nothing has touched it
            assert float(method.places(torch.rand(50, 3), seen[-1])[:, -2:].detach().abs().max()) == 0
    assert seen[0] == 1 and seen == sorted(seen) and seen[-1] == 4


def test_the_mouth_follows_the_landmarks() -> None:
    method, person = learned("r2_talker", 40, rays=300, lips_from=1.0, torso_from=1.0)
    wide, shut = int(person.opening.argmax()), int(person.opening.argmin())
    clip = person.clip([wide, shut], method.needs | {"mouth"})
    assert clip.mouth is not None and clip.motion is not None
    frames = drawn(method, clip[[0, 0]], clip.motion.expression)  # the same pose: only the landmarks differ
    x0, y0, x1, y1 = clip.mouth[0].round().long().tolist()
    open_mouth, shut_mouth = frames[:, :, y0:y1, x0:x1].mean((1, 2, 3)).tolist()
    assert shut_mouth - open_mouth > 0.005  # the inside is dark


def test_motion_of_another_space_is_refused() -> None:
    with pytest.raises(InputError, match="not 204"):
        registry.create("r2_talker", "tiny").setup(SyntheticPerson(space="blendshapes"))


def test_r2_talkers_geneface_is_a_preset_of_geneface() -> None:
    method = registry.create("geneface", "genefaceDagger")
    assert method.config.wide == 64 and method.config.ambient == 2 and method.space == "landmarks"
