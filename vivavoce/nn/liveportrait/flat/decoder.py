"""G of pictures: see the package."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from vivavoce.nn.liveportrait.decoder import SLOPE, Spade, SpadeBlock, SpadeDecoder
from vivavoce.nn.liveportrait.flat.layers import Conv, constant, phases
from vivavoce.render.warp.portrait import even


class Block(nn.Module):
    """A SpadeBlock without the biases that the next norm takes away, and without the first convolutions of its maps."""

    def __init__(self, block: SpadeBlock, dtype: torch.dtype, steps: ModuleType) -> None:
        super().__init__()
        self.steps = steps
        self.conv_0, self.conv_1 = Conv(block.conv_0.weight(), dtype), Conv(block.conv_1.weight(), dtype)
        self.conv_s = Conv(block.conv_s.weight(), dtype) if block.learned else None
        norms = spades(block)
        weights = [torch.cat([n.mlp_gamma.weight, n.mlp_beta.weight]) for n in norms]
        # the scale is one more than its map
        biases = [torch.cat([1 + constant(n.mlp_gamma.bias, dtype), constant(n.mlp_beta.bias, dtype)]) for n in norms]
        self.end = constant(block.conv_1.bias, dtype)  # what each channel is raised by, and forward leaves out
        if block.learned:  # the shortcut's shift goes through its 1x1 convolution at once, which makes fewer channels of it
            mixed, norm = block.conv_s.weight().flatten(1), norms[2]
            weights[2] = torch.cat([norm.mlp_gamma.weight, torch.einsum("oc,cikl->oikl", mixed, norm.mlp_beta.weight)])
            scale, shift = biases[2].chunk(2)
            biases[2], self.end = scale.clone(), self.end + mixed.to(shift) @ shift
        self.maps = nn.ModuleList(Conv(weight, dtype) for weight in weights)
        self.biases = nn.ParameterList(biases)

    def forward(self, x: Tensor, moments: Tensor, inner: Tensor) -> list[Tensor]:
        """A map [T,H,W,C] with its moments, and what its scales and shifts are made from, [2 or 3,T,nH,nW,hidden] -> summands."""
        steps, beside = self.steps, []
        straight = x
        if self.conv_s is not None:
            beside = [self.maps[2](inner[2])]
            straight = self.conv_s(steps.modulate(x, moments, beside[0], self.biases[2], 1.0))
        one = self.conv_0(steps.modulate(x, moments, self.maps[0](inner[0]), self.biases[0], SLOPE))
        _, own = steps.statistics(one)
        return [straight, self.conv_1(steps.modulate(one, own, self.maps[1](inner[1]), self.biases[1], SLOPE)), *beside]


class Decoder(nn.Module):
    """Args: G, dtype of weights and features, the steps between convolutions."""

    end: Tensor
    last_bias: Tensor

    def __init__(self, decoder: SpadeDecoder, dtype: torch.dtype, steps: ModuleType) -> None:
        super().__init__()
        self.steps = steps
        blocks = [decoder.get_submodule(f"G_middle_{k}") for k in range(decoder.middle)]
        self.fc = Conv(decoder.fc.weight, dtype)
        self.middle = nn.ModuleList(Block(b, dtype, steps) for b in blocks)  # type: ignore[arg-type]
        last_block = Block(decoder.up_1, dtype, steps)
        self.up = nn.ModuleList([Block(decoder.up_0, dtype, steps), last_block])
        self.maps, self.biases = nn.ModuleList(), nn.ParameterList()
        for several, factor in ((blocks, 1), ([decoder.up_0], 2), ([decoder.up_1], 4)):
            shared = [norm.mlp_shared[0] for block in several for norm in spades(block)]  # type: ignore[arg-type]
            weight = torch.cat([conv.weight for conv in shared])  # type: ignore[misc]
            self.maps.append(Conv(phases(weight, factor), dtype, padding=(1, 1)) if factor > 1 else Conv(weight, dtype))
            self.biases.append(constant(torch.cat([conv.bias for conv in shared]), dtype))  # type: ignore[misc]
        last = decoder.conv_img[0]
        assert isinstance(last, nn.Conv2d)
        self.register_buffer("end", last_block.end)
        self.last = Conv(last.weight, dtype, leaving=even(len(last.weight)))
        self.register_buffer("last_bias", constant(last.bias, dtype))

    def forward(self, features: Tensor) -> Tensor:  # [T,h,w,C] -> [T,3,8h,8w] in 0..1
        steps, count = self.steps, 2 * len(self.middle)
        inner = steps.spread(self.maps[0](features), self.biases[0], groups=count)
        x, moments = steps.statistics(self.fc(features))
        for k, block in enumerate(self.middle):
            x, moments = steps.statistics(*block(x, moments, inner[2 * k : 2 * k + 2]))
        parts: list[Tensor] = []
        for block, maps, bias, factor in zip(self.up, list(self.maps)[1:], list(self.biases)[1:], (2, 4), strict=True):
            parts = block(x, moments, steps.spread(maps(features), bias, factor=factor, groups=3))
            if factor == 2:
                x, moments = steps.statistics(*parts)
        return steps.picture(self.last(steps.finish(parts[0], self.end, SLOPE, *parts[1:])), self.last_bias)


def spades(block: SpadeBlock) -> list[Spade]:
    """The norms of a block."""
    return [block.norm_0, block.norm_1, *([block.norm_s] if block.learned else [])]
