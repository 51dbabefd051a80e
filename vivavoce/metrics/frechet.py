"""Fréchet distance between two sets of features (Heusel et al., 2017): FID on Inception's, FVD on a video network's, E-FID on expressions.

The sets are taken in piece by piece and kept as sums, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce import assets
from vivavoce.types import InputError

SIDE = 299  # px, of Inception's pictures
RECOMMENDED = 2048  # pictures below which the covariance of Inception's features has no full rank: say N beside the figure


@dataclass
class Statistics:
    """Number, sum and sum of outer products of features."""

    count: int
    total: Tensor  # [D] float64
    products: Tensor  # [D,D] float64

    @classmethod
    def empty(cls, width: int) -> Statistics:
        return cls(0, torch.zeros(width, dtype=torch.double), torch.zeros(width, width, dtype=torch.double))

    def add(self, features: Tensor) -> None:  # [T,D]
        """Take rows in. Raises InputError for numbers that are not finite."""
        rows = features.detach().double().cpu()
        if not bool(torch.isfinite(rows).all()):
            raise InputError("Fréchet distance", "a feature is infinite or not a number", "look at the frames that were made")
        self.count += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows

    @property
    def mean(self) -> Tensor:  # [D]
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:  # [D,D], with n - 1
        return (self.products - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def frechet(first: Statistics, second: Statistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Raises InputError for sets of fewer than two rows or of different widths.

    The trace of the root comes from the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no imaginary rest.
    """
    if min(first.count, second.count) < 2:
        raise InputError("Fréchet distance", f"sets of {first.count} and {second.count} rows, it needs 2", "give more frames")
    if len(first.total) != len(second.total):
        raise InputError("Fréchet distance", f"features of {len(first.total)} and {len(second.total)} numbers", "use one network for both")
    values, vectors = torch.linalg.eigh(first.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    apart = (first.mean - second.mean).square().sum()
    return float(apart + first.covariance.trace() + second.covariance.trace() - 2 * mixed)


class Inception:
    """The Inception network of 2015-12-05 that FID is defined on: pictures -> 2048 numbers. Its weights are fetched when first used.

    Raises InputError when they cannot be had.
    """

    width = 2048

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = device
        self.network = torch.jit.load(str(assets.fetch("inception_2015")), map_location=device).eval()

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:  # [T,3,H,W] in 0..1 -> [T,2048]
        """Features of frames rounded to 8 bits, as files hold them, resampled as TensorFlow 1 did and scaled to -1..1."""
        pictures = (frames.to(self.device) * 255).round().clamp(0, 255)
        return self.network((resampled(pictures) - 128) / 128).float()


def resampled(pictures: Tensor, side: int = SIDE) -> Tensor:  # [T,C,H,W] -> [T,C,side,side]
    """Bilinear with the grid's first pixel on the picture's first (TensorFlow 1's default: FID values are defined by it)."""
    height, width = pictures.shape[-2:]
    x, y = (torch.arange(side, device=pictures.device) * (n / side) for n in (width, height))
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1  # as grid_sample counts
    grid = torch.stack([x.expand(side, -1), y[:, None].expand(-1, side)], -1).to(pictures)
    return functional.grid_sample(pictures, grid.expand(len(pictures), -1, -1, -1), padding_mode="border", align_corners=False)


def fid(made: Iterable[Tensor], real: Iterable[Tensor], features: Inception) -> tuple[float, int]:
    """FID of pieces [t,3,H,W] of frames against pieces of real ones, and N, the smaller number of frames."""
    sets = []
    for pieces in (made, real):
        statistics = Statistics.empty(features.width)
        for piece in pieces:
            statistics.add(features(piece))
        sets.append(statistics)
    return frechet(*sets), min(s.count for s in sets)


class VideoNetwork:
    """A video network for FVD: TorchScript, [N,3,T,224,224] in -1..1 -> [N,D] (the I3D file that StyleGAN-V's evaluation uses).

    No source for it is in the catalogue: `path` is the user's own file. Raises InputError when it is none.
    """

    def __init__(self, path: str, device: str | torch.device = "cpu", length: int = 16) -> None:
        try:
            self.network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(path, f"no TorchScript file ({str(error).splitlines()[0]})", "give i3d_torchscript.pt") from error
        self.device, self.length = device, length

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:  # [T,3,H,W] in 0..1 -> [T // length,D]
        """Features of whole stretches of `length` frames; a rest at the end is left out."""
        count = len(frames) // self.length
        if not count:
            raise InputError("FVD", f"{len(frames)} frames, a stretch has {self.length}", "give a longer clip")
        small = functional.interpolate(frames[: count * self.length], size=(224, 224), mode="bilinear", align_corners=False)
        stretches = small.unflatten(0, (count, self.length)).transpose(1, 2) * 2 - 1
        return self.network(stretches.to(self.device), rescale=False, resize=False, return_features=True).float()
