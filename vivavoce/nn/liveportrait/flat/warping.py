"""W of pictures: see the package."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nn.liveportrait.flat.layers import Conv, constant, flattened, phases
from vivavoce.nn.liveportrait.warping import DenseMotion, WarpingNetwork
from vivavoce.render.warp.portrait import even

DEPTH = 3  # taps of the hourglass's convolutions


class Warping(nn.Module):
    """Args: W with folded norms, dtype of weights and features, the steps between convolutions."""

    compress: Tensor
    compress_bias: Tensor
    mask_bias: Tensor
    occlusion_bias: Tensor

    def __init__(self, network: WarpingNetwork, dtype: torch.dtype, steps: ModuleType) -> None:
        super().__init__()
        dense, self.steps = network.dense_motion_network, steps
        self._compress(dense, dtype)
        down: list[nn.Conv3d] = [block.conv for block in dense.hourglass.encoder.down_blocks]  # type: ignore[misc]
        up: list[nn.Conv3d] = [block.conv for block in dense.hourglass.decoder.up_blocks]  # type: ignore[misc]
        self.row = even(down[0].in_channels)
        slots = dense.mask.out_channels
        first = flattened(_sorted(down[0].weight, slots))
        self.down = nn.ModuleList([Conv(first, dtype, entering=self.row), *(Conv(flattened(c.weight), dtype) for c in down[1:])])
        self.up = nn.ModuleList(Conv(flattened(phases(c.weight, 2), 4), dtype, padding=(1, 1)) for c in up)
        self.down_bias = nn.ParameterList(constant(conv.bias, dtype) for conv in down)
        self.up_bias = nn.ParameterList(constant(conv.bias, dtype) for conv in up)
        last = dense.hourglass.decoder.conv
        missing, wide = even(last.out_channels) - last.out_channels, up[-1].out_channels + self.row
        made, skipped = last.weight.split([up[-1].out_channels, down[0].in_channels], 1)
        weight = functional.pad(torch.cat([made, _sorted(skipped, slots)], 1), (0, 0) * 4 + (0, missing))
        self.last = Conv(flattened(weight), dtype, entering=wide)
        self.last_bias = nn.Parameter(functional.pad(constant(last.bias, dtype), (0, missing)))
        self._ends(network, last.out_channels + missing, dtype)

    def _compress(self, dense: DenseMotion, dtype: torch.dtype) -> None:
        conv, norm = dense.compress, dense.norm
        assert isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d)
        assert conv.bias is not None and norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("compress", (conv.weight.flatten(1) * scale[:, None]).to(dtype))
        self.register_buffer("compress_bias", ((conv.bias - norm.running_mean) * scale + norm.bias).to(dtype))

    def _ends(self, network: WarpingNetwork, entering: int, dtype: torch.dtype) -> None:
        """What reads the hourglass, and what reads the sampled volume."""
        dense = network.dense_motion_network
        mask, occlusion, width = dense.mask, dense.occlusion, dense.hourglass.decoder.width
        slots = even(mask.out_channels)
        self.taps, self.first = mask.kernel_size[0], mask.kernel_size[0] * slots
        levels = occlusion.weight[0].unflatten(0, (width, -1)).transpose(0, 1)  # [D,I,7,7]
        weight = torch.cat([flattened(functional.pad(mask.weight, (0, 0) * 4 + (0, slots - mask.out_channels))), levels])
        # rows up to the middle, then those below: cuDNN's quick kernels seem to end at 32 taps
        self.reach = self.taps // 2
        parts, margins = weight.split([self.reach + 1, self.reach], 2), ((self.reach, self.reach),) * 2
        self.mask = nn.ModuleList(Conv(part, dtype, margin, entering, even(len(part))) for part, margin in zip(parts, margins, strict=True))
        self.register_buffer("mask_bias", constant(mask.bias, dtype))
        self.register_buffer("occlusion_bias", constant(occlusion.bias, dtype))
        third, fourth, depth = network.third, network.fourth, len(levels)
        weight = third.conv.weight.unflatten(1, (-1, depth)).transpose(1, 2).flatten(1, 2)  # slice by slice, as it is sampled
        self.third, self.third_bias = Conv(weight, dtype), nn.Parameter(constant(third.conv.bias, dtype))
        self.slope = third.slope
        self.fourth, self.fourth_bias = Conv(fourth.weight, dtype), nn.Parameter(constant(fourth.bias, dtype))

    def forward(self, volume: Tensor, driving: Tensor, source: Tensor) -> Tensor:
        """Volume [T,D,H,W,C] moved from the source's points [T,K,3] to the driving ones [T,K,3] -> [T,H,W,C']."""
        steps, depth = self.steps, volume.shape[1]
        small = functional.relu(functional.linear(volume, self.compress, self.compress_bias))
        levels = [steps.slots(small, driving, source, self.row)]
        for conv, bias in zip(self.down, self.down_bias, strict=True):
            levels.append(steps.shrink(conv(levels[-1]), bias, depth, DEPTH))
        x = levels.pop()
        for conv, bias in zip(self.up, self.up_bias, strict=True):
            x = steps.spread(conv(x), bias, depth, DEPTH, factor=2, skip=levels.pop())
        seen, more = self._masked(steps.spread(self.last(x), self.last_bias, depth, DEPTH))
        shift = functional.pad(source - driving, (0, 0, 1, 0))  # [T,S,3]; slot 0 stays
        moved = steps.sample(seen, self.mask_bias, shift, volume, self.taps, more)
        inner = steps.finish(self.third(moved), self.third_bias, self.slope)
        return steps.hide(self.fourth(inner), self.fourth_bias, seen, self.first, self.occlusion_bias, more)

    def _masked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two summands: rows of one are the taps up to the middle's, of the other those after it, which end as many rows later."""
        (one, two), height = (conv(x) for conv in self.mask), x.shape[1]
        return one[:, :height], two[:, self.reach + 1 :][:, :height]


def _sorted(weight: Tensor, slots: int) -> Tensor:
    """Of a convolution that reads heat and channels slot after slot: one that reads the heat of all slots, then each channel of all."""
    return weight.unflatten(1, (slots, -1)).transpose(1, 2).flatten(1, 2)
