"""EmbedTalk: each Gaussian has a small learned code instead of a place in a feature field (arXiv 2603.07604).

Of the paper: 32 numbers a Gaussian, seen through sines and cosines, beside speech and the upper face in one network that says
how far the Gaussian moves and how opaque it is, nothing else (turning and stretching hurt the lips there); codes of neighbours
are held together; no planes, hence the smallest model of the family.
Different, and why: started from the tracked mesh, not from a point cloud; neighbours are weighted by the typical distance of
the set, not by a constant that knows the scale of one tracker; the frame's share of the first layer is added to the
Gaussian's own, which a trained head keeps; torso and background are learned, not copied from the frame that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from vivavoce.face import regions
from vivavoce.method import Renderer
from vivavoce.nn import avatar
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.avatar import Avatar, Drawn, Moved
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.rates import adam
from vivavoce.nn.signals import listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.types import Clip, Source


@dataclass
class Config(avatar.Settings):
    """Settings of embed_talk."""

    grow_until: float = 0.5  # share of the steps after which the set stays as it is
    embedding: int = 32  # numbers of a Gaussian's code
    waves: int = 4  # frequencies through which codes and the upper face are seen
    hidden: int = 64  # of the network
    perceptual: float = 0.01  # weight of LPIPS of the frame; a fifth of it of the mouth; 0: not computed, no weights fetched
    near: int = 20  # neighbours whose codes are held together
    hold: float = 1e-3  # weight of their difference


UPPER = tuple(k for k, name in enumerate(regions.BLENDSHAPES) if name.startswith(("brow", "eyeBlink", "eyeSquint", "eyeWide")))
SAMPLE = 4096  # Gaussians whose neighbours are looked at in a step


def seen(values: Tensor, waves: int) -> Tensor:  # [...,D] -> [...,D*(1+2*waves)]
    """Values beside sines and cosines of their multiples."""
    many = torch.cat([values * 2**k for k in range(waves)], -1)
    return torch.cat([values, many.sin(), many.cos()], -1)


@register(
    family="gaussian",
    paper="EmbedTalk: Triplane-Free Talking Head Synthesis using Embedding-Driven Gaussian Deformation, arXiv 2603.07604",
    origin="https://arxiv.org/abs/2603.07604",
    license="no code read (written from the paper's facts)",
)
class EmbedTalk(Renderer):
    """One person's head as Gaussians with codes of their own, moved by one small network."""

    needs: ClassVar[frozenset[str]] = avatar.NEEDS | {"speech", "units"}
    loss_needs: ClassVar[frozenset[str]] = avatar.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            steps=24, coarse=4, batch=2, size=48, points=300, most=400, grow_every=6, embedding=8, waves=2, width=16, hidden=16,
            flow_cells=4, rate=3e-3, warm=4, perceptual=0.0, near=6,
        ),
        "cpu": dict(
            steps=2800, coarse=250, batch=4, size=256, points=7_000, most=10_000, grow_every=90, hidden=32, perceptual=0.0
        ),
        "small": dict(steps=2000, coarse=300, batch=8, size=256, points=10_000, most=16_000),
        "full": {},
    }  # fmt: skip
    speech = "whisper"
    window = (16, 8)

    upper: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._held: tuple[Tensor, Tensor] | None = None  # neighbours [N,K] and their weights, once the set stays as it is
        take_sizes(self)
        self._build(config.points, (config.size, config.size), 8, 0)

    def _build(self, count: int, size: tuple[int, int], speech: int, frames: int) -> None:
        """The parts, for so many Gaussians, pixels, features of speech and frames."""
        c: Config = self.config
        spread = 1 + 2 * c.waves
        self.avatar = Avatar(count, c.embedding, size, c.flow_cells, c.noise, frames if c.steady else 0)
        self.audio = SpeechCode(speech, sum(self.window), c.width, dropout=c.dropout)
        self.silence = Silence(c.width, self.window[0], c.shut)
        self.own = nn.Linear(c.embedding * spread, c.hidden)
        self.frame = nn.Linear(c.width + len(UPPER) * spread + 6, c.hidden)
        self.middle = nn.Linear(c.hidden, c.hidden)
        self.last = nn.Linear(c.hidden, 4)
        nn.init.normal_(self.last.weight, std=2e-3)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("upper", torch.tensor(UPPER), persistent=False)  # a list would cross to the device in every frame

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The avatar from the tracked head, and a first notion of what speech does to the mouth."""
        every = signals(source)
        self._build(self.config.points, source.size, every.speech.shape[2], every.frames)
        listen(every, self.audio, self.silence, self.config.warm)
        self.avatar.start(source, every)
        # codes start as the place: neighbours are alike before anything holds them together
        places = self.avatar.places()
        self.avatar.gaussians.embeddings.copy_(places @ torch.randn(3, self.config.embedding) * 0.5)

    def encode(self, source: Clip | None = None) -> Tensor:  # -> [N,hidden]
        """Each Gaussian's share of the network's first layer: it depends on no frame."""
        return self.own(seen(self.avatar.gaussians.embeddings, self.config.waves))

    def _draw(self, clip: Clip, own: Tensor | None, size: tuple[int, int]) -> tuple[Drawn, Tensor | None]:
        """The frames and how far each Gaussian moved [T,N,3] metres; without `own` the head does not move."""
        assert clip.camera is not None and clip.speech is not None and clip.units is not None
        code = self.avatar.heard_code(clip.camera)
        if own is None:
            return self.avatar.draw(self.avatar.moved(len(code)), clip, code, size), None
        upper = seen(clip.units.index_select(1, self.upper), self.config.waves)
        said, turned = self.silence.hush(self.audio(clip.speech), code, clip)
        heard = self.frame(torch.cat([said, upper, turned], 1))
        out = self.last(torch.relu(self.middle(torch.relu(own + heard[:, None]))))  # [T,N,4]
        place = torch.tanh(out[..., :3]) * self.config.reach
        return self.avatar.draw(self.avatar.moved(len(code), place, opacity=4 * torch.tanh(out[..., 3])), clip, code, size), place

    def render(self, identity: Tensor | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.avatar.shown(self, identity, clip)

    def layers(self, identity: Tensor | None, clip: Clip, size: tuple[int, int]) -> Drawn:
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
        drawn, place = self._draw(clip, self.encode() if moving else None, (clip.frames.shape[2], clip.frames.shape[3]))
        values = self.avatar.losses(drawn, clip, c, done)
        if place is not None:
            values["smooth"] = values["smooth"] + 1e-2 * place.abs().mean() + c.hold * self._apart()
        values["smooth"] = values["smooth"] + 1e-4 * self.avatar.gaussians.logits.sigmoid().mean()
        return values

    def _apart(self) -> Tensor:
        """How much codes of neighbours differ; 0 while the set still grows."""
        codes = self.avatar.gaussians.embeddings
        if self._held is None:
            return codes.new_zeros(())
        neighbours, weights = self._held
        some = torch.randint(len(codes), (min(SAMPLE, len(codes)),), device=codes.device)
        return ((codes[some, None] - codes[neighbours[some]]).square().mean(2) * weights[some]).sum(1).mean()

    @torch.no_grad()
    def _hold(self) -> None:
        """Find the neighbours whose codes are held together from now on."""
        means = self.avatar.gaussians.means.detach().cpu().numpy()
        distance, index = cKDTree(means).query(means, k=min(self.config.near, len(means) - 1) + 1)
        weight = torch.from_numpy(distance[:, 1:]).float()
        weight = torch.exp(-0.5 * (weight / weight.median().clamp_min(1e-6)).square())
        device = self.avatar.gaussians.means.device
        self._held = torch.from_numpy(index[:, 1:]).to(device), (weight / weight.shape[1]).to(device)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [adam(self, self.avatar.groups(self.config), self.config.rate)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step: a still head first, then the moving one; Gaussians split and dropped in the first part."""
        c: Config = self.config
        growing = step < c.grow_until * c.steps
        if not growing and self._held is None:
            self._hold()
        values = self._losses(clip, step / max(c.steps, 1))
        avatar.descend(optimizers[0], values, step / max(c.steps, 1), [self.avatar.gaussians])
        if growing and step and step % c.grow_every == 0:
            self.avatar.gaussians.control(optimizers[0], c.grow_share, c.most)
        return {name: value.detach() for name, value in values.items()}
