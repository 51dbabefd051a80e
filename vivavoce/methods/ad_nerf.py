"""AD-NeRF: the first talking head as a radiance field, an MLP that hears speech at every point (Guo et al., ICCV 2021, arXiv 2103.11078).

Of the paper: eight layers of 256 over sines and cosines of the place and the speech code, both joined again at the fifth; colour by a
narrower layer that sees the direction of view; samples where a coarse pass found something; speech through a small convolution and
attention over time.
Different, and why: the coarse pass is the occupancy grid that all methods here share, learned on the way, in place of a second
network asked 64 times a ray: what the paper draws in eight seconds a frame takes a fraction of one; the eyes are told too (its
heads blink at random); the torso is the layer that all methods here share, so that figures are of one kind (the paper has a second
field for it, as slow as the first).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.method import Renderer
from vivavoce.nn import radiance
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.fields import SHIFT, Rows, Told, Views, exponential, waves
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.radiance import Layers, Radiance, Recipe
from vivavoce.nn.signals import listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.types import Clip, Source


@dataclass
class Config(Recipe):
    """Settings of ad_nerf."""

    condition: str = "default"  # what is heard: default (Whisper), ds (DeepSpeech), eo (Esperanto) or wav2vec2
    rate: float = 1e-3  # of the networks; the other rates keep their ratio to it
    octaves: int = 10  # of the place
    turns: int = 4  # octaves of the direction of view
    code: int = 64  # of the speech
    width: int = 256  # of the layers
    layers: int = 8  # of the density; place and speech are joined again after half of them
    decay: float = 0.1  # what is left of the rates at the end


class Heard(NamedTuple):
    """The condition of each row."""

    code: Tensor  # [T,code+2] speech and eyes


@register(
    family="radiance field",
    paper="AD-NeRF: Audio Driven Neural Radiance Fields for Talking Head Synthesis, arXiv 2103.11078",
    origin="https://github.com/YudongGuo/AD-NeRF",
    license="MIT",
)
class AdNerf(Renderer):
    """One person's head as an MLP over place and speech, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = radiance.NEEDS | {"speech", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = radiance.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(radiance.TINY, octaves=4, turns=1, code=8, width=24, layers=4, rate=3e-3),
        "cpu": dict(radiance.CPU, steps=2000, rays=2048, octaves=8, code=32, width=64, layers=6),
        "full": dict(rays=16_384, steps=8000),
    }
    window = (16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.speech = radiance.encoder(config.condition)
        self._build((config.size, config.size), 8)
        take_sizes(self)

    def _build(self, size: tuple[int, int], speech: int) -> None:
        """The parts, for so many pixels and features of speech."""
        c: Config = self.config
        place, told, half = 3 + 6 * c.octaves, c.code + 2, c.layers // 2
        self.room = Radiance(size, c)
        self.audio = SpeechCode(speech, sum(self.window), c.code, dropout=c.dropout)
        self.silence = Silence(c.code, self.window[0], c.shut)
        self.first = Told(place, told, *[c.width] * half, bias=True)
        self.second = Told(c.width + place, told, *[c.width] * (c.layers - half), bias=True)
        self.solid = nn.Linear(c.width, 1)
        self.features = nn.Linear(c.width, c.width)
        self.shine = Told(c.width + 3 + 6 * c.turns, 0, c.width // 2, 3, bias=True)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The room from the tracked head, statistics of the speech, and a first notion of what it does to the mouth."""
        every = signals(source)
        self._build(source.size, every.speech.shape[2])
        listen(every, self.audio, self.silence, self.config.warm)
        self.room.start(source, every)

    def tell(self, clip: Clip) -> Heard:
        """The condition of each row."""
        assert clip.speech is not None and clip.eyes is not None
        return Heard(torch.cat([self.silence(self.audio(clip.speech), clip), clip.eyes * 2 - 1], 1))

    def density(self, points: Tensor, told: Heard, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density, and what the colour is made of; nothing has to keep still, so the last is zero."""
        place = waves(points * 2 - 1, self.config.octaves)
        inner = torch.relu(self.first(place, told.code, rows))
        inner = torch.relu(self.second([inner, place], told.code, rows))
        return exponential(self.solid(inner)[:, 0].float() + SHIFT), inner, torch.zeros_like(points[:, 0])

    def colour(self, features: Tensor, views: Views, told: Heard, rows: Rows) -> Tensor:
        seen = [self.features(features), views.take(waves(views.directions, self.config.turns))]
        return torch.sigmoid(self.shine(seen, told.code, rows).float())

    def render(self, identity: None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.room.render(self, self.tell(clip), clip)

    def layers(self, identity: None, clip: Clip, size: tuple[int, int]) -> Layers:
        """The head and what is behind it apart, in pictures of this height and width."""
        return self.room.layers(self, self.tell(clip), clip, size)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self.room.losses(self, self.tell(clip), clip, self.config.steps)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [radiance.optimizer(self, [], self.config)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step, in the stage that the step belongs to."""
        return radiance.advance(self.room, self, self.tell(clip), clip, step, optimizers[0])
