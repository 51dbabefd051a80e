"""One person's head as a surface in a grid of tetrahedra that an expression code moves (Zhang et al., DynTet, CVPR 2024, section 3).

Two networks read a vertex of the grid: one gives its signed distance and how elastic it is, one how far an expression moves it. The
distance does not know the expression, so that the triangles can be taken once (`fix`), and a frame only moves vertices.
Different from the paper, and why: the distance is that of a first solid plus a bounded network, so that no training on a generic face
comes before; the movement is that of the tracked face, laid on the grid by a regression, plus the network's: what a face model
knows need not be learned through pictures; the grid is kept near the surface alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.nn import tets
from vivavoce.nn.face_motion import FaceMotion, follow, middles
from vivavoce.nn.fields import waves
from vivavoce.nn.head_solid import Solid
from vivavoce.render.mesh import Links, links

OCTAVES = 6
BAND = 2.5  # cells of the grid on each side of the first surface
FARTHEST = 3.5  # standard deviations of a number of the code: nobody trained beyond


class Shape(NamedTuple):
    """The parts that no frame changes."""

    surface: tets.Surface
    linked: Links
    part: Tensor  # [E] where each edge is cut
    rest: Tensor  # [E,3] metres, the surface with the widest open mouth
    face: Tensor  # [C,F,3] metres a standard deviation, movement of the tracked face's triangles
    own: Tensor  # [A,hidden] what the movement's network knows of each vertex of the grid
    stretch: Tensor  # [A,1] 0..1, how far a vertex may go


def _net(inputs: int, width: int, outputs: int, layers: int = 3) -> nn.Sequential:
    """Linear layers with ReLU between them, the last one near zero: what it changes starts as it is."""
    sizes = [inputs, *[width] * (layers - 1)]
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    last = nn.Linear(sizes[-1], outputs)
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


class TetraHead(nn.Module):
    """Args:
    code: numbers of an expression. condition: width of what tells a frame. width: of the distance's network.
    hidden: of the movement's network. reach: metres a vertex can move beyond the tracked movement.
    """

    SIZED = (
        "points", "start", "tets", "near", "weight", "stretch", "edges", "faces", "vertices", "basis", "mean", "deviation", "wide",
        "triangles",
    )  # fmt: skip
    low: Tensor
    high: Tensor
    step: Tensor
    points: Tensor
    start: Tensor
    tets: Tensor
    near: Tensor
    weight: Tensor
    stretch: Tensor
    edges: Tensor
    faces: Tensor
    vertices: Tensor
    basis: Tensor
    mean: Tensor
    deviation: Tensor
    wide: Tensor
    triangles: Tensor

    def __init__(self, condition: int, width: int = 64, hidden: int = 64, reach: float = 0.012) -> None:
        super().__init__()
        self.reach = reach
        self._linked: Links | None = None  # of the triangles that stay, once asked for
        inputs = 3 + 6 * OCTAVES
        self.distance = _net(inputs, width, 2, 4)
        self.where = nn.Linear(inputs, hidden)
        self.told = nn.Linear(condition, hidden)
        self.move = nn.Sequential(nn.ReLU(), *_net(hidden, hidden, 3))
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(3))
        self.register_buffer("step", torch.ones(()))  # metres, side of a cell
        for name in self.SIZED:
            whole = name in ("tets", "near", "edges", "faces", "triangles")
            self.register_buffer(name, torch.zeros(0, dtype=torch.long if whole else torch.float32))

    def resize(self, state: dict[str, Any], prefix: str) -> None:
        """Buffers as large as those of a checkpoint."""
        self._linked = None
        for name in self.SIZED:
            setattr(self, name, torch.empty_like(state[prefix + name], device=self.low.device))

    @property
    def fixed(self) -> bool:
        """Whether the triangles stay as they are."""
        return len(self.tets) == 0

    @torch.no_grad()
    def begin(self, solid: Solid, motion: FaceMotion, wide: Tensor, triangles: Tensor, hole: Tensor, resolution: int) -> None:
        """A grid around the solid, and the tracked face's movement on it.

        Args:
            wide: [C] the code of the solid's expression. triangles: [F,3] of the face. hole: [F] bool, those that are no skin.
            resolution: cells along the longest side.
        """
        face = motion.moved(wide[None])[0]
        points, corners = tets.grid(solid.low, solid.high, resolution, face[triangles[hole]].mean((0, 1)))  # closest at the mouth
        start = solid.at(points)
        step = float((solid.high - solid.low).max()) / resolution
        kept = (start[corners].abs().amin(1) < BAND * step).nonzero()[:, 0]
        used, renamed = torch.unique(corners[kept], return_inverse=True)
        self.low, self.high, self.step = solid.low, solid.high, torch.tensor(step)
        self.points, self.start, self.tets = points[used], start[used], renamed
        self.near, self.weight = follow(self.points, face, triangles, hole)
        self.vertices, self.basis, self.mean, self.deviation = motion.vertices, motion.basis, motion.mean, motion.deviation
        self.triangles, self.stretch = triangles, torch.ones(len(used), 1)
        self.edges, self.faces = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long)
        self.wide = self.standard(wide[None])[0]

    def standard(self, code: Tensor) -> Tensor:  # [T,C] -> [T,C]
        """In standard deviations of the training rows."""
        return ((code - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)

    def face(self, standard: Tensor) -> Tensor:  # [T,C] -> [T,V,3] metres
        """The tracked face with these expressions."""
        return self.vertices + torch.einsum("te,evc->tvc", standard, self.basis)

    def unit(self, points: Tensor) -> Tensor:  # [N,3] metres -> 0..1 in the box
        return (points - self.low) / (self.high - self.low)

    def shape(self) -> Shape:
        """The surface as the distance's network has it now; while the triangles are not fixed they are cut anew."""
        seen = waves(self.unit(self.points) * 2 - 1, OCTAVES)
        own = self.where(seen)
        if self.fixed:
            surface, part, stretch = tets.Surface(self.edges, self.faces), tets.share(self.start, self.edges), self.stretch
        else:
            change, elastic = self.distance(seen).unbind(1)
            distance = self.start + self.step * torch.tanh(change)
            surface = tets.march(self.points, distance, self.tets)
            part, stretch = tets.share(distance, surface.edges), torch.sigmoid(elastic)[:, None]
        rest = tets.place(self.points, part, surface.edges)
        return Shape(surface, self._links(surface.faces), part, rest, middles(self.basis, self.triangles), own, stretch)

    def _links(self, faces: Tensor) -> Links:
        """Which triangles hang together: once, as soon as they stay."""
        if not self.fixed:
            return links(faces)
        if self._linked is None or self._linked.corner.device != faces.device:
            self._linked = links(faces)
        return self._linked

    @torch.no_grad()
    def fix(self) -> None:
        """Keep the triangles of now, the largest part that hangs together, and of the grid what carries it."""
        seen = waves(self.unit(self.points) * 2 - 1, OCTAVES)
        change, elastic = self.distance(seen).unbind(1)
        distance = self.start + self.step * torch.tanh(change)
        surface, used = tets.narrow(tets.largest(tets.march(self.points, distance, self.tets)))
        self.edges, self.faces = surface.edges, surface.faces
        self.points, self.start, self.stretch = self.points[used], distance[used], torch.sigmoid(elastic)[used, None]
        self.near, self.weight, self.tets = self.near[used], self.weight[used], self.tets[:0]

    def moved(self, shape: Shape, standard: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The surface's vertices in T frames [T,E,3], metres, and the network's part of their movement [T,E,3].

        Args:
            standard: [T,C] codes in standard deviations. condition: [T,condition].
        """
        rows = len(standard)
        face = torch.einsum("te,evc->tvc", standard - self.wide, shape.face)
        near = face.index_select(1, self.near.flatten()).unflatten(1, self.near.shape)
        tracked = (near * self.weight[..., None]).sum(2)
        free = torch.tanh(self.move(shape.own + self.told(condition)[:, None])) * (self.reach * shape.stretch)
        both = tets.place(torch.cat([self.points + tracked, free.expand(rows, -1, -1)], 2), shape.part, shape.surface.edges)
        place, change = both.split(3, 2)
        return place + change, change
