"""TalkingGaussian on a made-up person whose mouth's inside is labelled: two sets, their lessons, and the fusion."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce import registry
from vivavoce.face import regions
from vivavoce.methods.talking_gaussian import OPEN, TalkingGaussian
from vivavoce.types import Clip, Rows

NEEDS = TalkingGaussian.needs | TalkingGaussian.loss_needs


class Labelled(SyntheticPerson):
    """With the dark inside of the mouth as a class of its own."""

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        clip = super().clip(rows, needs)
        if clip.labels is not None and clip.frames is not None:
            inside = (clip.frames[:, 0] - 0.3).abs() + (clip.frames[:, 1] - 0.08).abs() < 0.02
            clip.labels = torch.where(inside, torch.tensor(regions.INNER_MOUTH, dtype=torch.uint8), clip.labels)
        return clip


def trained(steps: int, **changes: object) -> tuple[TalkingGaussian, Labelled, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    method = registry.create("talking_gaussian", "tiny", steps=steps or 100, **changes)
    assert isinstance(method, TalkingGaussian)
    person = Labelled(window=method.window)
    method.setup(person)
    optimizers, log = method.optimizers(), []
    method.train()
    for step in range(steps):
        torch.manual_seed(step)
        log.append(method.update(person.clip(torch.randint(len(person), (4,)), NEEDS), step, optimizers))
    return method.eval(), person, log


def test_the_mouth_is_drawn_by_its_own_gaussians_and_opens() -> None:
    method, person, log = trained(70, coarse=10, grow_every=20)
    assert log[-1]["inside"] < 0.7 * log[0]["inside"]
    wide, narrow = int(person.opening.argmax()), int(person.opening.argmin())
    clip = person.clip([wide, wide], NEEDS)
    clip.speech = person.clip([wide, narrow], {"speech"}).speech  # only the sound differs
    with torch.no_grad():
        _, inside, motion = method._draw(clip, method.encode(), (48, 48))
        frames = method.render(method.encode(), clip)
    assert motion is not None and clip.mouth is not None
    x0, y0, x1, y1 = clip.mouth[0].round().long().tolist()
    covered = inside.alpha[0, y0:y1, x0:x1].mean()
    assert covered > 3 * inside.alpha[0].mean()  # it stays where the mouth is
    dark = frames[:, :, y0:y1, x0:x1].mean((1, 2, 3))
    assert dark[1] > dark[0]  # the open mouth is darker


def test_speech_changes_neither_opacity_nor_colour() -> None:
    method, person, _ = trained(8)
    clip = person.clip([3, 9], NEEDS)
    with torch.no_grad():
        face = method.avatar.moved(2, method._motion(method.encode(), clip)[0][..., :3])
    assert torch.equal(face.opacities[0], face.opacities[1]) and torch.equal(face.colours[0], face.colours[1])


def test_lessons_go_from_wide_to_shut_and_from_open_eyes_to_shut_ones() -> None:
    method, person, _ = trained(0)
    clip = person.clip(slice(0, 24), NEEDS)
    assert clip.units is not None
    wide = clip.units[:, OPEN]
    face, mouth = method.lessons(clip, 0.0)  # nothing moves yet
    assert mouth[wide.argmax()] > 5 * mouth[wide.argmin()] and face[wide.argmin()] > 5 * face[wide.argmax()]
    _, early = method.lessons(clip, 0.3)
    _, late = method.lessons(clip, 0.69)
    assert early[wide.argmax()] > 2 * early[wide.argmin()] and late.std() < early.std()
    clip.units[:12, 9] = clip.units[:12, 10] = 1.0  # eyeBlink: half of the rows have shut eyes
    opened, closed = method.lessons(clip, 0.3)[0], method.lessons(clip, 0.69)[0]
    assert opened[15] > 2 * opened[5] and closed[5] == pytest.approx(float(closed[15]))
    for weights in (face, mouth, early, late, opened):
        assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(w, torch.ones(24)) for w in method.lessons(clip, 0.8))


def test_fusion_moves_colours_and_leaves_geometry_and_motion() -> None:
    method, person, _ = trained(4)
    optimizers = method.optimizers()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.train()
    method.update(person.clip([2, 5], NEEDS), int(0.9 * method.config.steps) + 1, optimizers)
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    watched = {n for n in changed if n.endswith((".push", ".seen"))}
    assert changed - watched <= {
        "avatar.gaussians.colours", "avatar.gaussians.logits", "mouth.colours", "avatar.torso.picture", "avatar.torso.plate",
    }  # fmt: skip
    assert "avatar.gaussians.colours" in changed and "mouth.colours" in changed


@pytest.mark.slow
def test_both_sets_grow_and_a_checkpoint_of_another_size_loads() -> None:
    method, person, _ = trained(14, grow_every=4, grow_until=0.9, points=200, most=260, grow_share=0.2)
    start, _, _ = trained(0, points=200)
    assert len(method.avatar.gaussians) > len(start.avatar.gaussians) and len(method.mouth) > len(start.mouth)
    assert len(method.avatar.gaussians) + len(method.mouth) <= 260
    other = registry.create("talking_gaussian", "tiny", points=200)
    other.load_state_dict(method.state_dict())
    clip = person.clip(slice(0, 2), method.needs)
    with torch.no_grad():
        assert torch.equal(other.eval().render(None, clip), method.render(None, clip))  # type: ignore[operator]
