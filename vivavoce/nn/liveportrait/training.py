"""What trains LivePortrait's networks: judges of pictures, the losses on key points, and a sensible beginning.

The paper (arXiv 2407.03168, 3.2 and 3.4) names the losses of its two stages but gives no weights and no code. Where it is silent the
definitions are those of its ancestors: equivariance and thin-plate splines of FOMM (Siarohin et al., 2019), key point prior of face
vid2vid (Wang et al., 2021), hinge losses (Lim and Ye, 2017), wing loss (Feng et al., 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.face.crop import Crop, around, crop, steady
from vivavoce.face.pose import euler_from_matrix, pose_from_camera
from vivavoce.nn.liveportrait import Networks
from vivavoce.nn.liveportrait.keypoints import POINTS
from vivavoce.types import Clip, Motion

# Key point -> the landmark (of 68) that its x and y follow: lids and an inner corner, corners and middle of the lips.
GUIDED = {11: 37, 13: 41, 15: 44, 16: 46, 18: 39, 6: 51, 12: 57, 14: 48, 17: 54, 19: 62, 20: 66}
EYELIDS = ((15, 16), (11, 13))  # upper and lower lid of the left and the right eye among the key points
EYE_CORNERS = ((42, 45), (36, 39))  # among 68 landmarks, left and right
LIP_MIDDLES, LIP_CORNERS = (19, 20), (48, 54)  # inner lips among the key points; outer corners among 68
APART, DEPTH = 0.1, 0.33  # least squared distance of key points; their mean depth (face vid2vid)
LEVELS = 2  # scales a judge looks at


@dataclass
class Pairs:
    """Sources [n] and what they are driven to [n*p], each group of one film. Landmarks in -1..1 of the crop."""

    source: Tensor  # [n,3,S,S]
    driving: Tensor  # [n*p,3,S,S]
    landmarks: Tensor  # [n+n*p,68,2]
    rotation: Tensor  # [n+n*p,3] rad, of the tracker


def pairs(clip: Clip, window: int, count: int, side: int, shape: tuple[float, tuple[float, float]]) -> Pairs:
    """A random source row and `count` driving rows of each window of a clip.

    Args:
        clip: frames, landmarks and camera; windows of one film follow one another.
        window: rows of a window.
        side: S, px of the crops.
        shape: margin and shift of `face.crop.around`; a window has one crop, so that heads move in it.
    """
    assert clip.frames is not None and clip.landmarks is not None and clip.camera is not None
    each, sources, targets, matrices = min(window, len(clip)), [], [], []
    for start in range(0, len(clip) - each + 1, each):
        rows = start + torch.randperm(each)
        sources.append(rows[:1])
        targets.append(rows[1:][torch.arange(count) % (each - 1)] if each > 1 else rows.expand(count))
        matrices.append(steady(around(clip.landmarks[start : start + each], (side, side), *shape, level=False)).matrix)
    where, rows = Crop(torch.cat(matrices), (side, side)), torch.cat([*sources, *targets]).to(clip.frames.device)
    chosen = where[rows]
    pictures = crop(clip.frames[rows], chosen)
    landmarks = chosen.inside(clip.landmarks[rows]) / side * 2 - 1
    rotation = euler_from_matrix(pose_from_camera(clip.camera[rows])[0])
    return Pairs(pictures[: len(sources)], pictures[len(sources) :], landmarks, rotation)


class Judge(nn.Module):
    """Real or drawn, patch by patch, at several scales (pix2pixHD's discriminator).

    Args:
        width: channels of the first convolution.
        depth: halvings.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList()
        for _ in range(LEVELS):
            layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
            for k in range(1, depth):
                a, b = min(8, 1 << (k - 1)) * width, min(8, 1 << k) * width
                layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.InstanceNorm2d(b, affine=True), nn.LeakyReLU(0.2)]
            layers.append(nn.Conv2d(min(8, 1 << (depth - 1)) * width, 1, 3, padding=1, bias=False))  # the hinge has no use for a shift
            self.scales.append(nn.Sequential(*layers))

    def forward(self, images: Tensor) -> list[Tensor]:  # [T,3,H,W] in 0..1 -> a map of scores a scale
        out = []
        for net in self.scales:
            out.append(net(images * 2 - 1))
            images = functional.avg_pool2d(images, 2)
        return out


def convince(scores: list[Tensor]) -> Tensor:
    """The drawer's side of the hinge loss."""
    return -torch.stack([s.mean() for s in scores]).mean()


def tell_apart(real: list[Tensor], drawn: list[Tensor]) -> Tensor:
    """The judge's side."""
    each = [functional.relu(1 - a).mean() + functional.relu(1 + b).mean() for a, b in zip(real, drawn, strict=True)]
    return torch.stack(each).mean()


class Bend:
    """A random smooth map of the plane for each row: an affine one and a thin-plate spline of 5 x 5 points.

    Args:
        rows: T.
        affine: deviation of the six numbers from the identity.
        spline: deviation of the spline's weights.
    """

    def __init__(self, rows: int, like: Tensor, affine: float = 0.05, spline: float = 0.005) -> None:
        line = torch.linspace(-1, 1, 5).to(like)
        self.knots = torch.cartesian_prod(line, line)  # [25,2]
        self.theta = torch.eye(2, 3).to(like) + affine * torch.randn(rows, 2, 3).to(like)
        self.weights = spline * torch.randn(rows, 1, 25).to(like)

    def __call__(self, points: Tensor) -> Tensor:  # [T,P,2] -> [T,P,2]
        moved = points @ self.theta[:, :, :2].transpose(1, 2) + self.theta[:, None, :, 2]
        away = (points[:, :, None] - self.knots).square().sum(-1)  # [T,P,25]
        return moved + (away * (away + 1e-6).log() * self.weights / 2).sum(-1, keepdim=True)

    def pictures(self, images: Tensor) -> Tensor:  # [T,3,H,W]
        """Pictures that show at p what the given ones show at the map of p."""
        height, width = images.shape[-2:]
        eye = torch.eye(2, 3).to(images).expand(len(images), 2, 3)
        grid = functional.affine_grid(eye, [len(images), 3, height, width], align_corners=False)
        bent = self(grid.flatten(1, 2)).unflatten(1, (height, width))
        return functional.grid_sample(images, bent, padding_mode="reflection", align_corners=False)


def spread(points: Tensor) -> Tensor:  # [T,K,3] -> scalar
    """Key points apart from one another, and of the expected mean depth."""
    away = torch.cdist(points, points).square() + 1e3 * torch.eye(points.shape[1]).to(points)
    return functional.relu(APART - away).sum((1, 2)).mean() / points.shape[1] + (points[..., 2].mean(1) - DEPTH).abs().mean()


def wing(difference: Tensor, width: float = 0.1, curve: float = 0.01) -> Tensor:  # -> scalar
    """Wing loss: the slope of small errors is that of large ones and more."""
    away, offset = difference.abs(), width - width * math.log(1 + width / curve)
    return torch.where(away < width, width * torch.log1p(away / curve), away - offset).mean()


def guidance(points: Tensor, landmarks: Tensor) -> Tensor:  # [T,K,3], [T,68,2] in -1..1 -> scalar
    """Key points of lids and lips lie on their landmarks."""
    return wing(points[:, list(GUIDED), :2] - landmarks[:, list(GUIDED.values())])


def head(motion: Motion, rotation: Tensor) -> Tensor:  # [T,3] rad -> scalar
    """Mean error of the angles, in tenths of a radian."""
    return 10 * (motion.rotation - rotation).abs().mean()


def openness(points: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:  # [T,K,3], [T,68,2] in -1..1 -> [T,2], [T,1]
    """Of eyes (left, right) and lips as the key points have it, in widths of the eyes and the mouth of the landmarks' face."""
    gap = [(points[:, a, :2] - points[:, b, :2]).norm(dim=-1) for a, b in (*EYELIDS, LIP_MIDDLES)]
    wide = [(landmarks[:, a] - landmarks[:, b]).norm(dim=-1).clamp_min(1e-3) for a, b in (*EYE_CORNERS, LIP_CORNERS)]
    ratio = torch.stack([g / w for g, w in zip(gap, wide, strict=True)], 1)
    return ratio[:, :2], ratio[:, 2:]


def opened(landmarks: Tensor) -> tuple[Tensor, Tensor]:  # [T,68,2] -> [T,2], [T,1]
    """Openness of eyes (left, right) and lips as landmarks have it: the gap over the width."""

    def far(a: int, b: int) -> Tensor:  # [T]
        return (landmarks[:, a] - landmarks[:, b]).norm(dim=-1)

    left, right = (far(43, 47) + far(44, 46)) / (2 * far(42, 45)), (far(37, 41) + far(38, 40)) / (2 * far(36, 39))
    return torch.stack([left, right], 1), (far(62, 66) / far(48, 54))[:, None]


def retarget(networks: Networks, points: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """Stage II of the eyes' and the lips' networks: what is asked for is reached, by little change.

    Asked for is uniform in 0..0.8 (eyes) and 0..0.6 (lips). "Reached" is read from the key points that follow lids and lips
    (`guidance`); the authors read it from a landmark detector on the drawn picture.
    """
    (eyes, lips), ask = opened(landmarks), torch.rand(2, len(points), 1).to(points) * points.new_tensor([0.8, 0.6])[:, None, None]
    by_eyes = networks.stitching.eyes(points, eyes, ask[0])
    by_lips = networks.stitching.lips(points, lips, ask[1])
    reached = openness(points + by_eyes, landmarks)[0], openness(points + by_lips, landmarks)[1]
    return {
        "eyes": (reached[0] - ask[0]).abs().mean() + by_eyes.abs().mean(),
        "lips": (reached[1] - ask[1]).abs().mean() + by_lips.abs().mean(),
    }


@torch.no_grad()
def begin(networks: Networks) -> Networks:
    """Heads of M such that the first key points lie spread over a face, of scale 1, without pose and expression."""
    net = networks.motion.detector
    k = torch.arange(POINTS) + 0.5
    y, turn = 1 - 2 * k / POINTS, math.pi * (1 + math.sqrt(5)) * k
    ring = (1 - y * y).sqrt()
    sphere = torch.stack([0.5 * ring * turn.cos(), 0.5 * y, 0.3 * ring * turn.sin() + DEPTH], 1)
    for name in ("kp", "scale", "t", "exp"):
        layer = net.get_submodule(f"fc_{name}")
        assert isinstance(layer, nn.Linear)
        layer.weight.mul_(0.1)
        layer.bias.copy_({"kp": sphere.flatten(), "scale": torch.ones(1)}.get(name, torch.zeros_like(layer.bias)))
    return networks
