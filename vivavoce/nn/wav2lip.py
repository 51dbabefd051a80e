"""Wav2Lip's generator and visual discriminator (Prajwal et al., ACM MM 2020, arXiv 2008.10010).

The generator is a U-Net: a face with its lower half blacked out and another picture of the same face go down to one vector, the
vector of the sound takes its place, and the face comes up again past everything that was seen on the way down. At 96 px the layers
are the published ones. At 192 and 384 px one and two stages are put before the first, so that the vector still sees the whole face.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nn.mel_encoder import Block, Plain, Upward, load_published, mel_encoder, narrowed, residuals
from vivavoce.types import InputError

LEAST = 96  # px: smaller faces are enlarged for the discriminator
SIDES = {24: -2, 48: -1, 96: 0, 192: 1, 384: 2}  # px: stages more than published; the smaller ones are for tests
DOWN = ((16, 0), (32, 2), (64, 3), (128, 2), (256, 2), (512, 1))  # channels and residual blocks of each halving
UP = ((512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2))  # of each doubling, from 3 px on
OUTER = (16, 2), (32, 2)  # of one stage more than published: downward, upward


def _stages(side: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    if side not in SIDES:
        raise InputError(f"wav2lip at {side} px", "no such size of face crops", f"choose from: {', '.join(map(str, SIDES))}")
    more = SIDES[side]
    if more < 0:
        return DOWN[:1] + DOWN[1 - more :], UP[:more]
    return DOWN[:1] + (OUTER[0],) * more + DOWN[1:], UP + (OUTER[1],) * more


class Generator(nn.Module):
    """Draws a face whose lips say the sound; attributes bear the names of the published state dict.

    Args:
        side: px of the face crops, one of `SIDES`; 96 is the published net.
        share: of the published channels; 1 is the published net.
    """

    def __init__(self, side: int = 96, share: float = 1.0) -> None:
        super().__init__()
        down, up = _stages(side)
        widths = narrowed(tuple(w for w, _ in down), share)
        heights = narrowed(tuple(w for w, _ in up), share)
        last = narrowed((512, 32), share)
        stages = [nn.Sequential(Block(6, widths[0], 7, padding=3))]
        for (_, count), entering, leaving in zip(down[1:], widths[:-1], widths[1:], strict=True):
            stages.append(nn.Sequential(Block(entering, leaving, stride=2), *residuals(leaving, count)))
        stages.append(nn.Sequential(Block(widths[-1], last[0], padding=0), Block(last[0], last[0], 1, padding=0)))
        self.face_encoder_blocks = nn.ModuleList(stages)
        self.audio_encoder = mel_encoder(1, share)
        beside = (last[0], *reversed(widths))  # what joins from the way down
        rising = [nn.Sequential(Block(last[0], last[0], 1, padding=0))]
        below = last[0]
        for k, (leaving, (_, count)) in enumerate(zip(heights, up, strict=True)):
            first = Upward(below + beside[k], leaving, *((1, 0) if k == 0 else (2, 1)))
            rising.append(nn.Sequential(first, *residuals(leaving, count)))
            below = leaving
        self.face_decoder_blocks = nn.ModuleList(rising)
        self.output_block = nn.Sequential(Block(below + widths[0], last[1]), nn.Conv2d(last[1], 3, 1), nn.Sigmoid())

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:  # [B,1,80,16], [B,6,S,S] -> [B,3,S,S] in 0..1
        """Faces: three channels with the lower half zero, three of the reference; colours in the order trained with."""
        seen = []
        x = faces
        for stage in self.face_encoder_blocks:
            x = stage(x)
            seen.append(x)
        x = self.audio_encoder(mel)
        for stage in self.face_decoder_blocks:
            x = torch.cat([stage(x), seen.pop()], 1)
        made: Tensor = self.output_block(x)
        return made

    @classmethod
    def from_authors(cls, state_dict: dict[str, Tensor]) -> Generator:
        """From `wav2lip.pth` or `wav2lip_gan.pth`. Raises InputError for another file."""
        net = cls()
        load_published(net, state_dict, "wav2lip")
        return net.eval()


class Discriminator(nn.Module):
    """Is the lower half of a face real? Attributes bear the names of the published state dict.

    Args:
        share: of the published channels; 1 is the published net.
    """

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e = narrowed((32, 64, 128, 256, 512), share)
        self.face_encoder_blocks = nn.ModuleList([
            nn.Sequential(Plain(3, a, 7, padding=3)),
            nn.Sequential(Plain(a, b, 5, (1, 2), 2), Plain(b, b, 5, padding=2)),
            nn.Sequential(Plain(b, c, 5, 2, 2), Plain(c, c, 5, padding=2)),
            nn.Sequential(Plain(c, d, 5, 2, 2), Plain(d, d, 5, padding=2)),
            nn.Sequential(Plain(d, e, 3, 2, 1), Plain(e, e, 3, padding=1)),
            nn.Sequential(Plain(e, e, 3, 2, 1), Plain(e, e, 3, padding=1)),
            nn.Sequential(Plain(e, e, 3), Plain(e, e, 1)),
        ])  # fmt: skip
        self.binary_pred = nn.Sequential(nn.Conv2d(e, 1, 1), nn.Sigmoid())

    def forward(self, faces: Tensor) -> Tensor:  # [B,3,S,S] -> [B,1], 1 for real
        """The lower halves; crops larger than 96 px are judged at as many places as the last layer has, and the verdicts averaged."""
        if faces.shape[2] < LEAST:
            faces = functional.interpolate(faces, (LEAST, LEAST), mode="bilinear")
        x = faces[:, :, faces.shape[2] // 2 :]
        for stage in self.face_encoder_blocks:
            x = stage(x)
        places: Tensor = self.binary_pred(x)
        return places.mean((2, 3))


def disbelief(verdict: Tensor, real: bool) -> Tensor:  # [B,1] -> scalar
    """Binary cross entropy of the discriminator's verdict."""
    with torch.autocast(verdict.device.type, enabled=False):
        wanted = torch.full_like(verdict.float(), float(real))
        return functional.binary_cross_entropy(verdict.float(), wanted)


def masked(faces: Tensor) -> Tensor:  # [B,3,S,S] -> [B,3,S,S]
    """The lower half black: what the generator is to fill in."""
    low = torch.arange(faces.shape[2], device=faces.device) >= faces.shape[2] // 2
    return faces.masked_fill(low[:, None], 0)
