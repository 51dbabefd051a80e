"""G: warped features -> a picture, by spatially adaptive normalisation (SPADE: Park et al., CVPR 2019).

Every convolution of the blocks carries classic spectral normalisation with the key names of torch's old hook (`weight_orig`,
`weight_u`, `weight_v`), written out here so that it can be folded, copied and compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2  # of the blocks' leaky ReLU


class SpectralConv(nn.Module):
    """A convolution whose weight is divided by its largest singular value, followed by one power iteration a training step."""

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, entering: int, leaving: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__()
        made = nn.Conv2d(entering, leaving, kernel, bias=bias)
        self.weight_orig = nn.Parameter(made.weight.detach())
        self.bias = made.bias
        rows = self.weight_orig.detach().flatten(1)
        self.register_buffer("weight_u", functional.normalize(torch.randn(rows.shape[0]), dim=0))
        self.register_buffer("weight_v", functional.normalize(rows.T @ self.weight_u, dim=0))

    def weight(self) -> Tensor:  # [O,I,k,k]
        """The weight in use."""
        rows = self.weight_orig.flatten(1)
        if self.training:
            with torch.no_grad():
                self.weight_v.copy_(functional.normalize(rows.T @ self.weight_u, dim=0, eps=1e-12))
                self.weight_u.copy_(functional.normalize(rows @ self.weight_v, dim=0, eps=1e-12))
        u, v = self.weight_u.clone(), self.weight_v.clone()  # the next iteration writes into them before backward reads
        return self.weight_orig / torch.dot(u, rows @ v)

    def forward(self, x: Tensor) -> Tensor:  # [T,I,H,W] -> [T,O,H,W]
        weight = self.weight()
        return functional.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)


class Spade(nn.Module):
    """Instance norm whose scale and shift at each place are read from a map."""

    def __init__(self, channels: int, entering: int, hidden: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(entering, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:  # [T,C,H,W], [T,I,H,W] -> [T,C,H,W]
        inner = self.mlp_shared(features)
        return functional.instance_norm(x) * (1 + self.mlp_gamma(inner)) + self.mlp_beta(inner)


class SpadeBlock(nn.Module):
    """Residual block of two SPADE convolutions; the shortcut is learned where the widths differ."""

    def __init__(self, entering: int, leaving: int, features: int, hidden: int) -> None:
        super().__init__()
        middle = min(entering, leaving)
        self.conv_0, self.conv_1 = SpectralConv(entering, middle), SpectralConv(middle, leaving)
        self.norm_0, self.norm_1 = Spade(entering, features, hidden), Spade(middle, features, hidden)
        self.learned = entering != leaving
        if self.learned:
            self.conv_s, self.norm_s = SpectralConv(entering, leaving, 1, bias=False), Spade(entering, features, hidden)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:  # [T,C,H,W], [T,I,h,w] -> [T,O,H,W]
        if features.shape[-2:] != x.shape[-2:]:
            features = functional.interpolate(features, size=x.shape[-2:])
        straight = self.conv_s(self.norm_s(x, features)) if self.learned else x
        inner = self.conv_0(functional.leaky_relu(self.norm_0(x, features), SLOPE))
        return straight + self.conv_1(functional.leaky_relu(self.norm_1(inner, features), SLOPE))


class SpadeDecoder(nn.Module):
    """55,365,388 parameters at the published widths.

    Args:
        features: channels of the warped features.
        leaving: channels before the last convolution.
        hidden: channels of the maps' first convolution.
        middle: blocks before the size is doubled.
    """

    def __init__(self, features: int = 256, leaving: int = 64, hidden: int = 128, middle: int = 6) -> None:
        super().__init__()
        self.middle = middle
        self.fc = nn.Conv2d(features, 2 * features, 3, padding=1)
        for k in range(middle):
            self.add_module(f"G_middle_{k}", SpadeBlock(2 * features, 2 * features, features, hidden))
        self.up_0 = SpadeBlock(2 * features, features, features, hidden)
        self.up_1 = SpadeBlock(features, leaving, features, hidden)
        self.conv_img = nn.Sequential(nn.Conv2d(leaving, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, features: Tensor) -> Tensor:  # [T,C,h,w] -> [T,3,8h,8w] in 0..1
        x = self.fc(features)
        for k in range(self.middle):
            x = self.get_submodule(f"G_middle_{k}")(x, features)
        x = self.up_0(functional.interpolate(x, scale_factor=2.0), features)
        x = self.up_1(functional.interpolate(x, scale_factor=2.0), features)
        return torch.sigmoid(self.conv_img(functional.leaky_relu(x, SLOPE)))
