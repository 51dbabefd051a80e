"""The lip expert of Wav2Lip: do these five frames of lips and these 0.2 s of sound belong together?

The colour SyncNet of "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild" (Prajwal et al., ACM MM 2020,
arXiv 2008.10010). Both halves give a vector of length one and, because the last layer is a ReLU, without negative parts: their
cosine lies in 0..1 and is taken as a probability.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivavoce import assets
from vivavoce.catalogue import CATALOGUE
from vivavoce.nn.mel_encoder import Block, load_published, mel_encoder, narrowed, residuals
from vivavoce.types import InputError

FRAMES = 5  # that are seen at once
SIDE = 96  # px of a face crop; the expert sees its lower half
WIDTHS = (32, 64, 128, 256, 512)


class LipExpert(nn.Module):
    """Two encoders into one space; attributes bear the names of the published state dict.

    Args:
        share: of the published channels; 1 is the published net.
    """

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e = narrowed(WIDTHS, share)
        self.face_encoder = nn.Sequential(
            Block(3 * FRAMES, a, 7, padding=3),
            Block(a, b, 5, (1, 2), 1), *residuals(b, 2),
            Block(b, c, stride=2), *residuals(c, 3),
            Block(c, d, stride=2), *residuals(d, 2),
            Block(d, e, stride=2), *residuals(e, 2),
            Block(e, e, stride=2), Block(e, e, padding=0), Block(e, e, 1, padding=0),
        )  # fmt: skip
        self.audio_encoder = mel_encoder(2, share)

    def forward(self, mel: Tensor, lips: Tensor) -> tuple[Tensor, Tensor]:  # [B,1,80,16], [B,15,48,96] -> [B,512] x2
        """Vectors of length one of sound and lips. Mel in -4..4; frames in 0..1, one after another in the channels, lower halves, in
        the order of colours they were trained with (the authors' weights: blue, green, red)."""
        return self.hear(mel), self.see(lips)

    def hear(self, mel: Tensor) -> Tensor:  # [B,1,80,16] -> [B,512]
        """The sound alone."""
        return functional.normalize(self.audio_encoder(mel).flatten(1))

    def see(self, lips: Tensor) -> Tensor:  # [B,15,48,96] -> [B,512]
        """The lips alone."""
        return functional.normalize(self.face_encoder(lips).flatten(1))

    def agreement(self, mel: Tensor, lips: Tensor) -> Tensor:  # -> [B] in 0..1
        """Cosine between sound and lips."""
        return functional.cosine_similarity(*self(mel, lips))

    @classmethod
    def from_authors(cls, state_dict: dict[str, Tensor]) -> LipExpert:
        """From `lipsync_expert.pth`. Raises InputError for another file."""
        net = cls()
        load_published(net, state_dict, "lip expert")
        return net.eval()


def lips(faces: Tensor, side: int = SIDE) -> Tensor:  # [B,5,3,S,S] RGB -> [B,15,side/2,side], blue green red as the authors' nets
    """What the expert sees of face crops: `side` px, lower halves, five frames in the channels. Differentiable."""
    count, height = faces.shape[0] * faces.shape[1], faces.shape[-2]
    low = faces.flatten(0, 1)[:, :, height // 2 :].flip(1)
    if height != side:
        low = functional.interpolate(low, (side // 2, side), mode="bilinear", antialias=height > side)
    return low.reshape(count // FRAMES, 3 * FRAMES, side // 2, side)


def sync_loss(agreement: Tensor, same: Tensor) -> Tensor:  # [B], [B] 0 or 1 -> scalar
    """Binary cross entropy of the cosine, taken as a probability (eq. 1 and 2 of the paper)."""
    with torch.autocast(agreement.device.type, enabled=False):  # binary cross entropy has no half precision
        return functional.binary_cross_entropy(agreement.float().clamp(0, 1), same.float())


def expert_of(place: str, device: str | torch.device = "cpu") -> LipExpert:
    """A frozen expert: of a run folder of lip_expert, of the authors' `lipsync_expert.pth`, or by that file's name in the catalogue.

    Raises InputError when it is none of these.
    """
    folder = Path(place)
    if (folder / "config.json").is_file():
        try:
            about = json.loads((folder / "config.json").read_text("utf-8"))
            net = LipExpert(float(about["config"]["share"]))
            net.load_state_dict({k.removeprefix("net."): v for k, v in assets.tensors(folder / "model.safetensors").items()})
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            cause = f"not a run of lip_expert ({' '.join(str(error).split())[:120]})"
            raise InputError(folder, cause, "run: vivavoce train lip_expert CORPUS") from error
    elif folder.is_file():
        net = LipExpert.from_authors(assets.tensors(folder))
    elif place in CATALOGUE:
        net = LipExpert.from_authors(assets.state_dict(place))
    else:
        raise InputError(place, "no such lip expert", "run: vivavoce train lip_expert CORPUS, and give its run folder")
    return net.eval().requires_grad_(False).to(device)
