"""F: a picture -> a volume of appearance features (LivePortrait, arXiv 2407.03168, after face vid2vid)."""

from __future__ import annotations

from torch import Tensor, nn

from vivavoce.nn.liveportrait.blocks import DownBlock, ResBlock3d, SameBlock


class AppearanceExtractor(nn.Module):
    """836,224 parameters at the published widths.

    Args:
        channels: of the first convolution; doubled by each of the two down blocks.
        volume: channels and depth of the volume.
        blocks: residual blocks on the volume.
    """

    def __init__(self, channels: int = 64, volume: tuple[int, int] = (32, 16), blocks: int = 6) -> None:
        super().__init__()
        self.volume = volume
        self.first = SameBlock(3, channels)
        self.down_blocks = nn.ModuleList(DownBlock(channels << i, channels << (i + 1)) for i in range(2))
        self.second = nn.Conv2d(channels * 4, volume[0] * volume[1], 1)
        self.resblocks_3d = nn.Sequential()
        for i in range(blocks):
            self.resblocks_3d.add_module(f"3dr{i}", ResBlock3d(volume[0]))

    def forward(self, images: Tensor) -> Tensor:  # [T,3,H,W] in 0..1 -> [T,C,D,H/4,W/4]
        x = self.first(images)
        for block in self.down_blocks:
            x = block(x)
        return self.resblocks_3d(self.second(x).unflatten(1, self.volume))
