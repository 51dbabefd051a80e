"""LivePortrait's networks (Guo et al., arXiv 2407.03168): F appearance, M motion, W warping, G decoder, S and R stitching and retargeting.

Layers, widths and key names are the published ones, so that the authors' state dicts load strictly (`weights.py`); narrower ones
train on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vivavoce.nn.liveportrait import keypoints
from vivavoce.nn.liveportrait.appearance import AppearanceExtractor
from vivavoce.nn.liveportrait.decoder import SpadeDecoder
from vivavoce.nn.liveportrait.motion import MotionExtractor
from vivavoce.nn.liveportrait.stitching import Stitching
from vivavoce.nn.liveportrait.warping import Warped, WarpingNetwork
from vivavoce.types import Motion

SIDE = 256  # px of the pictures that the published weights read; they draw twice as many


@dataclass(frozen=True)
class Widths:
    """Sizes of the networks; the defaults are the published ones."""

    channels: int = 64  # of F's first convolution; G's last has as many
    volume: tuple[int, int] = (32, 16)  # channels and depth of the appearance volume
    blocks: int = 6  # residual blocks of F on the volume
    dense: tuple[int, int, int, int] = (32, 1024, 5, 4)  # W's hourglass: first width, most, levels; compressed channels
    hidden: int = 128  # of the decoder's modulation maps
    middle: int = 6  # blocks of G before it doubles its size
    depths: tuple[int, ...] = (3, 3, 9, 3)  # of M
    stages: tuple[int, ...] = (96, 192, 384, 768)
    corrections: tuple[tuple[int, ...], tuple[int, ...]] = ((128, 128, 64), (256, 256, 128, 128, 64))


SMALL = Widths(4, (4, 4), 1, (4, 16, 2, 2), 8, 1, (1, 1, 1), (8, 8, 16), ((16,), (16,)))


class Networks(nn.Module):
    """All of them; 130,077,432 parameters at the published widths."""

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        w = widths or Widths()
        self.appearance = AppearanceExtractor(w.channels, w.volume, w.blocks)
        self.motion = MotionExtractor(keypoints.POINTS, w.depths, w.stages)
        self.warping = WarpingNetwork(keypoints.POINTS, w.volume, 4 * w.channels, w.dense)
        self.decoder = SpadeDecoder(4 * w.channels, w.channels, w.hidden, w.middle)
        self.stitching = Stitching(keypoints.POINTS, w.corrections)

    def measure(self, images: Tensor) -> tuple[Tensor, Motion]:  # [T,3,256,256] -> [T,21,3], Motion of T rows
        """Canonical key points and the Motion of each picture."""
        return keypoints.measured(self.motion(images))

    def draw(self, volume: Tensor, driving: Tensor, source: Tensor) -> tuple[Tensor, Warped]:  # -> [T,3,512,512], Warped
        """The source's volume [T,C,D,H,W] with its key points [T,21,3] brought to the driving ones [T,21,3]."""
        warped = self.warping(volume, driving, source)
        return self.decoder(warped.features), warped
