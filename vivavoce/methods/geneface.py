"""GeneFace: RAD-NeRF's field, driven by 3-D landmarks of the face instead of speech (ICLR 2023, arXiv 2301.13430).

Of the paper and its RAD-NeRF variant: landmarks without pose, standardised by the person's statistics and kept within them, in the
place of the speech code; from there RAD-NeRF's ambient coordinate, density and colour. The generator is a method of its own,
geneface_motion. The preset genefaceDagger is R2-Talker's rendering of it: smaller networks, narrower code.
Different, and why: as rad_nerf where they are alike (torso, both eyes, thousands of steps); the paper's plain NeRF head (13 million
samples a frame) is left to ad_nerf; lids are told by their openness, so that a user can choose it; noise on the landmarks in
training, for a generator's are not a tracker's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.method import Renderer
from vivavoce.nn import marks, radiance
from vivavoce.nn.fields import AmbientField, Individual, Rows, Views
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.radiance import Layers, Radiance, Recipe
from vivavoce.registry import register
from vivavoce.render.rays.shade import Scene
from vivavoce.types import Clip, Source


@dataclass
class Config(Recipe):
    """Settings of geneface."""

    levels: int = 16  # of both grids
    finest: int = 2048  # cells of the finest level along a side
    log2_table: int = 16  # entries of a level, as a power of two
    ambient: int = 2  # numbers of the ambient coordinate: 2 or 3
    code: int = 64  # of the landmarks
    wide: int = 128  # of the ambient network and of the landmarks' own
    hidden: int = 64  # of the density and colour networks
    individual: int = 4  # numbers that belong to one training frame alone
    outside: float = 0.1  # weight of the ambient coordinate off the speaking face
    mark_noise: float = 0.1  # standard deviations added to the landmarks in training


class Seen(NamedTuple):
    """The condition of each row."""

    marks: Tensor  # [T,code]
    eyes: Tensor  # [T,2]
    frame: Tensor  # [T,individual]


@register(
    family="radiance field",
    paper="GeneFace: Generalized and High-Fidelity Audio-Driven 3D Talking Face Synthesis, ICLR 2023, arXiv 2301.13430",
    origin="https://github.com/yerfor/GeneFace",
    license="MIT (facts only)",
)
class Geneface(Renderer):
    """One person's head as a grid field with an ambient coordinate that landmarks move, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = radiance.NEEDS | {"motion", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = radiance.LOSS_NEEDS
    space = "landmarks"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(radiance.TINY, levels=4, finest=64, log2_table=12, code=8, wide=16, hidden=16, individual=2),
        "cpu": dict(radiance.CPU, levels=8, finest=512, log2_table=15, code=32, wide=32, hidden=32),
        "genefaceDagger": dict(wide=64, code=64, ambient=2),
        "full": {},
    }

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._build((config.size, config.size), 1)
        take_sizes(self)

    def _build(self, size: tuple[int, int], frames: int) -> None:
        """The parts, for so many pixels and training frames."""
        c: Config = self.config
        self.room = Radiance(size, c)
        self.marks = marks.Marks(c.mark_noise)
        self.look = nn.Sequential(nn.Linear(3 * marks.COUNT, c.wide), nn.LeakyReLU(0.02), nn.Linear(c.wide, c.code))
        self.individual = Individual(frames, c.individual)
        self.field = AmbientField(c.levels, c.finest, c.log2_table, c.ambient, c.code, c.wide, c.hidden, c.individual)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The room from the tracked head, and the statistics of the landmarks."""
        every, expression = marks.signals(source)
        self._build(source.size, every.frames)
        self.marks.fit(expression)
        self.room.start(source, every)

    def tell(self, clip: Clip) -> Seen:
        """The condition of each row."""
        assert clip.eyes is not None
        code = self.marks(clip)
        return Seen(self.look(code), clip.eyes * 2 - 1, self.individual(clip, len(code)))

    def density(self, points: Tensor, told: Seen, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density, features of the colour, and how far the ambient coordinate is from zero."""
        return self.field.density(points, told.marks, told.eyes, rows)

    def colour(self, features: Tensor, views: Views, told: Seen, rows: Rows) -> Tensor:
        return self.field.colour(features, views, told.frame, rows)

    def still(self, told: Seen) -> Scene:
        return self.field.still(told.marks, told.eyes, told.frame)

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
