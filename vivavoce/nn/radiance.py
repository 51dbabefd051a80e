"""One person's head as a radiance field before a learned torso and background: all that the radiance-field family has in common.

A method of the family says what density and colour a point has in a frame. Where the head is, which rays are looked at, how they
are drawn, what they are compared with and when which part learns stands here. A method has

    self.room = Radiance(size, recipe)                              # in __init__, and again in setup for the source's size
    self.room.start(source, signals(source))                 # in setup: box, occupancy, torso, statistics of the cameras
    told = self.tell(clip)                                          # a NamedTuple of tensors [T,...]: any condition it likes
    density, features, aside = self.density(points, told, rows)     # [N,3] in 0..1 of the box -> [N], [N,F], [N]
    colour = self.colour(features, views, told, rows)               # [N,3]; views: the rays that the points lie on
    scene = self.still(told)                                        # if it can: both, of one row that is only drawn, in fewer sums
    self.room.render(self, told, clip)                              # -> [T,3,H,W]
    self.room.refresh(self, told, step)                             # in update: which cells of the box hold something
    self.room.losses(self, told, clip, step)                        # -> named scalars

`rows` (`fields.Rows`) says which row of `told` each point belongs to, and takes it for every point. `aside` is what should be zero off
the speaking face: an ambient coordinate, an attention. `methods/rad_nerf.py` is the shortest example.

Three stages, by the Recipe: the head before the true torso and background; then patches of the lips too; then the learned torso too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce import losses
from vivavoce.face import mesh as face_mesh
from vivavoce.face import points as face_points
from vivavoce.face import regions
from vivavoce.nn import viewing
from vivavoce.nn.fields import Rows, Views
from vivavoce.nn.pixels import Looked, look
from vivavoce.nn.rates import adam
from vivavoce.nn.signals import HEAD, NEAR, PRETTY, SETUP, Signals, settled
from vivavoce.nn.torso import Torso
from vivavoce.render import layers, rays
from vivavoce.render.rays import shade
from vivavoce.types import Camera, Clip, InputError, Source

NEEDS = frozenset({"camera", "body"})  # fields of a clip that drawing reads
LOSS_NEEDS = frozenset({"frames", "labels", "mouth", "landmarks", "torso", "background"})  # and the losses beside them
ENCODERS = {"default": "whisper", "ds": "deepspeech", "eo": "esperanto", "wav2vec2": "wav2vec2"}  # of a condition
SEEDS = 20_000  # points on the tracked head that say where to look first
CLOSE, WIDE = 0.015, 0.03  # metres around them: looked into from the start, and at all
THIN = 5.0  # density, a box deep, of what counts as empty
FADE = 0.85  # what a look leaves of the density a cell had: trainings are short, and empty space must be left soon
RISE = 0.03  # share of the steps in which a rate rises
TURN = 4, 16  # samples a ray goes on by before the opaque ones are left behind, on a CPU and elsewhere: a round costs a GPU more
UNSEEN = 2e-3  # a drawn ray through which less is seen goes no further: half a step of grey
OPAQUE = 1e-2  # and where a kernel draws the whole frame is opaque: at most two steps of grey, 60 dB, a seventh fewer samples
TINY: dict[str, Any] = dict(
    steps=24, batch=2, rays=256, patch=8, lips_from=0.85, torso_from=0.92, warm=4, size=48, cells=16, samples=24, most=12,
    flow_cells=4, rate=5e-3,
)  # fmt: skip
CPU: dict[str, Any] = dict(steps=3000, batch=4, rays=4096, patch=32, size=256, cells=64, samples=64, most=32, stride=1.5)


@dataclass
class Recipe:
    """Settings that every method of the family has."""

    steps: int = 6000  # training steps
    batch: int = 8  # rows a step
    rays: int = 32_768  # rays a step, spread over its rows
    patch: int = 64  # side of the patch that each row has once they join, px: every other row's at the lips, else anywhere on the head
    lips_from: float = 0.5  # share of the steps after which patches join
    torso_from: float = 0.7  # share of the steps after which the torso is learned too
    warm: int = 500  # steps in which the speech net learns mouth shapes from the landmarks, before the first picture
    size: int = 512  # longest side of the training images, px
    cells: int = 128  # of the occupancy grid along each side of the box around the head
    samples: int = 192  # that a ray across the whole box would have
    most: int = 64  # samples of a ray at most
    stride: float = 2.0  # samples of training that one of a drawn ray stands for
    refresh: int = 16  # steps between two looks at which cells hold something
    dropout: float = 0.2  # of speech features, while training
    shut: float = 0.5  # share of the rows with shut lips that teach what silence looks like
    noise: float = 0.15  # standard deviations added to the pose that bends the torso (not to the camera), while training
    rate: float = 2e-3  # of the networks; the other rates keep their ratio to it
    decay: float = 0.05  # what is left of the rates at the end
    structure: float = 0.2  # weight of (1 - SSIM) / 2 in the patches
    perceptual: float = 0.0  # weight of LPIPS in the patches (0.02 is usual); fetches its weights
    mask: float = 0.1  # weight of the head's outline
    flow_cells: int = 12  # of the torso's flow along each side
    seed: int = 0  # of everything random


Lines = tuple[Tensor, Tensor, Tensor, Tensor]  # rays: origins, directions [R,3], near, far [R]


class Field(Protocol):
    """What a method gives."""

    def density(self, points: Tensor, told: Any, rows: Rows) -> tuple[Tensor, Tensor, Tensor]: ...

    def colour(self, features: Tensor, views: Views, told: Any, rows: Rows) -> Tensor: ...


class Traced(NamedTuple):
    """What rays of T rows met."""

    colour: Tensor  # [T,K,3] premultiplied
    alpha: Tensor  # [T,K]
    aside: Tensor  # [T,K] of the method, summed along the ray


class Layers(NamedTuple):
    """A picture of each row, and what it is made of."""

    frames: Tensor  # [T,3,H,W]
    alpha: Tensor  # [T,H,W] of the head
    scene: Tensor  # [T,3,H,W] torso and background behind it
    depth: Tensor  # [T,H,W] metres along the ray to the head, 0 where there is none


def encoder(condition: str) -> str:
    """The speech encoder that a condition of the lineage means. Raises InputError for an unknown one, or one that is no speech."""
    if condition in ENCODERS:
        return ENCODERS[condition]
    remedy = "train r2_talker or geneface for it" if condition == "idexp" else ""
    raise InputError(f"--condition {condition}", "is no speech that this method hears", remedy or f"choose from: {', '.join(ENCODERS)}")


class Radiance(nn.Module):
    """Args:
    size: H, W of the training images.
    recipe: the method's settings.
    """

    size: Tensor
    focal: Tensor
    pose_mean: Tensor
    pose_deviation: Tensor
    pose_center: Tensor

    def __init__(self, size: tuple[int, int], recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.torso = Torso(size, 6, recipe.flow_cells)
        self.occupancy = rays.Occupancy((-0.1, -0.15, -0.1), (0.1, 0.15, 0.1), recipe.cells, THIN, FADE)
        self.register_buffer("size", torch.tensor(size))
        self.register_buffer("focal", torch.tensor(float(size[0])))  # px, of the training images
        self.register_buffer("pose_mean", torch.zeros(6))
        self.register_buffer("pose_deviation", torch.ones(6))
        self.register_buffer("pose_center", torch.eye(3))
        self.judge: nn.Module | None = None

    @torch.no_grad()
    def start(self, source: Source, every: Signals) -> None:
        """The box around the tracked head and where in it to look; torso and background; statistics of the training cameras."""
        self.focal.copy_(every.camera.focal[0, 0])
        for kept, value in zip((self.pose_center, self.pose_mean, self.pose_deviation), viewing.pose_statistics(every.camera)):
            kept.copy_(value)
        some = source.clip(torch.linspace(0, len(source) - 1, min(len(source), PRETTY)).long(), SETUP - {"frames"})
        assert some.camera is not None and some.body is not None and some.labels is not None
        assert some.torso is not None and some.background is not None
        near = self.code(some.camera).square().sum(1).argsort()[:NEAR]  # rows in which the head is nearest to its mean pose
        head = torch.isin(some.labels, torch.tensor(HEAD))
        mesh: Tensor = source.mesh  # type: ignore[attr-defined]
        triangles, lips = torch.from_numpy(face_mesh.triangles()), torch.tensor(regions.LIPS_INNER)
        self._settle(face_points.head_points(mesh, triangles, lips, some.camera[near[:1]], head[near[0]], SEEDS).means)
        self.torso.start(some.torso[near], some.body[near], some.background[0])

    def _settle(self, seeds: Tensor) -> None:  # [N,3] metres
        """The box around points of the head. Cells near them hold something until the field says otherwise; far ones never will."""
        grid = self.occupancy
        grid.low.copy_(seeds.amin(0) - WIDE)
        grid.high.copy_(seeds.amax(0) + WIDE)
        cell = (grid.high - grid.low) / grid.resolution
        places = ((seeds - grid.low) / cell).long().clamp(0, grid.resolution - 1)
        volume = torch.zeros([grid.resolution] * 3)
        volume[places[:, 0], places[:, 1], places[:, 2]] = 1

        def around(metres: float) -> Tensor:
            near = volume[None, None]
            for axis, side in enumerate(cell):  # one after another: a cube of 31 cells at once is a minute's work
                reach = [int((metres / side).ceil()) if a == axis else 0 for a in range(3)]
                near = functional.max_pool3d(near, [2 * r + 1 for r in reach], 1, reach)
            return near.flatten() > 0

        nothing = torch.where(around(WIDE), 0.0, rays.occupancy.EMPTY)
        grid.density.copy_(torch.where(around(CLOSE), THIN * 1.2, nothing))
        grid.update(lambda points: torch.zeros(len(points)))

    # ---- what depends on the camera ----

    def code(self, camera: Camera) -> Tensor:  # T rows -> [T,6]
        """As `viewing.standard_pose`, blurred while training: a pose known exactly is its frame's number; frames are learned by heart."""
        code = viewing.standard_pose(camera, self.pose_center, self.pose_mean, self.pose_deviation)
        return code + self.recipe.noise * torch.randn_like(code) if self.training else code

    def canvas(self, camera: Camera) -> tuple[int, int]:
        """As `viewing.canvas`."""
        return viewing.canvas(camera, self.size, self.focal)

    # ---- the field, in the box ----

    @property
    def depth(self) -> Tensor:  # metres, the mean side of the box: densities of a field are a box deep
        return (self.occupancy.high - self.occupancy.low).mean()

    @property
    def step(self) -> float:
        """Metres between two samples of a ray."""
        return float(self.depth) / self.recipe.samples

    def inside(self, positions: Tensor) -> Tensor:  # [N,3] metres -> [N,3] in 0..1
        scale = 1 / (self.occupancy.high - self.occupancy.low)
        return torch.addcmul(-self.occupancy.low * scale, positions, scale)

    def refresh(self, field: Field, told: Any, step: int) -> None:
        """Every `refresh` steps: ask a share of the cells what they hold, each in some row of `told`."""
        if step % self.recipe.refresh:
            return

        def density(positions: Tensor) -> Tensor:
            rows = Rows(torch.randint(len(told[0]), (len(positions),), device=positions.device), len(told[0]))
            with quick_products():
                return field.density(self.inside(positions), told, rows)[0]

        self.occupancy.update(density, share=0.5)

    # ---- drawing ----

    @torch.no_grad()
    def head(self, field: Field, told: Any, camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Premultiplied RGBA [T,4,H,W] and mean depth [T,H,W] in metres of the head alone, row by row."""
        pictures, depths = [], []
        still: Callable[[Any], shade.Scene] | None = getattr(field, "still", None)
        for t in range(len(camera.pose)):
            origins, directions = (part[0] for part in rays.cast(camera[t : t + 1], size))
            lines = origins, directions, *rays.box(origins, directions, self.occupancy.low, self.occupancy.high)
            one = type(told)(*(part[t : t + 1] for part in told))
            scene = still(one) if still else None
            if scene is not None and shade.whole(scene):
                seen = shade.draw(scene, lines, self.occupancy, *self.stride, OPAQUE)
            else:
                seen = self.traced(lines, self.asked(field, one, directions, scene))
            pictures.append(torch.cat([seen.features, seen.opacity[:, None]], 1).t().unflatten(1, size))
            depths.append((seen.depth / seen.opacity.clamp_min(1e-6)).unflatten(0, size))
        return torch.stack(pictures), torch.stack(depths)

    @property
    def stride(self) -> tuple[float, int]:
        """Metres between two samples of a drawn ray, which stand for `stride` of training, and how many it has at most."""
        return self.step * self.recipe.stride, math.ceil(self.recipe.most / self.recipe.stride)

    def traced(self, lines: Lines, ask: rays.Field) -> rays.Composited:
        """Rays drawn through `ask`."""
        return rays.trace(*lines, self.occupancy, ask, *self.stride, turn=TURN[lines[0].device.type != "cpu"], stop=UNSEEN)

    def asked(self, field: Field, told: Any, directions: Tensor, scene: shade.Scene | None = None) -> rays.Field:
        """A row of `told` as the field that rays are traced through; on a GPU with networks in half precision."""
        look = shade.asked(scene, directions) if scene is not None else None
        depth, rows = self.depth, Rows(None, 1)

        def ask(positions: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
            if look is not None:
                with quick_products():
                    density, colour = look(self.inside(positions), ray)
                return density.div_(depth), colour
            with torch.autocast(positions.device.type, torch.float16, enabled=positions.is_cuda):
                density, features, _ = field.density(self.inside(positions), told, rows)
                return density.float() / depth, field.colour(features, Views(directions, ray), told, rows).float()

        return ask

    def layers(self, field: Field, told: Any, clip: Clip, size: tuple[int, int]) -> Layers:
        """The head before torso and background, for each row of the clip (camera, body)."""
        assert clip.camera is not None and clip.body is not None
        scene, _ = self.torso(self.code(clip.camera), clip.body, size)
        head, depth = self.head(field, told, clip.camera, size)
        return Layers(layers.over(head, scene, premultiplied=True), head[:, 3], scene, depth)

    def render(self, field: Field, told: Any, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says."""
        assert clip.camera is not None
        return self.layers(field, told, clip, self.canvas(clip.camera)).frames.clamp(0, 1)

    def trace(self, field: Field, told: Any, camera: Camera, looked: Looked, size: tuple[int, int]) -> Traced:
        """What the rays of a training step meet, with gradients."""
        count, each = looked.column.shape
        with torch.autocast(camera.pose.device.type, enabled=False):  # a ray in half precision misses its pixel
            origins, directions = rays.cast(camera, size, looked.line * size[1] + looked.column)
            ends = rays.box(origins, directions, self.occupancy.low, self.occupancy.high)
            samples = rays.march(origins, directions, *ends, self.occupancy, self.step, self.recipe.most, torch.rand_like(ends[0]))
        rows = Rows(samples.ray // each, count)
        with quick_products():
            density, features, aside = field.density(self.inside(samples.positions), told, rows)
            colour = field.colour(features, Views(directions.reshape(-1, 3), samples.ray), told, rows)
        drawn = rays.composite(density.float() / self.depth, colour.float(), samples)  # whatever precision the networks were run in
        along = drawn.weights.new_zeros(count * each).index_add(0, samples.ray, drawn.weights * aside.float())
        return Traced(*(part.unflatten(0, (count, each)) for part in (drawn.features, drawn.opacity, along)))

    # ---- learning ----

    def stage(self, step: int) -> int:
        """0: the head; 1: its lips too; 2: the torso too."""
        done = step / max(self.recipe.steps, 1)
        return int(done >= self.recipe.lips_from) + int(done >= max(self.recipe.torso_from, self.recipe.lips_from))

    def losses(self, field: Field, told: Any, clip: Clip, step: int, outside: float = 0.0) -> dict[str, Tensor]:
        """Rays of a step against the clip's frames. `outside` is the weight of the method's `aside` off the speaking face."""
        assert clip.frames is not None and clip.labels is not None and clip.camera is not None and clip.body is not None
        assert clip.torso is not None and clip.background is not None and clip.mouth is not None
        stage, size = self.stage(step), (clip.frames.shape[2], clip.frames.shape[3])
        head = torch.isin(clip.labels, torch.tensor(HEAD, device=clip.labels.device))
        looked = look(clip, head, stage, self.recipe.rays, self.recipe.patch)
        traced = self.trace(field, told, clip.camera, looked, size)
        flow: Tensor | None = None
        if stage == 2:
            with torch.autocast(clip.body.device.type, enabled=False):
                learned, flow = self.torso(self.code(clip.camera), clip.body, size)
            behind = looked.read(learned)
        else:
            torso = looked.read(clip.torso)
            behind = torso[..., :3] * torso[..., 3:] + (1 - torso[..., 3:]) * looked.read(clip.background)
        frames, target = traced.colour + (1 - traced.alpha[..., None]) * behind, looked.read(clip.frames)
        own, sure = looked.read(torch.stack([mask := head.to(frames), settled(mask)], 1)).unbind(-1)
        still = (losses.boxes(clip.mouth, size, 0.6) < 0.5).to(frames)
        alpha = traced.alpha.clamp(1e-5, 1 - 1e-5)
        values = {
            "colour": (frames - target).abs().mean() + 10 * (frames - target).square().mean(),
            "mask": self.recipe.mask * ((traced.alpha - own) * sure).abs().mean(),
            "solid": -1e-3 * (alpha * alpha.log2() + (1 - alpha) * (1 - alpha).log2()).mean(),
            "aside": outside * (traced.aside * looked.read(still)[..., 0]).mean(),
        }
        if looked.patch:
            values["patch"] = self._patches(looked.square(frames), looked.square(target))
        if flow is not None:
            values["bend"] = 1e-2 * losses.bending(flow)
        return values

    def _patches(self, image: Tensor, target: Tensor) -> Tensor:  # [T,3,P,P] x2 -> scalar
        """How patches differ in structure and, where asked for, to a trained eye."""
        window = min(8, image.shape[2])
        value = self.recipe.structure * losses.dssim(image, target, window, 0, window // 2)
        if self.recipe.perceptual:
            value = value + self.recipe.perceptual * self._eye(image.device)(image, target).mean()
        return value

    def _eye(self, device: torch.device) -> nn.Module:
        """LPIPS, no part of the checkpoint."""
        if self.judge is None:
            from vivavoce.nn.perceptual import Perceptual

            self.__dict__["judge"] = Perceptual.pretrained("alexnet", device)
        assert self.judge is not None
        return self.judge


@contextmanager
def quick_products() -> Iterator[None]:
    """Products of float32 matrices on a GPU's tensor cores, with ten bits of mantissa: enough for networks, not for rays or cameras."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def optimizer(method: nn.Module, grids: Iterable[nn.Module], recipe: Recipe, pace: float = 10) -> torch.optim.Optimizer:
    """Adam over all of a method that has its `room`: feature grids `pace` times as fast as networks, ten as in instant NGP."""
    torso: Torso = method.room.torso  # type: ignore[union-attr, assignment]
    behind = [(list(torso.flow.parameters()), 0.2), ([torso.picture], 1), ([torso.plate], 0.5)]
    late = {id(p) for parameters, _ in behind for p in parameters}
    made = adam(method, [([p for grid in grids for p in grid.parameters()], pace), *behind], recipe.rate)
    for group in made.param_groups:
        group["since"] = recipe.torso_from if group["params"] and id(group["params"][0]) in late else 0.0
    return made


def advance(
    room: Radiance, method: Any, told: Any, clip: Clip, step: int, optimizer: torch.optim.Optimizer, outside: float = 0.0
) -> dict[str, Tensor]:
    """One training step, in the stage that it belongs to: the occupancy made fresh when it is time, the losses, a step down. `outside`
    as of `Radiance.losses`. Returns the losses, detached."""
    recipe = method.config
    room.refresh(method, told, step)
    return descend(optimizer, room.losses(method, told, clip, step, outside), step / max(recipe.steps, 1), recipe.decay)


def descend(optimizer: torch.optim.Optimizer, values: dict[str, Tensor], done: float, decay: float) -> dict[str, Tensor]:
    """One step down the sum of the losses, `done` (0..1) of the way; rates rise when their part begins to learn (Adam's first steps are
    as long as any, in whatever direction) and fall to `decay` at the end. Returns the losses, detached."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * decay**done * min(max(done - group["since"], 0) / RISE + 0.02, 1)
    optimizer.zero_grad(set_to_none=True)
    with quick_products():
        torch.stack(list(values.values())).sum().backward()
    optimizer.step()
    return {name: value.detach() for name, value in values.items()}
