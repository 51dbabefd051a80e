"""SyncNet: the two-stream network behind LSE-C and LSE-D (Chung & Zisserman, "Out of time: automated lip sync in the wild", 2016).

The layers of the released `syncnet_v2.model`: five colour frames of 224 px and 20 columns of 13 MFCC (0.2 s) to 1024 numbers each,
compared by their Euclidean distance. Attributes bear the names of its state dict.
"""

from __future__ import annotations

from torch import Tensor, nn

from vivavoce.nn.mel_encoder import load_published

FRAMES, SIDE = 5, 224  # frames seen at once, px
COEFFICIENTS, COLUMNS = 13, 20  # MFCC at 100 Hz
FEATURES = 1024


def _sound(entering: int, leaving: int, kernel: tuple[int, int] = (3, 3), padding: tuple[int, int] = (1, 1)) -> list[nn.Module]:
    return [nn.Conv2d(entering, leaving, kernel, padding=padding), nn.BatchNorm2d(leaving), nn.ReLU()]


def _sight(entering: int, leaving: int, kernel: int = 3, padding: int = 1, stride: int = 1, depth: int = 1) -> list[nn.Module]:
    layer = nn.Conv3d(entering, leaving, (depth, kernel, kernel), (1, stride, stride), (0, padding, padding))
    return [layer, nn.BatchNorm3d(leaving), nn.ReLU()]


def _head(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, features))


class SyncNet(nn.Module):
    """Features of sound and of lips in one space, not of unit length."""

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_sound(1, 64), nn.MaxPool2d(1, 1),
            *_sound(64, 192), nn.MaxPool2d(3, (1, 2)),
            *_sound(192, 384), *_sound(384, 256), *_sound(256, 256), nn.MaxPool2d(3, 2),
            *_sound(256, 512, (5, 4), (0, 0)),
        )  # fmt: skip
        self.netfcaud = _head(features)
        self.netfclip = _head(features)
        self.netcnnlip = nn.Sequential(
            *_sight(3, 96, 7, 0, 2, FRAMES), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_sight(96, 256, 5, 1, 2), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_sight(256, 256), *_sight(256, 256), *_sight(256, 256), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_sight(256, 512, 6, 0),
        )  # fmt: skip

    def hear(self, mfcc: Tensor) -> Tensor:  # [B,1,13,20] -> [B,1024]
        """Features of sound."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def see(self, frames: Tensor) -> Tensor:  # [B,3,5,224,224], 0..255, blue green red -> [B,1024]
        """Features of five frames."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    @classmethod
    def from_authors(cls, state_dict: dict[str, Tensor]) -> SyncNet:
        """From `syncnet_v2.model`. Raises InputError for another file."""
        net = cls()
        load_published(net, state_dict, "syncnet")
        return net.eval()
