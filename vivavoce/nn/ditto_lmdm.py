"""Ditto's latent motion diffusion model (Li et al., ACM MM 2025; antgroup/ditto-talkinghead, Apache-2.0): its network and its numbers.

80 rows at once. Numbers of a row, 265: scale less 1, the 66 bins of pitch, yaw and roll, x y z, 63 of LivePortrait's expression. Beside the
noisy rows the network gets the last known row; it hears, a row each, 1024 numbers of HuBERT, 8 of emotion (angry, disgusted, afraid, happy,
neutral, sad, surprised, contemptuous), 2 of how open the eyes are, 6 of the eyeballs and 63 of the canonical key points. 1000 cosine
steps, the clean motion is said, DDIM with new noise, guidance 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.diffusion import Diffusion, guided
from vivavoce.nn.dit import DECODER_LAYER, Attention, renamed, rotary, turned
from vivavoce.types import InputError, Motion

MOTION, ROWS, STEPS = 265, 80, 1000
HEARS = {"audio": 1024, "emotion": 8, "eyes": 2, "eyeballs": 6, "points": 63}  # a row, in this order
SLOWEST = 10_000.0
BINS, DEGREES, FIRST = 66, 3.0, -97.5  # of an angle
FILMS = {f"film{k + 1}.block.1.": f"films.{k}." for k in range(3)}  # the authors' names -> ours, inside a layer
NAMES = {
    "time_mlp.1.": "time.",
    "to_time_cond.0.": "time_hidden.",
    "to_time_tokens.0.": "time_tokens.",
    "null_cond_embed": "null_tokens",
    "null_cond_hidden": "null_hidden",
    "norm_cond.": "norm.",
    "input_projection.": "enter.",
    "cond_encoder.": "listen.",
    "cond_projection.": "hear.",
    "non_attn_cond_projection.": "pool.",
    "seqTransDecoder.stack.": "blocks.",
    "final_layer.": "leave.",
}


class ListenBlock(nn.Module):
    """Pre-norm layer; queries and keys are turned by their places before they are projected."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attend = Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:  # [B,L,D] -> [B,L,D]
        normed = self.norms[0](tokens)
        placed = _placed(normed)
        tokens = tokens + self.drop(self.attend(placed, placed, values=normed))
        return tokens + self.drop(self.feed(self.norms[1](tokens)))


class FilmBlock(nn.Module):
    """Pre-norm decoder layer; what each part adds is scaled and shifted by time and audio (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attend, self.hear = Attention(width, heads), Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(3))
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens: Tensor, memory: Tensor, about: Tensor) -> Tensor:  # [B,L,D], [B,K,D], [B,D] -> [B,L,D]
        def film(added: Tensor, k: int) -> Tensor:
            scale, shift = self.films[k](F.mish(about))[:, None].chunk(2, -1)
            return (scale + 1) * self.drop(added) + shift

        normed = self.norms[0](tokens)
        placed = _placed(normed)
        tokens = tokens + film(self.attend(placed, placed, values=normed), 0)
        tokens = tokens + film(self.hear(_placed(self.norms[1](tokens)), _placed(memory), values=memory), 1)
        return tokens + film(self.feed(self.norms[2](tokens)), 2)


class DittoMotion(nn.Module):
    """Args:
    hears: numbers a row that condition it (1103 in the released weights). motion, rows: M, L. width, layers, heads, hidden: sizes.
    """

    def __init__(
        self,
        hears: int = sum(HEARS.values()),
        motion: int = MOTION,
        rows: int = ROWS,
        width: int = 512,
        layers: int = 8,
        heads: int = 8,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.width = width
        self.process = Diffusion(STEPS)
        self.time = nn.Linear(width, 4 * width)
        self.time_hidden, self.time_tokens = nn.Linear(4 * width, width), nn.Linear(4 * width, 2 * width)
        self.null_tokens = nn.Parameter(torch.randn(1, rows, width))
        self.null_hidden = nn.Parameter(torch.randn(1, width))
        self.norm = nn.LayerNorm(width)
        self.enter, self.hear = nn.Linear(2 * motion, width), nn.Linear(hears, width)
        self.listen = nn.ModuleList(ListenBlock(width, heads, hidden) for _ in range(2))
        self.pool = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(FilmBlock(width, heads, hidden) for _ in range(layers))
        self.leave = nn.Linear(width, motion)

    def forward(self, noisy: Tensor, known: Tensor, heard: Tensor | None, time: Tensor) -> Tensor:
        """The clean motion [B,L,M].

        Args:
            noisy: [B,L,M]. known: [B,M], the last row before these. heard: [B,L,hears], or None: without condition. time: [B], 1 .. 1000.
        """
        tokens = self.enter(torch.cat([noisy, known[:, None].expand_as(noisy)], -1))
        hidden = F.mish(self.time(_wave(time - 1, self.width)))
        about = self.time_hidden(hidden)
        if heard is None:
            memory, about = self.null_tokens.expand(len(noisy), -1, -1), about + self.null_hidden
        else:
            memory = self.hear(heard)
            for layer in self.listen:
                memory = layer(memory)
            about = about + self.pool(memory.mean(1))
        memory = self.norm(torch.cat([memory, self.time_tokens(hidden).unflatten(-1, (2, -1))], 1))
        for block in self.blocks:
            tokens = block(tokens, memory, about)
        return self.leave(tokens)

    @torch.no_grad()
    def sample(
        self, heard: Tensor, known: Tensor, noise: Tensor, fresh: Callable[[int], Tensor], evaluations: int = 50, guidance: float = 2.0
    ) -> Tensor:  # [1,L,hears], [1,M], [1,L,M] -> [1,L,M]
        """Motion from noise; `fresh`: noise of the k-th step."""

        def network(noisy: Tensor, time: Tensor) -> Tensor:
            return guided([self(noisy, known, None, time), self(noisy, known, heard, time)], [guidance])

        return self.process.sample(network, noise, evaluations, eta=1.0, fresh=fresh)


def from_authors(state: dict[str, Tensor]) -> DittoMotion:
    """The network of a checkpoint's `model_state_dict`, or of the initialisers of the ONNX file where they keep these names.

    Raises:
        InputError: keys are missing, or there are others.
    """
    theirs = {k.removeprefix("model."): v for k, v in state.items() if "rotary." not in k}
    named = renamed(theirs, NAMES, DECODER_LAYER | FILMS)
    try:
        enter, feed = named["enter.weight"], named["blocks.0.feed.0.weight"]
        layers = len({k.split(".")[1] for k in named if k.startswith("blocks.")})
        with torch.device("meta"):
            net = DittoMotion(
                named["hear.weight"].shape[1], enter.shape[1] // 2, named["null_tokens"].shape[1], enter.shape[0], layers, 8, feed.shape[0]
            )
        net.load_state_dict(named, assign=True)
    except (KeyError, RuntimeError) as error:
        raise InputError("Ditto's motion model", f"not its keys ({' '.join(str(error).split())[:200]})", "see docs/assets.md") from error
    return net.eval()


def load(path: str | Path) -> DittoMotion:
    """A checkpoint file of the authors' PyTorch release. Nothing in it is run. Raises InputError when it is no such file."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = stored["model_state_dict"]
    except Exception as error:  # torch raises a dozen kinds for a damaged or hostile file
        raise InputError(path, f"no checkpoint of Ditto ({type(error).__name__})", "fetch it again: vivavoce assets") from error
    return from_authors(state)


def motion(code: Tensor) -> Motion:  # [T,265] -> T rows
    """Expression and pose in the space "keypoints"; angles in radians."""
    scale, pitch, yaw, roll, shift, expression = code.split([1, BINS, BINS, BINS, 3, 63], 1)
    places = torch.arange(BINS, device=code.device).to(code)
    angles = [(bins.softmax(1) * places).sum(1) * DEGREES + FIRST for bins in (pitch, yaw, roll)]
    return Motion(torch.deg2rad(torch.stack(angles, 1)), shift, scale + 1, expression, "keypoints")


def _placed(tokens: Tensor) -> Tensor:  # [B,L,D] -> [B,L,D]
    return turned(tokens, rotary(tokens.shape[1], tokens.shape[2], tokens))


def _wave(time: Tensor, width: int) -> Tensor:  # [B] -> [B,width]
    """Sines, then cosines, of paces from 1 to 1 / 10000 both included."""
    half = width // 2
    pace = torch.exp(torch.arange(half, device=time.device) * (-math.log(SLOWEST) / (half - 1)))
    angle = time[:, None].float() * pace
    return torch.cat([angle.sin(), angle.cos()], -1)
