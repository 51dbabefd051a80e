"""One person as 3-D Gaussians before a learned torso and background: all that the Gaussian family has in common.

A method of the family says how speech moves the Gaussians; where they start, how they are drawn, what the picture is compared
with, how fast each part learns and when the set grows stands here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vivavoce import losses
from vivavoce.face import mesh as face_mesh
from vivavoce.face import points as face_points
from vivavoce.face import regions
from vivavoce.nn import viewing
from vivavoce.nn.gaussians import Gaussians
from vivavoce.nn.perceptual import Perceptual
from vivavoce.nn.replay import Replay
from vivavoce.nn.signals import HEAD, NEAR, PRETTY, SETUP, Signals, settled
from vivavoce.nn.torso import Torso
from vivavoce.render import splats
from vivavoce.types import Camera, Clip, Source

NEEDS = frozenset({"camera", "body"})  # fields of a clip that drawing reads
LOSS_NEEDS = frozenset({"frames", "labels", "mouth", "landmarks"})  # and the losses beside them
INSIDE = (0.35, 0.18, 0.17)  # colour of the mouth's inside, unseen in the mean picture
MOUTH = (96, 96)  # px, the mouth as LPIPS sees it
UPPER = ("browInnerUp", "browOuterUp", "browDown", "eyeWide", "cheekSquint", "eyeSquint", "noseSneer")  # action units 1, 2, 4 to 7, 9
BROWS = tuple(k for k, name in enumerate(regions.BLENDSHAPES) if name.startswith(UPPER))
TREMBLE = (0.01, 0.001)  # rad, metres: a tracker's error of 1; both move a head's outline by about a millimetre


@dataclass
class Settings:
    """What every method of the family can be told; a method's Config has these and its own."""

    steps: int = 3000  # training steps
    coarse: int = 400  # of them with a head that does not move, before speech joins
    batch: int = 8  # rows a step
    warm: int = 500  # steps in which the speech net learns mouth shapes from the landmarks, before the first picture
    size: int = 512  # longest side of the training images, px
    points: int = 24_000  # Gaussians at the start
    most: int = 40_000  # Gaussians at most
    grow_every: int = 150  # steps between two rounds of splitting and dropping
    grow_share: float = 0.08  # of the Gaussians split a round
    width: int = 64  # of the speech code, and of what is joined with it
    reach: float = 0.03  # metres a Gaussian can move from its place
    dropout: float = 0.2  # of speech features, while training
    noise: float = 0.15  # standard deviations added to the head's pose (not to the camera), while training
    shut: float = 0.5  # share of the rows with shut lips that teach what silence looks like
    steady: float = 0.0  # learning rate of each training row's own small change of the tracked pose; 0: the tracker is believed
    rate: float = 1e-3  # of the networks; the other rates keep their ratio to it
    lips: float = 1.0  # weight of the mouth's box in the loss
    structure: float = 0.2  # weight of (1 - SSIM) / 2
    mask: float = 0.1  # weight of the head's outline
    perceptual: float = 0.0  # weight of LPIPS of the frame; a fifth of it of the mouth; 0: not computed, no weights fetched
    perceptual_net: str = "alexnet"  # or vgg16
    perceptual_from: float = 0.6  # share of the steps after which it counts
    flow_cells: int = 12  # of the torso's flow along each side
    seed: int = 0  # of everything random


class Moved(NamedTuple):
    """The Gaussians of T rows, as the splats want them."""

    means: Tensor  # [T,N,3] metres
    quaternions: Tensor  # [T,N,4]
    scales: Tensor  # [T,N,3] metres
    opacities: Tensor  # [T,N]
    colours: Tensor  # [T,N,3]


class Drawn(NamedTuple):
    """What `Avatar.draw` makes."""

    frames: Tensor  # [T,3,H,W]
    alpha: Tensor  # [T,H,W] of the head
    front: Tensor  # [T,H,W] of its Gaussians without those inside the mouth
    scene: Tensor  # [T,3,H,W] torso and background behind it
    flow: Tensor  # [T,2,cells,cells] of the torso


class Head(Protocol):
    """A method of the family, as far as `Avatar.shown` knows it: a module too."""

    needs: ClassVar[frozenset[str]]

    def layers(self, identity: Any, clip: Clip, size: tuple[int, int]) -> Drawn: ...


def looks(clip: Clip, brows: Tensor) -> Tensor:  # [U] int64 -> [T,2+U] in -1..1
    """What the upper face does: the eyes, and those units."""
    assert clip.eyes is not None
    if not len(brows):
        return clip.eyes * 2 - 1
    assert clip.units is not None
    return torch.cat([clip.eyes, clip.units.index_select(1, brows)], 1) * 2 - 1


def moved(
    g: Gaussians,
    rows: int,
    place: Tensor | None = None,  # [T,N,3] metres
    stretch: Tensor | None = None,  # [T,N,3] of the logarithm of the scales
    turn: Tensor | None = None,  # [T,N,4]
    opacity: Tensor | None = None,  # [T,N] of the logit
    colour: Tensor | None = None,  # [T,N,3]
) -> Moved:
    """The Gaussians of so many rows, changed by what is given."""
    means, turns, scales, logits, colours = (
        p.expand(rows, *p.shape) if change is None else p + change
        for p, change in zip(
            (g.means, g.quaternions, g.log_scales, g.logits, g.colours), (place, turn, stretch, opacity, colour), strict=True
        )
    )
    return Moved(means, turns, scales.exp(), logits.sigmoid(), colours)


class Avatar(nn.Module):
    """Args:
    count: Gaussians. embedding: free features of each. size: H, W of the training images. cells: of the torso's flow.
    noise: standard deviations added to the head's pose code (not to the camera) while training: a pose known exactly is the
        number of its frame, and the frame is learned by heart.
    frames: of the training source, each with a change of its pose of its own; 0: the tracker is believed.
    """

    size: Tensor
    focal: Tensor
    low: Tensor
    high: Tensor
    pose_mean: Tensor
    pose_deviation: Tensor
    pose_center: Tensor

    def __init__(
        self, count: int, embedding: int = 0, size: tuple[int, int] = (512, 512), cells: int = 12, noise: float = 0.0, frames: int = 0
    ) -> None:
        super().__init__()
        self.noise = noise
        self.replay = Replay()
        self._judge: list[Perceptual] = []  # in a list: its weights are nobody's parameters
        self.tremble = nn.Parameter(torch.zeros(frames, 6), requires_grad=frames > 0)  # turn, place, in units of TREMBLE
        self.gaussians = Gaussians(count, embedding)
        self.torso = Torso(size, 6, cells)
        self.register_buffer("size", torch.tensor(size))
        self.register_buffer("focal", torch.tensor(float(size[0])))  # px, of the training images
        self.register_buffer("low", -torch.ones(3))  # box around the head, metres
        self.register_buffer("high", torch.ones(3))
        self.register_buffer("pose_mean", torch.zeros(6))
        self.register_buffer("pose_deviation", torch.ones(6))
        self.register_buffer("pose_center", torch.eye(3))

    def train(self, mode: bool = True) -> Avatar:
        """A head that learns keeps no graphs of how it was drawn: their memory is wanted."""
        if mode:
            self.replay.forget()
        return super().train(mode)

    @torch.no_grad()
    def start(self, source: Source, every: Signals, shares: tuple[float, float, float] = (0.5, 0.42, 0.08)) -> None:
        """Gaussians over the tracked head (shares: face, rest of the head, inside of the mouth), coloured from a few frames; torso and
        background; statistics of the training cameras."""
        self.focal.copy_(every.camera.focal[0, 0])
        statistics = viewing.pose_statistics(every.camera)
        for kept, value in zip((self.pose_center, self.pose_mean, self.pose_deviation), statistics, strict=True):
            kept.copy_(value)
        some = source.clip(torch.linspace(0, len(source) - 1, min(len(source), PRETTY)).long(), SETUP)
        assert some.camera is not None and some.body is not None and some.frames is not None and some.labels is not None
        assert some.torso is not None and some.background is not None
        near = self.code(some.camera).square().sum(1).argsort()[:NEAR]  # rows in which the head is nearest to its mean pose
        head = torch.isin(some.labels, torch.tensor(HEAD))
        triangles, lips = torch.from_numpy(face_mesh.triangles()), torch.tensor(regions.LIPS_INNER)
        mesh: Tensor = source.mesh  # type: ignore[attr-defined]
        count, embedding = len(self.gaussians), self.gaussians.embeddings.shape[1]
        seeds = face_points.head_points(mesh, triangles, lips, some.camera[near[:1]], head[near[0]], count, shares)
        colours = face_points.colours_of(seeds.means, some.camera, some.frames)
        colours[seeds.part == 2] = torch.tensor(INSIDE)
        if len(seeds.means) != count:  # a head without a pixel beside the mesh has no shell
            self.gaussians = Gaussians(len(seeds.means), embedding)
        self.gaussians.start(seeds.means, colours, (seeds.spacing * 0.75).clamp(2e-4, 8e-3))
        margin = 0.1 * (seeds.means.amax(0) - seeds.means.amin(0))
        self.low.copy_(seeds.means.amin(0) - margin)
        self.high.copy_(seeds.means.amax(0) + margin)
        self.torso.start(some.torso[near], some.body[near], some.background[0])

    @torch.no_grad()
    def behind_lips(self, source: Source, mouth: Gaussians) -> None:
        """A set of its own for the inside of the mouth, dark red until it is seen."""
        mesh: Tensor = source.mesh  # type: ignore[attr-defined]
        means, spacing = face_points.mouth_points(mesh[torch.tensor(regions.LIPS_INNER)], len(mouth))
        mouth.start(means, torch.tensor(INSIDE).expand(len(means), 3), (spacing * 0.75).clamp(2e-4, 8e-3))

    def code(self, camera: Camera) -> Tensor:  # T rows -> [T,6]
        """As `viewing.standard_pose`."""
        return viewing.standard_pose(camera, self.pose_center, self.pose_mean, self.pose_deviation)

    def heard_code(self, camera: Camera) -> Tensor:  # T rows -> [T,6]
        """As `code`, blurred while training."""
        code = self.code(camera)
        return code + self.noise * torch.randn_like(code) if self.training else code

    def places(self) -> Tensor:  # [N,3]
        """The Gaussians' places in the box around the head, -1 to 1."""
        return (self.gaussians.means - self.low) / (self.high - self.low) * 2 - 1

    def moved(self, rows: int, *changes: Tensor | None, **named: Tensor | None) -> Moved:
        """The Gaussians of so many rows, changed as `moved` below says."""
        return moved(self.gaussians, rows, *changes, **named)

    def steadied(self, moved: Moved, clip: Clip) -> Moved:
        """While training, the Gaussians where the row's own change of its pose puts them: a tracker trembles by a pixel or two, and
        a head drawn where it says is blurred by that. The same as a change of the camera, to which splats give no gradient."""
        if not (self.training and len(self.tremble) and clip.index is not None):
            return moved
        change = self.tremble[clip.index]
        turn, place = change[:, None, :3] * TREMBLE[0], change[:, None, 3:] * TREMBLE[1]
        means = moved.means + torch.linalg.cross(turn.expand_as(moved.means), moved.means) + place
        real, rest = moved.quaternions.split((1, 3), dim=2)
        half = (turn / 2).expand_as(rest)
        turned = torch.cat([real - (half * rest).sum(2, keepdim=True), rest + real * half + torch.linalg.cross(half, rest)], 2)
        return moved._replace(means=means, quaternions=turned)

    def draw(self, moved: Moved, clip: Clip, code: Tensor, size: tuple[int, int], inside: splats.Splatted | None = None) -> Drawn:
        """The Gaussians before torso and background, for each row of the clip (camera, body); `inside` lies between them."""
        assert clip.camera is not None and clip.body is not None
        scene, flow = self.torso(code, clip.body, size)
        behind = scene
        drawn = splats.render(*self.steadied(moved, clip), clip.camera, size, deep=False)
        alpha = drawn.alpha
        if inside is not None:
            behind = torch.addcmul(inside.image, 1 - inside.alpha[:, None], behind)
            alpha = alpha + (1 - alpha) * inside.alpha
        frames = torch.addcmul(drawn.image, 1 - drawn.alpha[:, None], behind)
        return Drawn(frames, alpha, drawn.alpha, scene, flow)

    def shown(self, method: Head, identity: Any, clip: Clip) -> Tensor:  # -> [T,3,H,W] in 0..1
        """Frames of a method of the family as large as the cameras' focal length says: twice that of training gives twice its height
        and width. On a GPU a trained head is drawn by a CUDA graph."""
        assert clip.camera is not None
        size = viewing.canvas(clip.camera, self.size, self.focal)

        def work(rows: Clip) -> Tensor:
            return method.layers(identity, rows, size).frames.clamp_(0, 1)

        if clip.camera.pose.device.type != "cuda":
            return work(clip)
        return self.replay(method, work, identity, Clip(**{name: getattr(clip, name) for name in method.needs}), size)  # type: ignore[arg-type]

    def losses(self, drawn: Drawn, clip: Clip, settings: Settings, done: float = 1.0) -> dict[str, Tensor]:
        """Frames against the clip's (frames, labels, mouth), with the weights of the settings; `done`: share of the steps behind us."""
        assert clip.frames is not None and clip.labels is not None and clip.mouth is not None
        frames, target = drawn.frames, clip.frames
        head = torch.isin(clip.labels, torch.tensor(HEAD, device=clip.labels.device)).to(frames)
        mouth = losses.boxes(clip.mouth, (target.shape[2], target.shape[3]))
        smooth = 1e-2 * losses.bending(drawn.flow)
        if self.training and len(self.tremble) and clip.index is not None:  # held-out rows have none
            smooth = smooth + 1e-4 * self.tremble[clip.index].square().mean()
        values = {
            "colour": losses.l1(frames, target) + 10 * (frames - target).square().mean(),
            "lips": settings.lips * losses.l1(frames, target, mouth),
            "structure": settings.structure * losses.dssim(frames, target, 8, 0, 4),
            "mask": settings.mask * ((drawn.alpha - head) * settled(head)).abs().mean(),
            "smooth": smooth,
        }
        if settings.perceptual and done >= settings.perceptual_from:
            values["perceptual"] = settings.perceptual * self._looks(frames, target, clip.mouth, settings.perceptual_net)
        return values

    def _looks(self, frames: Tensor, target: Tensor, mouth: Tensor, net: str) -> Tensor:
        """LPIPS of the frames, and a fifth of that of their mouths."""
        if not self._judge:
            self._judge.append(Perceptual.pretrained(net, frames.device))
        judge = self._judge[0]
        mouths = [losses.crops(images, mouth, MOUTH) for images in (frames, target)]
        return judge(frames, target).mean() + 0.2 * judge(*mouths).mean()

    def groups(self, settings: Settings) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters and their learning rate as a multiple of the networks'."""
        return [*groups(self.gaussians), ([self.torso.picture], 2), ([self.torso.plate], 1), ([self.tremble], settings.steady)]


def groups(g: Gaussians) -> list[tuple[list[nn.Parameter], float]]:
    """As in the Gaussian-splatting family, in metres."""
    return [([g.means], 0.05), ([g.quaternions], 1), ([g.log_scales], 5), ([g.logits], 30), ([g.colours], 5), ([g.embeddings], 5)]


def descend(
    optimizer: torch.optim.Optimizer,
    values: dict[str, Tensor],
    done: float,
    sets: Iterable[Gaussians],
    free: list[nn.Parameter] | None = None,
) -> None:
    """One step down the sum of the losses, `done` (0..1) of the way; rates fall to a twentieth along it. With `free` all else stays."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * 0.05**done
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(values.values())).sum().backward()
    for gaussians in sets:
        gaussians.watch()
    if free is not None:
        kept = {id(p) for p in free}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in kept:
                    parameter.grad = None
    optimizer.step()
