"""The lip expert of Wav2Lip: learns to tell lips that belong to a sound from lips that do not; a judge, it draws nothing.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild" (ACM MM 2020). Five frames of the lower
half of a face and 0.2 s of sound become vectors; their cosine is trained with binary cross entropy to be 1 where both come from one
moment and 0 where they come from two moments of the same second of the same film. The paper draws one pair a moment, true or
false by chance, from anywhere in the film; here every moment gives one of each.

`wav2lip` takes a run of it by `--expert RUN`. The paper trains until the loss on held-out films is about 0.25.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vivavoce.face.box import face_box, fill
from vivavoce.face.crop import crop
from vivavoce.method import Method
from vivavoce.nn import moments
from vivavoce.nn.lip_expert import SIDE, LipExpert, lips, sync_loss
from vivavoce.registry import register
from vivavoce.speech.mel_wav2lip import columns
from vivavoce.types import Clip


@dataclass
class Config:
    """Settings of lip_expert."""

    steps: int = 20_000  # training steps
    batch: int = 16  # windows a step
    window_rows: int = 20  # consecutive rows a window: four moments of five
    size: int = 0  # longest side of the frames that faces are cut out of, px; 0: as they are
    rate: float = 1e-4  # of Adam
    share: float = 1.0  # of the published channels; 1 is the published network
    speech_dim: int = 640  # features a step of mel_wav2lip
    seed: int = 0  # of everything random


@register(
    family="expert",
    paper="A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild, ACM MM 2020, arXiv 2008.10010",
    origin="https://github.com/Rudrabha/Wav2Lip",
    license="none stated; weights trained on LRS2, research only (not used: written from the paper's facts)",
)
class LipSyncExpert(Method):
    """See the module."""

    needs = frozenset({"frames", "landmarks", "speech"})
    speech = "mel_wav2lip"
    window = (0, 2)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"share": 0.25, "batch": 8, "steps": 3000},
        "tiny": {"share": 0.05, "batch": 1, "window_rows": 10, "steps": 6, "rate": 1e-3},
    }
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = LipExpert(config.share)

    def scores(self, clip: Clip) -> tuple[Tensor, Tensor]:  # -> [n] x2 in 0..1
        """Agreement of each moment's lips with its own sound and with another moment's."""
        assert clip.frames is not None and clip.landmarks is not None and clip.speech is not None
        first = moments.starts(len(clip), self.config.window_rows)
        known = moments.seen(clip)
        places = torch.nan_to_num(face_box(clip.landmarks))
        faces = crop(clip.frames, fill(places, SIDE))
        rows = moments.rows(first).to(faces.device)
        whole = known[rows].all(1)  # moments in which no face was lost
        mel, mouths = columns(clip.speech), lips(faces[rows])
        apart = moments.others(first).flatten().to(faces.device)
        near, far = self.net.agreement(mel[rows[:, 0]], mouths), self.net.agreement(mel[apart], mouths)
        return torch.where(whole, near, 1.0), torch.where(whole, far, 0.0)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """Binary cross entropy of true and false pairs alike."""
        near, far = self.scores(clip)
        return {"sync": sync_loss(torch.cat([near, far]), torch.cat([torch.ones_like(near), torch.zeros_like(far)]))}

    @classmethod
    def from_authors(cls, state_dict: dict[str, Tensor]) -> LipSyncExpert:
        """From `lipsync_expert.pth`. Raises InputError for another file."""
        method = cls(Config())
        method.net = LipExpert.from_authors(state_dict)
        return method.eval()
