"""ER-NeRF: a tri-plane hash field whose regions choose what they hear of speech and eyes (Li et al., ICCV 2023, arXiv 2307.09323).

Of the paper: three two-dimensional hash grids in place of one in space; region attention: a point's features decide which channels
of the speech code, and how much of each eye, it hears; density from both, colour from it, the direction of view and a code of the
frame; attention to speech pulled to zero off the speaking face; a stage with patches of the lips; the torso last.
Different, and why: the torso is the layer that all methods here share, learned with the head going on; each eye has an attention of
its own; the authors' weighting of the loss by a predicted uncertainty, which their paper does not have, is left out; steps are
thousands, not a hundred thousand. In so few, planes alone fit the frames they see and put the head's surface at wrong depths, which
shows at new poses; so the preset `full` lays a coarse grid in space beside them and opens them from coarse to fine (`paper` does not).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from vivavoce.method import Renderer
from vivavoce.nn import radiance
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.fields import Colour, Density, Individual, Rows, Told, Views, folded
from vivavoce.nn.grid import Grid, TriPlane, open_at
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.radiance import Layers, Radiance, Recipe
from vivavoce.nn.signals import listen, signals
from vivavoce.nn.silence import Silence
from vivavoce.registry import register
from vivavoce.render.rays import shade
from vivavoce.types import Clip, Source


@dataclass
class Config(Recipe):
    """Settings of er_nerf."""

    condition: str = "default"  # what is heard: default (Whisper), ds (DeepSpeech), eo (Esperanto) or wav2vec2
    levels: int = 12  # of each plane
    features: int = 1  # of a level
    base: int = 64  # cells of the coarsest level along a side
    finest: int = 512  # and of the finest
    log2_table: int = 14  # entries of a level, as a power of two
    volume: int = 0  # levels of a coarse grid in space beside the planes, from 16 cells a side to 64; 0: none
    first: int = 0  # levels open at the start of a training, the rest follow from coarse to fine; 0: all
    opened: float = 0.4  # share of the steps after which all are open
    pace: float = 10.0  # rate of the planes over that of the networks
    code: int = 32  # of the speech
    hidden: int = 64  # of the networks
    individual: int = 4  # numbers that belong to one training frame alone
    outside: float = 1e-3  # weight of the attention to speech off the speaking face


class Heard(NamedTuple):
    """The condition of each row."""

    speech: Tensor  # [T,code]
    eyes: Tensor  # [T,2]
    frame: Tensor  # [T,individual]


@register(
    family="radiance field",
    paper="Efficient Region-Aware Neural Radiance Fields for High-Fidelity Talking Portrait Synthesis, arXiv 2307.09323",
    origin="https://github.com/Fictionarry/ER-NeRF",
    license="MIT",
)
class ErNerf(Renderer):
    """One person's head as a tri-plane field with region attention, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = radiance.NEEDS | {"speech", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = radiance.LOSS_NEEDS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(radiance.TINY, levels=4, base=8, finest=32, log2_table=10, code=8, hidden=16, individual=2),
        "cpu": dict(radiance.CPU, levels=6, features=2, base=32, finest=256, code=16, hidden=32),
        "paper": {},
        "full": dict(levels=9, features=2, base=16, log2_table=19, volume=4, first=2),  # 2^19: every cell of the finest level its own
    }
    window = (16, 8)

    open_levels: Tensor

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
        self.planes = TriPlane(c.levels, c.features, c.base, c.finest, c.log2_table)
        self.register_buffer("open_levels", torch.tensor(float(c.levels)))
        self.volume = Grid(3, c.volume, c.features, 16, 64, 19) if c.volume else None
        self.width = self.planes.width + (self.volume.width if self.volume else 0)  # of what a point is like
        self.hears = Told(self.width, 0, c.hidden, c.code)
        self.sees = Told(self.width, 0, 16, 2)
        self.solid = Density(self.width + c.code + 2, 0, c.hidden)
        self.shine = Colour(c.hidden, c.individual, c.hidden)

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

    @property
    def _open(self) -> float | None:
        """None without a schedule: to ask a GPU for a number is to wait for it."""
        return float(self.open_levels) if self.config.first else None

    def _here(self, points: Tensor, dtype: torch.dtype | None = None) -> Tensor:  # [N,3] -> [N,width]
        """What points are like. Planes alone learn late where in depth a head is: each of their cells belongs to a whole column."""
        found = self.planes(points, self._open, dtype)
        return found if self.volume is None else torch.cat([found, self.volume(points, None, dtype)], 1)

    def _reads(self) -> shade.Read:
        """The same for drawing."""
        parts = [self.planes.reads(self._open), *([self.volume.reads()] if self.volume else [])]
        levels = [part.levels for part in parts if part.levels is not None]
        return shade.Read(self._here, [level for some in levels for level in some] if len(levels) == len(parts) else None)

    def density(self, points: Tensor, told: Heard, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density, features of the colour, and how much a point listens."""
        here = self._here(points)
        listens = self.hears(here, told.speech, rows)
        looks = torch.sigmoid(self.sees(here, told.eyes, rows))
        parts = [here, listens * rows.take(told.speech), looks * rows.take(told.eyes)]
        density, features = self.solid(parts, told.eyes, rows)
        return density, features, listens.square().mean(1)

    def colour(self, features: Tensor, views: Views, told: Heard, rows: Rows) -> Tensor:
        return self.shine(features, self.solid.shown, views, told.frame, rows)

    def still(self, told: Heard) -> shade.Scene:
        """The field of one frame: what regions hear is speech and eyes times a gate, so that both go into the weights behind the gates."""
        net = self.solid.net
        place, speech, eyes = net.point.weight.split((self.width, told.speech.shape[1], 2), 1)
        (heard,), (lids,) = self.hears.linear, self.sees.linear
        gates = shade.Gates(
            self.hears.point.weight, speech * told.speech @ heard.weight, self.sees.point.weight, lids.weight, eyes * told.eyes
        )
        bias, second = torch.zeros_like(net.linear[0].weight[0]), net.linear[0].weight
        return folded(self._reads(), self.solid.last, self.shine, told.frame, first=(place,), bias=bias, second=second, gates=gates)

    def render(self, identity: None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.room.render(self, self.tell(clip), clip)

    def layers(self, identity: None, clip: Clip, size: tuple[int, int]) -> Layers:
        """The head and what is behind it apart, in pictures of this height and width."""
        return self.room.layers(self, self.tell(clip), clip, size)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self.room.losses(self, self.tell(clip), clip, self.config.steps, self.config.outside)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [radiance.optimizer(self, [self.planes, *([self.volume] if self.volume else [])], self.config, self.config.pace)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step, in the stage that the step belongs to, with as many levels of the planes as are open by then."""
        c: Config = self.config
        if c.first:
            self.open_levels.fill_(open_at(step / max(c.steps, 1), c.levels, c.first, c.opened))
        return radiance.advance(self.room, self, self.tell(clip), clip, step, optimizers[0], c.outside)
