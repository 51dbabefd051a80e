"""R2-Talker: a radiance field driven by 3-D landmarks, each looked up in a hash grid, that steer every layer (2023, arXiv 2312.05572).

Of the paper: landmarks of the face without its pose in the place of speech features (any sound drives them: geneface_motion);
a hash grid of their own in which each is looked up; progressive multilayer conditioning, a scale and a shift of every hidden layer
of the density network from the looked-up features; progressive optimisation of the position grid, whose levels open from coarse to
fine while training (written of in the paper, absent from the authors' code); colour from the density's features, the direction of
view and a code of the frame.
Different, and why: one frame's landmarks, not five (ours come smoothed, and a row depends on nothing but itself); the landmarks' grid
is small and smooth (theirs tells movements of a hundredth of a millimetre apart, which a generator never repeats); the lids are told
by their openness, so that a user can choose it; noise on the landmarks in training, for a generator's are not a tracker's; the torso
is the layer that all methods here share, learned with the head going on. What the landmarks say is worked out once a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.method import Renderer
from vivavoce.nn import marks, radiance
from vivavoce.nn.fields import SHIFT, Colour, Individual, Rows, Views, exponential, folded
from vivavoce.nn.grid import Grid, open_at
from vivavoce.nn.loading import take_sizes
from vivavoce.nn.radiance import Layers, Radiance, Recipe
from vivavoce.registry import register
from vivavoce.render.rays import shade
from vivavoce.types import Clip, Source

REACH = 4.0  # standard deviations either side that the landmarks' grid spans: more than they are kept within


@dataclass
class Config(Recipe):
    """Settings of r2_talker."""

    levels: int = 16  # of the position grid
    features: int = 4  # of each of its levels
    finest: int = 2048  # cells of its finest level along a side
    log2_table: int = 16  # entries of a level, as a power of two
    first: int = 6  # of its levels open at the start
    opened: float = 0.4  # share of the steps after which all are open
    mark_levels: int = 8  # of the landmarks' grid
    mark_finest: int = 128  # cells of its finest level along a side
    mark_table: int = 14  # entries of a level, as a power of two
    told: int = 128  # channels of the networks that make scales and shifts
    hidden: int = 64  # of the density and colour networks
    individual: int = 4  # numbers that belong to one training frame alone
    mark_noise: float = 0.1  # standard deviations added to the landmarks in training


class Steered(NamedTuple):
    """The condition of each row."""

    scale: Tensor  # [T,2*hidden] of the two hidden layers
    shift: Tensor  # [T,2*hidden]
    eyes: Tensor  # [T,2]
    frame: Tensor  # [T,individual]


@register(
    family="radiance field",
    paper="R2-Talker: Realistic Real-Time Talking Head Synthesis with Hash Grid Landmarks Encoding and Progressive Multilayer "
    "Conditioning, arXiv 2312.05572",
    origin="https://github.com/KylinYee/R2-Talker-code",
    license="MIT style (facts only)",
)
class R2Talker(Renderer):
    """One person's head as a grid field whose layers landmarks steer, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = radiance.NEEDS | {"motion", "eyes"}
    loss_needs: ClassVar[frozenset[str]] = radiance.LOSS_NEEDS
    space = "landmarks"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            radiance.TINY, levels=4, features=2, finest=64, log2_table=12, first=2, mark_levels=2, mark_finest=16, mark_table=10, told=16,
            hidden=16, individual=2,
        ),
        "cpu": dict(radiance.CPU, levels=8, features=2, finest=512, log2_table=15, first=4, hidden=32),
        "full": {},
    }  # fmt: skip

    open_levels: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._build((config.size, config.size), 1)
        take_sizes(self)

    def _build(self, size: tuple[int, int], frames: int) -> None:
        """The parts, for so many pixels and training frames."""
        c: Config = self.config
        self.room = Radiance(size, c)
        self.marks = marks.Marks(c.mark_noise)
        self.looked = Grid(3, c.mark_levels, 2, 8, c.mark_finest, c.mark_table, "tiled", smooth=True)
        width = marks.COUNT * self.looked.width
        self.scale, self.shift = (
            nn.Sequential(nn.Linear(width, c.told), nn.ReLU(), nn.Linear(c.told, c.told), nn.ReLU(), nn.Linear(c.told, 2 * c.hidden))
            for _ in range(2)
        )
        self.individual = Individual(frames, c.individual)
        self.places = Grid(3, c.levels, c.features, 32, c.finest, c.log2_table, "tiled")
        self.point = nn.Linear(self.places.width, c.hidden, bias=False)
        self.lids = nn.Linear(2, c.hidden, bias=False)
        self.within = nn.Linear(c.hidden, c.hidden, bias=False)
        self.solid = nn.Linear(c.hidden, 1 + c.hidden, bias=False)
        self.shine = Colour(c.hidden, c.individual, c.hidden)
        self.register_buffer("open_levels", torch.tensor(float(c.levels)))

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The room from the tracked head, and the statistics of the landmarks."""
        every, expression = marks.signals(source)
        self._build(source.size, every.frames)
        self.marks.fit(expression)
        self.room.start(source, every)
        nn.init.uniform_(self.looked.table, -1.0, 1.0)  # a grid's usual start, nearly nothing, says nothing for long

    def tell(self, clip: Clip) -> Steered:
        """The condition of each row."""
        assert clip.eyes is not None
        code = self.marks(clip)
        usual = self.looked(torch.full_like(code[:1, :3], 0.5))  # of a landmark at its mean: what all share hides how they differ
        features = (self.looked(code.reshape(-1, 3) / (2 * REACH) + 0.5) - usual).reshape(len(code), -1)
        return Steered(self.scale(features), self.shift(features), clip.eyes * 2 - 1, self.individual(clip, len(code)))

    def density(self, points: Tensor, told: Steered, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Density, features of the colour, and nothing that should be zero off the speaking face."""
        hidden = self.point(self.places(points, float(self.open_levels))) + rows.take(self.lids(told.eyes))
        (one, two), (up, right) = told.scale.chunk(2, 1), told.shift.chunk(2, 1)
        hidden = torch.relu(hidden * (1 + rows.take(one)) + rows.take(up))
        hidden = torch.relu(self.within(hidden) * (1 + rows.take(two)) + rows.take(right))
        density = exponential((hidden @ self.solid.weight[0]).float() + SHIFT)
        return density, hidden, torch.zeros_like(density)

    def colour(self, features: Tensor, views: Views, told: Steered, rows: Rows) -> Tensor:
        return self.shine(features, self.solid.weight[1:], views, told.frame, rows)

    def still(self, told: Steered) -> shade.Scene:
        """The field of one frame: scales and shifts go into the weights."""
        (one, two), (up, right) = 1 + told.scale[0].view(2, -1), told.shift[0].view(2, -1)
        return folded(
            self.places.reads(float(self.open_levels)), self.solid.weight, self.shine, told.frame,
            first=(one[:, None] * self.point.weight,), bias=self.lids(told.eyes)[0] * one + up,
            second=two[:, None] * self.within.weight, bend=right,
        )  # fmt: skip

    def render(self, identity: None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        return self.room.render(self, self.tell(clip), clip)

    def layers(self, identity: None, clip: Clip, size: tuple[int, int]) -> Layers:
        """The head and what is behind it apart, in pictures of this height and width."""
        return self.room.layers(self, self.tell(clip), clip, size)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self.room.losses(self, self.tell(clip), clip, self.config.steps)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [radiance.optimizer(self, [self.places, self.looked], self.config)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step, in the stage that the step belongs to, with as many levels of the position grid as are open by then."""
        c: Config = self.config
        self.open_levels.fill_(open_at(step / max(c.steps, 1), c.levels, c.first, c.opened))
        return radiance.advance(self.room, self, self.tell(clip), clip, step, optimizers[0])
