"""Where things are on a face: which of the 478 mesh points are lips, lids, brows, jaw; the 52 expressions; the classes of a parsing.

Point numbers are those of MediaPipe's face mesh (0-467 the canonical mesh, 468-477 the irises). "Left" and "right" are the
person's own. Loops run round a feature in order, so that consecutive points join and the last joins the first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

POINTS = 478  # mesh points of a face; the first MESH of them are the canonical mesh
MESH = 468

# --- loops and lines, from the person's right corner over the top, where there is a corner ---

LIPS_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
LIPS_INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
EYE_RIGHT = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
EYE_LEFT = (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382)
BROW_RIGHT = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
BROW_LEFT = (336, 296, 334, 293, 300, 276, 283, 282, 295, 285)
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
NOSE = (168, 6, 197, 195, 5, 4, 1, 2)  # bridge to the lip
LIPS_CORNERS = (61, 291)  # right, left
LIPS_MIDDLE = ((82, 13, 312), (87, 14, 317))  # of the inner lips, upper and lower, point above point: the gap between them
LIDS_RIGHT = ((160, 144), (158, 153))  # pairs of upper and lower lid
LIDS_LEFT = ((385, 380), (387, 373))
CORNERS_RIGHT = (33, 133)  # outer, inner
CORNERS_LEFT = (263, 362)
# Points that hardly move with the expression: forehead, temples, nose bridge; for pose and crops that must not follow the mouth.
STILL = (10, 67, 109, 338, 297, 103, 332, 54, 284, 21, 251, 162, 389, 127, 356, 6, 168, 197, 195, 5, 33, 133, 362, 263, 9, 8, 151)

# The 68 points of the field (iBUG 300-W order) on the mesh: for each the mesh point nearest to dlib's 68-point predictor, in the
# median over 89 frames of two dozen clips, among the points of its own line and alike on both sides. They lie 3.6 % of the distance
# between the outer eye corners from dlib's on average: jaw 6, brows 5, nose 2, eyes 2, lips 2.
LANDMARKS_68 = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),  # 0-16 jaw, right to left
    *(70, 63, 105, 66, 107),  # 17-21 right brow
    *(336, 296, 334, 293, 300),  # 22-26 left brow
    *(168, 197, 195, 4),  # 27-30 bridge of the nose
    *(240, 97, 2, 326, 460),  # 31-35 under the nose
    *(33, 160, 158, 133, 153, 144),  # 36-41 right eye
    *(362, 385, 387, 263, 373, 380),  # 42-47 left eye
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # 48-59 outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # 60-67 inner lips
)

BLENDSHAPES = (
    *("_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight"),
    *("eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight"),
    *("eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight"),
    *("mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight"),
    *("mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper"),
    *("mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight"),
)

# The 146 points whose x, y the blendshape network reads, in its order (MediaPipe's face_blendshapes_graph).
BLENDSHAPE_POINTS = (
    *(0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80),
    *(81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153),
    *(154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249),
    *(251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314),
    *(317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382),
    *(384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473),
    *(474, 475, 476, 477),
)

# --- the classes of a parsing ---

BACKGROUND, HEAD, NECK, CLOTH, HAIR, INNER_MOUTH, TEETH = range(7)
CLASSES = ("background", "head", "neck", "cloth", "hair", "inner mouth", "teeth")

# RGB of each class in parsing/%d.png. The repositories of the AD-NeRF lineage give these as BGR (255,0,0) head, (0,255,0) neck,
# (0,0,255) cloth, (255,255,255) background; TalkingGaussian adds black hair and (100,100,100) inside the mouth. Teeth are a
# separate file there: a grey of our own, which no older reader mistakes for one of theirs.
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 0), (100, 100, 100), (200, 200, 200))

# The 19 CelebAMask-HQ classes of BiSeNet in ours: background; skin, brows, eyes, glasses, ears, earring, nose; inner mouth;
# lips; neck, necklace; cloth; hair, hat.
FROM_CELEBAMASK = (0, *[HEAD] * 10, INNER_MOUTH, HEAD, HEAD, NECK, NECK, CLOTH, HAIR, HAIR)


def colours_from_labels(labels: Tensor, split: bool = True) -> Tensor:  # [T,H,W] -> [T,3,H,W] uint8 RGB
    """The pictures to write as parsing/%d.png.

    `split=False` gives the four colours of AD-NeRF to EGSTalker: hair, inner mouth and teeth are head.
    """
    table = torch.tensor(COLOURS, dtype=torch.uint8)
    if not split:
        table[[HAIR, INNER_MOUTH, TEETH]] = table[HEAD].clone()
    return table.to(labels.device)[labels.long()].movedim(-1, 1)


@lru_cache(maxsize=1)
def _nearest_labels() -> Tensor:  # -> [4096] uint8
    """Class of the colour nearest to the middle of each of 16 x 16 x 16 boxes of colours."""
    steps = torch.arange(16, dtype=torch.int32) * 16 + 8
    middles = torch.cartesian_prod(steps, steps, steps)
    table = torch.tensor(COLOURS, dtype=torch.int32)
    return (middles[:, None] - table).square().sum(-1).argmin(1).to(torch.uint8)


def labels_from_colours(colours: Tensor) -> Tensor:  # [T,3,H,W] uint8 RGB -> [T,H,W] uint8
    """The class of each pixel: that of the nearest colour (a picture may have been through JPEG), to 16 levels."""
    r, g, b = (colours[:, k].to(torch.int32) for k in range(3))
    box = (r >> 4 << 8) | (g & 0xF0) | (b >> 4)
    return _nearest_labels().to(colours.device).index_select(0, box.flatten()).view(box.shape)


def landmarks68(points: np.ndarray) -> np.ndarray:  # [...,478,2 or 3] -> [...,68,2]
    """The 68-point view of mesh points."""
    return np.ascontiguousarray(points[..., list(LANDMARKS_68), :2])
