"""Head, hair, neck, cloth, background of a picture, told apart without weights on research terms.

MediaPipe's selfie net (Apache-2.0) tells person from background; its outline is moved to the picture's own edges by a guided
filter (He et al., 2013). A small network that each clip trains for itself tells skin, hair and cloth apart (`looks.py`). The face
mesh splits the skin into head and neck, and gives the inside of the mouth.

All but the outline is worked out at half size or less (SIDE).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from vivavoce import assets
from vivavoce.face import litert, regions
from vivavoce.face.looks import CLOTH, HAIR, RIM, SKIN, Array, Looks, Mask, Picture, View, filled, luminance, placed

SIDE = 256  # px, longest side at which colours are looked at; also the side of the selfie net's square picture
RADIUS, EPSILON = 6, 1e-4  # of the guided filter: px at SIDE, variance of luminance
TINT, FAR = 0.01, 4.0  # least spread of a face's tint, and spreads from its middle at which a tint is not the neck's
JAW = 0.22  # of the way from chin to forehead, beside the face: skin below it is neck, above it ears
BROW = 0.88  # hair that falls over the forehead ends above the eyebrows
SKIN_POINTS = (50, 101, 36, 205, 280, 330, 266, 425, 10, 151, 9, 67, 297)  # mesh points of bare skin: cheeks, forehead
TOOTH = 0.5  # of the skin's brightness
OPEN = 0.03  # gap between the inner lips over the mouth's width: of a shut mouth their outline is a line of noise


class Selfie:
    """Person against background; one for each thread."""

    def __init__(self) -> None:
        self.net = litert.opened(1, model_path=str(assets.path("selfie_segmentation")))
        self.entry, self.exit = self.net.get_input_details()[0]["index"], self.net.get_output_details()[0]["index"]

    def __call__(self, picture: Picture) -> Array:  # uint8 [H,W,3] -> [256,256] 0..1, the whole picture made square
        """Probability of the person."""
        image = Image.fromarray(picture)
        image = image.reduce(max(1, min(image.size) // SIDE))
        self.net.set_tensor(self.entry, np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)[None] / 255)
        self.net.invoke()
        return np.array(self.net.get_tensor(self.exit)[0, :, :, 0])


def reduced(picture: Picture) -> Picture:
    """The picture at SIDE or less."""
    return np.asarray(Image.fromarray(picture).reduce(max(1, -(-max(picture.shape[:2]) // SIDE))))


def resized(values: Array, size: tuple[int, ...]) -> Array:  # [h,w] -> [H,W]
    """Brought to another size, bilinearly."""
    if values.shape == size:
        return values
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)


def outlined(mask: Array, picture: Picture, small: Picture) -> Array:  # [256,256] 0..1 -> [H,W] 0..1
    """The net's coarse mask at full size, its edge moved to the picture's: the filter's coefficients come from the small picture."""
    guide = luminance(small)
    p = resized(mask, small.shape[:2])

    def mean(values: Array) -> Array:
        return np.asarray(ndimage.uniform_filter(values, 2 * RADIUS + 1), np.float32)

    mg, mp = mean(guide), mean(p)
    own = (mean(guide * p) - mg * mp) / (mean(guide * guide) - mg * mg + np.float32(EPSILON))
    slope, shift = mean(own.astype(np.float32)), mean((mp - own * mg).astype(np.float32))
    size = picture.shape[:2]
    return np.asarray(resized(slope, size) * luminance(picture) + resized(shift, size))


def classes(view: View, looks: Looks, outline: Array, points: Array) -> Picture:  # -> uint8 [H,W]
    """Labels of a frame at full size.

    Args:
        view: what the frame looks like at SIDE or less.
        outline: [H,W] probability of the person.
        points: [478,3] px.
    """
    parts = np.zeros((*view.u.shape, 3), np.float32)
    there = ndimage.maximum_filter(view.person, 5) > 0.2
    parts[there] = looks.parts(view.features()[there.reshape(-1)])
    looks.placed(parts, view)
    parts = inward(parts, view.person > 0.5)
    parts[..., SKIN][tinted(view)] = 0
    best = parts.argmax(2)
    for k, joined in ((HAIR, view.v > 0.5), (SKIN, view.oval)):  # a dark coat is no hair, a pink tie no skin: those join the head
        pieces, count = ndimage.label(best == k)
        apart = np.ones(count + 1, bool)
        apart[pieces[joined]] = apart[0] = False
        parts[apart[pieces], k] = 0
    np.maximum(parts[..., CLOTH], 0.02 * (view.v < 0), out=parts[..., CLOTH])  # cloth takes what skin and hair lose there
    below = view.v < JAW
    skin = parts[..., SKIN]
    four = np.stack([np.where(below, 0, skin), np.where(below, skin, 0), parts[..., CLOTH], parts[..., HAIR]], 2)
    size = outline.shape
    image = Image.frombytes("CMYK", view.u.shape[::-1], (four * 255).astype(np.uint8).tobytes())  # any four channels but alpha's
    most, *others = (np.asarray(c) for c in image.resize((size[1], size[0]), Image.Resampling.BILINEAR).split())
    labels = np.full(size, regions.HEAD, np.uint8)
    for label, share in zip((regions.NECK, regions.CLOTH, regions.HAIR), others, strict=True):
        labels[share > most] = label
        most = np.maximum(most, share)
    labels[outline < 0.5] = regions.BACKGROUND
    face = filled(points, regions.OVAL, size)
    _, v = placed(points)(size)
    labels[face & ((v < BROW) | (labels != regions.HAIR))] = regions.HEAD
    return tidy(labels)


def tinted(view: View) -> Mask:  # [h,w]
    """Below the chin, of a tint that the face does not have, however bright: a red tie is no neck."""
    out = view.v < 0

    def tint(where: Mask) -> Array:  # -> [N,2]
        colour = view.small[where].astype(np.float32) + 10  # the tint of black is noise
        return np.asarray(colour[:, :2] / colour.sum(1, keepdims=True))

    face = tint(view.face)
    middle = np.median(face, 0)
    spread = 1.4826 * np.median(np.abs(face - middle), 0) + TINT
    far = np.abs(tint(out) - middle) > FAR * spread
    out[out] = far[:, 0] | far[:, 1]
    return np.asarray(out)


def inward(parts: Array, person: Mask) -> Array:  # [h,w,3] -> [h,w,3]
    """Averaged over neighbours; along the person's outline, whose colours are mixed with the background's, over those inside."""
    core = ndimage.binary_erosion(person, iterations=RIM, border_value=1)
    reach = 4 * RIM + 1
    weight = ndimage.uniform_filter(core.astype(np.float32), reach)
    edge = person & ~core & (weight > 1e-4)
    out = ndimage.uniform_filter(parts, (3, 3, 1))
    inner = ndimage.uniform_filter(parts * core[..., None], (reach, reach, 1))
    out[edge] = inner[edge] / weight[edge][:, None]
    return np.asarray(out)


def tidy(labels: Picture) -> Picture:
    """Specks removed: what is not joined to the largest piece becomes background, holes what is around them."""
    pieces, count = ndimage.label(labels != regions.BACKGROUND)
    if count > 1:
        sizes = np.bincount(pieces.reshape(-1))
        labels[(pieces > 0) & (pieces != sizes[1:].argmax() + 1)] = regions.BACKGROUND
    free, count = ndimage.label(labels == regions.BACKGROUND)
    if count > 1:
        sizes = np.bincount(free.reshape(-1))
        small = sizes < 0.002 * labels.size  # larger ones are background seen past an arm
        small[0] = False
        places = ndimage.find_objects(free)
        for hole in np.flatnonzero(small):
            box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in places[hole - 1])
            near = ndimage.distance_transform_edt(free[box] > 0, return_distances=False, return_indices=True)
            fill = free[box] == hole
            labels[box][fill] = labels[box][near[0][fill], near[1][fill]]
    return labels


def mouth(labels: Picture, points: Array) -> None:  # [H,W], changed; [478,3]
    """The inside of an open mouth from the mesh."""
    opening = np.ptp(points[[13, 14], 1]) / max(float(np.linalg.norm(points[61, :2] - points[291, :2])), 1e-6)
    if opening > OPEN:
        labels[filled(points, regions.LIPS_INNER, labels.shape)] = regions.INNER_MOUTH


def teeth(labels: Picture, picture: Picture, points: Array) -> None:  # [H,W], changed; uint8 [H,W,3], [478,3]
    """What is bright inside the mouth, and less red than the face's skin: a tongue is redder, the hollow darker."""
    inside = labels == regions.INNER_MOUTH
    if not inside.any():
        return
    height, width = labels.shape
    x, y = (np.clip(points[list(SKIN_POINTS), :2], 0, [width - 1, height - 1])).astype(int).T
    skin = np.median(picture[y, x].astype(np.float32), 0)
    colour = picture[inside].astype(np.float32)
    bright = colour.sum(1) > TOOTH * skin.sum()
    pale = colour[:, 0] / np.maximum(colour.sum(1), 1) < skin[0] / max(float(skin.sum()), 1.0) - 0.005
    found = np.zeros_like(inside)
    found[inside] = bright & pale
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    labels[part][ndimage.binary_opening(found[part]) if height > SIDE else found[part]] = regions.TEETH
