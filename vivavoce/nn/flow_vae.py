"""A variational autoencoder over time whose prior is a normalising flow, told a condition at every frame, that can be streamed.

The FVAE of GeneFace (ICLR 2023) after PortaSpeech (NeurIPS 2021), with causal convolutions: a code lasts four frames, the prior of
a code hears the condition up to the code's first frame, and the decoder hears all before. Only the encoder, which training alone
uses, looks ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.nn.wavenet import Causal, Flow, Past, WaveNet

BLOCK = 4  # frames that one code lasts


class Voiced(NamedTuple):
    """What `speak` carries from row to row."""

    code: Tensor | None = None  # [1,Z,1] of the block that goes on
    pooled: Tensor | None = None
    prior: Past = None
    decoder: Past = None


class FlowVae(nn.Module):
    """Sequences of `numbers` for a condition of `hidden` channels.

    Args:
        numbers: E.
        hidden: channels inside, and of the condition.
        latent: Z, numbers of a code.
        dropout: inside the decoder.
    """

    def __init__(self, numbers: int, hidden: int, latent: int, dropout: float) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Conv1d(numbers + hidden, hidden, 5, padding=2), nn.GELU(),
            nn.Conv1d(hidden, hidden, 5, padding=2), nn.GELU(),
            nn.Conv1d(hidden, 2 * latent, BLOCK, BLOCK),
        )  # fmt: skip
        self.pool = Causal(hidden, hidden, BLOCK)
        self.prior = Flow(latent, hidden, hidden // 2)
        self.begin = nn.Conv1d(latent + hidden, hidden, 1)
        self.decoder = WaveNet(hidden, hidden, (1, 2, 4, 8, 1), dropout)
        self.end = nn.Conv1d(hidden, numbers, 1)

    def forward(self, wanted: Tensor, told: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [B,E,L], [B,hidden,L], L a multiple of 4
        """What a code of `wanted` itself gives [B,E,L], what the prior's mean gives [B,E,L], and the divergence [] a number of a code."""
        mean, spread = self.encoder(torch.cat([wanted, told], 1)).chunk(2, 1)
        spread = spread.clamp(-6, 2)
        noise = torch.randn_like(mean)
        code = mean + spread.exp() * noise
        condition = self.pool(told)[0][:, :, ::BLOCK]
        plain, logdet = self.prior(code, condition)
        divergence = (0.5 * (plain.square() - noise.square()).sum(1) - logdet - spread.sum(1)).mean() / self.latent
        usual = self.prior.inverse(torch.zeros_like(mean), condition)[0]
        made, said = (self._decode(z.repeat_interleave(BLOCK, 2), told, None)[0] for z in (code, usual))
        return made, said, divergence

    def speak(self, told: Tensor, frame: Tensor, noise: Tensor, state: Voiced) -> tuple[Tensor, Voiced]:
        """The next rows of a stream.

        Args:
            told: [1,hidden,T] the condition.
            frame: [T] int64 numbers of the rows since the stream began.
            noise: [K,Z] of each block that begins among them: every fourth number, from 0 on.
        Returns:
            [T,E] and the state after them.
        """
        pooled, gathered = self.pool(told, state.pooled)
        begins = frame % BLOCK == 0
        codes, prior = [] if state.code is None else [state.code], state.prior
        if bool(begins.any()):
            new, prior = self.prior.inverse(noise.T[None], pooled[:, :, begins], prior)
            codes.append(new)
        every = torch.cat(codes, 2)
        place = begins.long().cumsum(0) - (1 if state.code is None else 0)
        made, decoder = self._decode(every[:, :, place], told, state.decoder)
        return made[0].T, Voiced(every[:, :, -1:], gathered, prior, decoder)

    def _decode(self, codes: Tensor, told: Tensor, past: Past) -> tuple[Tensor, Past]:  # [B,Z,L], [B,hidden,L] -> [B,E,L]
        hidden, past = self.decoder(self.begin(torch.cat([codes, told], 1)), told, past)
        return self.end(F.gelu(hidden)), past
