"""EGSTalker: a head of 3-D Gaussians that speech moves through agent attention (SMC 2025, arXiv 2510.08587).

Of the paper: canonical Gaussians started from the tracked mesh, dense planes (K-planes) as their features, the four tokens
speech, eyes, camera and "nothing" through Taylor-KAN layers, agent attention from Gaussians to tokens, offsets of place,
shape, opacity and colour, a static stage and a moving stage.
Different, and why: the agents are Gaussians spread over the head, not the first of the list, so every region has one; the
attention's weights do not depend on the frame, so a trained head keeps them and a frame costs one small matrix product; each
Gaussian has free features beside the planes' (EmbedTalk, 2026); torso and background are learned with the head instead of
copied from the frame that is asked for; the deformation is bounded, so nothing flies away.

The paper and its released code are two methods; both are presets here, built of the same parts. `paper`: tri-planes of several
resolutions, KAN in the encoder and in the decoder of the deformation. `code`: K-planes, one linear encoder, ordinary two-layer heads;
KAN only in the tokens; the first 200 Gaussians are the agents. Kept out of `code` because they are mistakes there: settings under which
the set never grows, lengths that no published figure can come from (GaussianTalker's are taken), a position code on the four tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.method import Renderer
from vivavoce.nn import avatar
from vivavoce.nn.attention import AgentAttention, Forth, spread
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.avatar import Avatar, Drawn, Moved
from vivavoce.nn.heads import Heads, still
from vivavoce.nn.kan import kan
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.planes import Planes
from vivavoce.nn.rates import adam
from vivavoce.nn.signals import listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.types import Clip, Source


@dataclass
class Config(avatar.Settings):
    """Settings of egs_talker."""

    grow_until: float = 0.5  # share of the steps after which the set stays as it is
    field: Literal["multiply", "concatenate"] = "multiply"  # planes of a level: K-planes or tri-plane
    planes: tuple[int, ...] = (32, 64, 128)  # cells of the feature planes, one number a level
    channels: int = 16  # features of a plane
    embedding: int = 16  # free features of each Gaussian
    place: bool = True  # a Gaussian's features hold its place, through sines and cosines, beside the planes'
    encoder: Literal["linear", "kan"] = "linear"  # planes -> features of a Gaussian
    decoder: Literal["shared", "mlp", "kan"] = "shared"  # one hidden layer whose larger part no frame changes, or a network a head
    hidden: int = 64  # of the deformation decoder
    agents: int = 64  # Gaussians that listen for the others
    agents_are: Literal["spread", "first"] = "spread"  # far from one another, or the first of the list
    brows: bool = False  # hear the upper face's units beside the eyes: brows then do what those of the source's rows do


class Heard(NamedTuple):
    """The parts of the deformation that depend on no frame."""

    agents: Tensor  # [A,D] features of the agents
    own: Tensor  # [N,hidden] each Gaussian's part of the decoder's first layer; with other decoders its features [N,D]
    weights: Tensor  # [N,A] how much each Gaussian listens to each agent


@register(
    family="gaussian",
    paper="EGSTalker: Real-Time Audio-Driven Talking Head Generation with Efficient Gaussian Deformation, arXiv 2510.08587",
    origin="https://github.com/ZhuTianheng/EGSTalker",
    license="none stated (not used: written from the paper's facts)",
)
class EgsTalker(Renderer):
    """One person's head as Gaussians that speech, eyes and camera move, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = avatar.NEEDS | {"speech", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = avatar.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            steps=24, coarse=4, batch=2, size=48, points=300, most=400, grow_every=6, planes=(8, 16), channels=4, embedding=4,
            width=16, hidden=16, agents=8, flow_cells=4, rate=3e-3, warm=4,
        ),
        "cpu": dict(steps=2800, coarse=250, batch=4, size=256, points=7_000, most=10_000, planes=(32, 64), agents=48, grow_every=90),
        "small": dict(steps=2000, coarse=300, batch=8, size=256, points=10_000, most=16_000),
        "full": {},
        "paper": dict(
            steps=10_000, coarse=3_000, grow_until=0.3, field="concatenate", planes=(16, 32, 64, 128), channels=8, embedding=0, place=False,
            encoder="kan", decoder="kan", agents=200, perceptual=0.01, perceptual_net="vgg16", perceptual_from=0.0, lips=0.4,
        ),
        "code": dict(
            steps=18_000, coarse=8_000, grow_every=100, grow_until=8 / 18, grow_share=0.02, most=50_000, points=34_650, planes=(64, 128),
            channels=32, embedding=0, place=False, decoder="mlp", hidden=128, agents=200, agents_are="first", perceptual=0.01,
            perceptual_net="vgg16", perceptual_from=0.0, lips=0.4, mask=0.4,
        ),
    }  # fmt: skip
    speech = "whisper"
    window = (16, 8)

    agents: Tensor
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
        self.avatar = Avatar(count, c.embedding, size, c.flow_cells, c.noise, frames if c.steady else 0)
        self.planes = Planes(resolutions=tuple(c.planes), channels=c.channels, combine=c.field)
        inputs = self.planes.width + 27 * c.place + c.embedding
        encoder = nn.Linear(inputs, c.width) if c.encoder == "linear" else kan(inputs, c.width, c.width)
        self.feature = nn.Sequential(encoder, nn.LayerNorm(c.width))
        self.audio = SpeechCode(speech, sum(self.window), c.width, dropout=c.dropout)
        self.silence = Silence(c.width, self.window[0], c.shut)
        self.token_audio = kan(c.width, c.width, c.width)
        self.register_buffer("brows", torch.tensor(avatar.BROWS if c.brows else (), dtype=torch.long), persistent=False)
        self.token_eyes = kan(2 + len(self.brows), c.width, c.width)
        self.token_camera = kan(6, c.width, c.width)
        self.token_nothing = nn.Parameter(torch.randn(c.width) * 0.1)
        self.token_norm = nn.LayerNorm(c.width)  # else speech starts a hundred times weaker than a Gaussian's own features
        self.attention = AgentAttention(c.width)
        if c.decoder == "shared":
            self.hear = nn.Linear(c.width, c.hidden)
            self.deform: nn.Module = still(nn.Linear(c.hidden, 14))
        else:
            self.forth = Forth(c.width, 128)
            self.deform = Heads(c.width, c.hidden, c.decoder)
        self.register_buffer("agents", torch.zeros(min(c.agents, count), dtype=torch.long))

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The avatar from the tracked head, statistics of the signals, and a first notion of what speech does to the mouth."""
        every = signals(source)
        self._build(self.config.points, source.size, every.speech.shape[2], every.frames)
        listen(every, self.audio, self.silence, self.config.warm)
        self.avatar.start(source, every)
        self.planes.low.copy_(self.avatar.low)
        self.planes.high.copy_(self.avatar.high)
        self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        """The agents among the Gaussians that there are now."""
        c, means = self.config, self.avatar.gaussians.means.detach()
        self.agents = spread(means, c.agents) if c.agents_are == "spread" else torch.arange(min(c.agents, len(means)), device=means.device)

    def encode(self, source: Clip | None = None) -> Heard:
        """All that no frame changes: what each Gaussian is like and which agents it listens to."""
        g = self.avatar.gaussians
        seen = [8 * self.planes(g.means)]
        if self.config.place:
            place = self.avatar.places()
            waves = torch.cat([place * torch.pi / 2 * 2**k for k in range(4)], 1)  # smooth from the first step on, unlike new planes
            seen += [place, waves.sin(), waves.cos()]
        features = self.feature(torch.cat([*seen, g.embeddings], 1))
        agents = features[self.agents]
        own = self.hear(features) if self.config.decoder == "shared" else features
        return Heard(agents, own, self.attention.weights(features, agents))

    def _offsets(self, heard: Heard, clip: Clip, code: Tensor) -> Tensor:  # -> [T,N,14]
        """Change of every Gaussian in every row: place 3, shape 3, turn 4, opacity 1, colour 3."""
        assert clip.speech is not None
        spoken, code = self.silence.hush(self.audio(clip.speech), code, clip)
        said = self.token_audio(spoken)
        tokens = [said, self.token_eyes(avatar.looks(clip, self.brows)), self.token_camera(code), self.token_nothing.expand_as(said)]
        values = self.attention.values(heard.agents, self.token_norm(torch.stack(tokens, 1)))  # [T,A,D]
        if self.config.decoder == "shared":
            return self.deform(torch.relu(heard.own + heard.weights @ (values @ self.hear.weight.t())))
        return self.deform(self.forth(heard.own, heard.weights @ values))

    def moved(self, heard: Heard | None, clip: Clip, code: Tensor) -> tuple[Moved, Tensor | None]:
        """The Gaussians of every row, and their offsets before the bounds [T,N,14]; without `heard` the head does not move."""
        if heard is None:
            return self.avatar.moved(len(code)), None
        offsets = self._offsets(heard, clip, code)
        place, shape, turn, opacity, colour = torch.tanh(offsets).split((3, 3, 4, 1, 3), dim=2)
        reach = self.config.reach
        return self.avatar.moved(len(code), place * reach, 0.5 * shape, 0.5 * turn, 4 * opacity[..., 0], 0.5 * colour), offsets

    def _draw(self, clip: Clip, heard: Heard | None, size: tuple[int, int]) -> tuple[Drawn, Tensor | None]:
        assert clip.camera is not None
        code = self.avatar.heard_code(clip.camera)
        moved, offsets = self.moved(heard, clip, code)
        return self.avatar.draw(moved, clip, code, size), offsets

    def render(self, identity: Heard | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.avatar.shown(self, identity, clip)

    def layers(self, identity: Heard | None, clip: Clip, size: tuple[int, int]) -> Drawn:
        """Head, torso and background of each row apart, as large as asked for."""
        return self._draw(clip, identity if identity is not None else self.encode(), size)[0]

    def rest(self) -> Moved:
        """The head at rest, one row."""
        return self.avatar.moved(1)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self._losses(clip, 1.0)

    def _losses(self, clip: Clip, done: float) -> dict[str, Tensor]:
        """`done`: share of the training behind us."""
        c: Config = self.config
        assert clip.frames is not None
        moving = done * c.steps >= c.coarse
        drawn, offsets = self._draw(clip, self.encode() if moving else None, (clip.frames.shape[2], clip.frames.shape[3]))
        values = self.avatar.losses(drawn, clip, c, done)
        still = offsets[..., :11].abs().mean() if offsets is not None else 0.0
        return values | {"smooth": values["smooth"] + 1e-3 * self.planes.variation() + 1e-4 * still}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [adam(self, [*self.avatar.groups(self.config), (list(self.planes.parameters()), 5)], self.config.rate)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step: a still head first, then the moving one; Gaussians split and dropped now and then."""
        c: Config = self.config
        done = step / max(c.steps, 1)
        values = self._losses(clip, done)
        avatar.descend(optimizers[0], values, done, [self.avatar.gaussians])
        if step and step % c.grow_every == 0 and step < c.grow_until * c.steps:
            self.avatar.gaussians.control(optimizers[0], c.grow_share, c.most)
            self._choose()
        return {name: value.detach() for name, value in values.items()}
