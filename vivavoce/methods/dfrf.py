"""DFRF: a talking head from a few frames, each point of which looks itself up in four of them (Shen et al., ECCV 2022, arXiv 2207.11770).

Of the paper: four reference frames, a small convolutional net that describes them, every point projected into each, moved there by a
learned number of pixels that speech decides (the face in the reference spoke something else), the four descriptions joined by
attention; an MLP over the place, speech and what was looked up.
Different, and why: the references, chosen far apart in the pose of the head, are kept in the checkpoint, so that nothing but the
run is needed to draw; only their heads are looked up, so that four outlines say at once where no head can be; the four looks are
joined by softmax attention of the point instead of slots; the colours looked up are told to the net as well, so that a short training
already shows the person; samples come from the occupancy grid that all methods here share, and the torso is their common layer. The
authors' base model, trained on other people, is not loaded: of one person it learns from the first step on, in few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.method import Renderer
from vivavoce.nn import radiance
from vivavoce.nn.attention import spread
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.fields import SHIFT, Rows, Told, Views, exponential, waves
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.radiance import Layers, Radiance, Recipe
from vivavoce.nn.signals import HEAD, listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.nn.viewing import pose_code
from vivavoce.registry import register
from vivavoce.types import Clip, Source


@dataclass
class Config(Recipe):
    """Settings of dfrf."""

    steps: int = 3000  # training steps
    rays: int = 8192  # rays a step, spread over its rows
    rate: float = 1e-3  # of the networks; the other rates keep their ratio to it
    condition: str = "default"  # what is heard: default (Whisper), ds (DeepSpeech), eo (Esperanto) or wav2vec2
    references: int = 4  # frames that are looked up
    channels: int = 32  # of what describes a pixel of a reference
    joined: int = 64  # numbers that the references are joined to
    farthest: float = 0.02  # how far speech may move a look-up, as a share of the picture: the paper's 10 px of 512
    still: float = 1e-2  # weight of that movement, squared, in the loss
    octaves: int = 8  # of the place
    code: int = 64  # of the speech
    width: int = 128  # of the layers
    layers: int = 6  # of the density; what it is told is joined again after half of them


class Heard(NamedTuple):
    """The condition of each row."""

    code: Tensor  # [T,code+2] speech and eyes
    described: Tensor  # [T,K,channels+4,h,w] the references, in every row the same


@register(
    family="radiance field",
    paper="Learning Dynamic Facial Radiance Fields for Few-Shot Talking Head Synthesis, arXiv 2207.11770",
    origin="https://github.com/sstzal/DFRF",
    license="MIT",
)
class Dfrf(Renderer):
    """One person's head as an MLP that looks points up in a few reference frames, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = radiance.NEEDS | {"speech", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = radiance.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(radiance.TINY, octaves=4, code=8, width=24, layers=4, channels=4, joined=8, rate=3e-3),
        "cpu": dict(radiance.CPU, steps=1500, rays=1024, channels=16, joined=32, code=32, width=48, layers=4),
        "full": {},
    }
    window = (16, 8)

    pictures: Tensor
    pose: Tensor
    focal: Tensor
    center: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.speech = radiance.encoder(config.condition)
        self._build((config.size, config.size), 8)
        take_sizes(self)

    def _build(self, size: tuple[int, int], speech: int) -> None:
        """The parts, for so many pixels and features of speech."""
        c: Config = self.config
        place, told, half = 3 + 6 * c.octaves, c.code + 2, c.layers // 2
        looked = c.channels + 4
        self.room = Radiance(size, c)
        self.audio = SpeechCode(speech, sum(self.window), c.code, dropout=c.dropout)
        self.silence = Silence(c.code, self.window[0], c.shut)
        self.describe = nn.Sequential(
            nn.Conv2d(4, c.channels, 5, 2, 2), nn.ReLU(), nn.Conv2d(c.channels, c.channels, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(c.channels, c.channels, 3, 1, 1),
        )  # fmt: skip
        self.shift = Told(place + looked, told, c.joined, 2, bias=True)
        self.value = nn.Linear(looked, c.joined)
        self.weigh = Told(place + looked, 0, c.joined, 1, bias=True)
        self.first = Told(place + c.joined + 4, told, *[c.width] * half, bias=True)
        self.second = Told(c.width + place + c.joined + 4, told, *[c.width] * (c.layers - half), bias=True)
        self.solid = nn.Linear(c.width, 1)
        self.shine = Told(c.width + 3, 0, c.width // 2, 3, bias=True)
        self.register_buffer("pictures", torch.zeros(c.references, 4, *size))
        self.register_buffer("pose", torch.eye(4).repeat(c.references, 1, 1))
        self.register_buffer("focal", torch.ones(c.references, 2))
        self.register_buffer("center", torch.zeros(c.references, 2))

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The references, the room from the tracked head, statistics of the speech, and a notion of what it does to the mouth."""
        every = signals(source)
        self._build(source.size, every.speech.shape[2])
        listen(every, self.audio, self.silence, self.config.warm)
        self.room.start(source, every)
        rows = torch.linspace(0, len(source) - 1, len(every.camera)).long()
        apart = spread(pose_code(every.camera, self.room.pose_center)[:, :3], self.config.references)
        apart = apart[torch.arange(self.config.references) % len(apart)]
        some = source.clip(rows[apart], {"frames", "labels", "camera"})
        assert some.frames is not None and some.labels is not None and some.camera is not None
        head = torch.isin(some.labels, torch.tensor(HEAD))[:, None].float()
        seen = (torch.cat([some.frames * head, head], 1), some.camera.pose, some.camera.focal, some.camera.center)
        for kept, value in zip((self.pictures, self.pose, self.focal, self.center), seen):
            kept.copy_(value)

    def encode(self, source: Clip | None = None) -> Tensor:  # -> [K,channels+4,h,w]
        """What is looked up, in every frame the same: descriptions of the references' pixels, their colours, and which are head."""
        described = self.describe(self.pictures)
        small = functional.interpolate(self.pictures, size=described.shape[2:], mode="bilinear", antialias=True)
        return torch.cat([described, small], 1)

    def tell(self, clip: Clip, described: Tensor | None = None) -> Heard:
        """The condition of each row."""
        assert clip.speech is not None and clip.eyes is not None
        code = torch.cat([self.silence(self.audio(clip.speech), clip), clip.eyes * 2 - 1], 1)
        return Heard(code, (self.encode() if described is None else described).expand(len(code), -1, -1, -1, -1))

    def _look(self, described: Tensor, at: Tensor) -> Tensor:  # [K,C,h,w], [K,N,2] in -1..1 -> [K,N,C]
        read = functional.grid_sample(described, at[:, :, None], padding_mode="border", align_corners=False)
        return read[..., 0].transpose(1, 2)

    def _project(self, points: Tensor) -> Tensor:  # [N,3] in 0..1 of the box -> [K,N,2] in -1..1 of each reference
        box = self.room.occupancy
        away = box.low + points * (box.high - box.low) - self.pose[:, None, :3, 3]
        turned = (away[..., None] * self.pose[:, None, :3, :3]).sum(2)  # no matrix product: those may have ten bits here
        pixels = turned[..., :2] / turned[..., 2:].clamp_min(1e-3) * self.focal[:, None] + self.center[:, None]
        height, width = self.pictures.shape[2:]
        return pixels / pixels.new_tensor([width, height]) * 2 - 1

    def density(self, points: Tensor, told: Heard, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density, what the colour is made of, and how far speech moved the look-ups, squared."""
        place = waves(points * 2 - 1, self.config.octaves)
        described, at = told.described[0], self._project(points)
        many = [torch.cat([place, found], 1) for found in self._look(described, at)]
        moved = torch.stack([torch.tanh(self.shift(each, told.code, rows)) for each in many]) * (2 * self.config.farthest)
        found = self._look(described, at + moved)  # [K,N,C+4]
        weights = torch.softmax(torch.stack([self.weigh(torch.cat([place, each], 1), told.code, rows) for each in found]), 0)
        mean = (weights * found[..., -4:]).sum(0)
        colour, hull = mean[:, :3] / mean[:, 3:].clamp_min(0.05), found[..., -1:].amin(0)  # 0 where any of them sees no head
        told_here = torch.cat([place, (weights * self.value(found)).sum(0), colour, hull], 1)
        inner = torch.relu(self.first(told_here, told.code, rows))
        inner = torch.relu(self.second([inner, told_here], told.code, rows))
        return (
            exponential(self.solid(inner)[:, 0].float() + SHIFT - 4 * (1 - hull[:, 0])),
            torch.cat([inner, colour], 1),
            moved.square().sum(2).mean(0),
        )

    def colour(self, features: Tensor, views: Views, told: Heard, rows: Rows) -> Tensor:
        """The colour looked up, changed by what speech, eyes and place say."""
        return torch.sigmoid(self.shine(features, told.code, rows) + torch.logit(features[:, -3:].clamp(0.02, 0.98)))

    def render(self, identity: Tensor | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.room.render(self, self.tell(clip, identity), clip)

    def layers(self, identity: Tensor | None, clip: Clip, size: tuple[int, int]) -> Layers:
        """The head and what is behind it apart, in pictures of this height and width."""
        return self.room.layers(self, self.tell(clip, identity), clip, size)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self.room.losses(self, self.tell(clip), clip, self.config.steps, self.config.still)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [radiance.optimizer(self, [], self.config)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step, in the stage that the step belongs to."""
        return radiance.advance(self.room, self, self.tell(clip), clip, step, optimizers[0], self.config.still)
