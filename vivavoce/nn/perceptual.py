"""AlexNet and VGG16 up to their last convolution: features in which pictures that look alike lie close together.

LPIPS (Zhang et al., CVPR 2018), version 0.1: squared distance of features of unit length at five depths, weighted by channel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce import assets
from vivavoce.types import InputError

# (channels, kernel, stride, padding) a convolution, "pool", "tap": features are taken here. The last one needs no mark.
ALEXNET = (
    *((64, 11, 4, 2), "tap", "pool", (192, 5, 1, 2), "tap", "pool", (384, 3, 1, 1), "tap", (256, 3, 1, 1), "tap", (256, 3, 1, 1), "tap"),
)  # fmt: skip
VGG16 = tuple(
    step
    for block, (channels, times) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
    for step in (*(("pool",) if block else ()), *(((channels, 3, 1, 1),) * times), "tap")
)


class Perceptual(nn.Module):
    """The trunk and the five weightings of its features.

    Args:
        net: "alexnet" (the field's choice for reporting) or "vgg16" (for training losses).
    """

    PLANS: ClassVar = {"alexnet": (ALEXNET, 3), "vgg16": (VGG16, 2)}  # and the side of a pooling window, which moves by two
    shift: Tensor
    scale: Tensor

    def __init__(self, net: str = "alexnet") -> None:
        super().__init__()
        self.net = net
        self.plan, self.window = self.PLANS[net]
        self.convolutions, self.weights = nn.ModuleList(), nn.ParameterList()
        channels = 3
        for step in self.plan:
            if step == "tap":
                self.weights.append(nn.Parameter(torch.ones(channels)))
            elif step != "pool":
                self.convolutions.append(nn.Conv2d(channels, *step))
                channels = step[0]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])  # of LPIPS, for values -1..1
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls, net: str = "alexnet", device: str | torch.device = "cpu") -> Perceptual:
        """With the published weights (catalogue: lpips_alexnet, lpips_vgg16; kernels stored as height, width, in, out).

        Raises InputError when they cannot be had or are not what they should be.
        """
        name, held, self = f"lpips_{net}", assets.state_dict(f"lpips_{net}"), cls(net)
        trunk = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[net]
        state: dict[str, Tensor] = {"shift": self.shift, "scale": self.scale}
        try:
            for k in range(len(self.convolutions)):
                state[f"convolutions.{k}.weight"] = held[f"{trunk}.Conv_{k}.kernel"].permute(3, 2, 0, 1)
                state[f"convolutions.{k}.bias"] = held[f"{trunk}.Conv_{k}.bias"]
            for k in range(len(self.weights)):
                state[f"weights.{k}"] = held[f"NetLinLayer_{k}.Conv_0.kernel"].reshape(-1)
            self.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            cause = f"not the weights of LPIPS 0.1 ({' '.join(str(error).split())[:120]})"
            raise InputError(assets.path(name), cause, f"run: vivavoce assets fetch {name} --again") from error
        return self.to(device).eval()

    def features(self, images: Tensor) -> list[Tensor]:  # [T,3,H,W] in 0..1 -> five of [T,C,h,w]
        """What the trunk sees at the five depths."""
        x = (images * 2 - 1 - self.shift) / self.scale
        out, convolutions = [], iter(self.convolutions)
        for step in self.plan:
            if step == "tap":
                out.append(x)
            elif step == "pool":
                x = functional.max_pool2d(x, self.window, 2)
            else:
                x = torch.relu(next(convolutions)(x))
        return out

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:  # [T,3,H,W] in 0..1, twice -> [T]
        """LPIPS: 0 for equal pictures."""
        return self.distance(self.features(images), self.features(targets))

    def distance(self, images: list[Tensor], targets: list[Tensor]) -> Tensor:  # five of [T,C,h,w], twice -> [T]
        """LPIPS from features."""
        total = images[0].new_zeros(len(images[0]))
        for a, b, weight in zip(images, targets, self.weights, strict=True):
            gap = (_unit(a) - _unit(b)).square()
            total = total + torch.einsum("tchw,c->t", gap, weight) / (gap.shape[2] * gap.shape[3])
        return total


def _unit(features: Tensor) -> Tensor:  # [T,C,h,w]
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)
