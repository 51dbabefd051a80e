"""geneface_motion and its parts: flow, causal convolutions, manifold, expert; what silence does, how far an expression may go."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.synthetic import SPACES, SyntheticPerson, expression
from vivavoce import registry, speech, train
from vivavoce.face import resting
from vivavoce.methods.geneface_motion import GenefaceMotion, State
from vivavoce.nn import manifold, voice
from vivavoce.nn.flow_vae import BLOCK, FlowVae, Voiced
from vivavoce.nn.motion_expert import MotionExpert
from vivavoce.nn.wavenet import Flow, WaveNet
from vivavoce.types import FPS, HOP, RATE, Clip, InputError, Motion, Rows

JAW = 3 * 8 + 1  # y of the chin, which the made-up person lowers by a centimetre


class Vowels(SyntheticPerson):
    """The made-up person saying "a" two and a half times a second without a pause, heard through the mel encoder; it blinks."""

    speech = "mel"

    def __init__(self, method: GenefaceMotion, count: int = 150) -> None:
        super().__init__(24, count, method.window, space=method.space)
        self.features = speech.windows(speech.encode(speech.load("mel"), self.audio()), *method.window)

    def audio(self) -> Tensor:  # [T*640]
        if not hasattr(self, "sound"):
            self.sound = self.opening.repeat_interleave(HOP) * buzz(len(self.opening) / FPS)
        return self.sound

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        clip = super().clip(rows, needs)
        assert clip.index is not None
        if clip.landmarks is not None:
            clip.landmarks = lips(clip.landmarks, self.opening[clip.index])
        if clip.speech is not None:
            clip.speech = self.features[clip.index]
        shut = (clip.index % 50 >= 46).float()
        if clip.eyes is not None:
            clip.eyes = (1 - shut)[:, None].expand(-1, 2)
        if clip.motion is not None and self.space == "landmarks":
            clip.motion.expression[:, 3 * 37 + 1] = -0.5 * shut  # a lid
        return clip


def lips(landmarks: Tensor, opening: Tensor) -> Tensor:  # [T,68,2], [T] -> [T,68,2]
    """Inner lips above one another, where the made-up person has a ring."""
    landmarks = landmarks.clone()
    for above, below in ((61, 67), (62, 66), (63, 65)):
        landmarks[:, below] = landmarks[:, above] + torch.stack([0 * opening, 4 * opening], 1)
    return landmarks


def buzz(seconds: float) -> Tensor:
    t = torch.arange(int(seconds * RATE)) / RATE
    return 0.1 * torch.stack([torch.sin(2 * math.pi * 120 * k * t) / k**0.5 for k in range(1, 30)]).sum(0)


@pytest.fixture(scope="module")
def trained() -> tuple[GenefaceMotion, Vowels]:
    """On six seconds of vowels, in landmarks."""
    settings = dict(hidden=16, steps=50, batch=3, window_rows=32, bank=150, neighbours=6, rate=6e-3)
    method = registry.create("geneface_motion", "tiny", **settings)
    assert isinstance(method, GenefaceMotion)
    person = Vowels(method)
    torch.manual_seed(0)
    method.setup(person)
    optimizers = method.optimizers()
    method.train()
    for step in range(method.config.steps):
        torch.manual_seed(step)
        method.update(person.clip(train.draw(person, method.config, step), method.needs | method.loss_needs), step, optimizers)
    return method.eval(), person


def said(method: GenefaceMotion, sound: Tensor) -> Motion:
    rows = speech.windows(speech.encode(speech.load("mel"), sound), *method.window)
    with torch.no_grad():
        return method.generate(Clip(speech=rows), method.start(Clip()))[0]


@pytest.mark.slow
def test_it_says_what_it_was_taught(trained: tuple[GenefaceMotion, Vowels]) -> None:
    method, person = trained
    made = said(method, person.audio()).expression
    true = person.clip(slice(None), {"motion"}).motion
    assert true is not None
    both = torch.stack([made[8:-8, JAW], true.expression[8:-8, JAW]])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9
    assert 0.6 < float(both[0].std() / both[1].std()) < 1.5


@pytest.mark.parametrize("level", [0.0, 1e-4, 3e-3])
def test_silence_shuts_the_mouth_of_someone_who_never_paused(trained: tuple[GenefaceMotion, Vowels], level: float) -> None:
    method, _ = trained
    noise = level * torch.randn(3 * RATE, generator=torch.Generator().manual_seed(7))
    said_then_nothing = torch.cat([buzz(2.0), noise])
    jaw = -said(method, said_then_nothing).expression[:, JAW]
    assert float(jaw[10:45].mean()) > 0.3  # cm; it did open
    assert float(jaw[62:].abs().max()) < 0.1  # and is shut within half a second
    assert float(jaw.diff().abs().max()) < 0.6  # not at once


def test_expressions_stay_within_what_the_person_does(trained: tuple[GenefaceMotion, Vowels], monkeypatch: pytest.MonkeyPatch) -> None:
    method, person = trained
    for name, value in (("strength", 40.0), ("lle", 0.0), ("temperature", 3.0)):
        monkeypatch.setattr(method.config, name, value)
    wild = said(method, 3 * person.audio()).expression - method.rest - method.blink.clamp(max=0)
    assert bool((wild >= method.low + method.blink.clamp(max=0) - 1e-5).all()) and bool((wild <= method.high - method.blink + 1e-5).all())
    monkeypatch.setattr(method.config, "lle", 1.0)
    drawn = (said(method, 3 * person.audio()).expression - method.rest) / method.deviation
    apart = torch.cdist(drawn, method.bank).amin(1)
    assert float(apart.median()) < 0.5  # on the manifold, blinks aside


def test_it_blinks_with_the_lids_alone(trained: tuple[GenefaceMotion, Vowels]) -> None:
    method, _ = trained
    assert method.blink.nonzero().flatten().tolist() == [3 * 37 + 1]
    quiet = said(method, torch.zeros(12 * RATE)).expression
    assert float(quiet[:, 3 * 37 + 1].min()) < -0.4


def test_the_seed_decides_what_varies(trained: tuple[GenefaceMotion, Vowels], monkeypatch: pytest.MonkeyPatch) -> None:
    method, person = trained
    monkeypatch.setattr(method.config, "temperature", 1.0)
    a, b = said(method, person.audio()), said(method, person.audio())
    monkeypatch.setattr(method.config, "seed", 1)
    c = said(method, person.audio())
    assert torch.equal(a.expression, b.expression) and float((a.expression - c.expression).abs().max()) > 1e-3


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 50])
def test_a_stream_of_sound_gives_the_motion_of_a_file(trained: tuple[GenefaceMotion, Vowels], rows: int) -> None:
    method, person = trained
    audio, encoder = person.audio()[: 60 * HOP], speech.load("mel")
    whole = said(method, audio)
    cutter, hearing, state, pieces = speech.Windows(*method.window, encoder.dim), encoder.start(), method.start(Clip()), []
    for chunk in [*audio.split(HOP * rows), None]:
        steps, hearing = encoder.push(audio[:0] if chunk is None else chunk, hearing, last=chunk is None)
        windows = cutter.push(steps, last=chunk is None)
        if len(windows):
            with torch.no_grad():
                motion, state = method.generate(Clip(speech=windows), state)
            pieces.append(motion)
    joined = Motion.cat(pieces)
    assert len(joined) == 60 and torch.allclose(joined.expression, whole.expression, atol=1e-5)
    assert torch.allclose(joined.rotation, whole.rotation)


@pytest.mark.parametrize("space", SPACES)
def test_every_motion_space_is_learned_and_spoken(space: str) -> None:
    method = registry.create("geneface_motion", "tiny", space_name=space)
    assert isinstance(method, GenefaceMotion) and method.space == space
    person = SyntheticPerson(window=method.window, space=space)
    method.setup(person)
    clip = person.clip(slice(0, 16), method.needs | method.loss_needs)
    assert all(torch.isfinite(v) for v in method.loss(clip).values())
    with torch.no_grad():
        made = method.eval().generate(clip, State())[0]
    assert made.space == space and made.expression.shape == (16, SPACES[space])
    spoken = expression(space, torch.ones(1))[0] != 0
    assert float(method.weight[spoken].min()) > 0.9 and float(method.weight[~spoken].max()) < 0.2  # what speech tells counts


def test_adaptation_takes_the_networks_and_keeps_its_own_person(trained: tuple[GenefaceMotion, Vowels], tmp_path: Path) -> None:
    method, person = trained
    train_folder = tmp_path / "other"
    train_folder.mkdir()
    save_file(method.state_dict(), train_folder / "model.safetensors")
    config = dataclasses.replace(method.config, init=str(train_folder), steps=0)
    own = GenefaceMotion(config)

    class Longer(Vowels):
        def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
            clip = super().clip(rows, needs)
            if clip.motion is not None:
                clip.motion.expression = 2 * clip.motion.expression + 1  # a larger face that opens its mouth wider
            return clip

    own.setup(Longer(own))
    assert torch.allclose(own.rest, 2 * method.rest + 1, atol=1e-4) and torch.allclose(own.deviation, 2 * method.deviation, atol=1e-4)
    a, b = said(method, person.audio()).expression, said(own.eval(), person.audio()).expression
    assert torch.allclose(b, 2 * a + 1, atol=2e-2)
    with pytest.raises(InputError, match="motion space, encoder or size"):
        registry.create("geneface_motion", "tiny", hidden=16, init=str(train_folder), space_name="bfm").setup(
            SyntheticPerson(window=(4, 4), space="bfm")
        )
    with pytest.raises(InputError, match="run folder"):
        registry.create("geneface_motion", "tiny", init=str(tmp_path)).setup(SyntheticPerson(window=(4, 4), space="landmarks"))


def test_many_people_are_counted_from_the_rest_of_each_window() -> None:
    method = registry.create("geneface_motion", "tiny")
    assert isinstance(method, GenefaceMotion)
    person = SyntheticPerson(window=method.window, space="landmarks")
    person.people = [person, person]  # type: ignore[attr-defined]
    method.setup(person)
    assert bool(method.many)
    clip = person.clip(slice(0, 16), {"motion", "landmarks"})
    assert clip.motion is not None and clip.landmarks is not None
    larger = clip.motion.expression[None] + 5
    rest = method._rests(larger, lips(clip.landmarks, person.opening[:16])[None])
    assert torch.allclose(rest, larger[:, clip.motion.expression[:, JAW].argmax()][:, None], atol=0.1)


def test_windows_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 4"):
        registry.create("geneface_motion", past=5)


# ---- its parts ----


def test_a_flow_is_undone_by_its_inverse_and_knows_its_volume() -> None:
    torch.manual_seed(0)
    flow = Flow(4, 3, width=8).double()
    for end in flow.end:
        torch.nn.init.normal_(end.weight, std=0.5)  # type: ignore[arg-type]
    z, condition = torch.randn(2, 4, 5).double(), torch.randn(2, 3, 5).double()
    noise, logdet = flow(z, condition)
    assert torch.allclose(flow.inverse(noise, condition)[0], z, atol=1e-10) and float((noise - z).detach().abs().max()) > 0.1
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x[None], condition[:1])[0].flatten(), z[0]).reshape(20, 20)
    assert float(logdet[0].sum()) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-8)


def test_a_flow_and_a_wavenet_go_on_where_they_stopped() -> None:
    torch.manual_seed(0)
    net, flow = WaveNet(6, 3, (1, 2, 4)).double(), Flow(4, 3, width=8).double()
    for end in flow.end:
        torch.nn.init.normal_(end.weight, std=0.5)  # type: ignore[arg-type]
    x, z, condition = (torch.randn(1, n, 23).double() for n in (6, 4, 3))
    whole, back = net(x, condition)[0], flow.inverse(z, condition)[0]
    for cuts in ([1] * 23, [4, 4, 15], [22, 1]):
        past, memory, pieces, others = None, None, [], []
        for part, noise, told in zip(x.split(cuts, 2), z.split(cuts, 2), condition.split(cuts, 2), strict=True):
            made, past = net(part, told, past)
            found, memory = flow.inverse(noise, told, memory)
            pieces.append(made)
            others.append(found)
        assert torch.allclose(torch.cat(pieces, 2), whole, atol=1e-12) and torch.allclose(torch.cat(others, 2), back, atol=1e-12)
    later = x.clone()
    later[:, :, 12:] = 0
    assert torch.equal(net(later, condition)[0][:, :, :12], whole[:, :, :12])  # nothing is heard before it is said


def test_what_is_spoken_is_what_training_decodes_from_the_priors_mean() -> None:
    torch.manual_seed(0)
    vae = FlowVae(5, 8, 4, 0.0).double().eval()
    told = torch.randn(1, 8, 16).double()
    _, usual, _ = vae(torch.randn(1, 5, 16).double(), told)
    spoken, _ = vae.speak(told, torch.arange(16), torch.zeros(16 // BLOCK, 4).double(), Voiced())
    assert torch.allclose(spoken.T[None], usual, atol=1e-12)


def test_points_are_drawn_between_their_nearest_neighbours() -> None:
    bank = torch.stack([torch.linspace(0, 1, 50), torch.linspace(0, 1, 50) ** 2], 1)  # a curve
    off = torch.tensor([[0.5, 0.45], [2.0, 3.0], [0.2, 0.04]])
    share, nearest = manifold.weights(off, bank, 6)
    assert torch.allclose(share.sum(1), torch.ones(3)) and float(share.min()) >= 0 and nearest.shape == (3, 6)
    drawn = manifold.project(off, bank, 6)
    assert float((drawn[:, 1] - drawn[:, 0] ** 2).abs().max()) < 5e-3  # on the curve
    assert float((drawn[2] - off[2]).abs().max()) < 5e-3 and float((drawn[1] - bank[-1]).abs().max()) < 0.2
    flat = manifold.project(off[:1], bank, 6, torch.tensor([1.0, 0.0]))
    assert float((flat[0, 0] - 0.5).abs()) < 5e-3  # only the first number counts


def test_an_expert_learns_what_belongs_together_and_judges_without_learning() -> None:
    torch.manual_seed(0)
    expert = MotionExpert(6, 3, 16, 0.0)
    moves = torch.randn(8, 3, 24).cumsum(2) / 3
    sound = moves.transpose(1, 2)[:, :, None].expand(-1, -1, 8, -1).repeat(1, 1, 1, 2)
    before = float(expert(sound, moves))
    optimizer = torch.optim.Adam(expert.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        expert(sound, moves).backward()
        optimizer.step()
    assert float(expert(sound, moves)) < 0.5 * before
    assert float(expert(sound, moves.roll(9, 2))) > 2 * float(expert(sound, moves))
    optimizer.zero_grad()
    judged = moves.clone().requires_grad_()
    expert.judge(sound, judged).backward()
    assert judged.grad is not None and bool(judged.grad.any()) and all(p.grad is None for p in expert.parameters())


def test_a_gate_takes_its_time_and_goes_on_where_it_was() -> None:
    rows, gate = resting.slowed(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]), 0.0)
    assert torch.allclose(rows, torch.tensor([0.4, 0.8, 1.0, 0.75, 0.5])) and gate == pytest.approx(0.5)


def test_silence_is_asked_of_the_encoder_that_is_there() -> None:
    heard = voice.silence("mel", (4, 4), 80)
    assert heard.shape[1:] == (8, 80) and len(heard) == 50 and float(heard.std(0).max()) > 0
    assert len(voice.silence("mel", (4, 4), 81)) == 0  # other features than those of that encoder
    assert len(voice.silence("unheard_of", (4, 4), 80)) == 0


def test_labels_of_a_voice_begin_before_it_and_end_after_it() -> None:
    sound = torch.zeros(30 * HOP)
    sound[10 * HOP : 20 * HOP] = buzz(10 / FPS)
    assert voice.voiced(sound.reshape(1, 30, HOP))[0].tolist() == [0.0] * 7 + [1.0] * 16 + [0.0] * 7
