"""Expert sync: how well lips and sound agree in the eyes of a lip expert of our own. Not LSE: another network, other numbers.

One minus the cosine of the expert's two vectors, for five frames against 0.2 s of mel at -15 to +15 frames. What judges a generator should
not be the expert that taught it, or the figure is its own praise; name the expert beside the figure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.metrics.lse import SHIFTS, Sync
from vivavoce.nn.lip_expert import FRAMES, LipExpert, lips
from vivavoce.types import InputError

BATCH = 64  # moments at once


@torch.no_grad()
def vectors(faces: Tensor, mel: Tensor, net: LipExpert) -> tuple[Tensor, Tensor]:  # [T,3,S,S] 0..1 RGB, [T,1,80,16] -> [n,D] x2
    """What the expert makes of every moment of a clip, lips and sound; row t of `mel` begins with frame t; n = T - 4.

    Raises InputError for fewer than six frames.
    """
    count = min(len(faces), len(mel)) - FRAMES + 1
    if count < 2:
        raise InputError("expert sync", f"{len(faces)} frames hold no two moments of {FRAMES}", "give a longer clip")
    like = next(net.parameters())
    seen, heard = [], []
    for at in range(0, count, BATCH):
        end = min(at + BATCH, count)
        moments = faces[at : end + FRAMES - 1].to(like).unfold(0, FRAMES, 1)[: end - at].permute(0, 4, 1, 2, 3)
        sound, sight = net(mel[at:end].to(like), lips(moments))
        seen.append(sight.cpu())
        heard.append(sound.cpu())
    return torch.cat(seen), torch.cat(heard)


def expert_sync(faces: Tensor, mel: Tensor, net: LipExpert, shifts: int = SHIFTS) -> Sync:
    """Offset in frames, distance 0..1 (lower is better) and confidence of a clip; arguments as of `vectors`."""
    seen, heard = vectors(faces, mel, net)
    most = min(shifts, len(seen) - 1)
    table = seen.new_full((len(seen), 2 * most + 1), float("nan"))
    for k, shift in enumerate(range(-most, most + 1)):
        begin, end = max(0, -shift), min(len(seen), len(seen) - shift)
        table[begin:end, k] = 1 - (seen[begin:end] * heard[begin + shift : end + shift]).sum(1)
    return Sync.of(table)


def accuracy(faces: Tensor, mel: Tensor, net: LipExpert, apart: int = FRAMES) -> tuple[float, float]:
    """Share of moments told to be in sync that are, and of moments `apart` frames off told not to be; arguments as of `vectors`."""
    seen, heard = vectors(faces, mel, net)
    near = (seen * heard).sum(1)
    far = torch.cat([(seen[apart:] * heard[:-apart]).sum(1), (seen[:-apart] * heard[apart:]).sum(1)])
    return float((near > 0.5).float().mean()), float((far <= 0.5).float().mean())
