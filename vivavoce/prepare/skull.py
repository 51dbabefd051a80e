"""Where the pixels of a head's picture lie on it, and which of them keep their place on it while the face speaks.

A pixel lies on the tracked mesh or, outside it, on a skull: half an ellipsoid behind the ears, as wide and high as the parsing shows
head and hair. How deep its outline lies decides how the outline moves when the head turns. Brows, lids and everything below the base
of the nose have no say, and the outline little, where every pose shows other points of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

from vivavoce.face import regions
from vivavoce.prepare.body import Floats

Rows = NDArray[np.float64]

BEHIND = 0.03  # metres from the ears back to where the skull is widest, of most people
EDGE = 0.02  # of the face's width: so far outside the head is looked at, where its outline shows
OUTLINE = 0.5  # weight of a pixel on it, beside one far from it
MOUTH = 2  # mesh point at the base of the nose: what lies below moves with speech


@dataclass
class Lens:
    """Pixels of the pictures compared."""

    size: tuple[int, int]  # h, w
    focal: Rows  # [2] px, along x and y

    def seen(self, points: NDArray[np.floating], rotation: Rows, translation: Rows) -> Rows:  # [...,3] metres -> [2,...] px
        """Where points of the head are seen."""
        place = points @ rotation.T.astype(points.dtype) + translation.astype(points.dtype)
        near = -1 / place[..., 2]
        height, width = self.size
        return np.stack([width / 2 + self.focal[0] * place[..., 0] * near, height / 2 - self.focal[1] * place[..., 1] * near])


def surface(
    mesh: Rows, rotation: Rows, translation: Rows, lens: Lens, head: NDArray[np.bool_] | None = None, behind: float = BEHIND
) -> Floats:
    """The point of the head behind every pixel of the canonical picture.

    Args:
        mesh: [468,3] metres. rotation: [3,3], translation: [3] metres, the canonical pose. head: [h,w], where it shows head and hair.
        behind: metres from the ears back to where the skull is widest.
    Returns:
        [h,w,3] metres, head space.
    """
    height, width = lens.size
    spots, depth = lens.seen(mesh, rotation, translation).T, (mesh @ rotation.T + translation)[:, 2]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([(x - width / 2) / lens.focal[0], -(y - height / 2) / lens.focal[1]], -1)  # a metre away
    face = LinearNDInterpolator(spots, depth)(x, y)
    heart = np.array([0.0, mesh[[127, 356], 1].mean(), mesh[[234, 454], 2].mean() - behind])
    at = rotation @ heart + translation
    flat = (rays * -at[2] - at[:2]) @ rotation[:2, :2]  # metres beside the middle of the skull, across the line of sight
    above = flat[(y < spots[168, 1]) & (False if head is None else head)]  # over the bridge of the nose: no neck, no shoulders
    wide = np.abs(above[:, 0]).max() if len(above) else 0.0
    high = above[:, 1].max() if len(above) else 0.0
    wide, high = max(wide, np.ptp(mesh[:, 0]) / 2), max(high, mesh[10, 1] - heart[1])
    bulge = 1 - np.square(flat[..., 0] / wide) - np.square(np.maximum(flat[..., 1], 0) / high)
    skull = at[2] + 1.15 * (mesh[10, 2] - heart[2]) * np.sqrt(bulge.clip(0, 1))
    known = np.isfinite(face)
    away, near = ndimage.distance_transform_edt(~known, return_indices=True)
    step = (face - skull)[near[0], near[1]] * np.exp(-np.square(away / (0.06 * lens.focal[0] / -translation[2])))
    whole = ndimage.gaussian_filter(np.where(known, face, skull + step), 3 * width / 512)
    place = np.concatenate([rays * -whole[..., None], whole[..., None]], -1)
    return np.asarray((place - translation) @ rotation, np.float32)


def upper_head(labels: Sequence[NDArray[np.uint8]], places: Sequence[Rows], spots: Rows) -> tuple[NDArray[np.bool_], Floats]:
    """Where the canonical picture shows head and hair [h,w], and how much of a say each of its pixels has [h,w], 0..1.

    Args:
        labels: parsing of some frames, [H,W] each. places: [2,h,w] each, where the canonical pixels lie in them, as shares of the sides.
        spots: [468,2] px, the mesh in the canonical picture.
    """
    inside = np.zeros(places[0].shape[1:])
    for row, place in zip(labels, places, strict=True):
        height, width = row.shape
        x, y = (place[0] * width).astype(int).clip(0, width - 1), (place[1] * height).astype(int).clip(0, height - 1)
        inside += np.isin(row[y, x], (regions.HEAD, regions.HAIR, regions.INNER_MOUTH, regions.TEETH))
    head = inside > 0.5 * len(labels)
    y, x = np.mgrid[0 : head.shape[0], 0 : head.shape[1]] + 0.5
    edge = EDGE * np.ptp(spots[:, 0])
    outside = ndimage.distance_transform_edt(~head)
    use = (outside <= max(1, edge)) & (y < spots[MOUTH, 1])
    for loop in (regions.EYE_LEFT, regions.EYE_RIGHT, regions.BROW_LEFT, regions.BROW_RIGHT):
        at, side = spots[list(loop)].mean(0), np.ptp(spots[list(loop), 0])
        use &= np.square((x - at[0]) / (0.7 * side)) + np.square((y - at[1]) / (0.45 * side)) > 1
    near = np.exp(-np.square((outside + ndimage.distance_transform_edt(head)) / (2 * edge)))
    return head, np.asarray(use * (1 - (1 - OUTLINE) * near), np.float32)
