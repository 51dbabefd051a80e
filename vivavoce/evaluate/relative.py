"""The head's movement since the source's frame: what renderers of portraits read in place of where the head is."""

from __future__ import annotations

from vivavoce.face.pose import euler_from_matrix, matrix_from_euler
from vivavoce.nn.liveportrait import keypoints
from vivavoce.types import Motion

PIVOT = (0.0, -0.05, -0.03)  # metres, canonical: where skull and spine meet, which a head that only turns leaves in its place


def relative(motion: Motion, first: Motion) -> Motion:
    """Head pose of a video as a change since `first`, the row of the source; an expression in scores stays as measured.

    Translation is that of the pivot in the picture, metres at the source's distance; coming nearer is scale.
    """
    if motion.space == keypoints.SPACE:
        return keypoints.relative(motion, first)
    now, then = matrix_from_euler(motion.rotation), matrix_from_euler(first.rotation)
    pivot = motion.translation.new_tensor(PIVOT)
    place, start = now @ pivot + motion.translation, then @ pivot + first.translation
    nearer = start[:, 2:] / place[:, 2:]
    shift = place * nearer - start  # its third number is zero
    return Motion(
        euler_from_matrix(now @ then.transpose(1, 2)), shift, motion.scale / first.scale * nearer, motion.expression, motion.space
    )
