"""Pictures laid on a mesh, read as coarsely as a pixel sees them (Williams, "Pyramidal parametrics", SIGGRAPH 1983)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def pyramid(picture: Tensor) -> list[Tensor]:  # [C,h,w] -> [C,h,w], [C,h/2,w/2], ... to a side of 1
    """The picture and its means over squares of 2, 4, 8 ... texels; a last odd line or column is left out of the next."""
    levels = [picture]
    while min(levels[-1].shape[1:]) > 1:
        levels.append(functional.avg_pool2d(levels[-1][None], 2)[0])
    return levels


def texture(picture: Tensor, place: Tensor, change: Tensor | None = None) -> Tensor:  # [C,h,w], [P,2], [P,2,2] -> [P,C]
    """The picture at given places.

    Args:
        picture: texel centres at +0.5; beyond the border it goes on as at the border.
        place: u (to the right), v (down), 0..1 from border to border.
        change: of u and v (first index) a pixel to the right and down (second index): the longer of both, in texels, says
            between which two levels is read. Without it the finest is read.
    Returns:
        [P,C]; differentiable in the picture and in the places.
    """
    if change is None:
        return _read(picture, place)
    levels = pyramid(picture)
    texels = change.detach() * change.new_tensor([picture.shape[2], picture.shape[1]])[:, None]
    level = texels.norm(dim=1).amax(1).clamp(min=1).log2().clamp(max=len(levels) - 1)  # [P]
    out = place.new_zeros(len(place), len(picture))
    for k, part in enumerate(levels):
        share = (1 - (level - k).abs()).clamp(min=0)
        at = (share > 0).nonzero()[:, 0]
        if len(at):
            out = out.index_add(0, at, _read(part, place[at]) * share[at, None])
    return out


def _read(picture: Tensor, place: Tensor) -> Tensor:  # [C,h,w], [P,2] -> [P,C]
    grid = (place * 2 - 1)[None, None]
    return functional.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0, :, 0].t()
