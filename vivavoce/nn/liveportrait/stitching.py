"""S and R: small networks that correct driven key points: stitching (shoulders stand still), lips and eyes retargeted.

Training starts from "no correction": only the last layer is zero. (All layers zero, as the authors' helper makes them, cannot learn:
behind a ReLU of zeros every gradient is zero.)
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Correction(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])
        nn.init.zeros_(self.mlp[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mlp[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:  # [T,I] -> [T,O]
        return self.mlp(x)


class Stitching(nn.Module):
    """The three networks: 45,249, 37,311 and 144,703 parameters at the published widths.

    Args:
        points: key points.
        widths: of the hidden layers of stitching and lips, and of the eyes.
    """

    def __init__(
        self,
        points: int = 21,
        widths: tuple[tuple[int, ...], tuple[int, ...]] = ((128, 128, 64), (256, 256, 128, 128, 64)),
    ) -> None:
        super().__init__()
        values = 3 * points
        self.shoulder = Correction(2 * values, *widths[0], values + 2)
        self.mouth = Correction(values + 2, *widths[0], values)
        self.eye = Correction(values + 3, *widths[1], values)

    def stitch(self, source: Tensor, driving: Tensor) -> Tensor:  # [T,K,3] twice -> [T,K,3]
        """The driving points, corrected so that what surrounds the face stays where the source has it."""
        change = self.shoulder(torch.cat([source.flatten(1), driving.flatten(1)], 1))
        points, place = change[:, :-2].unflatten(1, source.shape[1:]), change[:, None, -2:]
        return driving + points + torch.nn.functional.pad(place, (0, 1))

    def lips(self, source: Tensor, own: Tensor, wanted: Tensor) -> Tensor:  # [T,K,3], [T,1] twice -> [T,K,3]
        """Offsets that bring the source's lips from their own openness to the wanted one."""
        return self.mouth(torch.cat([source.flatten(1), own, wanted], 1)).unflatten(1, source.shape[1:])

    def eyes(self, source: Tensor, own: Tensor, wanted: Tensor) -> Tensor:  # [T,K,3], [T,2] left and right, [T,1] -> [T,K,3]
        """Offsets that bring both eyes to the wanted openness."""
        return self.eye(torch.cat([source.flatten(1), own, wanted], 1)).unflatten(1, source.shape[1:])
