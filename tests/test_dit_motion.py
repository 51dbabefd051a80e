"""dit_motion and its parts: layers against torch's own, masks, places, the code of motion, streams, silence, drift, control."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import LoudnessEncoder, SyntheticPerson
from tests.test_speech_motion import steady, vowels
from vivavoce import registry
from vivavoce.face import blendshapes, idle, resting
from vivavoce.face.acting import EMOTIONS, Acting
from vivavoce.face.regions import BLENDSHAPES
from vivavoce.method import Renderer
from vivavoce.methods.dit_motion import Config, DitMotion
from vivavoce.nn import shipping
from vivavoce.nn.dit import CrossBlock, MotionTransformer, SpeechFrames, aligned, rotary, sinusoid, turned
from vivavoce.nn.graphs import Graphs
from vivavoce.nn.motion_code import MotionCode
from vivavoce.nn.motion_sync import MotionSync
from vivavoce.speech import vad
from vivavoce.talker import Talker
from vivavoce.types import FPS, HOP, Clip, InputError, Motion

JAW = BLENDSHAPES.index("jawOpen")
LIDS = [BLENDSHAPES.index("eyeBlinkLeft"), BLENDSHAPES.index("eyeBlinkRight")]
FIELDS = ("rotation", "translation", "scale", "expression")


def tiny(**changes: object) -> DitMotion:
    """A tiny method with statistics of the made-up person and random weights that do something."""
    torch.manual_seed(0)
    method = registry.create("dit_motion", "tiny", **changes)
    assert isinstance(method, DitMotion)
    method.setup(SyntheticPerson(window=method.window, dim=8))
    for parameter in method.model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 / max(1, parameter.shape[-1]) ** 0.5
    return method.eval()


@torch.no_grad()
def moved(method: DitMotion, speech: Tensor, cut: int, source: Clip | None = None) -> Motion:
    state, pieces = method.start(source or Clip()), []
    for part in speech.split(cut):
        motion, state = method.generate(Clip(speech=part), state)
        pieces.append(motion)
    return Motion.cat(pieces)


def sounds(method: DitMotion, rows: int) -> Tensor:  # [T,W,8]
    """Windows of random features, as a stream of them is cut."""
    past, future = method.window
    steps = torch.rand(2 * rows, 8, generator=torch.Generator().manual_seed(1)) + 0.01
    steps = torch.cat([torch.zeros(past, 8), steps, torch.zeros(future, 8)])
    return steps.unfold(0, past + future, 2)[:rows].transpose(1, 2)


# ---- layers


def test_the_cross_block_is_torchs_own_decoder_layer() -> None:
    torch.manual_seed(0)
    ours, theirs = CrossBlock(32, 4, 64, 0.0).eval(), nn.TransformerDecoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True).eval()
    for block, theirs_block in ((ours.attend, theirs.self_attn), (ours.hear, theirs.multihead_attn)):
        theirs_block.in_proj_weight.data = torch.cat([block.query.weight, block.key.weight, block.value.weight])
        theirs_block.in_proj_bias.data = torch.cat([block.query.bias, block.key.bias, block.value.bias])
        theirs_block.out_proj.load_state_dict(block.out.state_dict())
    theirs.linear1.load_state_dict(ours.feed[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed[3].state_dict())
    tokens, audio = torch.randn(2, 7, 32), torch.randn(2, 6, 32)
    seen = torch.ones(2, 7, dtype=torch.bool)
    seen[1, 2:4] = False
    near = aligned(6, 1, 0, tokens.device)
    made = ours(tokens, audio, seen[:, None, None], near)
    wanted = theirs(tokens, audio, memory_mask=~near, tgt_key_padding_mask=~seen)
    assert torch.allclose(made, wanted, atol=1e-5)


def test_each_frame_hears_its_own_audio_alone_and_the_first_token_all() -> None:
    near = aligned(5, 1, 0, torch.device("cpu"))
    assert near[0].all() and torch.equal(near[1:], torch.eye(5, dtype=torch.bool))
    assert aligned(5, 0, 1, torch.device("cpu")).sum() == 13


def test_places_differ_and_turned_products_know_distances_only() -> None:
    places = sinusoid(torch.arange(75), 64)
    assert torch.cdist(places, places)[~torch.eye(75, dtype=torch.bool)].min() > 0.1  # the original gives all frames the same
    query, key = torch.randn(2, 16, dtype=torch.float64)
    turn = rotary(40, 16, query)
    products = turned(query.expand(40, 16), turn) @ turned(key.expand(40, 16), turn).T
    for distance in (0, 1, 7):
        line = products.diagonal(distance)
        assert (line - line[0]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["frame", "cross"])
def test_frames_that_are_not_looked_at_change_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model = MotionTransformer(6, 4, 16, 2, 2, 32, kind, 0.0)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    motion, audio, identity, time = torch.randn(2, 9, 6), torch.randn(2, 9, 16), torch.randn(2, 4), torch.rand(2) * 1000
    given = (torch.arange(9) < 3).expand(2, -1)
    seen = ~given.clone()
    other = motion.clone()
    other[:, :3] += 5
    first, second = (model(m, audio, time, identity, given, seen) for m in (motion, other))
    assert torch.allclose(first[:, 3:], second[:, 3:], atol=1e-5)
    looked = model(other, audio, time, identity, given, torch.ones_like(seen))
    assert (looked[:, 3:] - first[:, 3:]).abs().max() > 1e-3
    for changed in (audio + 1, audio):  # audio, identity and time are heard
        values = (changed, time + 100 * (changed is audio), identity)
        assert (model(motion, values[0], values[1], values[2], given, seen) - first)[:, 3:].abs().max() > 1e-4


def test_frames_outside_a_recording_say_nothing() -> None:
    torch.manual_seed(0)
    listen = SpeechFrames(8, 16, 0.0)
    listen.fit(torch.randn(40, 8) + 3)
    steps = torch.randn(1, 12, 2, 8)
    steps[:, 8:] = 0
    frames, logit = listen(steps)
    alone, _ = listen(steps[:, :8])
    assert torch.allclose(frames[:, :8], alone, atol=1e-6) and frames[:, 8:].abs().max() == 0
    assert (logit[0, 8:] < -5).all()


# ---- the code of motion


def test_the_code_gives_the_movement_back_and_mirrors_twice_to_itself() -> None:
    person = SyntheticPerson(count=48)
    motion = person.clip(slice(0, 48), {"motion"}).motion
    assert motion is not None
    motion.expression = torch.rand(48, 52, generator=torch.Generator().manual_seed(0)) * 0.3
    code = MotionCode("blendshapes", 52, "all")
    code.fit(motion, 24)
    data, rest = code.encode(motion, 24)
    assert data.shape == (2, 24, code.numbers) and code.numbers == 52 + 7 - 10  # without blinks and looks
    moves = code.decode(data)[..., :52]
    equal = code.opening / resting.opening(blendshapes.curve(motion.expression.unflatten(0, (2, 24))) - rest[:, None])
    roots = rest[:, None] + torch.where(code.mouth > 0, moves / equal.clamp(0.5, 2), moves)
    kept = [k for k, n in enumerate(BLENDSHAPES) if not n.startswith(("eyeBlink", "eyeLook"))]
    assert torch.allclose(resting.scores(roots)[..., kept].flatten(0, 1), motion.expression[:, kept], atol=1e-4)
    flipped, rest_flipped = code.encode(motion, 24, torch.ones(2))
    assert (flipped - data).abs().max() > 0.1
    left, right = (kept.index(BLENDSHAPES.index(f"mouthSmile{side}")) for side in ("Left", "Right"))
    raw, raw_flipped = (v * code.deviation[code.chosen] for v in (data, flipped))
    assert torch.allclose(raw[..., left], raw_flipped[..., right], atol=1e-6)
    yaw = code.numbers - 6
    assert torch.allclose(raw[..., yaw], -raw_flipped[..., yaw], atol=1e-6)
    assert torch.allclose(rest_flipped[:, LIDS[0]], rest[:, LIDS[1]])


def test_the_seeds_twenty_five_numbers() -> None:
    code = MotionCode("keypoints", 63, "seed")
    assert code.numbers == 25 and code.chosen[-5:].tolist() == [63, 64, 65, 66, 67] and code.weight.sum() == 30 + 5
    moves = code.decode(torch.ones(2, 25))
    assert moves.shape == (2, 70) and moves.sum() == 50


# ---- streams


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": 2.0},
        {"process": "diffusion", "diffusion_steps": 10, "begin": 4, "kind": "cross"},
        {"ahead": 0, "block": 5},
        {"predicts": "velocity", "fold": 0.5},
    ],
)
def test_streams_equal_files_however_motion_is_made(changes: dict[str, object]) -> None:
    method = tiny(**changes)
    speech = sounds(method, 37)
    whole = moved(method, speech, 37)
    for cut in (1, 16):
        pieces = moved(method, speech, cut)
        for name in FIELDS:
            assert torch.allclose(getattr(pieces, name), getattr(whole, name), atol=1e-5), name


class Plot(Renderer):
    """Draws the scores themselves."""

    needs = frozenset({"motion"})
    space = "blendshapes"

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.motion is not None
        return clip.motion.expression.unflatten(1, (1, 4, 13)).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_sound_in_pieces_gives_the_frames_of_a_file(rows: int) -> None:
    """Through the talker: windows, look-ahead, and the end of the recording, where a block has no more to hear."""
    method, person = tiny(), SyntheticPerson()
    method.speech = "whisper"
    audio = person.audio()[: HOP * 17 + 100]

    def talker(block: int) -> Talker:
        return Talker(Plot(None), person, {"whisper": LoudnessEncoder()}, method, block=block)

    whole = talker(8)(audio)
    assert len(whole) == 18
    assert talker(8).lookahead == 20 + 20 * 2 * (method.config.block + method.config.ahead)
    pieces = torch.cat(list(talker(3).stream(audio.split(HOP * rows))))
    assert torch.allclose(pieces, whole, atol=1e-5)


def test_a_seed_is_a_performance() -> None:
    speech = sounds(tiny(), 20)
    first, again, other = (moved(tiny(seed=s, temperature=1.0), speech, 20) for s in (0, 0, 1))
    assert torch.equal(first.expression, again.expression)
    assert (first.expression - other.expression).abs().max() > 1e-3
    method = tiny(seed=0, temperature=1.0)
    method.config = dataclasses.replace(method.config, seed=1)  # other settings, after it was made
    assert torch.equal(moved(method, speech, 20).expression, other.expression)
    calm, calmer = (moved(tiny(seed=s, temperature=0.0, sway=0.0), speech, 20) for s in (0, 1))
    assert torch.allclose(calm.rotation, calmer.rotation)


def questions(method: DitMotion, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:  # [1,N] each
    """What a stream of five blocks asks of the network, its beginning included."""
    asked: list[Tensor] = []
    told = method.blocks._told
    with monkeypatch.context() as watched:
        watched.setattr(method.blocks, "_told", lambda row: told(asked.append(row) or row))  # type: ignore[func-returns-value]
        moved(method, sounds(method, 5 * method.config.block), 3)
    return asked


VARIETY: list[dict[str, object]] = [{"guidance": 2.0}, {"process": "diffusion", "kind": "cross", "diffusion_steps": 10, "begin": 4}]


@pytest.mark.parametrize("changes", VARIETY)
@torch.no_grad()
def test_blocks_of_several_streams_are_what_each_would_get_alone(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny(temperature=1.0, **changes)
    asked = questions(method, monkeypatch)
    alone = [method.blocks.made(row) for row in asked]
    assert len(asked) == 5 and float(torch.cat(alone).std(0).max()) > 0.1
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(method.blocks.made(torch.cat(asked)).split(1), alone, strict=True))
    rows, begin, found = method.blocks._rows(), threading.Barrier(5), dict[int, Tensor]()

    def ask(k: int) -> None:
        for _ in range(4):
            begin.wait(60)
            found[k] = rows(asked[k])

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.allclose(found[k], alone[k], atol=1e-5) for k in range(5))
    assert sum(rows.together.batches.values()) < 20 == sum(size * count for size, count in rows.together.batches.items())
    assert rows is method.blocks._rows() and not copy.deepcopy(method).blocks.quick  # a copy has its own
    method.config.evaluations += 1
    assert rows is not method.blocks._rows()


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, *VARIETY, {"ahead": 0, "predicts": "velocity"}])
@torch.no_grad()
def test_a_block_recorded_is_the_same_block(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """One CUDA graph for every power of two of streams, against the CPU; new weights in the old place, and weights in a new place."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    method = tiny(temperature=1.0, **changes)
    speech, asked = sounds(method, 30), questions(method, monkeypatch)
    wanted, single = moved(method, speech, 7), torch.cat([method.blocks.made(row) for row in asked])
    method.cuda()
    made = moved(method, speech.cuda(), 7)
    assert all(torch.allclose(getattr(made, name), getattr(wanted, name), atol=1e-3) for name in FIELDS)
    rows = method.blocks._rows()
    assert isinstance(rows.work, Graphs) and rows.work.on and list(rows.work.made) == [1]
    for count in (3, 5, 2, 3):
        assert torch.allclose(rows.work(torch.cat(asked[:count])).cpu(), single[:count], atol=1e-3)
    assert sorted(rows.work.made) == [1, 2, 4, 8]
    method.rehearse(9)  # so many are filled up to the next
    assert sorted(rows.work.made) == [1, 2, 4, 8, 16] and method.blocks._rows() is rows
    method.model.leave.bias.add_(0.1)
    other = moved(method, speech.cuda(), 7)
    assert method.blocks._rows() is rows and not torch.allclose(other.expression, made.expression, atol=1e-3)
    method.cpu().cuda()
    again = moved(method, speech.cuda(), 7)
    assert torch.allclose(again.expression, other.expression, atol=1e-4) and method.blocks._rows().work.on  # type: ignore[attr-defined]


def test_noise_of_a_row_is_normal_and_its_own() -> None:
    noise = idle.normal(torch.arange(4000), 12, 3)
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02
    assert torch.equal(noise[100:110], idle.normal(torch.arange(100, 110), 12, 3))
    assert (torch.corrcoef(noise.T) - torch.eye(12)).abs().max() < 0.08
    assert torch.corrcoef(torch.stack([noise[1:, 0], noise[:-1, 0]]))[0, 1].abs() < 0.05


@pytest.mark.parametrize("made", [lambda t: idle.normal(t, 5, 3), lambda t: torch.cat(idle.sway(t, 3), 1), lambda t: idle.blink(t, 3)])
def test_what_is_kept_of_an_idle_face_is_what_would_be_made(made: Callable[[Tensor], Tensor]) -> None:
    whole = made(torch.arange(200))  # more than is made at once: nothing is kept
    for rows in ([49], [48, 49], [49, 50], [50, 51], [99, 20, 20], [3, 140], [], range(40, 90)):
        frames = torch.tensor(list(rows), dtype=torch.long)
        found = made(frames)
        assert torch.equal(found, whole[frames])
        found += 1  # one's own, not what is kept
    assert torch.equal(made(torch.arange(50)), whole[:50])


def test_the_first_frame_is_the_sources_own() -> None:
    units = torch.zeros(1, 52)
    units[0, BLENDSHAPES.index("browInnerUp")] = 0.4
    method = tiny()
    with torch.no_grad():
        motion, _ = method.generate(Clip(speech=sounds(method, 4)), method.start(Clip(units=units)))
    assert motion.rotation[0].abs().max() < 1e-6 and motion.translation[0].abs().max() < 1e-6
    state = method.start(Clip(units=units))
    own = [k for k in range(52) if k not in blendshapes.MOUTH]  # its mouth rests as far as its lips meet
    assert torch.allclose(resting.scores(state.rest)[own], units[0, own], atol=1e-4)


def test_in_silence_the_mouth_is_shut_and_the_face_lives() -> None:
    method = tiny()
    nn.init.zeros_(method.listen.voice.weight)
    nn.init.constant_(method.listen.voice.bias, -9.0)  # nobody speaks, whatever else is heard
    units = torch.zeros(1, 52)
    units[0, JAW] = 0.02
    motion = moved(method, sounds(method, 10 * FPS), 50, Clip(units=units))
    shut = resting.scores(resting.closed(units[0], method.code.rest))
    gap, rest = blendshapes.load().gap(motion.expression).mean(1), blendshapes.load().gap(shut).mean()
    shut = motion.expression[:, LIDS].amax(1) > 0.3
    assert (gap - rest).abs().max() <= 0.05 * max(float(rest), 1e-4)
    assert 2 <= int((shut[1:] & ~shut[:-1]).sum()) <= 5  # blinks in ten seconds
    assert motion.rotation[FPS:].std(0).min() > 1e-4 and motion.translation[FPS:].std(0).min() > 1e-6


@pytest.mark.slow
def test_ten_minutes_do_not_drift() -> None:
    method = tiny(block=32, evaluations=1, temperature=1.0, sway=0.0, blinks=0.0)
    rows = 600 * FPS
    motion = moved(method, sounds(method, rows), 1000)
    for name in FIELDS:
        values = getattr(motion, name)
        assert torch.isfinite(values).all()
        first, last = values[FPS : 61 * FPS], values[-60 * FPS :]
        off = (first.mean(0) - last.mean(0)).abs()
        assert (off <= 0.35 * first.std(0) + 1e-4).all(), name
        assert (last.std(0) <= 1.5 * first.std(0) + 1e-4).all() and (last.std(0) >= 0.6 * first.std(0) - 1e-4).all(), name


# ---- training


def test_the_judge_learns_who_belongs_to_whom_and_teaches_the_lips_alone() -> None:
    torch.manual_seed(0)
    steps = torch.randn(8, 20, 2, 4)
    lips = steps.mean(2) @ torch.randn(4, 6)
    judge = MotionSync(6, 4, 16, 0.0)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = judge.learn(lips, steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    ones = torch.ones(8)
    right, wrong = judge.judge(lips, steps, ones), judge.judge(lips.flip(0), steps, ones)
    assert float(right.detach()) < 0.5 * float(wrong.detach())
    steps.requires_grad_()
    lips.requires_grad_()
    judge.judge(lips, steps, ones).backward()
    assert steps.grad is None and lips.grad is not None and lips.grad.abs().sum() > 0


def test_silence_and_noise_teach_the_gate_to_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    from vivavoce.methods import dit_motion

    method = tiny().train()
    noise = torch.rand(2 * 100, 8, generator=torch.Generator().manual_seed(0)) + 3  # as an encoder hears two noises of 2 s
    monkeypatch.setattr(dit_motion, "not_speech", lambda name: noise)
    optimizer = torch.optim.Adam(method.listen.parameters(), 2e-2)
    for _ in range(15):
        loss = method._quiet(torch.device("cpu"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(method.eval().listen(noise.unflatten(0, (-1, 50, 2)))[1].detach().sigmoid().max()) < 0.3
    monkeypatch.setattr(dit_motion, "not_speech", lambda name: None)  # its weights cannot be had
    assert float(method._quiet(torch.device("cpu"))) == 0


def test_guidance_folded_in_asks_for_more_than_the_data() -> None:
    method = tiny(fold=2.0).train()
    person = SyntheticPerson(window=method.window, dim=8)
    losses = method.loss(person.clip(slice(0, 16), method.needs | method.loss_needs))
    plain = tiny(fold=0.0).train()
    torch.manual_seed(0)
    one = plain.loss(person.clip(slice(0, 16), method.needs | method.loss_needs))
    assert set(losses) == set(one) == {"denoise", "change", "voice", "gap", "judge"}
    assert all(bool(torch.isfinite(v)) for v in losses.values()) and float(losses["denoise"].detach()) > 0


@pytest.mark.slow
def test_presets_can_be_made_and_a_seed_sized_one_learns() -> None:
    config = registry.configure("dit_motion", "seed")
    assert (config.block, config.context, config.window_rows, config.width, config.layers) == (65, 10, 75, 512, 8)
    small = dataclasses.replace(config, width=32, layers=1, heads=2, hidden=32, speech_dim=8)
    method = DitMotion(small)
    count, width = 75, sum(method.window)
    motion = Motion(torch.randn(count, 3) * 0.1, torch.randn(count, 3) * 0.1, torch.ones(count, 1), torch.randn(count, 63), "keypoints")
    clip = Clip(speech=torch.rand(count, width, 8), audio=torch.randn(count, HOP) * 0.01, motion=motion, points=torch.randn(count, 21, 3))
    method.code.fit(motion, 75)
    assert method.loss_needs == {"motion", "audio", "points"}
    torch.stack(list(method.loss(clip).values())).sum().backward()
    assert all(p.grad is not None for n, p in method.named_parameters())
    with torch.no_grad():
        made, _ = method.eval().generate(Clip(speech=clip.speech[:70]), method.start(clip[:1]))
    assert made.space == "keypoints" and made.expression.shape == (70, 63)
    still = [k for k in range(63) if k not in method.code.chosen.tolist()]
    assert torch.allclose(made.expression[:, still], motion.expression[:1, still].expand(70, -1))


def test_weights_written_are_the_weights_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny()
    state = {k: v for k, v in method.state_dict().items() if not k.startswith("judge.")}
    shipping.write(tmp_path / "dit_motion_whisper.safetensors", method.config, state)
    monkeypatch.setattr(shipping, "WEIGHTS", tmp_path)
    again = DitMotion.shipped(seed=7)
    assert again.config.seed == 7 and again.judge is None and not again.training
    again.config.seed = 0
    speech = sounds(method, 8)
    assert torch.allclose(moved(again, speech, 8).expression, moved(method, speech, 8).expression, atol=0.02)
    with pytest.raises(InputError, match="there are some for: whisper"):
        DitMotion.shipped(speech="mel")
    with pytest.raises(InputError, match="vivavoce train wav2lip"):
        shipping.read("wav2lip", "mel")


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="speech_dim 80"):
        registry.create("dit_motion", "tiny").setup(SyntheticPerson(window=(4, 10), dim=80))
    with pytest.raises(InputError, match="--space landmarks"):
        registry.create("dit_motion", "tiny").setup(SyntheticPerson(window=(4, 10), dim=8, space="landmarks"))
    with pytest.raises(InputError, match="process"):
        DitMotion(Config(process="gan"))


# ---- control


def test_emotions_gaze_and_head_are_added_and_leave_room_for_words() -> None:
    face, quiet, loud = torch.zeros(3, 52), torch.zeros(3), torch.ones(3)
    smile = [BLENDSHAPES.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    happy = Acting(emotion="happy")
    assert (happy.felt(face, quiet)[:, smile] > 0.5).all()
    assert torch.allclose(happy.felt(face, loud)[:, smile], happy.felt(face, quiet)[:, smile] / 2)
    assert torch.equal(Acting().felt(face, quiet), face)
    for name, units in EMOTIONS.items():
        made = Acting(emotion=name).felt(face, quiet)
        assert int((made[0] > 0).sum()) >= len(units) and float(made.max()) <= 1
    look = Acting(gaze_x=15, gaze_y=-15).felt(face, quiet)[0]
    assert [n for n, v in zip(BLENDSHAPES, look.tolist(), strict=True) if v > 0] == [
        "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutLeft",
    ]  # fmt: skip
    assert torch.allclose(Acting(head_yaw=90).facing(torch.zeros(1, 3)), torch.tensor([[0, torch.pi / 2, 0]]))
    with pytest.raises(InputError, match="happy"):
        Acting(emotion="hapy").felt(face, quiet)
    roots, rest = torch.zeros(100, 52), torch.zeros(52)
    assert torch.equal(Acting(blinks=0).living(roots, rest, torch.arange(100), 0), roots)


def test_control_is_read_live() -> None:
    method = tiny(temperature=0.0)
    speech = sounds(method, 8)
    plain = moved(method, speech, 8)
    method.config.emotion = "surprised"
    brows = BLENDSHAPES.index("browInnerUp")
    assert (moved(method, speech, 8).expression[:, brows] > plain.expression[:, brows]).all()


# ---- is somebody speaking?


@pytest.mark.parametrize("kind", ["silence", "white noise", "rumble", "mains hum"])
def test_noise_is_no_voice(kind: str) -> None:
    voiced, _ = vad.push(steady(kind).reshape(-1, HOP))
    assert float(voiced[FPS:].sum()) == 0


def test_a_voice_is_heard_soft_or_in_noise_and_in_pieces() -> None:
    for level in (0.02, 0.2):
        sound = torch.cat([torch.zeros(FPS * HOP), vowels(2.0, level), torch.zeros(FPS * HOP)]).reshape(-1, HOP)
        sound = sound + 0.0005 * torch.randn(sound.shape, generator=torch.Generator().manual_seed(0))
        voiced, _ = vad.push(sound)
        assert voiced[:24].sum() == 0 and voiced[26:74].mean() > 0.8 and voiced[82:].sum() == 0
        state, pieces = None, []
        for part in sound.split(7):
            row, state = vad.push(part, state)
            pieces.append(row)
        assert torch.equal(torch.cat(pieces), voiced)
    reached = vad.around(sound, 3)
    assert reached.sum() > voiced.sum() and (reached >= voiced).all()


@pytest.mark.real
def test_words_of_the_grid_corpus_are_voice_and_its_pauses_are_not(shared_data: Path) -> None:
    """Against the corpus's own alignments: a frame is a word or silence."""
    from vivavoce.media import audio

    right = []
    for path in sorted((shared_data / "grid_s1").glob("*.mp4"))[::50]:
        words = torch.zeros(75)
        for line in path.with_suffix(".align").read_text().splitlines():
            begin, end, word = line.split()
            if word not in ("sil", "sp"):
                words[int(begin) // 1000 : int(end) // 1000] = 1
        sound = torch.nn.functional.pad(audio(path), (0, 75 * HOP))[: 75 * HOP].reshape(-1, HOP)
        right.append((vad.push(sound)[0] == words).float().mean())
    assert len(right) >= 10 and torch.stack(right).mean() > 0.85
