"""Speech -> expression in any motion space: a variational generator with a flow prior, for one person or many (GeneFace, ICLR 2023).

Of the paper: a conditional VAE over time whose prior is a normalising flow, a contrastive expert that says whether a movement and
a sound belong together, adaptation to a person, landmarks drawn back onto the person's manifold (locally linear embedding) and
clamped. It is the part that R2-Talker (2023) never released, so that a face drawn from landmarks can be driven by any sound.
Different, and why: every convolution that runs while speaking is causal and carries its state, so live equals offline (theirs sees
the whole recording); a code of the latent lasts four frames and its noise is a function of its number and the seed; the decoder must
also do with the prior's mean, else on a minute of video the prior says little; a person's adaptation is the same training started
from another run (`init`), with that person's statistics, in place of a second network with a discriminator; expressions count from
the person's closed mouth, to which a voice gate returns; how much a number of the expression counts is how well speech tells it.

Measured (benchmarks/generator.py) on 162 frames held out of one minute of a news reader, landmarks from whisper, 150 steps of 4
windows: correlation of the lips' gap 0.73 (mean face 0, nearest training frame 0.47, mean of the ten nearest 0.70); in silence and
in white noise the gap does not move. 1500 rows a second on one busy core. Weights of ours do not ship: one person's are no start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.face import idle, resting
from vivavoce.method import Generator
from vivavoce.nn import manifold, voice
from vivavoce.nn.flow_vae import BLOCK, FlowVae, Voiced
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.motion_expert import MotionExpert
from vivavoce.nn.silence import lip_gap
from vivavoce.registry import register
from vivavoce.types import Clip, InputError, Motion, Source

SHUT_SHARE = 0.1  # of the frames, those with the narrowest mouth, make the rest
FALL, LEAST, MOST = 0.3, 10, 60  # share of the windows that fall silent for a while in training; frames
FLOOR = 0.02  # smallest deviation of a number of the expression, of the largest one
COUNTS = 0.1  # least weight of a number that speech does not tell
STATISTICS = ("rest", "deviation", "low", "high", "bank", "blink", "weight", "quiet", "many")  # the person's, not of the networks


@dataclass
class Config:
    """Settings of geneface_motion."""

    space_name: str = "landmarks"  # motion space: landmarks, blendshapes, bfm
    init: str = ""  # run folder of another training: its networks are the start, this person's statistics replace its own
    speech: str = "whisper"  # encoder whose features are heard
    past: int = 8  # steps of 20 ms heard before a frame; what lies further back is remembered
    future: int = 8  # steps heard from the frame's first on: 160 ms of latency beside the encoder's
    hidden: int = 96  # channels
    latent: int = 16  # numbers of a latent code
    dropout: float = 0.3  # share of the channels of speech dropped in training
    kl: float = 0.05  # weight of the latent's divergence from its prior, reached after a third of the steps
    told: float = 1.0  # weight of what the prior's mean gives
    sync: float = 0.05  # weight of the expert's verdict
    smooth: float = 0.5  # weight of the change from frame to frame
    temperature: float = 0.2  # of the prior, when speaking: 0 says the same every time, 1 varies as the training video does
    strength: float = 1.2  # of the movement: its mean, which is what is least wrong, mumbles
    blinks: float = 1.0  # how far a blink shuts the eyes, where the motion space has them
    lle: float = 0.3  # share of the way to the nearest expressions that the person was seen to make
    neighbours: int = 10  # of them
    clamp: float = 2.3  # standard deviations a number may lie from its mean
    bank: int = 2000  # expressions kept of the training video
    sway: float = 1.0  # of the head's movement, with --pose generator
    steps: int = 600  # training steps
    batch: int = 8  # windows a step
    window_rows: int = 96  # consecutive frames of a window
    rate: float = 1e-3  # learning rate, falling to 0 along a cosine
    seed: int = 0  # of training and of what is random when speaking


class State(NamedTuple):
    """What `generate` carries from row to row."""

    frame: int = 0  # number of the next row
    gate: float = 0.0  # how far the voice gate is open
    voiced: Voiced = Voiced()  # of the networks
    rest: Tensor | None = None  # [E] of the source


@register(
    family="motion",
    paper="GeneFace: Generalized and High-Fidelity Audio-Driven 3D Talking Face Synthesis, ICLR 2023, arXiv 2301.13430",
    origin="https://github.com/yerfor/GeneFace",
    license="MIT (facts only; no code or weights used)",
)
class GenefaceMotion(Generator):
    """The generator."""

    needs = frozenset({"speech"})
    loss_needs = frozenset({"motion", "audio", "landmarks"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "landmarks": {},
        "blendshapes": {"space_name": "blendshapes"},
        "bfm": {"space_name": "bfm"},
        "tiny": dict(
            speech="mel", hidden=8, latent=4, dropout=0.0, steps=8, batch=2, window_rows=16, bank=20, neighbours=4, past=4, future=4,
            rate=4e-3,
        ),
    }  # fmt: skip

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.speech, self.window, self.space = config.speech, (config.past, config.future), config.space_name
        if (config.past + config.future) % 4 or config.window_rows % BLOCK:
            raise InputError("geneface_motion", "past + future and window_rows must be multiples of 4", "e.g. 8, 8 and 96")
        self._build(8, 4, 1, 0)
        take_sizes(self)
        self.share = 0.0  # of the training that is over

    def _build(self, features: int, numbers: int, bank: int, quiet: int) -> None:
        """The parts, for so many features of speech, numbers of an expression, kept expressions and windows of silence."""
        c: Config = self.config
        width = c.past + c.future
        for name, shape in (
            *(("mean", (features,)), ("spread", (features,)), ("rest", (numbers,)), ("deviation", (numbers,)), ("low", (numbers,))),
            *(("high", (numbers,)), ("weight", (numbers,)), ("blink", (numbers,)), ("bank", (bank, numbers)), ("many", ())),
            ("quiet", (quiet, width, features)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.listen = nn.Sequential(nn.Linear(features, c.hidden), nn.GELU(), nn.Dropout(c.dropout))
        self.halves = nn.Sequential(
            nn.Conv1d(c.hidden, c.hidden, 4, 2, 1), nn.GELU(), nn.Conv1d(c.hidden, c.hidden, 4, 2, 1), nn.GELU(), nn.Flatten(),
            nn.Linear(c.hidden * width // 4, c.hidden), nn.GELU(), nn.Dropout(c.dropout),
        )  # fmt: skip
        self.voice = nn.Linear(c.hidden, 1)
        self.vae = FlowVae(numbers, c.hidden, c.latent, c.dropout / 3)
        self.expert = MotionExpert(features, numbers, c.hidden, c.dropout)

    # ---- before training ----

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """Statistics of the speech and of the person's expressions, what silence sounds like, and the networks of `init`."""
        rows = torch.linspace(0, len(source) - 1, min(len(source), 4000)).long()
        clip = source.clip(rows, {"speech", "motion", "landmarks", "eyes"})
        assert clip.speech is not None and clip.motion is not None and clip.landmarks is not None and clip.eyes is not None
        code, gap = clip.motion.expression, lip_gap(clip.landmarks)
        quiet = voice.silence(self.speech, self.window, clip.speech.shape[2])
        kept = torch.linspace(0, len(rows) - 1, min(len(rows), self.config.bank)).long()
        self._build(clip.speech.shape[2], code.shape[1], len(kept), len(quiet))
        self.mean, self.spread = clip.speech.mean((0, 1)), clip.speech.std((0, 1)).clamp_min(1e-3)
        self.quiet, self.many = quiet, torch.tensor(float(len(getattr(source, "people", ())) > 1))
        self.rest = code[gap.argsort()[: max(1, round(SHUT_SHARE * len(gap)))]].mean(0)
        moves = code - self.rest
        self.deviation = moves.std(0).clamp_min(FLOOR * float(moves.std(0).max())).clamp_min(1e-6)
        reach = self.config.clamp * moves.std(0)
        self.low, self.high = (moves.mean(0) - reach).clamp_max(0), (moves.mean(0) + reach).clamp_min(0)  # the rest itself is allowed
        self.bank = moves[kept] / self.deviation
        eyes = clip.eyes.mean(1)
        shut, awake = eyes <= eyes.quantile(0.02), eyes >= eyes.median()
        if float(eyes[shut].mean()) < 0.5 * float(eyes[awake].mean()):
            blink = code[shut].mean(0) - code[awake].mean(0)
            self.blink = blink * (blink.abs() > self.deviation)  # what else moved while the eyes were shut is not theirs
        self.weight = COUNTS + (1 - COUNTS) * _telling((clip.speech.mean(1) - self.mean) / self.spread, moves / self.deviation)
        if self.config.init:
            self._take(Path(self.config.init) / "model.safetensors")

    def _take(self, path: Path) -> None:
        """The networks of another run, and its statistics of speech."""
        if not path.is_file():
            raise InputError(path, "is not there", "give --init a run folder of: vivavoce train geneface_motion")
        own, theirs = self.state_dict(), load_file(path)
        taken = {k: v for k, v in theirs.items() if k not in STATISTICS}
        if odd := [k for k, v in taken.items() if k not in own or own[k].shape != v.shape]:
            cause = f"its {odd[0]} is of another shape: another motion space, encoder or size of the networks"
            raise InputError(path, cause, "train with the same settings")
        self.load_state_dict({**own, **taken})

    # ---- training ----

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """Reconstruction from the posterior and from the prior's mean, divergence, change, sync, the expert's own, and the voice."""
        c: Config = self.config
        assert clip.speech is not None and clip.motion is not None and clip.audio is not None and clip.landmarks is not None
        length = min(c.window_rows, len(clip) // BLOCK * BLOCK)
        heard, code, audio, marks = (
            v[: len(clip) // length * length].unflatten(0, (-1, length))
            for v in (clip.speech, clip.motion.expression, clip.audio, clip.landmarks)
        )
        moves, voiced = (code - self._rests(code, marks)) / self.deviation, voice.voiced(audio)
        if self.training:
            heard, moves, voiced = self._interrupted(heard, moves, voiced)
        wanted, standard = moves.transpose(1, 2), (heard - self.mean) / self.spread
        told = self._hear(heard.flatten(0, 1)).unflatten(0, heard.shape[:2]).transpose(1, 2)  # [B,H,L]
        made, said, divergence = self.vae(wanted, told)
        weight = self.weight[:, None] / self.weight.mean()
        return {
            "reconstruction": (weight * (made - wanted).square()).mean(),
            "told": c.told * (weight * (said - wanted).square()).mean(),
            "kl": c.kl * min(1.0, 3 * self.share) * divergence,
            "change": c.smooth * (weight * ((made - wanted).diff(dim=2).square() + (said - wanted).diff(dim=2).square())).mean(),
            "sync": c.sync * self.expert.judge(standard, said),
            "expert": self.expert(standard, wanted),
            "voice": F.binary_cross_entropy_with_logits(self.voice(told.transpose(1, 2))[..., 0], voiced),
        }

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """As always, with the learning rate on its cosine and the divergence coming in."""
        self.share = min(1.0, step / max(1, self.config.steps))
        for group in optimizers[0].param_groups:
            group["lr"] = self.config.rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * self.share)).item())
        return super().update(clip, step, optimizers)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam with a little decay: a minute of video is soon known by heart."""
        return [torch.optim.AdamW(self.parameters(), self.config.rate, weight_decay=0.02)]

    def _rests(self, code: Tensor, landmarks: Tensor) -> Tensor:  # [B,L,E], [B,L,68,2] -> [B,1,E] or [E]
        """Where movement is counted from: of one person the rest; of many, each window's own frames with the narrowest mouth."""
        shut = lip_gap(landmarks.flatten(0, 1)).unflatten(0, code.shape[:2]).argsort(1)[:, : max(1, round(2 * SHUT_SHARE * code.shape[1]))]
        own = code.gather(1, shut[..., None].expand(-1, -1, code.shape[2])).mean(1, keepdim=True)
        return torch.lerp(self.rest.expand_as(own), own, self.many)

    def _interrupted(self, heard: Tensor, moves: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some windows fall silent for a while, and the mouth shuts: a recording of someone who never pauses teaches it too."""
        if not len(self.quiet):
            return heard, moves, voiced
        count, length = heard.shape[:2]
        start, lasts = torch.randint(-LEAST, length, (count, 1)), torch.randint(LEAST, MOST, (count, 1))
        place = torch.arange(length) - start
        silent = ((place >= 0) & (place < lasts) & (torch.rand(count, 1) < FALL)).to(heard.device)
        windows = self.quiet[torch.randint(len(self.quiet), (count, length))].to(heard)
        shut = F.avg_pool1d(silent[:, None].float(), 5, 1, 2, count_include_pad=False)[:, 0]
        return torch.where(silent[..., None, None], windows, heard), moves * (1 - shut)[..., None], voiced * ~silent

    # ---- speaking ----

    def _hear(self, heard: Tensor) -> Tensor:  # [T,W,D] -> [T,H]
        out: Tensor = self.halves(self.listen((heard - self.mean) / self.spread).transpose(1, 2))
        return out

    def start(self, source: Clip) -> State:
        """Of a portrait (its `units` [1,52]) a generator of many people keeps the face at rest; else the training person's counts."""
        own = self.space == "blendshapes" and source.units is not None and bool(self.many)
        return State(rest=source.units[0].to(self.rest) if own and source.units is not None else self.rest)

    def generate(self, clip: Clip, state: State) -> tuple[Motion, State]:
        """Expressions [T,E], and an idle head's pose relative to the source's."""
        c: Config = self.config
        assert clip.speech is not None
        rest = self.rest if state.rest is None else state.rest
        told = self._hear(clip.speech.to(self.rest))
        frame = torch.arange(state.frame, state.frame + len(told), device=told.device)
        noise = c.temperature * _normal(frame[frame % BLOCK == 0] // BLOCK, c.latent, int(c.seed))
        moves, voiced = self.vae.speak(told.T[None], frame, noise, state.voiced)
        moves = c.strength * moves
        moves = torch.lerp(moves, manifold.project(moves, self.bank, c.neighbours, self.weight.sqrt()), c.lle) * self.deviation
        free, gate = resting.slowed(resting.free(self.voice(told)[:, 0]), state.gate)
        shut = c.blinks * idle.blink(frame, int(c.seed))[:, None] * self.blink
        expression = rest + free[:, None] * moves.clamp(self.low, self.high) + shut
        rotation, translation = (c.sway * v for v in idle.sway(frame, int(c.seed)))
        motion = Motion(rotation, translation, torch.ones_like(rotation[:, :1]), expression, self.space)
        return motion, State(state.frame + len(told), gate, voiced, rest)


def _telling(heard: Tensor, moves: Tensor) -> Tensor:  # [T,D], [T,E] -> [E] in 0..1
    """How well speech tells each number, of the best: the share of its variance that a ridge regression explains on a fifth held out."""
    cut = max(1, len(heard) * 4 // 5)
    centre = moves[:cut].mean(0)
    gram = heard[:cut].T @ heard[:cut] + 0.3 * cut * torch.eye(heard.shape[1])
    guess = heard[cut:] @ torch.linalg.solve(gram, heard[:cut].T @ (moves[:cut] - centre)) + centre
    moved = moves[cut:].var(0, unbiased=False)
    left = (guess - moves[cut:]).square().mean(0) / moved.clamp_min(1e-4)
    told = (1 - left).clamp(0, 1) * (moved > 1e-4)
    return told / told.max() if float(told.max()) > 0.01 else torch.ones_like(told)


def _normal(number: Tensor, count: int, seed: int) -> Tensor:  # [K] int64 -> [K,count]
    """Normal random numbers of each code, the same on every machine: Box and Muller's of two even ones."""
    place = number[:, None] * count + torch.arange(count, device=number.device)
    a, b = (idle.random(place, seed, channel) for channel in (70, 71))
    return (-2 * (1 - a).clamp_min(1e-9).log()).sqrt() * torch.cos(2 * torch.pi * b)
