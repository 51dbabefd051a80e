"""Expert sync: how well lips and sound agree in the eyes of a lip expert of our own. Not LSE: another network, other numbers.

One minus the cosine of the expert's two vectors, for five frames against 0.2 s of mel at -15 to +15 frames. What judges a generator should
not be the expert that taught it, or the figure is its own praise; name the expert beside the figure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.metrics.checked import checked
from vivavoce.metrics.offsets import SHIFTS, Sync, Watch
from vivavoce.nn.lip_expert import FRAMES, LipExpert, lips
from vivavoce.types import InputError


def watch(mel: Tensor, frames: int, net: LipExpert) -> Watch:  # [T,1,80,16], number of frames that will come
    """Scores of a clip whose crops ([t,3,S,S] 0..1 RGB) are pushed piece by piece; moments beyond the ends are not compared.

    Row t of `mel` begins with frame t. Raises InputError for fewer than six frames, and for values that are not finite.
    """
    count = min(frames, len(mel)) - FRAMES + 1
    if count < 2:
        raise InputError("expert sync", f"{frames} frames hold no two moments of {FRAMES}", "give a longer clip")
    checked("expert sync", mel)
    like = next(net.parameters())

    def see(faces: Tensor) -> Tensor:  # [m+4,3,S,S] -> [m,D]
        checked("expert sync", faces)
        return net.see(lips(faces.to(like).unfold(0, FRAMES, 1).permute(0, 4, 1, 2, 3))).cpu()

    return Watch(count, see, lambda first, end: net.hear(mel[first:end].to(like)).cpu(), _apart, beyond=float("nan"))


def _apart(seen: Tensor, heard: Tensor) -> Tensor:  # [n,1,D], [n,31,D] -> [n,31]
    return 1 - (seen * heard).sum(2)


def expert_sync(faces: Tensor, mel: Tensor, net: LipExpert) -> Sync:  # [T,3,S,S] 0..1 RGB, [T,1,80,16]
    """Offset in frames, distance 0..1 (lower is better) and confidence of a clip; arguments as of `watch`."""
    clip = watch(mel, len(faces), net)
    clip.push(faces)
    return clip.score()


def accuracy(faces: Tensor, mel: Tensor, net: LipExpert, apart: int = FRAMES) -> tuple[float, float]:
    """Share of moments told to be in sync that are, and of moments `apart` frames off told not to be; arguments as of `watch`."""
    if not 0 < apart <= SHIFTS:
        raise InputError("expert sync", f"{apart} frames apart", f"choose from 1 to {SHIFTS}")
    table = 1 - expert_sync(faces, mel, net).distances
    near, far = table[:, SHIFTS], torch.cat([table[apart:, SHIFTS - apart], table[:-apart, SHIFTS + apart]])
    return float((near > 0.5).float().mean()), float((far <= 0.5).float().mean())
