"""What many voices do to lips: the network of speech_motion with the weights that come with vivavoce, as a second ear of a head that
was trained on one voice.

A minute of one voice teaches a head how that voice's features look when the lips part, and little of it holds for another voice. Eleven
minutes of twenty voices know less of this mouth, and what they know holds for anybody.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.nn import shipping

MOVES = 13  # kinds of movement that speech_motion tells of
LAYERS = ("listen.0", "halves.0", "halves.1", "speak.0", "speak.3")
OWN = ("mean", "deviation")


class Prior(nn.Module):
    """[T,W,D] -> [T,13], movements of lips and jaw in their standard deviations. Nothing here learns; with no weights yet they are 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in (*OWN, *(f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias"))):
            self.register_buffer(name.replace(".", "_"), torch.zeros(0))

    def take(self, encoder: str) -> None:
        """The weights for that encoder. Raises InputError when none come with vivavoce."""
        _, state = shipping.read("speech_motion", encoder)
        for name, old in list(self.named_buffers()):
            setattr(self, name, next(v for k, v in state.items() if k.replace(".", "_") == name).to(old.device))

    @torch.no_grad()
    def forward(self, speech: Tensor) -> Tensor:
        if not len(self.mean):
            return speech.new_zeros(len(speech), MOVES)
        layers = [(getattr(self, f"{name}_weight".replace(".", "_")), getattr(self, f"{name}_bias".replace(".", "_"))) for name in LAYERS]
        (listen, *halves, hidden, last) = layers
        steps = 4 * hidden[0].shape[1] // listen[0].shape[0]  # its window begins where a head's does, and may end before
        x = F.gelu(F.linear((speech[:, :steps] - self.mean) / self.deviation, *listen)).transpose(1, 2)
        for weight, bias in halves:
            x = F.gelu(F.conv1d(x, weight, bias, stride=2, padding=1))
        return F.linear(F.gelu(F.linear(x.flatten(1), *hidden)), *last)
