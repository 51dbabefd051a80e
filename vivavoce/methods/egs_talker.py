"""EGSTalker: a head of 3-D Gaussians that speech moves through agent attention (SMC 2025, arXiv 2510.08587).

Of the paper: canonical Gaussians started from the tracked mesh, dense planes (K-planes) as their features, the four tokens
speech, eyes, camera and "nothing" through Taylor-KAN layers, agent attention from Gaussians to tokens, offsets of place,
shape, opacity and colour, a static stage and a moving stage.
Different, and why: the agents are Gaussians spread over the head, not the first of the list, so every region has one; the
attention's weights do not depend on the frame, so a trained head keeps them and a frame costs one small matrix product; each
Gaussian has free features beside the planes' (EmbedTalk, 2026); torso and background are learned with the head instead of
copied from the frame that is asked for; the deformation is bounded, so nothing flies away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.method import Renderer
from vivavoce.nn import avatar
from vivavoce.nn.attention import AgentAttention, spread
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.avatar import Avatar, Drawn, Moved
from vivavoce.nn.kan import kan
from vivavoce.nn.planes import Planes
from vivavoce.registry import register
from vivavoce.types import Clip, Source


@dataclass
class Config:
    """Settings of egs_talker."""

    steps: int = 3000  # training steps
    coarse: int = 400  # of them with a head that does not move, before speech joins
    batch: int = 8  # rows a step
    warm: int = 500  # steps in which the speech net learns mouth shapes from the landmarks, before the first picture
    size: int = 512  # longest side of the training images, px
    points: int = 24_000  # Gaussians at the start
    most: int = 40_000  # Gaussians at most
    grow_every: int = 150  # steps between two rounds of splitting and dropping
    grow_until: float = 0.5  # share of the steps after which the set stays as it is
    grow_share: float = 0.08  # of the Gaussians split a round
    planes: tuple[int, ...] = (32, 64, 128)  # cells of the feature planes, one number a level
    channels: int = 16  # features of a plane
    embedding: int = 16  # free features of each Gaussian
    width: int = 64  # features of a Gaussian and of a token
    hidden: int = 64  # of the deformation decoder
    agents: int = 64  # Gaussians that listen for the others
    reach: float = 0.03  # metres a Gaussian can move from its place
    dropout: float = 0.2  # of speech features, while training
    noise: float = 0.15  # standard deviations added to the head's pose (not to the camera), while training
    rate: float = 1e-3  # of the networks; the other rates keep their ratio to it
    lips: float = 1.0  # weight of the mouth's box in the loss
    structure: float = 0.2  # weight of (1 - SSIM) / 2 in the loss
    mask: float = 0.1  # weight of the head's outline in the loss
    flow_cells: int = 12  # of the torso's flow along each side
    seed: int = 0  # of everything random


class Heard(NamedTuple):
    """The parts of the deformation that depend on no frame."""

    agents: Tensor  # [A,D] features of the agents
    own: Tensor  # [N,hidden] each Gaussian's part of the decoder's first layer
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
            width=16, hidden=16, agents=8, flow_cells=4, rate=3e-3, warm=60,
        ),
        "cpu": dict(steps=3500, coarse=250, batch=4, size=256, points=7_000, most=10_000, planes=(32, 64), agents=48, grow_every=90),
        "small": dict(steps=2000, coarse=300, batch=8, size=256, points=10_000, most=16_000),
        "full": {},
    }  # fmt: skip
    speech = "whisper"
    window = (16, 8)

    agents: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._build(config.points, (config.size, config.size), 8)

    def _build(self, count: int, size: tuple[int, int], speech: int) -> None:
        """The parts, for so many Gaussians, pixels and features of speech; a checkpoint decides them when one is loaded."""
        c: Config = self.config
        self.avatar = Avatar(count, c.embedding, size, c.flow_cells, c.noise)
        self.planes = Planes(resolutions=tuple(c.planes), channels=c.channels)
        self.feature = nn.Sequential(nn.Linear(self.planes.width + 27 + c.embedding, c.width), nn.LayerNorm(c.width))
        self.audio = SpeechCode(speech, sum(self.window), c.width, dropout=c.dropout)
        self.token_audio = kan(c.width, c.width, c.width)
        self.token_eyes = kan(2, c.width, c.width)
        self.token_camera = kan(6, c.width, c.width)
        self.token_nothing = nn.Parameter(torch.randn(c.width) * 0.1)
        self.token_norm = nn.LayerNorm(c.width)  # else speech starts a hundred times weaker than a Gaussian's own features
        self.attention = AgentAttention(c.width)
        self.hear = nn.Linear(c.width, c.hidden)
        self.deform = nn.Linear(c.hidden, 14)
        nn.init.normal_(self.deform.weight, std=2e-3)
        nn.init.zeros_(self.deform.bias)
        self.register_buffer("agents", torch.zeros(min(c.agents, count), dtype=torch.long))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's, with as many Gaussians, speech features and pixels as the checkpoint has."""
        device = self.agents.device
        self._build(*Avatar.measures(state_dict, "avatar"), len(state_dict["audio.mean"]))
        self.to(device)
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The avatar from the tracked head, statistics of the signals, and a first notion of what speech does to the mouth."""
        every = avatar.signals(source)
        self._build(self.config.points, source.size, every.speech.shape[2])
        self.avatar.start(source, every, self.audio, self.config.warm)
        self.planes.low.copy_(self.avatar.low)
        self.planes.high.copy_(self.avatar.high)
        self.agents = spread(self.avatar.gaussians.means, self.config.agents)

    def encode(self, source: Clip | None = None) -> Heard:
        """All that no frame changes: what each Gaussian is like and which agents it listens to."""
        g, place = self.avatar.gaussians, self.avatar.places()
        waves = torch.cat([place * torch.pi / 2 * 2**k for k in range(4)], 1)  # smooth from the first step on, unlike new planes
        features = self.feature(torch.cat([8 * self.planes(g.means), place, waves.sin(), waves.cos(), g.embeddings], 1))
        agents = features[self.agents]
        return Heard(agents, self.hear(features), self.attention.weights(features, agents))

    def _offsets(self, heard: Heard, clip: Clip, code: Tensor) -> Tensor:  # -> [T,N,14]
        """Change of every Gaussian in every row: place 3, shape 3, turn 4, opacity 1, colour 3."""
        assert clip.speech is not None and clip.eyes is not None
        said = self.token_audio(self.audio(clip.speech))
        tokens = [said, self.token_eyes(clip.eyes * 2 - 1), self.token_camera(code), self.token_nothing.expand_as(said)]
        values = self.attention.values(heard.agents, self.token_norm(torch.stack(tokens, 1)))  # [T,A,D]
        return self.deform(torch.relu(heard.own + heard.weights @ (values @ self.hear.weight.t())))

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
        assert clip.camera is not None
        size = self.avatar.canvas(clip.camera)
        return self._draw(clip, identity if identity is not None else self.encode(), size)[0].frames.clamp(0, 1)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self._losses(clip, moving=True)

    def _losses(self, clip: Clip, moving: bool) -> dict[str, Tensor]:
        c: Config = self.config
        assert clip.frames is not None
        drawn, offsets = self._draw(clip, self.encode() if moving else None, (clip.frames.shape[2], clip.frames.shape[3]))
        values = self.avatar.losses(drawn, clip, c.lips, c.structure, c.mask)
        still = offsets[..., :11].abs().mean() if offsets is not None else 0.0
        return values | {"smooth": values["smooth"] + 1e-3 * self.planes.variation() + 1e-4 * still}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [avatar.adam(self, [*self.avatar.groups(), (list(self.planes.parameters()), 5)], self.config.rate)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step: a still head first, then the moving one; Gaussians split and dropped now and then."""
        c: Config = self.config
        values = self._losses(clip, moving=step >= c.coarse)
        avatar.descend(optimizers[0], values, step / max(c.steps, 1), self.avatar)
        if step and step % c.grow_every == 0 and step < c.grow_until * c.steps:
            self.avatar.gaussians.control(optimizers[0], c.grow_share, c.most)
            self.agents = spread(self.avatar.gaussians.means.detach(), c.agents)
        return {name: value.detach() for name, value in values.items()}
