"""DynTet: a head as a textured surface in a grid of tetrahedra that face coefficients move (CVPR 2024, arXiv 2402.17364).

Of the paper: signed distance, elasticity and movement on a tetrahedral grid, marching tetrahedra once, a texture (hash grid) in
canonical space with colour, material and normal under a learned light, differentiable rasterisation, head over torso and plate;
losses on the head's mask, eyes and lips, LPIPS, the tracked face's geometry, movement and depth at first, Laplacian; two phases.
Different, and why: see nn/tetrahead.py (first solid, tracked movement), nn/shading.py (light in spherical harmonics). A row of
coefficients is one frame's 64 expressions; the paper's 27-frame window would need half a second of future while speaking live, and our
trackers' and readers' coefficients are smooth in time already; their six numbers of pose are not read, for the camera says the pose.
Blinks are told by `eyes`, since speech makes none. Torso and background are learned with the head, not taken from the frame asked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce import losses
from vivavoce.face import mesh as face_mesh
from vivavoce.face import regions
from vivavoce.face.morphable import normals
from vivavoce.method import Renderer
from vivavoce.nn import face_motion, tets
from vivavoce.nn.head_solid import head_solid
from vivavoce.nn.perceptual import Perceptual
from vivavoce.nn.rates import adam
from vivavoce.nn.signals import HEAD, NEAR, SETUP, SURE
from vivavoce.nn.skin import Skin, first_colours
from vivavoce.nn.tetrahead import Shape, TetraHead
from vivavoce.nn.torso import Torso
from vivavoce.nn.viewing import Viewing, seen
from vivavoce.registry import register
from vivavoce.render import mesh as draw
from vivavoce.render.layers import grow
from vivavoce.render.mesh.atlas import atlas
from vivavoce.types import Clip, InputError, Source

log = logging.getLogger(__name__)
EXPRESSIONS = 64  # of a row of coefficients; angles and place follow
OUTLINES = 10  # frames whose outlines make the first solid
TRUNCATED = 0.01  # metres: what lies farther from the tracked face than this is another part of the head


@dataclass
class Config:
    """Settings of dyntet."""

    steps: int = 6000  # training steps
    fix: int = 1000  # of them until the triangles stay as they are
    guided: int = 2000  # of them with the tracked face's geometry, movement and depth in the loss
    warm: int = 150  # steps in which the texture learns first colours, before the first picture
    batch: int = 4  # rows a step
    size: int = 512  # longest side of the training images, px
    resolution: int = 52  # cells of the grid along the head's longest side
    width: int = 128  # of the distance's network
    hidden: int = 64  # of the movement's and the texture's networks
    condition: int = 64  # numbers that tell a frame
    levels: int = 14  # of the texture's hash grid
    finest: int = 1024  # cells of its finest level
    table: int = 18  # log2 of the entries of a level
    reach: float = 0.012  # metres a vertex can move beyond the tracked movement
    noise: float = 0.15  # standard deviations added to pose and coefficients (not to the camera), while training
    rate: float = 1e-3  # of the networks; the other rates keep their ratio to it
    lips: float = 1.0  # weight of the mouth's box in the loss
    eyes: float = 0.5  # weight of the eyes' boxes
    structure: float = 0.2  # weight of (1 - SSIM) / 2
    mask: float = 0.5  # weight of the head's outline
    perceptual: float = 0.05  # weight of LPIPS, after the first phase; 0: not computed, no weights fetched
    flow_cells: int = 12  # of the torso's flow along each side
    seed: int = 0  # of everything random


class Drawn(NamedTuple):
    """What `DynTet._draw` makes, and what its losses look at."""

    frames: Tensor  # [T,3,H,W]
    alpha: Tensor  # [T,H,W] of the head
    flow: Tensor  # [T,2,cells,cells] of the torso
    change: Tensor  # [T,E,3] metres, the network's part of the movement
    pixels: draw.Pixels
    depth: Tensor  # [P] metres
    material: Tensor  # [P,3]
    untaught: Tensor | None  # how much pixels beside the head differ from what is around them


@register(
    family="mesh",
    paper="Learning Dynamic Tetrahedra for High-Quality Talking Head Synthesis, CVPR 2024, arXiv 2402.17364",
    origin="https://github.com/zhangzc21/DynTet",
    license="none stated (not used: written from the paper's facts)",
)
class DynTet(Renderer):
    """One person's head as a textured mesh that face coefficients move, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = frozenset({"camera", "body", "motion", "eyes"})
    loss_needs: ClassVar[frozenset[str]] = frozenset({"frames", "labels", "mouth", "landmarks"})
    space = "bfm"
    classes: Tensor
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            steps=24, fix=8, guided=12, warm=10, batch=2, size=48, resolution=10, width=16, hidden=16, condition=16, levels=4, finest=64,
            table=10, flow_cells=4, rate=3e-3, perceptual=0.0,
        ),
        "cpu": dict(
            steps=1500, fix=200, guided=400, batch=2, size=128, resolution=24, width=64, levels=10, finest=256, table=15, perceptual=0.0,
        ),
        "small": dict(steps=4000, fix=600, guided=1200, batch=4, size=256, resolution=36, levels=12, finest=512, table=16),
        "full": {},
    }  # fmt: skip

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._judge: list[Perceptual | None] = []  # in a list: its weights are nobody's parameters
        self.register_buffer("classes", torch.tensor(HEAD), persistent=False)
        self._build(EXPRESSIONS, (config.size, config.size))

    def _build(self, code: int, size: tuple[int, int]) -> None:
        """The parts, for so many numbers of an expression and pixels; a checkpoint decides them when one is loaded."""
        c: Config = self.config
        self.viewing = Viewing(size, c.noise)
        self.torso = Torso(size, 6, c.flow_cells)
        self.head = TetraHead(c.condition, c.width, c.hidden, c.reach)
        self.frame = nn.Sequential(nn.Linear(code + 2 + 6, c.condition), nn.ReLU(), nn.Linear(c.condition, c.condition))
        self.skin = Skin(c.condition, c.hidden, c.levels, c.finest, c.table)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's, with as many triangles, numbers of an expression and pixels as the checkpoint has."""
        device = self.viewing.size.device
        self._build(len(state_dict["head.mean"]), tuple(state_dict["torso.picture"].shape[1:]))
        self.to(device)
        self.head.resize(state_dict, "head.")
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """The head's first solid and movement from what was tracked, its first colours, torso, plate, statistics."""
        rows = torch.linspace(0, len(source) - 1, min(len(source), SURE)).long()
        every = source.clip(rows, {"camera", "motion", "landmarks"})
        assert every.camera is not None and every.motion is not None and every.landmarks is not None
        code, mesh = every.motion.expression[:, :EXPRESSIONS], source.mesh  # type: ignore[attr-defined]
        self._build(code.shape[1], source.size)
        try:
            points = source.clip(rows, {"points"}).points
        except InputError as error:
            log.warning("the tracked face is taken as rigid: %s", error)
            points = None
        motion = face_motion.face_motion(code, mesh, every.camera, points)
        self.viewing.start(every.camera)
        wide = (every.landmarks[:, 62] - every.landmarks[:, 66]).norm(dim=1).topk(min(len(rows), 8 * OUTLINES)).indices
        open_mouths = source.clip(rows[wide.sort().values[:: max(1, len(wide) // OUTLINES)]], {"camera", "labels", "frames"})
        some = source.clip(rows[self.viewing.eval().code(every.camera).square().sum(1).argsort()[:NEAR]], SETUP)
        assert some.torso is not None and some.body is not None and some.background is not None
        self.torso.start(some.torso, some.body, some.background[0])
        self._first(open_mouths, motion, face_motion.widest(code, every.landmarks))

    def _first(self, clip: Clip, motion: face_motion.FaceMotion, wide: Tensor) -> None:
        """The solid and its first colours, from frames with the mouth open (camera, labels, frames)."""
        assert clip.camera is not None and clip.labels is not None and clip.frames is not None
        triangles = torch.from_numpy(face_mesh.triangles())
        hole = torch.isin(triangles, torch.tensor(regions.LIPS_INNER)).all(1)
        head = torch.isin(clip.labels, torch.tensor(HEAD))
        solid = head_solid(motion.moved(wide[None])[0], triangles, hole, clip.camera, head, round(2.3 * self.config.resolution))
        self.head.begin(solid, motion, wide, triangles, hole, self.config.resolution)
        shape = self.head.shape()
        target = seen(shape.rest.expand(len(head), -1, -1), clip.camera)
        shown = draw.visible(target, shape.surface.faces, (head.shape[1], head.shape[2]), TRUNCATED)
        colours, nothing = first_colours(target, shown, head, clip.frames), torch.zeros(self.config.condition)
        self.skin.warm(self.head.unit(shape.rest), colours, nothing, self.config.warm, self.config.rate)

    def encode(self, source: Clip | None = None) -> Shape:
        """All that no frame changes."""
        return self.head.shape()

    def _told(self, clip: Clip, pose: Tensor) -> tuple[Tensor, Tensor]:
        """The expression of every row in standard deviations [T,C], and what tells the frame to the networks [T,condition]."""
        assert clip.motion is not None and clip.eyes is not None
        standard = self.head.standard(clip.motion.expression[:, :EXPRESSIONS])
        heard = standard + self.config.noise * torch.randn_like(standard) if self.training else standard
        return standard, self.frame(torch.cat([heard, clip.eyes * 2 - 1, pose], 1))

    def _draw(self, clip: Clip, shape: Shape, size: tuple[int, int], skin: Tensor | None = None) -> Drawn:
        """Where head and neck are known [T,H,W], an outline beyond them has to shrink, not to look like clothes or background."""
        assert clip.camera is not None and clip.body is not None
        pose = self.viewing.code(clip.camera)
        standard, frame = self._told(clip, pose)
        vertices, change = self.head.moved(shape, standard, frame)
        target, faces = seen(vertices, clip.camera), shape.surface.faces
        pixels = draw.covered(target, faces, number := draw.rasterize(target, faces, size))
        at = torch.stack([pixels.place % size[1], pixels.place // size[1]], 1) + 0.5
        rest, normal = self.head.unit(draw.carry(shape.rest, pixels)), draw.carry(normals(vertices, faces), pixels)
        colour, material = self.skin.seen(rest, frame, pixels.row, normal, at, clip.camera)
        own = None if skin is None else grow(skin, -1).flatten()[pixels.row * (size[0] * size[1]) + pixels.place] > 0
        colour, untaught = (colour, None) if own is None else self.skin.within(colour, own, rest, frame, pixels.row)
        picture = draw.paint(torch.cat([colour, torch.ones_like(colour[:, :1])], 1), pixels, len(pose))
        picture = draw.antialias(picture, target, faces, shape.linked, number)
        behind, flow = self.torso(pose, clip.body, size)
        frames = picture[:, :3] + (1 - picture[:, 3:]) * behind
        return Drawn(frames, picture[:, 3], flow, change, pixels, draw.carry(target[..., 2:], pixels)[:, 0], material, untaught)

    def render(self, identity: Shape | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        assert clip.camera is not None
        return self._draw(clip, identity or self.encode(), self.viewing.canvas(clip.camera)).frames.clamp(0, 1)

    @torch.no_grad()
    def film(self, clip: Clip, size: int = 1024) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The head as a textured mesh in every row of the clip (camera, motion, eyes), for files that other tools read.

        Returns:
            vertices [T,W,3] metres in head space, triangles [F,3], place of each vertex in the texture [W,2] right and down 0..1,
            texture [3,size,size] as the rows show it on average, with the light as it falls on the head held straight.
        """
        assert clip.camera is not None
        shape = self.encode()
        standard, frame = self._told(clip, self.viewing.code(clip.camera))
        vertices, faces = self.head.moved(shape, standard, frame)[0], shape.surface.faces
        charts = atlas(shape.rest.cpu(), faces.cpu())
        vertex = charts.vertex.to(faces.device)
        normal = normals(vertices.mean(0), faces)[vertex] @ self.viewing.middle
        flat, laid = charts.flat.to(normal), charts.faces.to(faces.device)
        picture = self.skin.bake(self.head.unit(shape.rest[vertex]), normal, flat, laid, frame.mean(0), size)
        return vertices[:, vertex], laid, flat, picture

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self._losses(clip, self.config.steps)

    def _losses(self, clip: Clip, step: int) -> dict[str, Tensor]:
        c: Config = self.config
        assert clip.frames is not None and clip.labels is not None and clip.mouth is not None and clip.landmarks is not None
        shape, size = self.encode(), (clip.frames.shape[2], clip.frames.shape[3])
        target, head = clip.frames, torch.isin(clip.labels, self.classes).to(clip.frames)
        frames = (drawn := self._draw(clip, shape, size, torch.maximum(head, (clip.labels == regions.NECK).to(head)))).frames
        lids = clip.landmarks[:, 36:48].unflatten(1, (2, 6)).flatten(0, 1)
        eyes = losses.boxes(torch.cat([lids.amin(1), lids.amax(1)], 1), size, 0.3).unflatten(0, (-1, 2)).sum(1)
        bent = tets.laplacian(drawn.change, shape.surface.faces).square().sum(2).mean() / self.head.step.square()
        values = {
            "colour": losses.l1(frames, target) + 10 * (frames - target).square().mean(),
            "lips": c.lips * losses.l1(frames, target, losses.boxes(clip.mouth, size)),
            "eyes": c.eyes * losses.l1(frames, target, eyes),
            "structure": c.structure * losses.dssim(frames, target, 8, 0, 4),
            "mask": c.mask * (drawn.alpha - head).abs().mean(),
            "smooth": 1e-2 * losses.bending(drawn.flow) + bent + 5e-3 * self.skin.light.uneven() + 1e-3 * drawn.material[:, ::2].mean(),
        }
        if not self.head.fixed:
            values["smooth"] += 0.02 * tets.laplacian(shape.rest, shape.surface.faces).square().sum(1).mean() / self.head.step.square()
        if drawn.untaught is not None:
            values["spread"] = 0.1 * drawn.untaught
        if step < c.guided:
            values["guide"] = self._guide(clip, shape, drawn)
        if c.perceptual and step >= c.fix:
            values["perceptual"] = self._looks(frames, target)
        return values

    def _guide(self, clip: Clip, shape: Shape, drawn: Drawn) -> Tensor:
        """The surface on the tracked face, moving as it does, and as deep before the camera; in centimetres."""
        assert clip.camera is not None and clip.motion is not None
        standard, triangles = self.head.standard(clip.motion.expression[:, :EXPRESSIONS]), self.head.triangles
        face = self.head.face(torch.cat([self.head.wide[None], standard]))
        away, nearest = torch.cdist(face[0], shape.rest.detach()).min(1)
        off = ((shape.rest[nearest] - face[0]) * normals(face[:1], triangles)[0]).sum(1).abs()
        value = off[away < TRUNCATED].sum() / len(off) + drawn.change.norm(dim=2).mean()
        places = seen(face[1:], clip.camera)
        pixels = draw.covered(places, triangles, draw.rasterize(places, triangles, drawn.pixels.size))
        depth = draw.paint(draw.carry(places[..., 2:], pixels), pixels, len(standard)).flatten(1)
        wanted = depth[drawn.pixels.row, drawn.pixels.place]
        gap = torch.where(wanted > 0, (drawn.depth - wanted).abs(), 0.0)
        return 100 * (value + torch.where(gap < TRUNCATED, gap, 0.0).mean())

    def _looks(self, frames: Tensor, target: Tensor) -> Tensor:
        """LPIPS; 0, and a line in the log, where its weights cannot be had."""
        if not self._judge:
            try:
                self._judge.append(Perceptual.pretrained("alexnet", frames.device))
            except InputError as error:
                log.warning("trained without LPIPS: %s", error)
                self._judge.append(None)
        return self.config.perceptual * judge(frames, target).mean() if (judge := self._judge[0]) is not None else frames.new_zeros(())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [adam(self, [([self.skin.grid.table], 5.0), ([self.torso.picture], 2.0), ([self.torso.plate], 1.0)], self.config.rate)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step; at `fix` the triangles are kept. Rates fall to a fiftieth."""
        if step >= self.config.fix and not self.head.fixed:
            self.head.fix()
        values = self._losses(clip, step)
        for group in optimizers[0].param_groups:
            group["lr"] = group["base"] * 0.02 ** (step / max(self.config.steps, 1))
        optimizers[0].zero_grad(set_to_none=True)
        torch.stack(list(values.values())).sum().backward()
        picture = self.torso.picture  # the head's edge lets so little through that it would leave all bounds: a seam under the chin
        if picture.grad is not None:
            picture.grad[3] = 0  # where the torso is, its masks say
        optimizers[0].step()
        with torch.no_grad():
            picture[:3] = torch.minimum(picture[:3].clamp(min=0), picture[3])
        return {name: value.detach() for name, value in values.items()}
