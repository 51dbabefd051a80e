"""The instant path: one portrait speaks by warping its own picture, with no training and no weights beyond the landmarker.

The dense face mesh of the portrait is carried on to the picture's border by rings; the 52 scores move it through a learned
linear basis, the head's pose turns it in perspective, and the picture is drawn again on the moved triangles. Lips and lids
are closed by geometry, not by scores: the gap of the lips is set to what the scores mean, whatever the portrait's own mouth
does, so that a smiling portrait can shut its mouth. Behind the lips lies a drawn mouth (the portrait's own teeth where it shows
them), behind the lids the portrait's own eyes; neither stretches.

No paper: the parts are classic (mesh warp; blendshapes). What a single picture cannot give is not there: a head turned by
more than some 15 degrees shows stretched sides, and hair moves as one with the skull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivavoce.face import blendshapes, mesh, regions, rings
from vivavoce.face.pose import FLIP, matrix_from_euler
from vivavoce.method import Renderer
from vivavoce.registry import register
from vivavoce.render import eyes, mouth, warp
from vivavoce.types import Clip, InputError, Motion

PIVOT = (0.0, -0.05, -0.03)  # metres, canonical: where skull and spine meet; the head turns about it
CAMERA = 0.8  # metres from the face at which the portrait is taken to be photographed
RELIEF = 0.07  # metres: how deep a turning head is behind the tip of its nose, at most
TEETH_DEPTH = 0.008  # metres behind the lips
HOLDS = torch.tensor([[13, 14], [13, 14], [159, 145], [386, 374]])  # between these: mouth with the skull, with the jaw, right and left eye
CORNERS = [[[-0.02, 0, -z], [0.02, 0, -z], [0, -0.02, -z]] for z in (TEETH_DEPTH, TEETH_DEPTH, 0, 0)]  # metres from there
BLINK = {"Right": (regions.BLENDSHAPES.index("eyeBlinkRight"), regions.EYE_RIGHT),
         "Left": (regions.BLENDSHAPES.index("eyeBlinkLeft"), regions.EYE_LEFT)}  # fmt: skip
LIDS = torch.tensor([name.startswith(("eyeBlink", "eyeLook")) for name in regions.BLENDSHAPES])
OPEN_EYE, SHUT_EYE = 0.2, 0.55  # blink scores of an ordinary open and of a shut eye
ROLL, LID_ROLL = 0.002, 0.16  # by which the edges of shut lips (metres) and lids (share of their opening) roll in
MEET = 0.8  # how far down the opening the lids meet
KEPT = ("mouthSmile", "mouthDimple", "mouthFrown", "cheek", "noseSneer", "brow", "eyeSquint")

SMILE = torch.tensor([name.startswith(("mouthSmile", "mouthDimple")) for name in regions.BLENDSHAPES])
ROUND = [regions.BLENDSHAPES.index(name) for name in ("mouthFunnel", "mouthPucker")]


@dataclass
class Config:
    """Settings."""

    keep: float = 0.6  # share of the portrait's own smile, brows and squint that speech does not take away
    strength: float = 1.0  # of the mouth's movement
    shut: float = 0.0008  # metres: a smaller gap of the lips is a shut mouth
    soft: float = 0.0014  # metres over which lips and lids blend into what lies behind
    backend: str = "auto"  # of the warp: numba, torch
    size: int = 512  # side of the crop that the portrait is best given as


@dataclass
class Identity:
    """A portrait, ready to be moved. V = 468 mesh + ring vertices; lengths px unless said."""

    picture: Tensor  # [3,H,W]
    points: Tensor  # [V,3]
    triangles: Tensor  # [F,3]
    canonical: Tensor  # [468,3] metres, the source's face in head space
    frame: Tensor  # [3,3] px of the picture (x right, y down, z away) from metres of head space, without shift
    origin: Tensor  # [3] px, where the origin of head space lies
    surround: rings.Surround
    units: Tensor  # [52] the source's own expression
    lips: Tensor  # [468,18] share of each vertex in the upper and the lower inner lip's movement
    lids: dict[str, Tensor]  # [468,14] by side, the same of the upper and the lower lid
    mouth: mouth.Mouth
    eyes: dict[str, eyes.Eye]


@register(
    family="portrait", paper="none; mesh warping after Wolberg, Digital Image Warping (1990)", origin="vivavoce", license="Apache-2.0"
)
class FaceWarp(Renderer):
    """Renders a portrait's crop; see the module."""

    needs = frozenset({"motion"})
    source_needs = frozenset({"frames", "points", "units"})
    space = "blendshapes"
    presets: ClassVar = {"tiny": {"size": 64}}
    config: Config

    @torch.no_grad()
    def encode(self, source: Clip) -> Identity:
        """From one row: frames [1,3,H,W], points [1,478,3] px, units [1,52]. Raises InputError without a face."""
        missing = source.missing(self.source_needs)
        if missing:
            raise InputError("face_warp", f"the portrait has no {', '.join(missing)}", "give a picture in which a face is found")
        assert source.frames is not None and source.points is not None and source.units is not None
        picture, points, units = source.frames[0].contiguous(), source.points[0, : regions.MESH].float(), source.units[0]
        size = (picture.shape[1], picture.shape[2])
        canonical, rotation, scale, shift = (v[0] for v in blendshapes.align(points[None]))
        flip = points.new_tensor(FLIP)
        around = rings.surround(points, size)
        frame = flip[:, None] * rotation * scale
        faces = torch.cat([torch.from_numpy(mesh.triangles()).to(points.device), around.triangles])
        lids = {side: rings.lid_shares(loop).to(points) for side, (_, loop) in BLINK.items()}
        inside = self._mouth(picture, points, canonical, units, frame, flip * shift)
        balls = {side: eyes.draw(picture, _outline(points[None], loop)[0]) for side, (_, loop) in BLINK.items()}
        return Identity(
            picture, torch.cat([points, around.points]), faces, canonical, frame, flip * shift, around,
            units, rings.lip_shares().to(points), lids, inside, balls,
        )  # fmt: skip

    def _mouth(self, picture: Tensor, points: Tensor, canonical: Tensor, units: Tensor, frame: Tensor, origin: Tensor) -> mouth.Mouth:
        """Draws the inside of the mouth in the portrait's own colours."""
        rest = canonical - blendshapes.load().to(picture.device).move(units)
        touch = (rest[13] + rest[14]) / 2
        touch[0] = canonical[[78, 308], 0].mean()
        anchor, lips = frame @ touch + origin, _outline(points[None], regions.LIPS_INNER)[0]
        return mouth.draw(picture, lips, anchor[:2], frame[:2, :2], _tones(picture, points), float(_gaps(canonical).max()))

    def _expression(self, identity: Identity, motion: Motion) -> Tensor:  # -> [T,52]
        """Target scores, with what of the portrait's own expression stays."""
        target, own = motion.expression.to(identity.units), identity.units
        if identity.mouth.shows:
            kept = torch.tensor([n.startswith(KEPT) for n in regions.BLENDSHAPES])
        else:  # what scores the shut mouth of this face has, belongs to its shape
            kept = torch.tensor([not n.startswith(("jawOpen", "eyeBlink", "eyeLook")) for n in regions.BLENDSHAPES])
        round_lips = target[:, ROUND].sum(1, keepdim=True).clamp(max=1)  # which a smile that stays would spoil
        share = self.config.keep * kept.to(own) * torch.where(SMILE.to(own.device), 1 - round_lips, 1.0)
        return target + share * (own - target).clamp(min=0)

    def _face(self, identity: Identity, motion: Motion) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Movement of the mesh in head space [T,468,3] metres, the lips' gap [T] metres, and how far the mesh's corners slide
        over the picture [T,468,3] metres: shut lips and lids roll in, so that no tooth and no eye's white stays on their edge.
        Last, how far mouth, right and left eye are shut that are open in the picture [3,T]."""
        own = identity.units
        basis, said, scores = blendshapes.load().to(own.device), motion.expression.to(own), self._expression(identity, motion)
        calm = torch.where(LIDS.to(own.device), own, scores)  # the lids are moved below
        moved = (basis.move(calm) - basis.move(own)) * self.config.strength
        wanted = self._gap(basis, identity, said)  # [T,9]
        rest = wanted - _gaps(identity.canonical + moved)
        change = torch.cat([0.45 * rest, -0.55 * rest], 1) @ identity.lips.T  # [T,468]
        moved[..., 1] += change
        slide = torch.zeros_like(moved)
        shuts = [torch.zeros_like(wanted[:, 0])]
        if identity.mouth.shows:
            closed = 1 - (wanted / _gaps(identity.canonical).clamp(min=1e-4)).clamp(max=1)  # [T,9]
            upper, lower = (list(side) for side in zip(*blendshapes.LIP_PAIRS, strict=True))
            slide[:, upper, 1], slide[:, lower, 1] = ROLL * closed, -ROLL * closed
            shuts = [(1 - wanted.amax(1) / identity.mouth.opening).clamp(min=0)]
        for side, (index, loop) in BLINK.items():
            base = own[index].clamp(min=OPEN_EYE)
            top = torch.maximum(base + 0.15, base.new_tensor(SHUT_EYE))
            shut = _step((scores[:, index] - base) / (top - base))
            upper, lower = rings.lid_pairs(loop)
            opening = identity.canonical[lower] - identity.canonical[upper]  # [7,3]
            ways = torch.cat([MEET * opening, -(1 - MEET) * opening])  # [14,3]
            moved = moved + shut[:, None, None] * (identity.lids[side] @ ways)
            roll = -LID_ROLL * shut[:, None] * opening[:, 1]  # [T,7]
            slide[:, upper, 1], slide[:, lower, 1] = roll, -roll
            shuts.append(shut)
        return moved, wanted.amax(1), slide, torch.stack(shuts)

    def _gap(self, basis: blendshapes.Basis, identity: Identity, scores: Tensor) -> Tensor:  # -> [T,9] metres
        """Gap of the lips that the scores ask for: the portrait's own at its own scores, none where they mean a shut mouth."""
        dead = self.config.shut
        said, own = ((basis.gap(s) - dead).clamp(min=0) * self.config.strength for s in (scores, identity.units))
        measured = _gaps(identity.canonical)
        share = torch.where(own > 0, (said / own.clamp(min=1e-4)).clamp(max=1), (said > 0).to(said))
        same = (scores - identity.units).abs().amax(1, keepdim=True) < 1e-6
        return torch.where(same, measured, (said + share * (measured - own)).clamp(min=0))

    def _place(self, identity: Identity, moved: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
        """Target vertices [T,V,3] px, and affine maps of the picture, source from target: [4,T,2,3] of mouth with the skull, mouth with the
        jaw, right and left eye."""
        shift = moved @ identity.frame.T  # [T,468,3] px
        points, around = identity.points, identity.surround
        skin = torch.cat([shift, shift[:, around.anchor] * around.skin[:, None]], 1)
        weight = torch.cat([points.new_ones(regions.MESH), around.rigid])[:, None]
        still = points + skin
        relief = still - torch.cat([torch.zeros_like(still[..., :2]), self._flattened(identity, still[..., 2:])], -1)
        target = still + weight * (self._turn(identity, relief, motion) - relief)
        jaw = (0.65 * moved[:, 152] + 0.35 * moved[:, 14]) @ identity.frame.T  # [T,3]
        centres = identity.canonical[HOLDS].mean(1)  # [4,3]
        fixed = (centres[:, None] + centres.new_tensor(CORNERS)) @ identity.frame.T + identity.origin  # [4,3,3] px
        follows = fixed + jaw[:, None, None] * fixed.new_tensor([0, 1, 0, 0])[:, None, None]  # [T,4,3,3]
        turned = self._turn(identity, follows.flatten(1, 2), motion)[..., :2].unflatten(1, (4, 3))
        return target, _affine(turned, fixed[..., :2]).transpose(0, 1)

    def _flattened(self, identity: Identity, depth: Tensor) -> Tensor:  # [T,V,1] px -> what to take off
        """The sides of a face are almost parallel to the view; turned as they are, they would fold over what lies beside them."""
        behind, most = (depth - identity.points[4, 2]).clamp(min=0), RELIEF * identity.frame.norm(dim=0).mean()
        extra: Tensor = behind - most * torch.tanh(behind / most)
        return extra

    def _turn(self, identity: Identity, places: Tensor, motion: Motion) -> Tensor:  # [T or 1,P,3] px -> [T,P,3]
        """The rigid head movement, seen in perspective; without movement every place stays exactly where it is."""
        flip = places.new_tensor(FLIP)
        size = identity.frame.norm(dim=0).mean()  # px a metre
        pivot = identity.frame @ places.new_tensor(PIVOT) + identity.origin
        away = CAMERA * size
        height, width = identity.picture.shape[-2:]
        center = places.new_tensor([width / 2, height / 2])
        front = identity.points[4, 2]

        def spread(p: Tensor, sign: float) -> Tensor:  # picture -> space (+1) and back (-1)
            factor = (1 + (p[..., 2:] - front) / away) ** sign
            return torch.cat([center + (p[..., :2] - center) * factor, p[..., 2:]], -1)

        space, middle = spread(places, 1.0), spread(pivot, 1.0)
        rotation = matrix_from_euler(motion.rotation.to(places)) * flip[:, None] * flip  # in picture axes
        moved = ((space - middle) @ rotation.transpose(1, 2)) * motion.scale.to(places)[:, None] + middle
        moved = moved + (motion.translation.to(places) * flip * size)[:, None]
        change = moved - space  # written as a change so that no movement means no rounding
        still = motion.rotation.abs().sum(1) + motion.translation.abs().sum(1) + (motion.scale[:, 0] - 1).abs() == 0
        return torch.where(still.to(places.device)[:, None, None], places + 0 * change, spread(space + change, -1.0))

    @torch.no_grad()
    def render(self, identity: Identity, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames of `clip.motion`: absolute scores, pose relative to the portrait (see types.Motion)."""
        assert clip.motion is not None
        motion, config = clip.motion, self.config
        moved, gap, slide, shut = self._face(identity, motion)
        target, maps = self._place(identity, moved, motion)
        source = identity.points[:, :2].repeat(len(moved), 1, 1)
        source[:, : regions.MESH] += (slide @ identity.frame.T)[..., :2]
        size = (identity.picture.shape[1], identity.picture.shape[2])
        frames = warp.warp(identity.picture, source, target, identity.triangles, size, config.backend, identity.picture).image
        lips, soft = _outline(target, regions.LIPS_INNER), max(0.8, config.soft * float(identity.frame.norm(dim=0).mean()))
        inside = mouth.compose(identity.mouth, maps[0], maps[1], lips, gap, shut[0], soft, config.backend)
        _blend(frames, inside)
        for (side, (_, loop)), skull, closed in zip(BLINK.items(), maps[2:], shut[1:], strict=True):
            ball = eyes.compose(identity.eyes[side], skull, _outline(target, loop), closed, soft, config.backend)
            _blend(frames, ball)
        return frames


def _blend(frames: Tensor, layer: mouth.Layer) -> None:
    """Lays it over frames [T,3,H,W], in place."""
    (left, top), (height, width) = layer.origin, layer.mask.shape[-2:]
    window = frames[:, :, top : top + height, left : left + width]
    window.copy_(torch.lerp(window, layer.colour, layer.mask.expand_as(layer.colour)).clamp(0, 1))


def _step(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _gaps(canonical: Tensor) -> Tensor:  # [...,468,3] -> [...,9] metres
    upper, lower = (list(side) for side in zip(*blendshapes.LIP_PAIRS, strict=True))
    return canonical[..., upper, 1] - canonical[..., lower, 1]


def _affine(source: Tensor, target: Tensor) -> Tensor:  # [T,K,3,2], [K,3,2] px -> [T,K,2,3] target from source
    ones = source.new_ones(*source.shape[:-1], 1)
    found: Tensor = torch.linalg.solve(torch.cat([source, ones], -1), target.expand_as(source))
    return found.transpose(-2, -1)


def _outline(points: Tensor, loop: tuple[int, ...]) -> Tensor:  # [T,V,2 or 3] -> [T,2P,2]
    """A closed outline with a point more between each two, on the cubic through four."""
    here = points[:, list(loop), :2]
    before, after, beyond = here.roll(1, 1), here.roll(-1, 1), here.roll(-2, 1)
    between = (9 * (here + after) - before - beyond) / 16
    return torch.stack([here, between], 2).flatten(1, 2)


def _tones(picture: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [3,H,W], [468,3] -> [3] each
    """Colours of teeth, lips and skin of the portrait: teeth as light as the white of the eyes, or as the skin if that is lighter."""

    def read(places: Tensor) -> Tensor:  # [K,2] px -> [3,K]
        return warp.sample(picture[None], places[None, None])[0, :, 0]

    flat = points[:, :2]
    skin = read(flat[[50, 280, 205, 425, 117, 346, 151, 9]]).median(1).values
    outer, inner = flat[[0, 17, 37, 267, 84, 314, 181, 405]], flat[[13, 14, 82, 312, 87, 317, 178, 402]]
    lip = read(torch.lerp(outer, inner, 0.45)).median(1).values
    upper, lower = (flat[[n for _, loop in BLINK.values() for n in rings.lid_pairs(loop)[i]]] for i in (0, 1))  # [14,2]
    white = read(torch.cat([torch.lerp(upper, lower, t) for t in (0.3, 0.5, 0.7)]))
    bright = white[:, white.mean(0).argsort()[-8:]].mean(1)
    light = torch.maximum(bright.mean(), 0.9 * skin.mean())
    pale, flesh = (1 - c.min() / c.max().clamp(min=1e-3) for c in (bright, skin))
    stone = (pale / flesh.clamp(min=1e-3)).clamp(max=1)  # eyes of the skin's own colour: a statue, and its teeth are stone too
    hue = torch.lerp(torch.ones_like(skin), skin / skin.mean().clamp(min=1e-3), 0.45 + 0.45 * stone)
    return (1.15 * light * hue).clamp(0, 0.95), lip, skin
