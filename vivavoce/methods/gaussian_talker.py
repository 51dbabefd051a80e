"""GaussianTalker: Gaussians that look up planes and attend to speech, eyes and camera (KAIST, ACM MM 2024, arXiv 2404.16012).

Of the paper: three feature planes at two resolutions say each Gaussian's opacity and colour, and what it asks of four tokens
(speech, eyes, camera, and one that never changes) by cross attention; small networks turn what it heard into offsets of place,
shape, turn, opacity and colour; a still stage, in which the set grows, then a moving one.
Different, and why: started from the tracked mesh of any tracker, not of one face model; colours do not depend on the direction
of view (a talking head is seen from the front, and the camera token may change them); torso and background are learned with
the head instead of copied from the frame that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.method import Renderer
from vivavoce.nn import avatar
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.avatar import Avatar, Drawn, Moved
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.planes import Planes
from vivavoce.nn.rates import adam
from vivavoce.nn.signals import listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.types import Clip, Source


@dataclass
class Config(avatar.Settings):
    """Settings of gaussian_talker."""

    coarse: int = 600  # of the steps with a head that does not move, in which the set grows
    grow_every: int = 100  # steps between two rounds of splitting and dropping, in the still stage
    grow_share: float = 0.15  # of the Gaussians split a round
    lips: float = 0.4  # weight of the mouth's box in the loss
    structure: float = 0.4  # weight of (1 - SSIM) / 2
    planes: tuple[int, ...] = (64, 128)  # cells of the feature planes, one number a level
    channels: int = 32  # features of a plane
    heads: int = 2  # of the attention
    brows: bool = False  # hear the upper face's units beside the eyes: brows then do what those of the source's rows do
    hidden: int = 128  # of the networks behind it


class Asked(NamedTuple):
    """What depends on no frame."""

    features: Tensor  # [N,D]
    queries: Tensor  # [heads,N,D/heads]
    logits: Tensor  # [N] of the opacity, from the planes
    colours: Tensor  # [N,3], from the planes


@register(
    family="gaussian",
    paper="GaussianTalker: Real-Time High-Fidelity Talking Head Synthesis with Audio-Driven 3D Gaussian Splatting, arXiv 2404.16012",
    origin="https://github.com/cvlab-kaist/GaussianTalker",
    license="Gaussian-Splatting licence, non-commercial (not used: written from the paper's facts)",
)
class GaussianTalker(Renderer):
    """One person's head as Gaussians that attend to speech, eyes and camera."""

    needs: ClassVar[frozenset[str]] = avatar.NEEDS | {"speech", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = avatar.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            steps=24, coarse=8, batch=2, size=48, points=300, most=400, grow_every=4, planes=(8, 16), channels=4, width=16,
            hidden=16, flow_cells=4, rate=3e-3, warm=4,
        ),
        "cpu": dict(
            steps=2500, coarse=500, batch=4, size=256, points=5_000, most=8_000, planes=(32, 64), channels=16, width=32, hidden=32
        ),
        "small": dict(steps=2000, coarse=400, batch=8, size=256, points=10_000, most=16_000),
        "full": {},
    }  # fmt: skip
    speech = "whisper"
    window = (16, 8)

    brows: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.brows:
            self.needs = type(self).needs | {"units"}  # type: ignore[misc]  # this one's alone
        take_sizes(self)
        self._build(config.points, (config.size, config.size), 8, 0)

    def _build(self, count: int, size: tuple[int, int], speech: int, frames: int) -> None:
        """The parts, for so many Gaussians, pixels, features of speech and frames."""
        c: Config = self.config
        self.avatar = Avatar(count, 0, size, c.flow_cells, c.noise, frames if c.steady else 0)
        self.planes = Planes(resolutions=tuple(c.planes), channels=c.channels)
        self.feature = nn.Sequential(nn.Linear(self.planes.width, c.width), nn.ReLU(), nn.Linear(c.width, c.width), nn.LayerNorm(c.width))
        self.canonical = nn.Linear(c.width, 4)  # opacity and colour
        self.audio = SpeechCode(speech, sum(self.window), c.width, dropout=c.dropout)
        self.silence = Silence(c.width, self.window[0], c.shut)
        self.register_buffer("brows", torch.tensor(avatar.BROWS if c.brows else (), dtype=torch.long), persistent=False)
        self.token_eyes = nn.Sequential(nn.Linear(2 + len(self.brows), c.width), nn.ReLU(), nn.Linear(c.width, c.width))
        self.token_camera = nn.Sequential(nn.Linear(6, c.width), nn.ReLU(), nn.Linear(c.width, c.width))
        self.token_nothing = nn.Parameter(torch.randn(c.width) * 0.1)
        self.token_norm = nn.LayerNorm(c.width)
        self.query, self.key, self.value = (nn.Linear(c.width, c.width) for _ in range(3))
        self.norm = nn.LayerNorm(c.width)
        self.forth = nn.Sequential(nn.Linear(c.width, c.hidden), nn.ReLU(), nn.Linear(c.hidden, c.width))
        last = nn.Linear(c.hidden, 14)
        self.deform = nn.Sequential(nn.LayerNorm(c.width), nn.Linear(c.width, c.hidden), nn.ReLU(), last)
        for layer in (self.canonical, last):
            nn.init.normal_(layer.weight, std=2e-3)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The avatar from the tracked head, and a first notion of what speech does to the mouth."""
        every = signals(source)
        self._build(self.config.points, source.size, every.speech.shape[2], every.frames)
        listen(every, self.audio, self.silence, self.config.warm)
        self.avatar.start(source, every)
        self.planes.low.copy_(self.avatar.low)
        self.planes.high.copy_(self.avatar.high)

    def encode(self, source: Clip | None = None) -> Asked:
        """What each Gaussian is like and asks, in every frame the same."""
        features = self.feature(8 * self.planes(self.avatar.gaussians.means))
        said = self.canonical(features)
        return Asked(features, self._heads(self.query(features)), 4 * torch.tanh(said[:, 0]), 0.5 * torch.tanh(said[:, 1:]))

    def _heads(self, values: Tensor) -> Tensor:  # [...,N,D] -> [...,heads,N,D/heads]
        return values.unflatten(-1, (self.config.heads, -1)).transpose(-2, -3)

    def _offsets(self, asked: Asked, clip: Clip, code: Tensor) -> Tensor:  # -> [T,N,14]
        """Change of every Gaussian in every row: place 3, shape 3, turn 4, opacity 1, colour 3."""
        assert clip.speech is not None
        said, code = self.silence.hush(self.audio(clip.speech), code, clip)
        tokens = [said, self.token_eyes(avatar.looks(clip, self.brows)), self.token_camera(code), self.token_nothing.expand_as(said)]
        heard = self.token_norm(torch.stack(tokens, 1))  # [T,4,D]
        keys, values = self._heads(self.key(heard)), self._heads(self.value(heard))  # [T,heads,4,D/heads]
        attended = functional.scaled_dot_product_attention(asked.queries.expand(len(code), -1, -1, -1), keys, values)
        features = self.norm(asked.features + attended.transpose(1, 2).flatten(2))  # [T,N,D]
        return self.deform(features + self.forth(features))

    def _draw(self, clip: Clip, asked: Asked, moving: bool, size: tuple[int, int]) -> tuple[Drawn, Tensor | None]:
        """The frames, and the offsets of the Gaussians before their bounds [T,N,14] where the head moves."""
        assert clip.camera is not None
        code = self.avatar.heard_code(clip.camera)
        if not moving:
            rows = len(code)
            shown = self.avatar.moved(rows, opacity=asked.logits.expand(rows, -1), colour=asked.colours.expand(rows, -1, -1))
            return self.avatar.draw(shown, clip, code, size), None
        offsets = self._offsets(asked, clip, code)
        place, shape, turn, opacity, colour = torch.tanh(offsets).split((3, 3, 4, 1, 3), dim=2)
        opacity, colour = asked.logits + 4 * opacity[..., 0], asked.colours + 0.5 * colour
        moved = self.avatar.moved(len(code), place * self.config.reach, 0.5 * shape, 0.5 * turn, opacity, colour)
        return self.avatar.draw(moved, clip, code, size), offsets

    def render(self, identity: Asked | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.avatar.shown(self, identity, clip)

    def layers(self, identity: Asked | None, clip: Clip, size: tuple[int, int]) -> Drawn:
        """Head, torso and background of each row apart, as large as asked for."""
        return self._draw(clip, identity if identity is not None else self.encode(), True, size)[0]

    def rest(self) -> Moved:
        """The head at rest, one row."""
        asked = self.encode()
        return self.avatar.moved(1, opacity=asked.logits[None], colour=asked.colours[None])

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self._losses(clip, 1.0)

    def _losses(self, clip: Clip, done: float) -> dict[str, Tensor]:
        """`done`: share of the training behind us."""
        c: Config = self.config
        moving = done * c.steps >= c.coarse
        assert clip.frames is not None
        drawn, offsets = self._draw(clip, self.encode(), moving, (clip.frames.shape[2], clip.frames.shape[3]))
        values = self.avatar.losses(drawn, clip, c, done)
        still = offsets[..., :11].abs().mean() if offsets is not None else 0.0
        return values | {"smooth": values["smooth"] + 1e-3 * self.planes.variation() + 1e-4 * still}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [adam(self, [*self.avatar.groups(self.config), (list(self.planes.parameters()), 5)], self.config.rate)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step: a still head that grows first, then a moving one."""
        c: Config = self.config
        done = step / max(c.steps, 1)
        values = self._losses(clip, done)
        avatar.descend(optimizers[0], values, done, [self.avatar.gaussians])
        if step and step % c.grow_every == 0 and step < c.coarse:
            self.avatar.gaussians.control(optimizers[0], c.grow_share, c.most)
        return {name: value.detach() for name, value in values.items()}
