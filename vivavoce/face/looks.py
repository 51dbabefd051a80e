"""What skin, hair and cloth of one clip look like: a small network that each clip trains for itself.

It learns from places that are surely one of the three, seen from the tracked face mesh: the middle of the face; what lies above and
beside it, nearer to the person's outline than to the face; what lies below the chin and has neither of their colours. It sees each
pixel's colour, the colours and the texture around it, and (blurred by noise, so that colours count for more) its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from vivavoce.face import regions

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

RIM = 3  # px at half size: the person's outline, whose colours are mixed with the background's
CHIN, FOREHEAD, RIGHT, LEFT = 152, 10, 234, 454  # mesh points
COLLAR = 0.24  # of the way from chin to forehead: no collar or shoulder reaches higher
SKIN, HAIR, CLOTH = range(3)
BINS = 16  # of a colour histogram, each channel
SOME = 0.03  # of the pixels below the chin: less is no cloth
BARE = 0.35  # share of skin's colours below the chin that says that no cloth covers the shoulders
CROWN = 2.0  # on the top of the head only a colour so many times as frequent there as in the face is surely hair's: it may be a forehead
OFTEN, RARELY = 3.0, 10.0  # a colour so many times as frequent below the chin as in the face, or in hanging hair, is cloth's
SHADES = (0.9, 0.8, 0.7)  # how much darker than the face the neck may be
TYPICAL = 0.95  # of a class's pixels have colours typical of it
FEATURES, HIDDEN = 13, 24  # of the clip's own network
EACH = 400  # pixels of a class taken from a frame to learn from
STEPS, ROUNDS = 100, 2  # of learning
WANDER = 0.25  # noise on a pixel's place while learning: colours count for more than places


def luminance(picture: Picture) -> Array:  # uint8 [H,W,3] -> [H,W] 0..1
    return np.asarray(Image.fromarray(picture).convert("L"), np.float32) / np.float32(255)


def mean(colour: NDArray[Any]) -> Array:  # [H,W,3] -> [H,W]
    """Of the three channels; NumPy's own takes five times as long over so short an axis."""
    return np.asarray((colour[..., 0] + colour[..., 1] + colour[..., 2]) / np.float32(3))


@dataclass
class Place:
    """The face's own axes in a picture: u across (-1 and 1 at the sides of the face), v up (0 at the chin, 1 at the forehead)."""

    origin: Array  # [2] the chin
    turn: Array  # [2,2] rows: u and v per pixel

    def __call__(self, size: tuple[int, ...], scale: float = 1.0) -> tuple[Array, Array]:  # (H, W)
        """u and v of each pixel of a picture whose pixels are `scale` of the mesh's."""
        height, width = size[:2]
        x = (np.arange(width, dtype=np.float32) + 0.5)[None] * scale - self.origin[0]
        y = (np.arange(height, dtype=np.float32) + 0.5)[:, None] * scale - self.origin[1]
        return self.turn[0, 0] * x + self.turn[0, 1] * y, self.turn[1, 0] * x + self.turn[1, 1] * y


def placed(points: Array) -> Place:  # [478,3] px
    """Axes from the mesh of a frame."""
    chin, forehead = points[CHIN, :2], points[FOREHEAD, :2]
    up = forehead - chin
    across = np.array([-up[1], up[0]]) / np.linalg.norm(up)  # to the picture's right when the head is upright
    half = np.abs((points[[RIGHT, LEFT], :2] - chin) @ across).max()
    return Place(chin, np.stack([across / half, up / (up @ up)]).astype(np.float32))


def filled(points: Array, loop: tuple[int, ...], size: tuple[int, ...], scale: float = 1.0) -> Mask:  # [478,3] -> [H,W]
    """Inside of a loop of mesh points, in a picture whose pixels are `scale` of the mesh's."""
    picture = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in points[list(loop), :2] / scale - 0.5], fill=1)
    return np.asarray(picture)


@dataclass
class View:
    """What is looked at of one frame, at SIDE or less."""

    small: Picture  # [h,w,3]
    person: Array  # [h,w] 0..1
    oval: Mask  # [h,w] inside the face's outline
    face: Mask  # [h,w] of it what is surely skin: from chin to brows, without the lips, which have the colours of ties
    u: Array  # [h,w]
    v: Array

    @classmethod
    def of(cls, small: Picture, person: Array, points: Array, width: int) -> View:
        """`points` are px of a picture `width` px wide."""
        scale = width / small.shape[1]
        u, v = placed(points)(small.shape, scale)
        oval, lips = (filled(points, loop, small.shape, scale) for loop in (regions.OVAL, regions.LIPS_OUTER))
        face = oval & ~ndimage.binary_dilation(lips, iterations=RIM) & (v > 0.05) & (v < 0.62)
        return cls(small, person, oval, face, u, v)

    def features(self) -> Array:  # [h*w,13]
        """Each pixel's colour, the colour around it at two sizes, how rough it is there, and its place seen from the face."""
        colour = self.small.astype(np.float32) / 255
        near, wide = ndimage.uniform_filter(colour, (5, 5, 1)), ndimage.uniform_filter(colour, (11, 11, 1))
        rough = ndimage.uniform_filter(np.abs(mean(colour) - mean(near)), 7) * 5
        u, v = np.clip(self.u, -2.5, 2.5), np.clip(self.v, -2, 2)
        parts = [colour, near, wide, rough[..., None], u[..., None], np.abs(u)[..., None], v[..., None]]
        return np.concatenate(parts, 2).reshape(-1, FEATURES) - np.float32(0.5)


def binned(picture: Picture) -> NDArray[np.int64]:  # uint8 [H,W,3] -> [H,W]
    """Bin of each pixel's colour."""
    b = (picture // (256 // BINS)).astype(np.int64)
    return np.asarray((b[..., 0] * BINS + b[..., 1]) * BINS + b[..., 2])


def histogram(bins: NDArray[np.int64]) -> Array:  # -> [BINS**3], sums to 1
    """How often each colour occurs, spread over its neighbours."""
    counts = np.bincount(bins, minlength=BINS**3).astype(np.float32).reshape(BINS, BINS, BINS)
    spread = ndimage.gaussian_filter(counts, 0.8).reshape(-1)
    return np.asarray(spread / max(float(spread.sum()), 1e-6), np.float32)


def typical(colours: Array, mass: float = TYPICAL) -> Mask:  # [BINS**3] -> [BINS**3]
    """The fewest colours that make up this much of a histogram."""
    order = np.argsort(-colours)
    out = np.zeros(len(colours), bool)
    out[order[: int(np.searchsorted(np.cumsum(colours[order]), mass)) + 1]] = True
    return out & (colours > 0)


@dataclass
class Looks:
    """What skin, hair and cloth of one clip look like: a network of two layers, and what the clip has at all."""

    first: Array  # [13,24]
    shift: Array  # [24]
    second: Array  # [24,3]
    offset: Array  # [3]
    bald: bool

    @classmethod
    def learned(cls, views: list[View]) -> Looks:
        """From some frames of the clip, spread over it."""
        bald, seeds = surely(views)
        seen = [view.features() for view in views]
        looks = cls(*_fitted(*_drawn(seen, seeds)), bald)
        for _ in range(ROUNDS - 1):
            again = []
            for view, features, seed in zip(views, seen, seeds, strict=True):
                found = looks.parts(features).reshape(*view.u.shape, 3)
                looks.placed(found, view)
                best = found.argmax(2)
                best[(found.max(2) < 0.8) | (view.person < 0.9)] = -1
                again.append(np.where(view.oval & (seed >= 0), seed, best))
            looks = cls(*_fitted(*_drawn(seen, again)), bald)
        return looks

    def parts(self, features: Array) -> Array:  # [N,13] -> [N,3]
        """Probabilities of skin, hair and cloth."""
        first, shift, second, offset = (torch.from_numpy(w) for w in (self.first, self.shift, self.second, self.offset))
        hidden = torch.addmm(shift, torch.from_numpy(features), first).relu_()
        return np.asarray(torch.addmm(offset, hidden, second).softmax(1).numpy())

    def placed(self, parts: Array, view: View) -> None:  # [h,w,3], changed
        """No cloth beside the face, no hair on a bald head."""
        parts[..., CLOTH][view.v > COLLAR] = 0
        if self.bald:
            parts[..., HAIR] = 0


def surely(views: list[View]) -> tuple[bool, list[NDArray[np.int8]]]:
    """Is the head bald, and the pixels of each frame that are surely skin, hair or cloth (-1: not sure)."""
    bins = [binned(view.small) for view in views]

    def colours(where: list[Mask]) -> Array:
        return histogram(np.concatenate([b[w] for b, w in zip(bins, where, strict=True)]))

    sure = [view.person > 0.9 for view in views]
    faces = [w.face for w in views]
    tops = [crown(w) & s for s, w in zip(sure, views, strict=True)]
    lows = [s & (w.v < -0.1) & ((np.abs(w.u) > 0.75) | (w.v < -0.3)) for s, w in zip(sure, views, strict=True)]
    skin, hair = colours(faces), colours(tops)
    bald = hairless(views, tops, skin, hair)
    if bald:
        hair = np.zeros_like(hair)
    under = [s & ~w.oval & (np.abs(w.u) < 0.45) & (w.v > -0.2) & (w.v < -0.02) for s, w in zip(sure, views, strict=True)]
    dark = [binned((view.small * np.float32(d)).astype(np.uint8))[face] for view, face in zip(views, faces, strict=True) for d in SHADES]
    shaded = typical(histogram(np.concatenate(dark))) & typical(colours(under))  # the neck in the chin's shadow
    hung = any(hanging(views, [s & typical(hair)[b] for s, b in zip(sure, bins, strict=True)], sign) for sign in (-1, 1))
    if hung:  # its ends are often lighter than the crown
        hair = (hair + colours([s & locks(w) for s, w in zip(sure, views, strict=True)])) / np.float32(2)
    # blond hair has colours of skin, but others more often
    hairy = typical(hair) & ((hair > skin) if hung else ~typical(skin, 0.8))
    low, fair = colours(lows), typical(skin, 0.75) & ~(hairy & hung)
    light = (np.indices((BINS, BINS, BINS)) + 0.5).sum(0).reshape(-1)  # of each colour
    worn = (low > OFTEN * skin) & (light < light @ skin / 2)  # a black shirt below a black beard
    body = low * ~(hairy & hung)
    bare = body @ (fair & ~worn) > BARE * body.sum()  # shoulders
    fair &= ~worn | bare
    skinny = fair | shaded
    other = (typical(skin, 0.9) & (~worn | bare)) | (hung & typical(hair, 0.99) & (low < RARELY * hair))
    seeds = []
    for b, s, w, face, top, lower in zip(bins, sure, views, faces, tops, lows, strict=True):
        out = np.full(b.shape, -1, np.int8)
        side = np.abs(w.u)
        out[lower & ~other[b] & ~(shaded[b] & (side < 0.75))] = CLOTH
        out[s & ~w.oval & (w.v < 0) & skinny[b] & ~hairy[b] & (bare | ((w.v > -0.2) & (side < 0.6)))] = SKIN
        out[s & (w.v > 0.3) & (w.v < 0.75) & (side > 0.95) & (side < 1.25) & skinny[b] & ~hairy[b]] = SKIN  # ears
        out[s & w.oval & (w.v > 0.62) & skinny[b] & ~hairy[b]] = SKIN  # the forehead, where no hair falls over it
        if hung:
            out[s & (side > 0.9) & (w.v < 0.9) & ~w.oval & hairy[b] & (out != CLOTH)] = HAIR
        if not bald:
            out[top & (hair[b] > CROWN * skin[b])] = HAIR
        out[face] = SKIN
        seeds.append(out)
    cloth, bodies = (sum(int(m.sum()) for m in masks) for masks in ([out == CLOTH for out in seeds], lows))
    if cloth < SOME * bodies:  # no cloth at all, only pixels along edges
        seeds = [np.where(out == CLOTH, -1, out) for out in seeds]
    return bald, seeds


def crown(view: View) -> Mask:  # [h,w]
    """Where hair is if there is any: above and beside the face, farther from it than from the person's outline; beyond the ears."""
    padded = np.pad(view.person > 0.5, 1)
    out_in = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    from_face = ndimage.distance_transform_edt(~view.oval)
    side = np.abs(view.u)
    over = (view.v > 0.9) & (out_in < from_face)
    return np.asarray(~view.oval & (over | ((side > 1.4) & (view.v > 0.2))))


def locks(view: View) -> Mask:  # [h,w]
    """Where nothing but hanging hair can be: beside the face, above any collar."""
    side = np.abs(view.u)
    return np.asarray(~view.oval & (side > 1.05) & (side < 1.6) & (view.v > COLLAR) & (view.v < 0.9))


def hairless(views: list[View], tops: list[Mask], skin: Array, hair: Array) -> bool:
    """The top of the head has the colours of the face, is as bright as the forehead and no rougher."""
    grey = [luminance(w.small) for w in views]
    rough = [np.abs(g - ndimage.uniform_filter(g, 5)) for g in grey]
    brows = [w.oval & (w.v > 0.86) & (np.abs(w.u) < 0.5) for w in views]
    tops = [t & (ndimage.minimum_filter(w.person, 2 * RIM + 1) > 0.5) for t, w in zip(tops, views, strict=True)]  # the outline is rough
    if sum(int(t.sum()) for t in tops) < 50 or not any(b.any() for b in brows):
        return True
    (smooth, light), (coarse, bright) = (
        [np.concatenate([r[m] for r, m in zip(of, where, strict=True)]).mean() for of in (rough, grey)] for where in (brows, tops)
    )
    return bool(np.minimum(skin, hair).sum() > 0.2 and coarse < 1.5 * smooth and bright > 0.85 * light)


def hanging(views: list[View], hairy: list[Mask], sign: int) -> bool:
    """Hair hangs beside the jaw, on the picture's left (-1) or right (1)."""
    beside = [(sign * w.u > 1.05) & (sign * w.u < 1.45) & (w.v > COLLAR) & (w.v < 0.45) for w in views]
    return bool(sum(int((h & b).sum()) for h, b in zip(hairy, beside, strict=True)) > 0.4 * max(sum(int(b.sum()) for b in beside), 1))


def _drawn(seen: list[Array], seeds: list[NDArray[np.int8]]) -> tuple[Array, NDArray[np.int64]]:
    """Pixels to learn from: as many of each class, where there are so many."""
    random = np.random.default_rng(0)
    features, labels = [], []
    for rows, seed in zip(seen, seeds, strict=True):
        for k in (SKIN, HAIR, CLOTH):
            places = np.flatnonzero(seed == k)
            chosen = random.choice(places, min(EACH, len(places)), replace=False)
            features.append(rows[chosen])
            labels.append(np.full(len(chosen), k))
    return np.concatenate(features), np.concatenate(labels)


def _fitted(features: Array, labels: NDArray[np.int64]) -> tuple[Array, Array, Array, Array]:  # [N,13], [N]
    """The network's weights, by Adam on all pixels at once; the same every time."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    first, second = torch.randn(FEATURES, HIDDEN, generator=g) * 0.3, torch.randn(HIDDEN, 3, generator=g) * 0.2
    weights = [t.requires_grad_() for t in (first, torch.zeros(HIDDEN), second, torch.zeros(3))]
    share_of = torch.bincount(y, minlength=3).clamp_min(1).float()
    balance = (share_of.sum() / share_of).clamp(max=10)
    adam = torch.optim.AdamW(weights, 0.03, weight_decay=0.01)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = 0.03 * (1 - step / STEPS)
        moved = x.clone()
        moved[:, -3:] += WANDER * torch.randn(len(x), 3, generator=g)
        scores = torch.relu(moved @ weights[0] + weights[1]) @ weights[2] + weights[3]
        loss = torch.nn.functional.cross_entropy(scores, y, balance, label_smoothing=0.02)
        adam.zero_grad()
        loss.backward()
        adam.step()
    a, b, c, d = (w.detach().numpy() for w in weights)
    return a, b, c, d
