"""LivePortrait: one portrait moves by implicit key points, warped in a feature volume and drawn anew.

Paper: Guo et al., arXiv 2407.03168. Networks, key names and outputs are the published ones (`nn/liveportrait`), so the authors' weights
(MIT; preset "official", fetched or put by hand, see `vivavoce assets list`) give the authors' pictures. What differs:

* Motion is relative to the portrait's own (`nn/liveportrait/keypoints.py`), so any generator of the space "keypoints" drives any
  portrait; `absolute` takes a driver's head and expression as they are.
* The crop is found by this package's landmarker instead of InsightFace's, whose models may not be used commercially: 68 points, the
  published scale 2.3 and shift, eyes level. Openness of eyes and lips is read from the same points.
* Retargeted eyes and lips are added to the driven points; the published code drops the driver's motion when they are switched on.
* The authors published no training. Ours: stage I learns all networks from pairs of frames of one film, stage II stitching and
  retargeting with the rest frozen (`nn/liveportrait/training.py` says what of it is ours). The authors trained on 69 million frames.

Checked against the authors' code on random weights. The official weights could not be had where this was written: loading was tested
on files of their form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce import losses
from vivavoce.face.crop import Crop, Pasting, around, crop, soft_mask
from vivavoce.method import Renderer
from vivavoce.nn.liveportrait import SIDE, SMALL, Networks, Widths, drawing, following, keypoints, training, weights
from vivavoce.nn.perceptual import Perceptual
from vivavoce.registry import register
from vivavoce.types import Clip, InputError, Motion

MARGIN, SHIFT = 2.3, (0.0, -0.125 * 2.3)  # of the crop, in sides of the 68 points' box
OPEN_LIPS = 0.03  # less is a shut mouth
FACE = 0.25  # margin of the face's box: what lies outside must stand still under stitching
LIPS = slice(48, 68)
WIDTHS = {
    "published": Widths(),
    "half": Widths(32, (16, 16), 6, (16, 512, 5, 4), 64, 6, (3, 3, 9, 3), (48, 96, 192, 384)),
    "tiny": SMALL,
}


@dataclass
class Config:
    """Settings."""

    steps: int = 300_000  # training steps of both stages
    second: float = 0.85  # share of the steps that stage I takes
    batch: int = 4  # windows a step, each of one film
    window_rows: int = 16  # consecutive frames a window
    pairs: int = 3  # frames of a window that its source frame is driven to
    size: int = 512  # px, longest side of the frames read
    side: int = SIDE  # px of the pictures that the networks read; they draw twice as many
    widths: str = "published"  # of the networks: published, half, tiny
    weights: str = ""  # "published": the authors', fetched; a folder that holds them; "": to be trained
    rate: float = 2e-4  # of Adam, all optimizers
    reconstruct: float = 10.0  # weight of the pixels' difference
    perceptual: float = 10.0  # of LPIPS (VGG), of the whole and of the lips; 0: not computed, no weights fetched
    adversarial: float = 0.1  # of the judges of the whole and of the lips; 0: none
    judge: int = 64  # channels of a judge's first convolution
    equivariance: float = 1.0
    spread: float = 1.0  # of the key point prior
    head: float = 1.0  # of the head's angles against the tracker's
    deformation: float = 0.1  # of the size of expressions
    guidance: float = 10.0  # of the landmarks that key points of lids and lips follow
    absolute: bool = False  # motion is taken as measured on the driver, not relative to the portrait
    stitch: bool = True  # shoulders and background stand still
    multiplier: float = 1.0  # of all movement
    eyes: float = -1.0  # openness that both eyes are brought to, 0 shut to 0.8; -1: as driven
    lips: float = -1.0  # openness that the lips are brought to; -1: as driven
    calm_lips: bool = False  # a portrait with an open mouth is shut first
    half: bool = True  # half precision on a GPU
    compiled: bool = False  # torch.compile, without a GPU (which has kernels): the first frames take a minute, later starts are quick
    seed: int = 0


@dataclass
class Identity:
    """A portrait, ready to be moved."""

    volume: Tensor  # [1,C,D,h,w]
    canonical: Tensor  # [1,21,3]
    motion: Motion  # of its own, one row
    points: Tensor  # [1,21,3]
    offset: Tensor  # [1,21,3] of retargeted eyes and lips
    frame: Tensor  # [1,3,H,W]
    where: Crop
    pasting: Pasting
    row: Tensor  # [1,N] of `following.portrait`


@register(family="portrait", paper="arXiv 2407.03168", origin="KwaiVGI/LivePortrait", license="MIT")
class LivePortrait(Renderer):
    """Reads Motion of the space "keypoints"; see the module."""

    needs = frozenset({"motion"})
    source_needs = frozenset({"frames", "landmarks"})
    loss_needs, moves = frozenset({"frames", "landmarks", "camera"}), frozenset({"motion"})
    space = keypoints.SPACE
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {},
        "half": {"widths": "half", "batch": 8},
        "official": {"weights": "published", "adversarial": 0.0},
        "tiny": dict(steps=9, second=0.6, batch=1, window_rows=4, pairs=2, size=48, side=16, widths="tiny", perceptual=0.0, judge=4,
                     rate=2e-3),
    }  # fmt: skip
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.widths not in WIDTHS:
            raise InputError(f"live_portrait --widths {config.widths}", "no such widths", f"choose from: {', '.join(WIDTHS)}")
        if config.weights:
            self.networks = weights.published("" if config.weights == "published" else config.weights)
        else:
            self.networks = training.begin(Networks(WIDTHS[config.widths]))
        judged = 2 if config.adversarial else 0
        depth = min(3, config.side.bit_length() - 4)
        self.judges = torch.nn.ModuleList(training.Judge(config.judge, depth) for _ in range(judged))  # of the whole, of the lips
        self._draw: list[Callable[..., Tensor]] = []  # in a list: a copy, nobody's parameters
        self._perceptual: list[Perceptual] = []

    @classmethod
    def shipped(cls, seed: int = 0) -> Self:
        """With the authors' weights. Raises InputError, which says how to get them, where they cannot be had."""
        return cls(Config(weights="published", adversarial=0.0, seed=seed))

    def train(self, mode: bool = True) -> Self:
        self._draw.clear()  # made from weights that may change
        return super().train(mode)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks.parameters()).device

    # ---- drawing ----

    @torch.no_grad()
    def encode(self, source: Clip) -> Identity:
        """From one row: frames [1,3,H,W], landmarks [1,68,2] px. Raises InputError without a face."""
        if source.frames is None or source.landmarks is None:
            missing = ", ".join(source.missing(self.source_needs))
            raise InputError("live_portrait", f"the portrait has no {missing}", "give a picture in which a face is found")
        frame, landmarks, c = source.frames[:1].contiguous(), source.landmarks[:1], self.config
        where = around(landmarks, (2 * c.side, 2 * c.side), MARGIN, SHIFT)
        picture = functional.avg_pool2d(crop(frame, where), 2)
        canonical, motion = self.networks.measure(picture)
        points = keypoints.compose(canonical, motion)
        offset = self._offset(points, *training.opened(landmarks))
        pasting = Pasting(frame, where, soft_mask(where.size).to(frame))
        volume = self.networks.appearance(picture)
        if volume.is_cuda:  # as the drawer's convolutions read it, once a portrait
            volume = volume.contiguous(memory_format=torch.channels_last_3d)
        row = following.portrait(canonical, motion, points, offset)
        return Identity(volume, canonical, motion, points, offset, frame, where, pasting, row)

    def _offset(self, points: Tensor, eyes: Tensor, lips: Tensor) -> Tensor:  # [1,21,3], [1,2], [1,1] -> [1,21,3]
        """What retargeting adds to the driven points."""
        c, out = self.config, torch.zeros_like(points)
        if c.eyes >= 0:
            out = out + self.networks.stitching.eyes(points, eyes, torch.full_like(lips, c.eyes))
        if c.lips >= 0 or (c.calm_lips and float(lips) >= OPEN_LIPS):
            out = out + self.networks.stitching.lips(points, lips, torch.full_like(lips, max(c.lips, 0.0)))
        return out

    def driven(self, identity: Identity, motion: Motion) -> Tensor:  # -> [T,21,3]
        """Key points of the portrait under a motion, stitched and retargeted."""
        return self._points(identity.row.expand(len(motion), -1), following.moments(identity.motion, motion, self.config.absolute))[0]

    def _points(self, portraits: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        c, stitch = self.config, self.networks.stitching.stitch
        return following.followed(portraits, moments, stitch if c.stitch else None, c.absolute, c.multiplier)

    def draw(self, identity: Identity, motion: Motion) -> Tensor:  # T rows -> [T,3,2S,2S] in 0..1
        """The crop under a motion."""
        c, rows = self.config, len(motion)
        if not self._draw:
            self._draw.append(drawing.ready(self.networks, c.half, c.compiled, self._points))
        moments = following.moments(identity.motion, motion, c.absolute)
        return self._draw[0](identity.volume.expand(rows, -1, -1, -1, -1), identity.row.expand(rows, -1), moments)

    @torch.no_grad()
    def render(self, identity: Identity, clip: Clip) -> Tensor:  # -> [T,3,H,W] in 0..1
        """Frames of `clip.motion`, pasted into the portrait. Raises InputError for a motion of other than 63 numbers."""
        assert clip.motion is not None
        motion = clip.motion.to(identity.points.device if self.config.absolute else "cpu", identity.points.dtype)
        if motion.expression.shape[1:] != (63,):
            cause = f"an expression of {motion.expression.shape[1]} numbers, not 21 points"
            raise InputError("live_portrait", cause, "choose a generator of the space keypoints")
        return identity.pasting(identity.frame.expand(len(motion), -1, -1, -1), self.draw(identity, motion)).clamp(0, 1)

    @torch.no_grad()
    def measure(self, frames: Tensor, where: Crop) -> Motion:  # [T,3,H,W] -> T rows
        """Motion of faces in pictures, absolute: what drives this portrait or another (see data/driving.py)."""
        side = self.config.side
        return self.networks.measure(functional.avg_pool2d(crop(frames, where), where.size[0] // side))[1]

    # ---- training ----

    def pairs(self, clip: Clip) -> training.Pairs:
        """Random pairs within every window, seen through one steady crop a window."""
        return training.pairs(clip, self.config.window_rows, self.config.pairs, 2 * self.config.side, (MARGIN, SHIFT))

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """Stage I, without the judges' own."""
        given = self.pairs(clip)
        return self._first(given)[0]

    def _first(self, given: training.Pairs) -> tuple[dict[str, Tensor], Tensor]:
        """Named losses and the pictures drawn."""
        c, net, count = self.config, self.networks, len(given.source)
        small = functional.avg_pool2d(torch.cat([given.source, given.driving]), 2)
        canonical, motion = net.measure(small)
        points = keypoints.compose(canonical, motion)
        again = c.pairs
        source, driving = points[:count].repeat_interleave(again, 0), points[count:]
        drawn, _ = net.draw(net.appearance(small[:count]).repeat_interleave(again, 0), driving, source)
        bend = training.Bend(len(driving), small)
        bent = keypoints.compose(*net.measure(bend.pictures(small[count:])))
        out = {
            "pixels": c.reconstruct * losses.l1(drawn, given.driving),
            "equivariance": c.equivariance * (bend(bent[..., :2]) - driving[..., :2]).abs().mean(),
            "spread": c.spread * training.spread(points),
            "head": c.head * training.head(motion, given.rotation),
            "deformation": c.deformation * motion.expression.abs().mean(),
            "guidance": c.guidance * training.guidance(points, given.landmarks),
        }
        for name, made, true in self._views(drawn, given):
            if c.perceptual:
                if not self._perceptual:
                    self._perceptual.append(Perceptual.pretrained("vgg16", made.device))
                out[f"perceptual {name}"] = c.perceptual * self._perceptual[0](made, true).mean()
        for judge, (name, made, _) in zip(self.judges, self._views(drawn, given)):
            out[f"convince {name}"] = c.adversarial * training.convince(judge(made))
        return out, drawn

    def _views(self, drawn: Tensor, given: training.Pairs) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Drawn and true pictures: the whole, and the lips enlarged."""
        yield "whole", drawn, given.driving
        lips = (given.landmarks[len(given.source) :, LIPS] + 1) / 2 * drawn.shape[-1]
        box, size = torch.cat([lips.amin(1), lips.amax(1)], 1), (self.config.side, self.config.side)
        yield "lips", losses.crops(drawn, box, size, 0.3), losses.crops(given.driving, box, size, 0.3)

    def _second(self, given: training.Pairs) -> dict[str, Tensor]:
        """Stage II: stitching against the motion of other films where the step has some, and retargeting."""
        net, count, again = self.networks, len(given.source), self.config.pairs
        small = functional.avg_pool2d(torch.cat([given.source, given.driving]), 2)
        with torch.no_grad():
            canonical, motion = net.measure(small)
            own = keypoints.compose(canonical, motion)
            volume, source = net.appearance(small[:count]).repeat_interleave(again, 0), own[:count].repeat_interleave(again, 0)
            other = motion[torch.arange(count * again).roll(again) + count]
            driving = keypoints.compose(canonical[:count].repeat_interleave(again, 0), other)
            still = net.draw(volume, source, source)[0]
        stitched = net.stitching.stitch(source, driving)
        drawn = net.draw(volume, stitched, source)[0]
        face = (given.landmarks[:count].repeat_interleave(again, 0) + 1) / 2 * drawn.shape[-1]
        box = torch.cat([face.amin(1), face.amax(1)], 1)
        outside = 1 - losses.boxes(box, (drawn.shape[-2], drawn.shape[-1]), FACE)
        out = {"outside": losses.l1(drawn, still, outside), "stitching": (stitched - driving).abs().mean()}
        return out | training.retarget(net, own, given.landmarks)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Of F, M, W and G; of stitching and retargeting; of the judges."""
        net, rate = self.networks, self.config.rate
        groups = [[p for part in self._stage_one() for p in part.parameters()], list(net.stitching.parameters())]
        if self.config.adversarial:
            groups.append(list(self.judges.parameters()))
        return [torch.optim.Adam(group, lr=rate, betas=(0.5, 0.999)) for group in groups]

    def _stage_one(self) -> tuple[torch.nn.Module, ...]:
        return self.networks.appearance, self.networks.motion, self.networks.warping, self.networks.decoder

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step of stage I (drawers, then judges) or of stage II (stitching and retargeting alone)."""
        given, late = self.pairs(clip), step >= self.config.second * self.config.steps
        for part in self._stage_one():
            part.train(not late).requires_grad_(not late)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if late:
            out = self._second(given)
            torch.stack(list(out.values())).sum().backward()
            optimizers[1].step()
            return {name: value.detach() for name, value in out.items()}
        out, drawn = self._first(given)
        torch.stack(list(out.values())).sum().backward()
        optimizers[0].step()
        if self.config.adversarial:
            optimizers[2].zero_grad(set_to_none=True)
            for judge, (name, made, true) in zip(self.judges, self._views(drawn.detach(), given)):
                out[f"judge {name}"] = self.config.adversarial * training.tell_apart(judge(true), judge(made))
                out[f"judge {name}"].backward()
            optimizers[2].step()
        return {name: value.detach() for name, value in out.items()}
