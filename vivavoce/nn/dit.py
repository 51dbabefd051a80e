"""A transformer over frames of motion that hears one vector a frame, for denoising (Peebles and Xie, DiT, ICCV 2023).

Two ways to hear. "frame": each frame's audio, the time and the identity shift, scale and gate its own token in every layer (adaptive
layer norm; frame by frame as in FLOAT, ICCV 2025; one projection for all layers and an offset a layer, PixArt-alpha, ICLR 2024),
rotary places. "cross": a post-norm decoder whose frames cross-attend to the audio through a mask that lets each frame hear only its
own (DiffPoseTalk, SIGGRAPH 2024; seed 003), time and identity in a token put before the frames, sinusoidal places: frame k gets the
vector of place k (the original adds one and the same vector everywhere).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.diffusion import guided

SLOWEST = 10_000.0  # ratio of the longest to the shortest period of places
VOICELESS = 10.0  # less in the logit of a voice, where nothing is heard
MODULATIONS = 6  # shift, scale and gate, before attention and before the feed-forward net


def sinusoid(place: Tensor, width: int) -> Tensor:  # [...] -> [...,width]
    """Sines and cosines of a place, even and odd dimensions taking turns (Vaswani et al. 2017)."""
    pace = torch.exp(torch.arange(0, width, 2, device=place.device) * (-math.log(SLOWEST) / width))
    angle = place[..., None].float() * pace
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def rotary(count: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:  # -> [count,width/2] twice
    """Cosines and sines of the angles by which place k turns each pair of dimensions (Su et al., RoFormer, 2021)."""
    pace = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(SLOWEST) / width))
    angle = torch.arange(count, device=like.device)[:, None] * pace
    return angle.cos().to(like), angle.sin().to(like)


def turned(values: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:  # [...,L,width] -> [...,L,width]
    """Pairs (2k, 2k+1) turned by their place's angles: a product of two turned vectors depends on their distance only."""
    cos, sin = turn
    even, odd = values[..., 0::2], values[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def aligned(frames: int, before: int, reach: int, device: torch.device) -> Tensor:  # -> [before+frames,frames] bool
    """Which token may hear which frame's audio: each frame those at most `reach` away, the `before` tokens in front all of them."""
    place = torch.arange(frames, device=device)
    near = (place[:, None] - place).abs() <= reach
    return torch.cat([torch.ones(before, frames, dtype=torch.bool, device=device), near])


class Attention(nn.Module):
    """Multi-head attention; keys that are not `allowed` are not looked at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        allowed: Tensor | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
        values: Tensor | None = None,
    ) -> Tensor:  # [B,Q,D], [B,K,D], bool that broadcasts to [B,heads,Q,K] -> [B,Q,D]
        """`turn`: places by which queries and keys are turned; `values` [B,K,D]: what is heard, where it is not the memory itself."""
        heard = memory if values is None else values
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, tokens), (self.key, memory), (self.value, heard))
        )
        if turn is not None:
            q, k = turned(q, turn), turned(k, turn)
        heard = F.scaled_dot_product_attention(q, k, v, allowed)
        return self.out(heard.transpose(1, 2).flatten(2))


def unpacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torch's MultiheadAttention, wherever it stands in there, with the names of `Attention`."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".in_proj_" in key:
            place, kind = key.split(".in_proj_")
            out |= {f"{place}.{part}.{kind}": v for part, v in zip(("query", "key", "value"), value.chunk(3), strict=True)}
        else:
            out[key.replace(".out_proj.", ".out.")] = value
    return out


# the names of torch's TransformerDecoderLayer -> ours, inside a layer
DECODER_LAYER = {
    "self_attn.": "attend.",
    "multihead_attn.": "hear.",
    "linear1.": "feed.0.",
    "linear2.": "feed.3.",
    "norm1.": "norms.0.",
    "norm2.": "norms.1.",
    "norm3.": "norms.2.",
}


def renamed(state: dict[str, Tensor], names: Mapping[str, str], layer: Mapping[str, str] = DECODER_LAYER) -> dict[str, Tensor]:
    """Authors' weights by our names. `names`: how keys begin, theirs -> ours; `layer`: the same inside a numbered layer."""

    def ours(key: str, table: Mapping[str, str]) -> str:
        return next((new + key.removeprefix(old) for old, new in table.items() if key.startswith(old)), key)

    out: dict[str, Tensor] = {}
    for key, value in unpacked(state).items():
        stack, *rest = ours(key, names).split(".", 2)
        if len(rest) == 2 and rest[0].isdigit():
            rest[1] = ours(rest[1], layer)
        out[".".join([stack, *rest])] = value
    return out


class FrameBlock(nn.Module):
    """Pre-norm layer, modulated token by token; its gates begin at 0, so that a deep stack begins as the identity."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend = Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.drop = nn.Dropout(dropout)
        self.offset = nn.Parameter(torch.randn(MODULATIONS, width) / width**0.5)

    def forward(self, tokens: Tensor, modulation: Tensor, allowed: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """[B,L,D], [B,L,6,D], [B,1,1,L], -> [B,L,D]"""
        shift, scale, gate, shift_feed, scale_feed, gate_feed = (modulation + self.offset).unbind(2)
        normed = F.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
        tokens = tokens + gate * self.drop(self.attend(normed, normed, allowed, turn))
        normed = F.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale_feed) + shift_feed
        return tokens + gate_feed * self.drop(self.feed(normed))


class CrossBlock(nn.Module):
    """Post-norm decoder layer: attention among the tokens, to the audio, feed-forward (Vaswani et al. 2017, with GELU)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend, self.hear = Attention(width, heads), Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, audio: Tensor, allowed: Tensor, near: Tensor) -> Tensor:
        """[B,1+L,D], [B,L,D], [B,1,1,1+L], [1+L,L] -> [B,1+L,D]"""
        tokens = self.norms[0](tokens + self.drop(self.attend(tokens, tokens, allowed)))
        tokens = self.norms[1](tokens + self.drop(self.hear(tokens, audio, near)))
        return self.norms[2](tokens + self.drop(self.feed(tokens)))


class SpeechFrames(nn.Module):
    """Two steps of features a frame -> one vector a frame that knows the neighbours two frames away, and whether there is a voice."""

    mean: Tensor
    spread: Tensor

    def __init__(self, features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.narrow = nn.Linear(2 * features, width)
        self.drop = nn.Dropout(dropout)
        self.near = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.voice = nn.Linear(width, 1)

    def fit(self, speech: Tensor) -> None:  # [...,D]
        """Mean and deviation of the features over the training source."""
        flat = speech.flatten(0, -2)
        self.mean, self.spread = flat.mean(0), flat.std(0).clamp(min=1e-3)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:  # [B,L,2,D] -> [B,L,width], [B,L]
        """The vectors, and the logit of there being a voice. Frames of zeros lie outside the recording and say nothing."""
        heard = (steps.abs().amax((-1, -2)) > 0).to(steps)[..., None]
        frames = self.drop(self.narrow(((steps - self.mean) / self.spread).flatten(2))) * heard
        for layer in self.near:
            frames = frames + layer(F.gelu(frames).transpose(1, 2)).transpose(1, 2) * heard
        return frames, self.voice(F.gelu(frames))[..., 0] - VOICELESS * (1 - heard[..., 0])


class MotionTransformer(nn.Module):
    """Denoises frames of motion.

    Args:
        motion: M, numbers a frame. identity: I, numbers that say whose motion it is.
        kind: "frame" or "cross", see the module.
        reach: frames of audio on each side that a frame may hear ("cross").
    """

    null: nn.Parameter

    def __init__(
        self, motion: int, identity: int, width: int, layers: int, heads: int, hidden: int, kind: str, dropout: float, reach: int = 0
    ) -> None:
        super().__init__()
        self.kind, self.width, self.heads, self.reach = kind, width, heads, reach
        self.enter = nn.Linear(motion + 1, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.identity = nn.Linear(identity, width)
        self.null = nn.Parameter(torch.randn(width) / width**0.5)  # heard instead of the audio where there is to be no condition
        block = FrameBlock if kind == "frame" else CrossBlock
        self.blocks = nn.ModuleList(block(width, heads, hidden, dropout) for _ in range(layers))
        self.leave = nn.Linear(width, motion)
        if kind == "frame":
            self.modulate = nn.Linear(width, MODULATIONS * width)
            nn.init.normal_(self.modulate.weight, std=0.02)
            nn.init.zeros_(self.modulate.bias)
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def forward(self, motion: Tensor, audio: Tensor, time: Tensor, identity: Tensor, given: Tensor, seen: Tensor) -> Tensor:
        """Args:
            motion: [B,L,M], noisy, or known where `given`. audio: [B,L,width], a vector a frame. time: [B], 0 .. 1000.
            identity: [B,I]. given: [B,L] bool, frames that are known. seen: [B,L] bool, frames that are looked at.
        Returns:
            [B,L,M]; rows that are given or not seen mean nothing.
        """
        tokens = self.enter(torch.cat([motion, given[..., None].to(motion)], -1))
        about = self.time(sinusoid(time, self.width)) + self.identity(identity)  # [B,D]
        if self.kind == "frame":
            modulation = self.modulate(F.silu(about[:, None] + audio)).unflatten(-1, (MODULATIONS, -1))
            turn = rotary(tokens.shape[1], self.width // self.heads, tokens)
            allowed = (seen | ~seen.any(1, keepdim=True))[:, None, None]  # none at all: all, for a softmax needs one
            for block in self.blocks:
                tokens = block(tokens, modulation, allowed, turn)
            return self.leave(F.layer_norm(tokens, tokens.shape[-1:]))
        tokens = tokens + sinusoid(torch.arange(tokens.shape[1], device=tokens.device), self.width)
        tokens = torch.cat([about[:, None], tokens], 1)
        allowed = F.pad(seen, (1, 0), value=True)[:, None, None]
        near = aligned(audio.shape[1], 1, self.reach, tokens.device)
        for block in self.blocks:
            tokens = block(tokens, audio, allowed, near)
        return self.leave(tokens[:, 1:])

    def guided(
        self, motion: Tensor, audio: Tensor, time: Tensor, identity: Tensor, given: Tensor, seen: Tensor, scale: float
    ) -> Tensor:  # as `forward`
        """With classifier-free guidance by the audio; at scale 1 one pass, else two in one batch."""
        if scale == 1:
            return self(motion, audio, time, identity, given, seen)
        both = torch.cat([self.null.expand_as(audio), audio])
        motion, time, identity, given, seen = (torch.cat([v, v]) for v in (motion, time, identity, given, seen))
        return guided(self(motion, both, time, identity, given, seen).chunk(2), [scale])
