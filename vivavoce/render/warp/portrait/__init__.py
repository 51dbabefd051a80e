"""What LivePortrait's networks do between two convolutions, for `nn/liveportrait/flat`: one step, one pass over memory. No gradients.

Maps are [T,H,W,C] in memory, volumes [T*D,H,W,C]: slices are pictures of a batch. A convolution of a volume is one of its slices that
makes for each tap of the depth a result of its own: tap k of n in slice d is for the slice d - k + n // 2. A convolution of an enlarged
map is one of the small map with a margin, whose results are the kinds of pixels that a cell becomes (first, between, last; last ones
stand with the next cell). Channels are in the order kind, tap, channel; further ones may follow.

    slots       compressed volume [T,D,H,W,c], driving and source points [T,K,3] -> [T*D,H,W,row]: for each slot (one that stays, one a
                point) the difference of the points' Gaussians, then each channel of the volume moved by each slot's shift; the rest zero
    shrink      volume's results, bias -> taps summed, ReLU, mean over 2x2
    spread      results, bias -> kinds in their places, taps summed, ReLU; joined with `skip`, or split into `groups` [groups,...]
    sample      mask's results (`even` channels a tap; plus `more`; both may be cut from higher ones), bias, shifts [T,S,3], volume
                [T,D,H,W,C] -> [T,H,W,D*C]: the volume at the grid moved by the mean shift, weighted by the softmax over slots
    statistics  map (plus another, plus the last channels of `beside`) -> the sum, and moments of its channels for `modulate`
    modulate    map with moments, scales and shifts [T,nH,nW,2C or more], their bias -> instance norm, enlarged n times, scaled and
                shifted, leaky ReLU; a bias of C alone: no shifts
    finish      map, bias (plus others as for statistics) -> leaky ReLU
    hide        map, bias, results (plus `more`) whose channel first + d of slice d is the occlusion's -> map times sigmoid of their sum
    picture     map of 12 channels and bias -> pixel shuffle by two, sigmoid: [T,3,2H,2W]

| back end | device, arithmetic |
|---|---|
| torch | any, any: the oracle |
| triton | CUDA, any floats in memory, sums in float32 |
"""

from __future__ import annotations

from types import ModuleType

import torch as pytorch  # importing the back end of that name binds `torch` in this package

from vivavoce.render.backends import installed, load

BACKENDS = ("torch", "triton")


def steps(device: pytorch.device, backend: str = "auto") -> ModuleType:
    """The back end for a device. Raises InputError for one that is not there."""
    return load(__name__, BACKENDS, backend, "triton" if device.type == "cuda" and installed("triton") else "torch")


def even(count: int) -> int:
    """The next multiple of eight: tensor cores take no other number of channels of half precision."""
    return -(-count // 8) * 8
