"""Speech -> motion by a diffusion transformer, block by block: expression, head pose, in any motion space.

Seed 003's transformer (preset `seed`; DiffPoseTalk, Sun et al., SIGGRAPH 2024) and what later evidence favours: audio that modulates each
frame's token (FLOAT, ICCV 2025), flow matching in a few steps (Lipman et al. 2023), previous frames dropped half of the time, a loss by
a frozen judge of lips and voice, guidance folded into the network (Tang et al. 2025, "model guidance": one pass instead of two).

Differs from the seed: motion is relative to the face at rest and divided by its deviation (the seed: fixed ranges); noise is a function
of seed and row, so any cut of a stream makes the same; voice gate, blinks and sway instead of scripted blinks and a filter over the
finished file; frame k gets place k. `seed` reads its identity, LivePortrait's canonical key points, as `points` [T,21,3].

A block of `block` rows is made when its first row is asked for: the row's speech window reaches to the block's end and `ahead` rows
further, which is the latency; those rows are made as well and cross-faded with the next block's. Rows before are given as context.

Measured on 7 people never trained on (benchmarks/motion.py), 0.4 M parameters after 7.6 minutes of speech: correlation of the lips' gap
0.48 (0.50 with 2 evaluations), of its velocity 0.30; speech_motion 0.49 and 0.34. No better, so no weights come with vivavoce.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from vivavoce.diffusion import Diffusion, Flow, weighted
from vivavoce.face import resting
from vivavoce.face.acting import Acting
from vivavoce.method import Generator
from vivavoce.nn import shipping
from vivavoce.nn.dit import MotionTransformer, SpeechFrames
from vivavoce.nn.motion_blocks import Blocks, State
from vivavoce.nn.motion_code import MotionCode, training_windows
from vivavoce.nn.motion_sync import MotionSync
from vivavoce.nn.silence import SECONDS, not_speech
from vivavoce.registry import register
from vivavoce.types import FPS, Clip, InputError, Motion, Source

UNSURE = 0.3  # noise on the context in training, so that a made one will do
CHUNKS, ROWS = 300, 1500  # of the source, that setup looks at


@dataclass
class Config(Acting):
    """Settings."""

    speech: str = "whisper"  # encoder whose features are heard
    speech_dim: int = 384  # features a step: 384 whisper, 80 mel, 768 wav2vec2
    space: str = "blendshapes"  # motion space made: blendshapes, keypoints, or any that the source's motion is in
    expression: int = 52  # numbers of its expression
    chosen: str = "all"  # numbers of a frame that are made: all, or seed (20 key point coordinates, 3 angles, x and y)
    identity: int = 0  # numbers of the source's `points` that are heard as identity
    context: int = 10  # rows before a block that are given
    block: int = 16  # rows made at once
    ahead: int = 4  # rows after a block that are heard, 40 ms of latency each
    chunk: int = 60  # rows over which a speaker's rest is measured in training
    kind: str = "frame"  # how audio is heard: frame (it modulates each token) or cross (attention through an aligned mask)
    width: int = 128  # of the tokens
    layers: int = 4  # of the transformer
    heads: int = 4  # of its attention
    hidden: int = 384  # of its feed-forward nets
    dropout: float = 0.25  # in training
    process: str = "flow"  # flow, or diffusion
    predicts: str = "data"  # data, velocity, noise (diffusion)
    diffusion_steps: int = 50  # of the diffusion process
    begin: int = 0  # diffusion step at which making begins, 0: the last
    evaluations: int = 8  # of the network for a block
    guidance: float = 1.0  # 1 none: one pass instead of two
    fold: float = 0.0  # guidance folded into the network in training, beyond 1
    audio_dropout: float = 0.1  # share of training windows without audio
    previous_dropout: float = 0.5  # share of training windows without context
    change: float = 0.5  # weight of the loss of movement from frame to frame
    gap: float = 0.5  # weight of the loss of the lips' gap (blendshapes)
    voice: float = 0.2  # weight of the loss of the voice gate
    sync: float = 0.05  # weight of the frozen judge's loss
    judge_steps: int = 400  # training steps in which the judge learns; frozen after them
    temperature: float = 0.7  # of the noise that motion is made from: 0 the same at every seed, 1 as varied as people
    mouth_temperature: float = 0.0  # the same, for what the voice moves: 0 follows it best
    strength: float = 1.0  # of the mouth's movement
    pose: float = 0.5  # of the head's movement that is made
    sway: float = 0.6  # of the procedural sway and breath, which go on in silence
    steps: int = 3000  # training steps
    batch: int = 16  # chunks a step
    rate: float = 6e-4  # learning rate, after a warm-up falling to 0 along a cosine
    decay: float = 0.02  # of weights
    seed: int = 0  # of training and of the noise

    @property
    def window_rows(self) -> int:
        """Rows of a training window."""
        return max(self.chunk, self.context + self.block + self.ahead)


@register(
    family="motion", paper="DiffPoseTalk, 2024; FLOAT, 2025", origin="hazard-10/LivePortrait; DiffPoseTalk/DiffPoseTalk", license="MIT"
)
class DitMotion(Generator):
    """Speech windows -> motion relative to the source's."""

    needs = frozenset({"speech"})
    space = "blendshapes"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "live": {"block": 8, "ahead": 2, "evaluations": 5},
        "prompt": {"block": 2, "ahead": 1, "evaluations": 5},
        "folded": {"fold": 0.5, "evaluations": 5},
        "large": {"width": 512, "layers": 8, "heads": 8, "hidden": 2048, "block": 64, "chunk": 80, "rate": 1e-4, "steps": 100_000},
        "seed": dict(speech="wav2vec2", speech_dim=768, space="keypoints", expression=63, chosen="seed", identity=63, block=65, ahead=0,
                     chunk=75, kind="cross", width=512, layers=8, heads=8, hidden=2048, process="diffusion", evaluations=10, begin=10,
                     guidance=0.65, temperature=1.0, mouth_temperature=1.0, sync=0.0, gap=0.0, dropout=0.1, batch=32, rate=5e-5,
                     steps=1_000_000),
        "tiny": dict(speech_dim=8, context=2, block=4, ahead=1, chunk=8, width=16, layers=1, heads=2, hidden=16, evaluations=2,
                     judge_steps=3, steps=12, batch=4, rate=3e-3),
    }  # fmt: skip

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        c = config
        if c.process not in ("flow", "diffusion") or c.kind not in ("frame", "cross") or c.chosen not in ("all", "seed"):
            raise InputError("dit_motion", f"process {c.process!r}, kind {c.kind!r}, chosen {c.chosen!r}", "see: vivavoce list dit_motion")
        self.speech, self.window, self.space = c.speech, (2 * c.context, 2 * (c.block + c.ahead)), c.space
        self.loss_needs = frozenset({"motion", "audio", *["points"][: c.identity]})  # type: ignore[misc]
        self.training_window = (0, 2)  # a window of rows holds its own speech
        self.process = Flow(c.predicts) if c.process == "flow" else Diffusion(c.diffusion_steps, predicts=c.predicts)
        self.unit = 1000 if c.process == "flow" else 1000 / c.diffusion_steps  # the network's time runs from 0 to 1000
        self.code = MotionCode(c.space, c.expression, c.chosen)
        self.listen = SpeechFrames(c.speech_dim, c.width, c.dropout)
        identity = c.expression + c.identity
        self.model = MotionTransformer(self.code.numbers, identity, c.width, c.layers, c.heads, c.hidden, c.kind, c.dropout)
        self.blocks = Blocks(self.listen, self.model, self.code, self.process, self.unit, c)
        self.judge = MotionSync(self.code.numbers, c.speech_dim) if c.sync > 0 else None
        self.judging = True  # the judge learns; `update` says when it is frozen

    @classmethod
    def shipped(cls, seed: int = 0, speech: str = "whisper") -> Self:
        """The generator with the weights that come with vivavoce. Raises InputError when there are none for that encoder."""
        config, state = shipping.read("dit_motion", speech)
        method = cls(Config(**config | {"sync": 0.0, "seed": seed}))
        method.load_state_dict(state)
        return method.eval()

    @property
    def every(self) -> int:
        """Rows of a block: the first one's window holds the speech of all."""
        return int(self.config.block)

    def setup(self, source: Source) -> None:
        """Deviations of features and motion, and the face at rest, from the training source."""
        rows = torch.linspace(0, len(source) - 1, min(len(source), ROWS)).long()
        heard = source.clip(rows, {"speech"}).speech
        assert heard is not None
        length = min(self.config.chunk, len(source))
        spans = getattr(source, "spans", torch.tensor([[0, len(source)]])).tolist()
        starts = [first + k * length for first, count in spans for k in range(count // length)] or [0]
        starts = starts[:: -(-len(starts) // CHUNKS)]
        motion = source.clip((torch.tensor(starts)[:, None] + torch.arange(length)).flatten(), {"motion"}).motion
        assert motion is not None
        given, wanted = (
            (heard.shape[-1], motion.expression.shape[1], motion.space),
            (len(self.listen.mean), len(self.code.rest), self.space),
        )
        if given != wanted:
            cause = f"it is set for {wanted[0]} numbers a step of speech and {wanted[1]} of {wanted[2]}, the source has {given}"
            raise InputError("dit_motion", cause, f"add --speech_dim {given[0]} --expression {given[1]} --space {given[2]}")
        self.listen.fit(heard)
        self.code.fit(motion, length)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """Denoising, movement from frame to frame, the lips' gap, the judge's opinion, and whether there is a voice."""
        c = self.config
        steps, voiced, data, identity = training_windows(
            clip, self.code, c.window_rows, c.context, c.context + c.block + c.ahead, c.identity
        )
        count, length, device = len(data), data.shape[1], data.device
        audio, logit = self.listen(steps)
        silent = torch.rand(count, 1, 1, device=device) < c.audio_dropout
        given = (torch.arange(length, device=device) < c.context).expand(count, -1)
        seen = ~(given & (torch.rand(count, 1, device=device) < c.previous_dropout))
        noise, time = torch.randn_like(data), self.process.draw(count, device)
        noisy = self.process.mix(data, noise, time)
        unsure = data + UNSURE * torch.rand(count, 1, 1, device=device) * torch.randn_like(data)
        known = torch.where(given[..., None], unsure, noisy)

        def network(heard: Tensor) -> Tensor:
            return self.model(known, heard, self.unit * time, identity, given, seen)

        said, target = network(torch.where(silent, self.model.null, audio)), self.process.target(data, noise, time)
        if c.fold > 0:
            with torch.no_grad():
                target = target + c.fold * torch.where(silent, 0, said - network(self.model.null.expand_as(audio)))
        new = (~given).float()[..., None]
        guess = torch.where(given[..., None], data, self.process.estimate(said, noisy, time)[0])
        near = new[:, 1:] * torch.maximum(new[:, :-1], seen[:, :-1, None].float())
        out = {
            "denoise": weighted(said - target, new * self.code.weight),
            "change": c.change * weighted((guess - data).diff(dim=1), near * self.code.weight),
            "voice": c.voice * (F.binary_cross_entropy_with_logits(logit, voiced) + self._quiet(device)),
        }
        if c.gap > 0 and self.space == "blendshapes":
            made, measured = (self.code.gap(code, identity[:, : c.expression]) / 0.002 for code in (guess, data))
            out["gap"] = c.gap * (F.smooth_l1_loss(made, measured, reduction="none") * new[..., 0]).sum() / new.sum()
        if self.judge is not None:
            steps = (steps - self.listen.mean) / self.listen.spread
            heard = (~silent).flatten().float()
            out["judge"] = self.judge.learn(data, steps) if self.judging else c.sync * self.judge.judge(guess, steps, heard)
        return out

    def _quiet(self, device: torch.device) -> Tensor:  # -> []
        """How far the voice gate takes silence, noise and hum for a voice: recordings of people hold little of them."""
        steps = not_speech(self.speech)
        if steps is None or steps.shape[1] != self.config.speech_dim:
            return torch.zeros((), device=device)
        return F.softplus(self.listen(steps.to(device).unflatten(0, (-1, SECONDS * FPS, 2)))[1]).mean()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.parameters(), self.config.rate, weight_decay=self.config.decay)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """As always, with the rate's warm-up and cosine, and the judge frozen after its time."""
        c = self.config
        warm = min(1.0, (step + 1) / max(1, min(500, c.steps // 10)))
        for group in optimizers[0].param_groups:
            group["lr"] = c.rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, c.steps))))
        self.judging = step < c.judge_steps
        if self.judge is not None:
            self.judge.requires_grad_(self.judging)
        return super().update(clip, step, optimizers)

    def train(self, mode: bool = True) -> Self:
        self.blocks.quick.clear()  # made of weights that may change
        return super().train(mode)

    def rehearse(self, most: int) -> None:
        """Makes ready for so many streams at once, so that nobody waits for it."""
        self.blocks.rehearse(most)

    def start(self, source: Clip) -> State:
        """From the source's first row: its face at rest with the mouth shut, from `units` or `motion`, and `points` where heard."""
        rest = self.code.rest.clone()
        if self.space == "blendshapes" and source.units is not None:
            rest = resting.closed(source.units[0].to(rest), rest)
        elif source.motion is not None and source.motion.space == self.space != "blendshapes":
            rest = source.motion.expression[0].to(rest)
        points = source.points[0].flatten() if self.config.identity and source.points is not None else None
        return self.blocks.start(rest, rest.new_zeros(self.config.identity) if points is None else points)

    def generate(self, clip: Clip, state: State) -> tuple[Motion, State]:
        """Expression of the source with the voice's movement, and the head's pose relative to the source's; on the CPU."""
        assert clip.speech is not None
        block, at, pieces = self.config.block, 0, list[Motion]()
        asked, self.blocks.config = tuple(vars(self.config).values()), self.config  # it may have been given another since
        while at < len(clip.speech):
            place = state.frame % block
            if place == 0:
                state = self.blocks.next(clip.speech[at], state)
            if state.shown is None or state.asked != asked:  # all its rows at once: single ones take as long each
                state = self._show(state, state.frame - place, asked)
            assert state.shown is not None
            count = min(block - place, len(clip.speech) - at)
            pieces.append(state.shown[place : place + count])
            at, state = at + count, replace(state, frame=state.frame + count)
        if not pieces:
            none = torch.zeros(0, 3)
            return Motion(none, none, none[:, :1], state.rest[None][:0], self.space), state
        return pieces[0] if len(pieces) == 1 else Motion.cat(pieces), state

    def _show(self, state: State, begin: int, asked: tuple[Any, ...]) -> State:
        """The block that begins at that frame as movement on the source's face, with what the face does whether it speaks or not."""
        c, moves, size = self.config, state.moves, len(state.rest)
        free, gate = resting.slowed(state.free, state.gate)
        frame = torch.arange(begin, begin + len(moves))
        grown = c.pose * (frame.float() / FPS).clamp(max=1)[:, None]  # the first frame is the source's own pose
        expression = state.rest + (1 + (c.strength * free[:, None] - 1) * state.mouth) * moves[:, :size]
        if self.code.faces:
            expression = c.felt(resting.scores(c.living(expression, state.rest, frame, int(c.seed))), free)
        rigid, sway = grown * moves[:, size:], c.sway * state.sway
        turn, shift = c.facing(sway[:, :3] + rigid[:, :3]), sway[:, 3:] + rigid[:, 3:6]
        return replace(state, shown=Motion(turn, shift, 1 + rigid[:, 6:], expression, self.space), asked=asked, after=gate)
