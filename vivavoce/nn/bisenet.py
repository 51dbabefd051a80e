"""BiSeNet: which of 19 classes each pixel of a face picture is (Yu et al., ECCV 2018; CelebAMask-HQ classes of face-parsing.PyTorch).

A ResNet-18 is the context path: its features at 1/16 and 1/32, each weighed by an attention refinement module, come back up to
1/8, where a feature fusion module joins them with the backbone's own features at 1/8. (The paper has a spatial path of three
convolutions there; the published weights share the backbone's features instead.) Attributes bear the names of the published
state dict; its two auxiliary heads serve training alone and are left out.

`BiSeNet.published` folds batch norms into the convolutions before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASSES = 19
SIDE = 512  # px, side of the pictures that the published weights were trained on
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
AUXILIARY = ("conv_out16.", "conv_out32.")


class Block(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, entering: int, leaving: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(leaving)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """Basic block of ResNet."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.downsample: nn.Sequential | None = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Backbone: features at 1/8, 1/16 and 1/32 of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Residual(64, 64, 1), Residual(64, 64, 1))
        self.layer2 = nn.Sequential(Residual(64, 128, 2), Residual(128, 128, 1))
        self.layer3 = nn.Sequential(Residual(128, 256, 2), Residual(256, 256, 1))
        self.layer4 = nn.Sequential(Residual(256, 512, 2), Residual(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [B,3,H,W] -> [B,128,H/8,W/8], [B,256,H/16,..], [B,512,H/32,..]
        x = self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class Refinement(nn.Module):
    """Attention refinement: channels weighed by what the whole picture shows of them."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.conv = Block(entering, leaving)
        self.conv_atten = nn.Conv2d(leaving, leaving, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(leaving)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))))


class Context(nn.Module):
    """Context path: the backbone and the way back up to 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16, self.arm32 = Refinement(256, 128), Refinement(512, 128)
        self.conv_head32, self.conv_head16 = Block(128, 128), Block(128, 128)
        self.conv_avg = Block(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # -> backbone's and context's features at 1/8, [B,128,H/8,W/8] each
        eighth, sixteenth, last = self.resnet(x)
        coarse = self.arm32(last) + self.conv_avg(last.mean((2, 3), keepdim=True))
        middle = self.arm16(sixteenth) + self.conv_head32(F.interpolate(coarse, sixteenth.shape[2:]))
        return eighth, self.conv_head16(F.interpolate(middle, eighth.shape[2:]))


class Fusion(nn.Module):
    """Feature fusion: detail and context joined, channels weighed and added once more."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = Block(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([detail, context], 1))
        return x + x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))))


class Exit(nn.Module):
    """Features to class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Block(256, 256)
        self.conv_out = nn.Conv2d(256, CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv_out(self.conv(x))
        return scores


class BiSeNet(nn.Module):
    """Scores of the 19 classes at 1/8 of the picture; `labels` gives classes at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.cp, self.ffm, self.conv_out = Context(), Fusion(), Exit()

    def forward(self, x: Tensor) -> Tensor:  # [B,3,H,W] normalised with MEAN and STD -> [B,19,H/8,W/8]
        scores: Tensor = self.conv_out(self.ffm(*self.cp(x)))
        return scores

    @torch.inference_mode()
    def labels(self, pictures: Tensor, side: int = SIDE) -> Tensor:  # uint8 [B,3,H,W] RGB -> uint8 [B,H,W], classes 0..18
        """The class of each pixel. The net sees the pictures at `side` px; classes chosen there are brought back by the nearest pixel."""
        like = self.conv_out.conv_out.weight
        x = pictures.to(like.device, torch.float32)
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, device=like.device)[:, None, None] * 255 for v in (MEAN, STD))
        x = ((x - mean) / std).to(like.dtype).contiguous(memory_format=torch.channels_last)
        scores = F.interpolate(self(x).float(), (side, side), mode="bilinear", align_corners=True)
        found = scores.argmax(1, keepdim=True).to(torch.uint8)
        return F.interpolate(found, pictures.shape[2:], mode="nearest-exact")[:, 0]

    @classmethod
    def published(cls, weights: Mapping[str, Tensor], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Ready for `labels` from a state dict in the form of 79999_iter.pth. Raises RuntimeError for any other state dict."""
        net = cls().eval()
        net.load_state_dict({k: v for k, v in weights.items() if not k.startswith(AUXILIARY)})
        _fold(net)
        net.requires_grad_(False).to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net


def _fold(net: nn.Module) -> None:
    """Batch norms become part of the convolutions before them."""
    for module in list(net.modules()):
        for conv, norm in (("conv", "bn"), ("conv1", "bn1"), ("conv2", "bn2"), ("conv_atten", "bn_atten"), ("0", "1")):
            if isinstance(found := getattr(module, norm, None), nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), found))
                setattr(module, norm, nn.Identity())
