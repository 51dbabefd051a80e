"""Splats in plain torch: the oracle of the other back ends. Any float dtype and device, differentiated by autograd.

Exact: the list of splats of a tile leaves out only those whose alpha is below ALPHA_MIN on the whole tile, which the
contract draws as nothing anyway. Time and memory grow with splats times pixels: meant for small scenes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import ALPHA_MAX, ALPHA_MIN, DILATION, GUARD, NEAR, STOP, Projected

TILE = 32  # px


def rotations(quaternions: Tensor) -> Tensor:  # [...,4] wxyz, any length but 0 -> [...,3,3]
    """Rotation matrices of quaternions, which are normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project(
    means: Tensor,  # [B,N,3]
    quaternions: Tensor,  # [B,N,4]
    scales: Tensor,  # [B,N,3]
    opacities: Tensor,  # [B,N]
    view: Tensor,  # [B,4,4] camera from world
    focal: Tensor,  # [B,2] px
    center: Tensor,  # [B,2] px
    size: tuple[int, int],
) -> Projected:
    """EWA projection: the covariance seen through the Jacobian of the perspective at the mean, dilated by DILATION."""
    height, width = size
    turn = view[:, :3, :3]
    points = means @ turn.mT + view[:, None, :3, 3]
    ahead = points[..., 2] > NEAR
    z = torch.where(ahead, points[..., 2], 1.0)  # behind the camera: any finite number, its gradient is cut
    slopes = points[..., :2] / z[..., None]
    edge = torch.tensor([width, height], dtype=means.dtype, device=means.device)
    beyond = GUARD * 0.5 * edge / focal
    low, high = -center / focal - beyond, (edge - center) / focal + beyond
    bound = torch.minimum(torch.maximum(slopes, low[:, None]), high[:, None])
    axes = (turn[:, None] @ rotations(quaternions)) * scales[..., None, :]  # [B,N,3,3]: columns are half axes in camera
    plane = (axes[..., :2, :] - bound[..., None] * axes[..., 2:, :]) * (focal[:, None] / z[..., None])[..., None]
    xx = plane[..., 0, :].square().sum(-1) + DILATION
    yy = plane[..., 1, :].square().sum(-1) + DILATION
    xy = (plane[..., 0, :] * plane[..., 1, :]).sum(-1)
    determinant = xx * yy - xy * xy
    means2d = slopes * focal[:, None] + center[:, None]
    conics = torch.stack((yy, -xy, xx), -1) / determinant[..., None]
    with torch.no_grad():
        reach = (2 * (opacities / ALPHA_MIN).clamp(min=1).log()).sqrt()
        extents = reach[..., None] * torch.stack((xx, yy), -1).sqrt()
        inside = ((means2d + extents > 0) & (means2d - extents < edge)).all(-1)
        extents = extents * (ahead & inside & (determinant > 0))[..., None]
    return Projected(means2d, conics, points[..., 2], extents)


def composite(
    projected: Projected,
    opacities: Tensor,  # [B,N]
    features: Tensor,  # [B,N,F]
    size: tuple[int, int],
    tile: int = TILE,  # px; changes time and memory, not the picture
) -> tuple[Tensor, Tensor]:  # [B,F,H,W], [B,H,W]
    """Front-to-back "over" of the splats at every pixel centre: summed features and the alpha they leave."""
    images, alphas = [], []
    for row in range(len(opacities)):
        one = Projected(*(part[row] for part in projected))
        image, alpha = _composite(one, opacities[row], features[row], size, tile)
        images.append(image)
        alphas.append(alpha)
    return torch.stack(images), torch.stack(alphas)


def _composite(splats: Projected, opacities: Tensor, features: Tensor, size: tuple[int, int], tile: int) -> tuple[Tensor, Tensor]:
    height, width = size
    drawn = (splats.extents[:, 0] > 0).nonzero()[:, 0]
    order = drawn[torch.argsort(splats.depths[drawn].detach(), stable=True)]
    means2d, extents = splats.means2d[order], splats.extents[order]
    conics, opacities, features = splats.conics[order], opacities[order], features[order]
    strips, through = [], []
    for top in range(0, height, tile):
        bottom = min(top + tile, height)
        rows = ((means2d[:, 1] + extents[:, 1] > top) & (means2d[:, 1] - extents[:, 1] < bottom)).nonzero()[:, 0]
        parts = []
        for left in range(0, width, tile):
            right = min(left + tile, width)
            near = rows[(means2d[rows, 0] + extents[rows, 0] > left) & (means2d[rows, 0] - extents[rows, 0] < right)]
            x = torch.arange(left, right, dtype=means2d.dtype, device=means2d.device) + 0.5
            y = torch.arange(top, bottom, dtype=means2d.dtype, device=means2d.device) + 0.5
            parts.append(_blend(means2d[near], conics[near], opacities[near], features[near], x, y))
        strips.append(torch.cat([colour for colour, _ in parts], 2))
        through.append(torch.cat([left_over for _, left_over in parts], 1))
    return torch.cat(strips, 1), 1 - torch.cat(through, 0)


def _blend(means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """[K,2], [K,3], [K], [K,F] in depth order at columns [w] and rows [h] -> [F,h,w], transmittance [h,w]."""
    dx = (x - means2d[:, :1])[:, None, :]
    dy = (y - means2d[:, 1:])[:, :, None]
    xx, xy, yy = (part[:, None, None] for part in conics.unbind(-1))
    raw = opacities[:, None, None] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
    alpha = torch.where(raw < ALPHA_MIN, 0.0, raw.clamp(max=ALPHA_MAX))
    first = torch.ones_like(alpha[:1]) if len(alpha) else alpha.new_ones(1, len(y), len(x))
    with torch.no_grad():  # the stop is a switch: transmittance only falls, so what follows the first stop stays out
        alive = torch.cat((first, torch.cumprod(1 - alpha, 0)[:-1])) >= STOP if len(alpha) else alpha > 0
    alpha = alpha * alive
    through = torch.cat((first, torch.cumprod(1 - alpha, 0)))
    weights = alpha * through[: len(alpha)]
    return torch.einsum("khw,kf->fhw", weights, features), through[-1]
