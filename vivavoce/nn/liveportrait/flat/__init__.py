"""W and G for a GPU: every convolution is one of pictures, everything between two of them is one step (`render/warp/portrait`).

Exact up to rounding:

* **A convolution of a volume** is one of its slices with as many results for each tap of the depth; the step after it adds those of
  neighbouring slices. So 7x7x7 with 22 results (41 % of W's work, of which a tensor core wants at least 64 at a time) becomes
  7x7 with 154. Its upper and lower rows are two convolutions: for 49 taps cuDNN 9.19 took a kernel of sm_80, at half the rate.
* **The occlusion** reads all slices of a place with a kernel each: these are further results of that convolution, of which slice d
  needs the d-th alone.
* **A convolution of an enlarged map** is one of the small map with 2x2 taps that makes the kinds of pixels of each cell: of
  nearest-doubled ones 16 products instead of 36.
* **Constants of channels** before an instance norm vanish in it: of G's biases on features only those after the last norm are added.
* **The shift of a learned shortcut** goes through its 1x1 convolution with the weights, which leaves a quarter or half of its channels.
* A volume's slots are sampled where they are needed, the flow is never written, no map is copied into another layout, an enlarged
  picture is read from the small one, and norm, scale, shift and leaky ReLU are one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.nn.liveportrait import Networks
from vivavoce.nn.liveportrait.blocks import fold
from vivavoce.nn.liveportrait.flat.decoder import Decoder
from vivavoce.nn.liveportrait.flat.warping import Warping
from vivavoce.render.warp import portrait


class FlatDrawer(nn.Module):
    """W and G for inference: a copy of the networks' weights.

    Args:
        networks: stay as they are.
        dtype: of weights and features; coordinates, moments and biases are float32 (float64 for float64).
        backend: of the steps between convolutions.
    Raises:
        InputError: the back end is not there.
    """

    def __init__(self, networks: Networks, dtype: torch.dtype = torch.float32, backend: str = "auto") -> None:
        super().__init__()
        steps = portrait.steps(next(networks.parameters()).device, backend)
        with torch.no_grad():
            self.warping = Warping(fold(networks.warping), dtype, steps)
            self.decoder = Decoder(fold(networks.decoder), dtype, steps)
        self.dtype = dtype
        self.eval().requires_grad_(False)

    def forward(self, volume: Tensor, driving: Tensor, source: Tensor) -> Tensor:
        """Volume [T,C,D,H,W], driving and source points [T,K,3] -> pictures [T,3,h,w]."""
        whole = volume.permute(0, 2, 3, 4, 1).to(self.dtype, memory_format=torch.contiguous_format).contiguous()
        return self.decoder(self.warping(whole, driving, source))
