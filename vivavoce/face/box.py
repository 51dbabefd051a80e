"""A face's box as a detector draws it, from landmarks that speech does not move; and the crop that fills a square with it.

A box that ends at the chin grows with every open mouth, and a network that is to draw the mouth can read it off the crop. Here the
height comes from eyes and nose alone: medians over a dozen speakers put a detector's box 1.0 eye-to-nose distances above the eyes
and 1.85 below the nose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.face.crop import Crop

ABOVE, BELOW = 1.0, 1.85  # of the distance from eyes to the base of the nose, over the eyes and under the nose
FLATTEST = 0.25  # least of that distance, of the face's width: a bowed head
EYES, NOSE = slice(36, 48), 33  # of the 68 points


def face_box(landmarks: Tensor) -> Tensor:  # [T,68,2] px -> [T,4] px x0 y0 x1 y1
    """Forehead to chin, side to side; upright. Rows of landmarks that are NaN give NaN."""
    x, eyes, nose = landmarks[..., 0], landmarks[:, EYES, 1].mean(1), landmarks[:, NOSE, 1]
    left, right = x.amin(1), x.amax(1)
    unit = torch.maximum(nose - eyes, FLATTEST * (right - left))
    return torch.stack([left, eyes - ABOVE * unit, right, eyes + (1 + BELOW) * unit], 1)


def fill(boxes: Tensor, side: int) -> Crop:  # [T,4] px -> a crop of side x side
    """The box stretched to a square, as Wav2Lip's nets see faces: its `matrix` has a scale for each axis."""
    scale = side / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    matrix = boxes.new_zeros(len(boxes), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = scale[:, 0], scale[:, 1]
    matrix[:, :, 2] = -scale * boxes[:, :2]
    return Crop(matrix, (side, side))
