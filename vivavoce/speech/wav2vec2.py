"""wav2vec 2.0 base features: 768 numbers at 50 Hz, through transformers (extra `wav2vec2`).

Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations" (arXiv 2006.11477);
facebook/wav2vec2-base (Apache-2.0). Its convolutions turn 400 samples every 320 into a step, and its transformer was trained
on whole utterances with attention both ways. As with Whisper, it sees windows at fixed places here and the block in the middle
is kept, so that a stream and a file give the same numbers.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from vivavoce.speech import Stream, batched
from vivavoce.types import HOP, STEPS, InputError

MODEL = "facebook/wav2vec2-base"
PAST, BLOCK, FUTURE = 46, 4, 6  # steps of 20 ms
FIELD = 400  # samples that a step's convolutions see
BATCH = 32  # windows at once


class Wav2Vec2:
    """The encoder (see speech.Encoder).

    Args:
        model: transformers' Wav2Vec2Model whose convolutions have stride 320 and field 400; its device is where features are made.
        past, block, future: steps of a window before, of, and after those kept. A step waits for at most block + future - 1
            steps after it.
    """

    name = "wav2vec2"

    def __init__(self, model: Any, past: int = PAST, block: int = BLOCK, future: int = FUTURE) -> None:
        self.model = model.eval().requires_grad_(False)
        self.dim = int(model.config.hidden_size)
        self.past, self.block = past, block
        step, steps = HOP // STEPS, past + block + future
        self.margin = (FIELD - step) // 2  # samples a step's field reaches over its 20 ms at either side
        self.hop, self.before = block * step, past * step + self.margin
        self.width = (steps - 1) * step + FIELD
        self.lookahead = -(-((block + future - 1) * step + self.margin) // 16)  # ms

    def start(self) -> Stream:
        return Stream.begin(self.width, self.hop, self.before, next(self.model.parameters()).device)

    @torch.no_grad()
    def push(self, samples: Tensor, state: Stream, last: bool = False) -> tuple[Tensor, Stream]:  # [n] -> [m,768]
        windows, steps, state = state.push(samples, last)
        return batched(self._features, windows, BATCH, self.dim)[:steps], state

    def _features(self, windows: Tensor) -> Tensor:  # [n,width] -> [n * block,768]
        # Each window to mean 0 and variance 1, as the authors' feature extractor does with an utterance; 1e-7 keeps silence silent.
        level = (windows.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
        steps = self.model((windows - windows.mean(1, keepdim=True)) / level).last_hidden_state
        return steps[:, self.past : self.past + self.block].flatten(0, 1)


def load(device: str | torch.device = "cpu", model: str = MODEL) -> Wav2Vec2:
    """The encoder with the weights of `model`, a name on the Hugging Face hub or a folder.

    Raises InputError when transformers is not installed or the weights cannot be had.
    """
    try:
        from transformers import Wav2Vec2Model
    except ImportError as error:
        raise InputError("wav2vec2", "transformers is not installed", "run: pip install 'vivavoce[wav2vec2]'") from error
    offline = os.environ.get("VIVAVOCE_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        network = Wav2Vec2Model.from_pretrained(model, local_files_only=offline)
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        remedy = f"connect to the internet, or run: hf download {model}"
        raise InputError(model, f"the weights of wav2vec 2.0 cannot be had ({cause})", remedy) from error
    config = network.config
    stride = 1
    for s in config.conv_stride:
        stride *= s
    if stride != HOP // STEPS:
        raise InputError(model, f"a step is {stride} samples, not {HOP // STEPS}", f"use {MODEL} or one of its kind")
    return Wav2Vec2(network.to(device))
