"""Speech -> 52 blendshape scores and a living head, by a small network over a short window of speech features.

No paper: the usual temporal convolution from speech features to expression, one window a frame, so that nothing is remembered
and a stream equals a file. It says how the mouth differs from the speaker's closed mouth, in the scores' square root, where
they are nearly linear in the movement (face/blendshapes.py); the source's own face at rest is added. A voice gate, learned with
it, shuts the mouth in silence and in steady noise. Sway, breath and blinks are procedural (face/idle.py); brows and a small nod
follow the voice.

The weights in `weights/` are ours, Apache-2.0. They were trained on 11 minutes of speech and the scores that the landmarker
measured on its video: 162 clips of GRID speaker s1 and 9 of other GRID speakers (corpus CC BY 4.0), 6 clips of the VoxCeleb2
kind, 5 talking-head clips of research repositories (Audio-driven-TalkingFace-HeadPose, MimicTalk, LIA, SadTalker, HyperLips);
five times over, with gain, speed, noise and inserted silence. No recording is in the weights or in this package.

Measured on 7 clips of speakers never trained on (2 GRID, 3 VoxCeleb2, HDTF, a news anchor), mean correlation of the lips' gap /
of jawOpen with what was measured: whisper 0.58 / 0.52, mel 0.54 / 0.51; a regression on loudness over the same stretch 0.29 (gap).
Network size, window and encoder layer were chosen on the same 7 clips, so a new speaker may fare a little worse; two trainings
differ by 0.02. Of 72 steady noises of four kinds, -60 to -15 dB, one moved the mouth (mel, 0.6 mm), none with whisper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.face import blendshapes, idle, resting
from vivavoce.face.regions import BLENDSHAPES
from vivavoce.method import Generator
from vivavoce.nn import shipping, voice
from vivavoce.registry import register
from vivavoce.types import Clip, InputError, Motion, Source

WEIGHTS = shipping.WEIGHTS
# What the voice moves. Both sides move alike: which side of a mouth is livelier is the speaker's, not the speech's.
SPOKEN = (
    *(("jawOpen",), ("mouthClose",), ("mouthFunnel",), ("mouthPucker",), ("mouthRollLower",), ("mouthRollUpper",)),
    *(("mouthShrugLower",), ("mouthShrugUpper",)),
    *((f"{name}Left", f"{name}Right") for name in ("mouthLowerDown", "mouthUpperUp", "mouthPress", "mouthSmile", "mouthStretch")),
)
EQUAL = (0.5, 2.0)  # how much a speaker's movement is lessened or enlarged in training
TASTE = ("strength", "sway", "seed")  # settings that training does not decide
BLINK = 0.7  # blink score of shut eyes
FAST, SLOW = 0.35, 0.04  # shares a frame takes in the running means of the voice's strength
NOD, RAISE = 0.03, 0.25  # rad of pitch and score of raised brows, at full emphasis


@dataclass
class Config:
    """Settings."""

    speech: str = "whisper"  # encoder whose features are heard
    speech_dim: int = 384  # features a step: 384 whisper, 80 mel, 768 wav2vec2
    past: int = 16  # steps of 20 ms heard before a frame
    future: int = 4  # steps heard from the frame's first on: 80 ms of latency beside the encoder's
    hidden: int = 96  # channels
    dropout: float = 0.3  # share of the channels dropped in training
    strength: float = 1.6  # of the mouth's movement; 1 is the least error, which mumbles: its lips move 0.6 as far as people's
    sway: float = 1.0  # of the head's movement
    steps: int = 2200  # training steps
    batch: int = 280  # frames a step
    chunk: int = 70  # frames over which a speaker's rest is measured
    contiguous: bool = True  # frames of a step are consecutive
    rate: float = 2e-3  # learning rate, falling to 0 along a cosine
    seed: int = 0  # of training, sway and blinks


@dataclass(frozen=True)
class State:
    """What `generate` carries from row to row."""

    rest: Tensor  # [52] square-root scores of the source at rest
    blinks: Tensor  # [52] square-root scores with shut eyes less those at rest
    frame: int = 0  # number of the next row
    strength: tuple[float, float] = (0.0, 0.0)  # fast and slow running mean of the voice's strength
    gate: float = 0.0  # how far the voice gate is open


@register(family="motion", paper="none: a temporal convolution", origin="ours", license="Apache-2.0")
class SpeechMotion(Generator):
    """The generator."""

    needs = frozenset({"speech"})
    loss_needs = frozenset({"units", "audio"})
    space = "blendshapes"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "mel": {"speech": "mel", "speech_dim": 80, "future": 8, "hidden": 64, "steps": 1700},
        "tiny": {"speech_dim": 8, "hidden": 16, "steps": 12, "batch": 24},
    }

    spread: Tensor
    opening: Tensor
    rest: Tensor
    mean: Tensor
    deviation: Tensor
    share: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        c = config
        self.speech, self.window = c.speech, (c.past, c.future)
        width = c.past + c.future
        if width % 4 or min(c.past, c.future) < 0:
            raise InputError("speech_motion.past + future", f"{width} is not a multiple of 4", "e.g. past 16, future 8")
        self.register_buffer("mean", torch.zeros(c.speech_dim))  # of the features over the training source
        self.register_buffer("deviation", torch.ones(c.speech_dim))
        self.register_buffer("spread", torch.full((len(SPOKEN),), 0.1))  # standard deviation of each output
        self.register_buffer("opening", torch.tensor(0.002))  # metres: median of `resting.opening` over the speakers
        self.register_buffer("rest", torch.zeros(52))  # square-root scores of closed mouths
        self.register_buffer("share", _shares(), persistent=False)
        self.listen = nn.Sequential(nn.Linear(c.speech_dim, c.hidden), nn.GELU(), nn.Dropout(c.dropout))
        self.halves = nn.ModuleList(nn.Conv1d(c.hidden, c.hidden, 4, stride=2, padding=1) for _ in range(2))
        self.speak = nn.Sequential(
            nn.Linear(c.hidden * width // 4, 2 * c.hidden), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(2 * c.hidden, len(SPOKEN))
        )
        self.voice = nn.Linear(c.hidden * width // 4, 1)

    @classmethod
    def shipped(cls, seed: int = 0, speech: str = "whisper") -> Self:
        """The generator with the weights that come with vivavoce. Raises InputError when there are none for that encoder."""
        stored, state = shipping.read("speech_motion", speech, WEIGHTS)
        config = Config(**{k: v for k, v in stored.items() if k not in TASTE} | {"seed": seed})
        method = cls(config)
        method.load_state_dict(state)
        return method.eval()

    def ship(self, path: Path) -> None:
        """Write weights as `shipped` reads them: half precision, with the config."""
        shipping.write(path, self.config, self.state_dict())

    def setup(self, source: Source) -> None:
        """Mean and deviation of the features, spread of the outputs, and the scores of a closed mouth, from the training source."""
        rows = torch.linspace(0, len(source) - 1, min(len(source), 2000)).long()
        heard = source.clip(rows, {"speech"}).speech
        assert heard is not None
        if heard.shape[-1] != len(self.mean):
            cause = f"it is set for {len(self.mean)} numbers a step of speech, the features have {heard.shape[-1]}"
            raise InputError("speech_motion", cause, f"add --speech_dim {heard.shape[-1]}, or for mel: --preset mel")
        self.mean = heard.mean((0, 1))
        self.deviation = heard.std((0, 1)).clamp(min=1e-3)
        units = source.clip(slice(0, len(source)), {"units"}).units
        assert units is not None
        scores, rest = self._chunks(units)
        self.rest = resting.usual(rest[:, 0])
        opening = resting.opening(scores - rest)
        speaks = opening.flatten() >= min(blendshapes.SHUT, float(opening.max()))
        self.opening = opening[speaks].median()
        self.spread = self._wanted(scores, rest)[speaks].flatten(0, 1).std(0).clamp(min=0.02)

    def forward(self, speech: Tensor) -> tuple[Tensor, Tensor]:  # [T,W,D] -> [T,len(SPOKEN)], [T]
        """Movement of the spoken units in square-root scores, and the logit of there being a voice."""
        x = self.listen((speech - self.mean) / self.deviation).transpose(1, 2)
        for half in self.halves:
            x = F.gelu(half(x))
        x = x.flatten(1)
        return self.speak(x) * self.spread, self.voice(x)[:, 0]

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """Differences of movement, of its change from frame to frame, of the lips' gap, and of the voice's presence."""
        assert clip.speech is not None and clip.units is not None and clip.audio is not None
        scores, rest = self._chunks(clip.units)
        chunks, length = scores.shape[:2]
        moves, logit = (v[: chunks * length].reshape(chunks, length, *v.shape[1:]) for v in self(clip.speech))
        voiced = voice.voiced(clip.audio[: chunks * length].reshape(chunks, length, -1), alone=True)
        moves = moves * logit.sigmoid()[..., None]
        wanted = self._wanted(scores, rest)
        off = (moves - wanted) / self.spread
        basis = blendshapes.load().to(moves.device)
        gaps = [basis.gap(resting.scores(rest + move @ (self.share > 0).float())).mean(-1) for move in (moves, wanted)]
        return {
            "movement": off.square().mean(),
            "change": off.diff(dim=1).square().mean() if length > 1 else off.sum() * 0,
            "gap": 2 * F.smooth_l1_loss(gaps[0] / 0.002, gaps[1] / 0.002),
            "voice": F.binary_cross_entropy_with_logits(logit, voiced),
        }

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """As always, with the learning rate on its cosine."""
        for group in optimizers[0].param_groups:
            group["lr"] = self.config.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.config.steps))))
        return super().update(clip, step, optimizers)

    def start(self, source: Clip) -> State:
        """From the source's first row (its `units` [1,52], when measured): its face at rest, with the mouth closed."""
        units = source.units[0].to(self.rest) if source.units is not None else None
        rest = resting.closed(units, self.rest) if units is not None else self.rest.clone()
        lids = torch.tensor([BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")], device=rest.device)
        blinks = torch.zeros_like(rest)
        blinks[lids] = (blendshapes.curve(torch.full_like(rest[lids], BLINK)) - rest[lids]).clamp(min=0)
        return State(rest, blinks)

    def generate(self, clip: Clip, state: State) -> tuple[Motion, State]:
        """Scores [T,52], and the head's pose relative to the source's."""
        assert clip.speech is not None
        moves, logit = self(clip.speech.to(self.rest))
        free, gate = resting.slowed(resting.free(logit), state.gate)
        moves = self.config.strength * free[:, None] * moves
        frame = torch.arange(state.frame, state.frame + len(moves), device=moves.device)
        emphasis, strength = _emphasis(moves[:, 0].clamp(min=0) / self.spread[0], state.strength)
        seed = int(self.config.seed)
        scores = state.rest + moves @ (self.share > 0).float() + idle.blink(frame, seed)[:, None] * state.blinks
        brows = torch.tensor([n in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight") for n in BLENDSHAPES], device=moves.device)
        expression = (resting.scores(scores) + RAISE * emphasis[:, None] * brows).clamp(0, 1)
        rotation, translation = (self.config.sway * v for v in idle.sway(frame, seed))
        nod = F.pad(NOD * self.config.sway * emphasis[:, None], (0, 2))
        motion = Motion(rotation + nod, translation, torch.ones_like(rotation[:, :1]), expression, self.space)
        return motion, State(state.rest, state.blinks, state.frame + len(moves), strength, gate)

    def _wanted(self, scores: Tensor, rest: Tensor) -> Tensor:  # [C,L,52], [C,1,52] -> [C,L,len(SPOKEN)]
        """Movement of the outputs, with those who open their mouths widely or little brought nearer to the usual."""
        low, high = EQUAL
        equal = (self.opening / resting.opening(scores - rest).clamp(min=1e-5)).clamp(low, high)
        return ((scores - rest) * equal) @ self.share.T

    def _chunks(self, units: Tensor) -> tuple[Tensor, Tensor]:  # [T,52] -> [C,L,52], [C,1,52]
        """Square-root scores in chunks of equal length, and each chunk's rest: the mean of the frames whose mouth is narrowest."""
        length = min(self.config.chunk, len(units))
        units = units[: len(units) // length * length].reshape(-1, length, 52)
        return blendshapes.curve(units), resting.rest(units)


def _shares() -> Tensor:  # [len(SPOKEN),52]
    """Row k takes the mean of the scores that output k stands for."""
    share = torch.zeros(len(SPOKEN), len(BLENDSHAPES))
    for k, names in enumerate(SPOKEN):
        for name in names:
            share[k, BLENDSHAPES.index(name)] = 1 / len(names)
    return share


def _emphasis(strength: Tensor, means: tuple[float, float]) -> tuple[Tensor, tuple[float, float]]:  # [T] -> [T] 0..1
    """How much stronger the voice is than it has been of late."""
    fast, slow = means
    rows = []
    for value in strength.tolist():
        fast, slow = fast + FAST * (value - fast), slow + SLOW * (value - slow)
        rows.append(min(1.0, max(0.0, 0.4 * (fast - slow))))
    return strength.new_tensor(rows), (fast, slow)
