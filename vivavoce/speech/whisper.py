"""Features of Whisper tiny.en's encoder: 384 numbers at 50 Hz, in plain torch.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356); the weights are OpenAI's
tiny.en (MIT), asset `whisper_tiny_en`. The encoder was trained on whole half minutes with attention both ways. Here it sees
windows of PAST + BLOCK + FUTURE steps at fixed places and the BLOCK in the middle is kept, so that it works live, and a file
gives the same numbers as a stream.

Features are those after the second of the four blocks, normalised. Measured on talking heads (correlation of the lips' opening
with what a ridge regression on 320 ms of features says; within a speaker / on speakers never seen): block 1 0.71 / 0.38, 2 0.73 /
0.37, 3 0.66 / 0.35, 4 (the encoder's output) 0.63 / 0.31, all four on whole half minutes 0.64 / 0.34, log-mel 0.65 / 0.29; a small
network on features of block 2 follows unseen speakers better than one on block 4 (0.45 and 0.34), in half the time. Later blocks
know more of the words and less of the moment. Longer windows (PAST 48) and longer waits (FUTURE 8) gained nothing that was
certain; without FUTURE the lips are followed worse (0.57 / 0.29 for block 4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.speech import Stream, batched
from vivavoce.speech.mel import filterbank, log_mel
from vivavoce.types import HOP, STEPS, InputError

PAST, BLOCK, FUTURE = 24, 4, 4  # steps of 20 ms
FFT, MEL_HOP = 400, 160  # samples: 25 ms spectra every 10 ms
LAYERS = 2  # blocks used
BATCH = 16  # windows at once


class Attention(nn.Module):
    """Self-attention over all steps of a window; keys have no bias, as in the paper's code."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:  # [N,S,D] -> [N,S,D]
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Transformer block, normalised before each part."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:  # [N,S,D] -> [N,S,D]
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class Network(nn.Module):
    """Whisper's audio encoder; names of parameters are those of OpenAI's checkpoint, without its `encoder.`"""

    positional_embedding: Tensor

    def __init__(self, bins: int, length: int, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(bins, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(length, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.ln_post = nn.LayerNorm(dim)

    def forward(self, mel: Tensor, layers: int | None = None) -> Tensor:  # [N,bins,2S] -> [N,S,D], S <= length
        """The encoder's output, or what is there after so many blocks, normalised but without the output's gains."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks[:layers]:
            x = block(x)
        if layers is not None and layers < len(self.blocks):
            return F.layer_norm(x, x.shape[-1:])
        return self.ln_post(x)


class Whisper:
    """The encoder (see speech.Encoder).

    Args:
        network: Whisper's audio encoder; its device is where features are made.
        past, block, future: steps of a window before, of, and after those kept. A step waits for at most block + future - 1
            steps after it.
        layers: blocks of the network used.
    """

    name = "whisper"

    def __init__(self, network: Network, past: int = PAST, block: int = BLOCK, future: int = FUTURE, layers: int = LAYERS) -> None:
        self.layers = layers
        self.network = network.eval().requires_grad_(False)
        self.dim = network.conv1.out_channels
        self.past, self.block = past, block
        step, steps = HOP // STEPS, past + block + future
        self.hop, self.before = block * step, past * step + FFT // 2
        self.width = (2 * steps - 1) * MEL_HOP + FFT
        self.lookahead = -(-((block + future) * step + FFT // 2 - MEL_HOP - step) // 16)  # ms
        device = network.conv1.weight.device
        self.window, self.bank = torch.hann_window(FFT, device=device), filterbank(FFT, network.conv1.in_channels).to(device)

    def start(self) -> Stream:
        return Stream.begin(self.width, self.hop, self.before, self.window.device)

    @torch.no_grad()
    def push(self, samples: Tensor, state: Stream, last: bool = False) -> tuple[Tensor, Stream]:  # [n] -> [m,384]
        windows, steps, state = state.push(samples, last)
        return batched(self._features, windows, BATCH, self.dim)[:steps], state

    def _features(self, windows: Tensor) -> Tensor:  # [n,width] -> [n * block,384]
        mel = log_mel(windows.unfold(1, FFT, MEL_HOP), self.window, self.bank)
        steps = self.network(mel.transpose(1, 2), self.layers)
        return steps[:, self.past : self.past + self.block].flatten(0, 1)


def from_authors(checkpoint: dict[str, object]) -> Network:
    """OpenAI's checkpoint `{dims, model_state_dict}` -> its audio encoder in float32. Raises KeyError when it is something else."""
    dims, state = checkpoint["dims"], checkpoint["model_state_dict"]
    assert isinstance(dims, dict) and isinstance(state, dict)
    network = Network(*(dims[f"n_{k}"] for k in ("mels", "audio_ctx", "audio_state", "audio_head", "audio_layer")))
    prefix = "encoder."
    network.load_state_dict({k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)})
    return network


def load(device: str | torch.device = "cpu") -> Whisper:
    """Raises InputError when the weights cannot be had or are not Whisper's."""
    from vivavoce import assets

    path = assets.path("whisper_tiny_en")
    try:
        network = from_authors(torch.load(path, map_location="cpu", weights_only=True))
    except (KeyError, RuntimeError, AssertionError) as error:
        raise InputError(path, f"not a Whisper checkpoint ({error})", "run: vivavoce assets fetch whisper_tiny_en") from error
    return Whisper(network.to(device))
