"""TalkingGaussian: face and inside of the mouth are two sets of Gaussians that persist and only move (ECCV 2024, arXiv 2404.15264).

Of the paper: no change of opacity or colour by speech, motion alone; each set has a tri-plane field of its own; the face weighs
speech and the upper face's expression by where a Gaussian lies; the mouth moves by its own small field, mostly up and down; both
learn by curricula (the mouth from wide open to shut, the face from open eyes to shut ones); a last stage joins them, in which
colours and the face's opacity alone change.
Different, and why: the sets start from the tracked mesh and the box behind the lips, not from random points; both branches learn
in one run, each from its own pixels and both from the whole frame, so there is one command and no file between stages; a
curriculum weighs the rows of a batch instead of drawing others (the same in the mean, and the loop need not know); what is
thrown away in six of seven steps there, hair, is learned from the start; the place of hidden pixels is not painted green but left
out of the loss; torso and background are learned, not copied from the frame that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce import losses
from vivavoce.face import regions
from vivavoce.method import Renderer
from vivavoce.nn import avatar
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.avatar import Avatar, Drawn, Moved
from vivavoce.nn.gaussians import Gaussians
from vivavoce.nn.heads import still
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.planes import Planes
from vivavoce.nn.rates import adam
from vivavoce.nn.signals import HEAD, SURE, listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.render import splats
from vivavoce.types import Clip, Source


@dataclass
class Config(avatar.Settings):
    """Settings of talking_gaussian."""

    grow_until: float = 0.5  # share of the steps after which the sets stay as they are
    fuse: float = 0.85  # share of the steps after which nothing but colours and the face's opacity learns
    curriculum: float = 0.7  # share of the steps in which rows of the curricula's windows count more
    planes: tuple[int, ...] = (16, 26, 40)  # cells of the face's tri-planes, one number a level
    mouth_planes: tuple[int, ...] = (32, 64)  # of the mouth's
    channels: int = 8  # features of a plane
    mouth_share: float = 0.12  # of the Gaussians lie in the mouth
    hidden: int = 64  # of the networks
    mouth_reach: float = 0.02  # metres a Gaussian of the mouth moves down or up; a fifth of it sideways and in depth
    inside: float = 1.0  # weight of the mouth's own pixels in the loss of its branch


UPPER = tuple(
    k for k, name in enumerate(regions.BLENDSHAPES) if name.startswith(("brow", "eyeBlink", "eyeSquint", "eyeWide", "cheekSq", "nose"))
)
BLINK = [regions.BLENDSHAPES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
OPEN = regions.BLENDSHAPES.index("jawOpen")
WINDOW = 0.3  # width of the window of shut eyes, 0..1


class Fields(NamedTuple):
    """What depends on no frame: features of each Gaussian, and how much it hears of speech and of the upper face."""

    face: Tensor  # [N,F]
    speech: Tensor  # [N,width]
    upper: Tensor  # [N,U]
    mouth: Tensor  # [M,G]


@register(
    family="gaussian",
    paper="TalkingGaussian: Structure-Persistent 3D Talking Head Synthesis via Gaussian Splatting, arXiv 2404.15264",
    origin="https://github.com/Fictionarry/TalkingGaussian",
    license="Gaussian-Splatting licence, non-commercial (not used: written from the paper's facts)",
)
class TalkingGaussian(Renderer):
    """One person's face and mouth as two sets of Gaussians that move and do not change."""

    needs: ClassVar[frozenset[str]] = avatar.NEEDS | {"speech", "units"}
    loss_needs: ClassVar[frozenset[str]] = avatar.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            steps=24, coarse=4, batch=2, size=48, points=300, most=400, grow_every=6, planes=(8,), mouth_planes=(8,), channels=4,
            width=16, hidden=16, flow_cells=4, rate=3e-3, warm=4,
        ),
        "cpu": dict(steps=2800, coarse=250, batch=4, size=256, points=7_000, most=10_000, grow_every=90, hidden=32, width=32),
        "small": dict(steps=2000, coarse=300, batch=8, size=256, points=10_000, most=16_000),
        "full": {},
    }  # fmt: skip
    speech = "whisper"
    window = (16, 8)

    widest: Tensor
    upper: Tensor
    sides: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        take_sizes(self)
        self._build(config.points, (config.size, config.size), 8, 0)

    def _build(self, count: int, size: tuple[int, int], speech: int, frames: int) -> None:
        """The parts, for so many Gaussians, pixels, features of speech and frames."""
        c: Config = self.config
        inside = max(int(count * c.mouth_share), 8)
        self.avatar = Avatar(count - inside, 0, size, c.flow_cells, c.noise, frames if c.steady else 0)
        self.mouth = Gaussians(inside)
        self.planes = Planes(resolutions=tuple(c.planes), channels=c.channels, combine="concatenate")
        self.mouth_planes = Planes(resolutions=tuple(c.mouth_planes), channels=c.channels, combine="concatenate")
        self.audio, self.mouth_audio = (SpeechCode(speech, sum(self.window), c.width, dropout=c.dropout) for _ in range(2))
        self.silence, self.mouth_silence = (Silence(c.width, self.window[0], c.shut) for _ in range(2))
        self.hear = nn.Sequential(nn.Linear(self.planes.width, 32), nn.ReLU(), nn.Linear(32, c.width))
        self.look = nn.Sequential(nn.Linear(self.planes.width, 16), nn.ReLU(), nn.Linear(16, len(UPPER)))
        self.own, self.frame = nn.Linear(self.planes.width, c.hidden), nn.Linear(c.width + len(UPPER), c.hidden, bias=False)
        self.deform = nn.Sequential(nn.ReLU(), nn.Linear(c.hidden, c.hidden), nn.ReLU(), still(nn.Linear(c.hidden, 10)))
        self.mouth_own = nn.Linear(self.mouth_planes.width, c.hidden)
        self.mouth_frame = nn.Linear(c.width, c.hidden, bias=False)
        self.mouth_deform = nn.Sequential(nn.ReLU(), still(nn.Linear(c.hidden, 3)))
        self.register_buffer("widest", torch.ones(()))  # jawOpen of a mouth wide open
        # lists would cross to the device in every frame
        self.register_buffer("upper", torch.tensor(UPPER), persistent=False)
        self.register_buffer("sides", torch.tensor([0.2, 1.0, 0.2]), persistent=False)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The avatar from the tracked head, its mouth from the box behind the lips, and a first notion of speech for both branches."""
        c: Config = self.config
        every = signals(source)
        self._build(c.points, source.size, every.speech.shape[2], every.frames)
        for audio, silence in ((self.audio, self.silence), (self.mouth_audio, self.mouth_silence)):
            listen(every, audio, silence, c.warm)
        self.avatar.start(source, every, (0.55, 0.45, 0.0))
        self.avatar.behind_lips(source, self.mouth)
        for planes in (self.planes, self.mouth_planes):
            planes.low.copy_(self.avatar.low)
            planes.high.copy_(self.avatar.high)
        rows = torch.linspace(0, len(source) - 1, min(len(source), SURE)).long()
        units = source.clip(rows, {"units"}).units
        assert units is not None
        self.widest.copy_(units[:, OPEN].quantile(0.95).clamp_min(0.05))

    def encode(self, source: Clip | None = None) -> Fields:
        """What each Gaussian is like, and how much it hears: it depends on no frame."""
        face = self.planes(self.avatar.gaussians.means)
        return Fields(self.own(face), self.hear(face), torch.relu(self.look(face)), self.mouth_own(self.mouth_planes(self.mouth.means)))

    def _motion(self, fields: Fields, clip: Clip) -> tuple[Tensor, Tensor]:  # -> [T,N,10], [T,M,3]
        """Place 3, shape 3 and turn 4 of the face, place of the mouth: before their bounds."""
        assert clip.speech is not None and clip.units is not None
        said = self.silence(self.audio(clip.speech), clip)
        upper = 2 * clip.units.index_select(1, self.upper)[:, None] - 1  # a face at rest, all zeros, is something too
        heard = torch.cat([said[:, None] * fields.speech, upper * fields.upper], 2)  # [T,N,width+U]
        chewed = self.mouth_frame(self.mouth_silence(self.mouth_audio(clip.speech), clip))
        return self.deform(fields.face + self.frame(heard)), self.mouth_deform(fields.mouth + chewed[:, None])

    def _draw(self, clip: Clip, fields: Fields | None, size: tuple[int, int]) -> tuple[Drawn, splats.Splatted, Tensor | None]:
        """The frames, the mouth alone, and how the face moves [T,N,10]; without `fields` nothing moves."""
        assert clip.camera is not None
        code = self.avatar.heard_code(clip.camera)
        rows, motion = len(code), None
        face, mouth = self.avatar.moved(rows), avatar.moved(self.mouth, rows)
        if fields is not None:
            motion, chew = self._motion(fields, clip)
            place, shape, turn = torch.tanh(motion).split((3, 3, 4), dim=2)
            face = self.avatar.moved(rows, place * self.config.reach, 0.5 * shape, 0.5 * turn)
            mouth = avatar.moved(self.mouth, rows, torch.tanh(chew) * self.sides * self.config.mouth_reach)
        inside = splats.render(*self.avatar.steadied(mouth, clip), clip.camera, size, deep=False)
        return self.avatar.draw(face, clip, code, size, inside), inside, motion

    def render(self, identity: Fields | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.avatar.shown(self, identity, clip)

    def layers(self, identity: Fields | None, clip: Clip, size: tuple[int, int]) -> Drawn:
        """Head, torso and background of each row apart, as large as asked for."""
        return self._draw(clip, identity if identity is not None else self.encode(), size)[0]

    def rest(self) -> Moved:
        """The head at rest, one row."""
        parts = zip(self.avatar.moved(1), avatar.moved(self.mouth, 1), strict=True)
        return Moved(*(torch.cat(pair, 1) for pair in parts))

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self._losses(clip, 1.0)

    def lessons(self, clip: Clip, done: float) -> tuple[Tensor, Tensor]:  # -> [T], [T], mean 1 each
        """Weights of the rows for the face and for the mouth. Before anything moves the mouth learns from the widest open ones and
        the face from the others; then a window goes from wide to shut, and from open eyes to shut ones."""
        c: Config = self.config
        assert clip.units is not None
        wide = (clip.units[:, OPEN] / self.widest).clamp(0, 1)
        shut = clip.units[:, BLINK].mean(1).clamp(0, 1)
        if done * c.steps < c.coarse:
            return _weights(1 - wide), _weights(wide.square() + 0.05)
        if done >= c.curriculum:
            return torch.ones_like(wide), torch.ones_like(wide)
        way = done / c.curriculum
        near = ((shut - way).abs() < WINDOW / 2) | (shut < WINDOW)
        return _weights(0.25 + near.to(wide)), _weights(0.25 + (wide >= 1 - way).to(wide))

    def _losses(self, clip: Clip, done: float) -> dict[str, Tensor]:
        """`done`: share of the training behind us."""
        c: Config = self.config
        assert clip.frames is not None and clip.labels is not None
        size = (clip.frames.shape[2], clip.frames.shape[3])
        drawn, inside, motion = self._draw(clip, self.encode() if done * c.steps >= c.coarse else None, size)
        values = self.avatar.losses(drawn, clip, c, done)
        for_face, for_mouth = self.lessons(clip, done)
        hole = ((clip.labels == regions.INNER_MOUTH) | (clip.labels == regions.TEETH))[:, None].to(drawn.frames)
        box = losses.boxes(clip.mouth, size) if clip.mouth is not None else hole
        head = torch.isin(clip.labels, torch.tensor(HEAD, device=clip.labels.device))[:, None].to(hole) * (1 - hole)
        values["face"] = 0.5 * losses.l1(drawn.frames, clip.frames, head * for_face[:, None, None, None])
        values["inside"] = c.inside * losses.l1(inside.image, clip.frames, hole * for_mouth[:, None, None, None])
        covered = inside.alpha[:, None]
        apart = (1 - covered + drawn.front[:, None]) * hole  # the mouth fills the hole, the face leaves it
        apart = 0.3 * apart.sum() / hole.sum().clamp_min(1)
        values["mask"] = values["mask"] + c.mask * (apart + 0.1 * ((1 - box) * covered).mean())
        if motion is not None:
            values["smooth"] = values["smooth"] + 1e-4 * motion.abs().mean() + 1e-3 * self.planes.variation()
        return values

    def optimizers(self) -> list[torch.optim.Optimizer]:
        fields = [*self.planes.parameters(), *self.mouth_planes.parameters()]
        return [adam(self, [*self.avatar.groups(self.config), *avatar.groups(self.mouth), (fields, 5)], self.config.rate)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step of still head, moving head, or fusion; Gaussians split and dropped in the first part."""
        c: Config = self.config
        done = step / max(c.steps, 1)
        values = self._losses(clip, done)
        free = None
        if done >= c.fuse:
            g = self.avatar.gaussians
            free = [g.colours, g.logits, self.mouth.colours, self.avatar.torso.picture, self.avatar.torso.plate]
        avatar.descend(optimizers[0], values, done, [self.avatar.gaussians, self.mouth], free)
        if step and step % c.grow_every == 0 and done < c.grow_until:
            inside = max(int(c.most * c.mouth_share), 8)
            self.avatar.gaussians.control(optimizers[0], c.grow_share, c.most - inside)
            self.mouth.control(optimizers[0], c.grow_share, inside)
        return {name: value.detach() for name, value in values.items()}


def _weights(wanted: Tensor) -> Tensor:  # [T] -> [T], mean 1
    return wanted / wanted.mean().clamp_min(1e-6)
