"""The numbers and the record that every back end of `render.splats` shares.

Equations: Kerbl et al. 2023 (3-D Gaussian splatting), Zwicker et al. 2001 (EWA splatting) for the projection.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

ALPHA_MAX = 0.99  # a splat never hides what is behind it altogether, so that every gradient has a way through
ALPHA_MIN = 1.0 / 255.0  # below one step of an 8-bit image a splat adds nothing to a pixel
STOP = 1e-4  # a splat is composited while the transmittance in front of it is at least this
DILATION = 0.3  # px^2 added to the projected covariance: low-pass filter of about one pixel
NEAR = 0.01  # camera depth (world units) from which a splat is drawn
GUARD = 0.3  # the Jacobian's direction is clamped this fraction of the field of view beyond the image's edge


class Projected(NamedTuple):
    """B x N splats in the image plane."""

    means2d: Tensor  # [B,N,2] px, pixel centres at +0.5
    conics: Tensor  # [B,N,3] inverse covariance xx, xy, yy in px^-2
    depths: Tensor  # [B,N] camera z
    extents: Tensor  # [B,N,2] px: half the box outside which alpha < ALPHA_MIN; 0 where nothing is drawn; no gradient
