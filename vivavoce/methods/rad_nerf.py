"""RAD-NeRF: a hash-grid radiance field whose speech acts through a 2-D ambient coordinate (Tang et al., 2022, arXiv 2211.12368).

Of the paper: a tiled grid in space; a small network that turns a point's features and the speech code into a coordinate of a second,
two-dimensional grid (audio-spatial decomposition); density from both and the eyes, colour from them, the direction of view and a
code of the frame; an occupancy grid over all that was said; the ambient coordinate pulled to zero off the speaking face; a stage
with patches of the lips; the torso last.
Different, and why: the torso is the layer that all methods here share (a warped picture over the plate), learned with the head going
on, so that the seam is learned too; the window of speech is one of half a second, told mouth shapes from landmarks first; both eyes
instead of their area; steps are thousands, not two hundred thousand, with the rates of instant NGP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from vivavoce.method import Renderer
from vivavoce.nn import radiance
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.fields import AmbientField, Individual, Rows, Views
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.radiance import Layers, Radiance, Recipe
from vivavoce.nn.signals import listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.render.rays.shade import Scene
from vivavoce.types import Clip, Source


@dataclass
class Config(Recipe):
    """Settings of rad_nerf."""

    condition: str = "default"  # what is heard: default (Whisper), ds (DeepSpeech), eo (Esperanto) or wav2vec2
    levels: int = 16  # of both grids
    finest: int = 2048  # cells of the finest level along a side
    log2_table: int = 16  # entries of a level, as a power of two
    ambient: int = 2  # numbers of the ambient coordinate: 2 or 3
    code: int = 64  # of the speech
    hidden: int = 64  # of the networks
    individual: int = 4  # numbers that belong to one training frame alone
    outside: float = 0.1  # weight of the ambient coordinate off the speaking face


class Heard(NamedTuple):
    """The condition of each row."""

    speech: Tensor  # [T,code]
    eyes: Tensor  # [T,2]
    frame: Tensor  # [T,individual]


@register(
    family="radiance field",
    paper="Real-time Neural Radiance Talking Portrait Synthesis via Audio-spatial Decomposition, arXiv 2211.12368",
    origin="https://github.com/ashawkey/RAD-NeRF",
    license="MIT",
)
class RadNerf(Renderer):
    """One person's head as a grid field with an ambient coordinate, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = radiance.NEEDS | {"speech", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = radiance.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(radiance.TINY, levels=4, finest=64, log2_table=12, code=8, hidden=16, individual=2),
        "cpu": dict(radiance.CPU, levels=8, finest=512, log2_table=15, code=32, hidden=32),
        "full": {},
    }
    window = (16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.speech = radiance.encoder(config.condition)
        self._build((config.size, config.size), 8, 1)
        take_sizes(self)

    def _build(self, size: tuple[int, int], speech: int, frames: int) -> None:
        """The parts, for so many pixels, features of speech and training frames."""
        c: Config = self.config
        self.room = Radiance(size, c)
        self.audio = SpeechCode(speech, sum(self.window), c.code, dropout=c.dropout)
        self.silence = Silence(c.code, self.window[0], c.shut)
        self.individual = Individual(frames, c.individual)
        self.field = AmbientField(c.levels, c.finest, c.log2_table, c.ambient, c.code, c.hidden, c.hidden, c.individual)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The room from the tracked head, statistics of the speech, and a first notion of what it does to the mouth."""
        every = signals(source)
        self._build(source.size, every.speech.shape[2], every.frames)
        listen(every, self.audio, self.silence, self.config.warm)
        self.room.start(source, every)

    def tell(self, clip: Clip) -> Heard:
        """The condition of each row."""
        assert clip.speech is not None and clip.eyes is not None
        return Heard(self.silence(self.audio(clip.speech), clip), clip.eyes * 2 - 1, self.individual(clip, len(clip.speech)))

    def density(self, points: Tensor, told: Heard, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density, features of the colour, and how far the ambient coordinate is from zero."""
        return self.field.density(points, told.speech, told.eyes, rows)

    def colour(self, features: Tensor, views: Views, told: Heard, rows: Rows) -> Tensor:
        return self.field.colour(features, views, told.frame, rows)

    def still(self, told: Heard) -> Scene:
        return self.field.still(told.speech, told.eyes, told.frame)

    def render(self, identity: None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.room.render(self, self.tell(clip), clip)

    def layers(self, identity: None, clip: Clip, size: tuple[int, int]) -> Layers:
        """The head and what is behind it apart, in pictures of this height and width."""
        return self.room.layers(self, self.tell(clip), clip, size)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self.room.losses(self, self.tell(clip), clip, self.config.steps, self.config.outside)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [radiance.optimizer(self, [self.field.places, self.field.around], self.config)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step, in the stage that the step belongs to."""
        outside = self.config.outside * min(step / max(self.config.steps, 1) * 2, 1)
        return radiance.advance(self.room, self, self.tell(clip), clip, step, optimizers[0], outside)
