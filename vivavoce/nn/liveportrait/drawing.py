"""W and G as they run in production: the same pictures with less work, in half precision, as one CUDA graph.

Exact up to rounding: batch norms and spectral norms are folded; the scale and the shift of a modulation are one convolution; the first
convolutions of all modulations that read the same map are one; those that read the map enlarged to twice or four times its size
never see it enlarged (`Enlarged`). Of G's 446 billion multiplications a frame 73 are those; some 60 are saved. A GPU with Triton is
given `flat` instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce import assets
from vivavoce.nn.graphs import Graphs, plain
from vivavoce.nn.liveportrait import Networks
from vivavoce.nn.liveportrait.blocks import fold
from vivavoce.nn.liveportrait.decoder import SLOPE, Spade, SpadeBlock, SpadeDecoder, SpectralConv
from vivavoce.nn.liveportrait.flat import FlatDrawer
from vivavoce.nn.together import Rows
from vivavoce.render.backends import installed

Draw = Callable[[Tensor, Tensor, Tensor], Tensor]  # volume [T,C,D,H,W], driving and source points [T,K,3] -> [T,3,h,w]
Points = Callable[..., tuple[Tensor, Tensor]]  # anything with a row a picture -> driving and source points [T,K,3]


class Enlarged(nn.Module):
    """A 3x3 convolution of a map enlarged n times (nearest), from the small map.

    Of the pixels that a cell becomes, the first sees the cell before and its own, the last its own and the next, those between
    their own alone: per axis two or three kinds of one or two taps, instead of three taps for every pixel.
    """

    def __init__(self, weight: Tensor, bias: Tensor, factor: int) -> None:
        super().__init__()
        self.factor = factor
        first = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
        kinds = [first, first.flip(0, 1)] if factor == 2 else [first, torch.ones(1, 3), first.flip(0, 1)]
        self.kinds = [(0, 1), (1, 2)] if factor == 2 else [(0, 1), (1, 1), (1, 2)]  # first and last cell, one before counting as 0
        self.places = [[0], [1]] if factor == 2 else [[0], [*range(1, factor - 1)], [factor - 1]]
        self.weights = nn.ParameterList(
            torch.einsum("oiyx,ay,bx->oiab", weight, a.to(weight), b.to(weight)).contiguous() for a in kinds for b in kinds
        )
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:  # [T,I,H,W] -> [T,O,nH,nW]
        rows, _, height, width = x.shape
        padded, n, kernels = functional.pad(x, (1, 1, 1, 1)), self.factor, iter(self.weights)
        out = x.new_empty(rows, height, n, width, n, len(self.bias))
        for (top, bottom), down in zip(self.kinds, self.places, strict=True):
            for (left, right), across in zip(self.kinds, self.places, strict=True):
                part = padded[:, :, top : height + bottom, left : width + right]
                made = functional.conv2d(part, next(kernels), self.bias).permute(0, 2, 3, 1)
                for i in down:
                    for j in across:
                        out[:, :, i, :, j] = made
        return out.reshape(rows, height * n, width * n, -1).permute(0, 3, 1, 2)


class Modulation(nn.Module):
    """SPADE from maps that are there already."""

    def __init__(self, norm: Spade) -> None:
        super().__init__()
        self.conv = nn.Conv2d(norm.mlp_gamma.in_channels, 2 * norm.mlp_gamma.out_channels, 3, padding=1)
        self.conv.weight = nn.Parameter(torch.cat([norm.mlp_gamma.weight, norm.mlp_beta.weight]))
        assert norm.mlp_gamma.bias is not None and norm.mlp_beta.bias is not None
        self.conv.bias = nn.Parameter(torch.cat([1 + norm.mlp_gamma.bias, norm.mlp_beta.bias]))

    def forward(self, x: Tensor, inner: Tensor) -> Tensor:  # [T,C,H,W], [T,hidden,H,W]
        scale, shift = self.conv(inner).chunk(2, 1)
        spread, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)  # torch's instance norm would copy channels-last maps
        return torch.addcmul(shift, (x - mean) * (spread + 1e-5).rsqrt(), scale)


class DrawnBlock(nn.Module):
    """A SpadeBlock with folded weights."""

    def __init__(self, block: SpadeBlock) -> None:
        super().__init__()
        self.conv_0, self.conv_1 = _plain(block.conv_0), _plain(block.conv_1)
        self.norms = nn.ModuleList(Modulation(norm) for norm in _norms(block))
        self.conv_s = _plain(block.conv_s) if block.learned else None

    def forward(self, x: Tensor, maps: list[Tensor]) -> Tensor:
        straight = x if self.conv_s is None else self.conv_s(self.norms[2](x, maps[2]))
        inner = self.conv_0(functional.leaky_relu(self.norms[0](x, maps[0]), SLOPE))
        return straight + self.conv_1(functional.leaky_relu(self.norms[1](inner, maps[1]), SLOPE))


class FoldedDecoder(nn.Module):
    """G for inference."""

    def __init__(self, decoder: SpadeDecoder) -> None:
        super().__init__()
        blocks = [block for name, block in decoder.named_children() if name.startswith("G_middle")]
        self.fc, self.conv_img = decoder.fc, decoder.conv_img
        self.middle = nn.ModuleList(DrawnBlock(b) for b in blocks)  # type: ignore[arg-type]
        self.up_0, self.up_1 = DrawnBlock(decoder.up_0), DrawnBlock(decoder.up_1)
        weight, bias = _first([norm for b in blocks for norm in _norms(b)])  # type: ignore[arg-type]
        self.maps = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        self.maps.weight, self.maps.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.maps_0, self.maps_1 = (Enlarged(*_first(_norms(b)), n) for b, n in ((decoder.up_0, 2), (decoder.up_1, 4)))

    def forward(self, features: Tensor) -> Tensor:  # [T,C,h,w] -> [T,3,8h,8w] in 0..1
        x, maps = self.fc(features), functional.relu(self.maps(features)).chunk(2 * len(self.middle), 1)
        for k, block in enumerate(self.middle):
            x = block(x, maps[2 * k : 2 * k + 2])
        for block, enlarged in ((self.up_0, self.maps_0), (self.up_1, self.maps_1)):
            x = block(functional.interpolate(x, scale_factor=2.0), functional.relu(enlarged(features)).chunk(3, 1))
        return torch.sigmoid(self.conv_img(functional.leaky_relu(x, SLOPE)))


class Drawer(nn.Module):
    """W and G for inference: a copy of the networks' weights.

    Args:
        networks: stay as they are.
        dtype: of weights and features; coordinates stay float32.
    """

    def __init__(self, networks: Networks, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.no_grad():
            self.warping, self.decoder = fold(networks.warping), FoldedDecoder(fold(networks.decoder))
        self.to(dtype).eval().requires_grad_(False)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            elif isinstance(part, nn.Conv3d) and dtype != torch.float32:
                part.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.dtype = dtype

    def forward(self, volume: Tensor, driving: Tensor, source: Tensor) -> Tensor:  # -> [T,3,h,w] float32
        features = self.warping(volume.to(self.dtype), driving, source).features
        return self.decoder(features.to(memory_format=torch.channels_last)).float()


def graphed(draw: Callable[..., Tensor], device: torch.device, dtype: torch.dtype = torch.float16) -> Graphs:
    """A drawer as CUDA graphs.

    Args:
        draw: what is recorded; its first input is volumes.
        dtype: that it wants volumes in; they are held channel by channel, so that filling in a portrait's is one copy.
    """

    def hold(rows: Tensor) -> Tensor:
        return rows.to(dtype).clone(memory_format=torch.channels_last_3d) if rows.ndim == 5 else plain(rows)

    return Graphs(draw, device, hold)


def ready(networks: Networks, half: bool = True, compiled: bool = False, points: Points | None = None) -> Callable[..., Tensor]:
    """The quickest drawer of the device that the networks are on; on CUDA what several threads draw at once is one batch.

    Returns:
        volume, driving and source points -> pictures; with `points` volume and what `points` asks for.

    Args:
        networks: with their weights.
        half: float16 on CUDA; elsewhere float32 always.
        compiled: by torch.compile, where there are no kernels of our own; its products are kept in the cache folder, so the second
            start is quick. On an H200 the plain drawer so compiled takes half as long again as the flat one.
        points: makes driving and source points of what is given in their place; recorded with the rest.
    """
    device = next(networks.parameters()).device
    cuda = device.type == "cuda"
    dtype = torch.float16 if cuda and half else torch.float32
    draw: Draw = FlatDrawer(networks, dtype) if cuda and installed("triton") else Drawer(networks, dtype)
    if compiled and not cuda:  # there it would need Triton too
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(assets.cache() / "inductor"))
        draw = torch.compile(draw)

    def whole(volume: Tensor, *asked: Tensor) -> Tensor:
        driving, source = asked if points is None else points(*(v.to(device) for v in asked))
        return draw(volume, driving, source)

    return Rows(graphed(whole, device, dtype), abreast=2) if cuda else whole


def _norms(block: SpadeBlock) -> list[Spade]:
    return [block.norm_0, block.norm_1, *([block.norm_s] if block.learned else [])]


def _first(norms: list[Spade]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first convolutions, as one."""
    convolutions = [norm.mlp_shared[0] for norm in norms]
    return torch.cat([c.weight for c in convolutions]), torch.cat([c.bias for c in convolutions])  # type: ignore[misc]


def _plain(conv: SpectralConv) -> nn.Conv2d:
    weight = conv.weight()
    out = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2, bias=conv.bias is not None)
    out.weight, out.bias = nn.Parameter(weight), None if conv.bias is None else nn.Parameter(conv.bias)
    return out
