"""JoyVASA's motion generator (Cao et al. 2024; jdh-algo/JoyVASA, MIT): its network, its files, its numbers.

A post-norm decoder of 8 layers over 10 rows before and 100 new rows; the time's vector is added to every row, row k hears the audio of
row k alone. Numbers of a row, 70: 63 of LivePortrait's expression (divided by their deviation), scale, x y z, pitch, yaw, roll (mapped to
0 .. 1 by their extremes); `motion_template.pkl` holds these. Noise with a cosine schedule of 50 steps, the network says the clean motion.

`same_place`: until December 2025 the authors' code added one and the same vector to every row (DiffPoseTalk's issue 20). Weights trained
before may need it; the released code at 74290f6, against which this was checked, gives each row its own place.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivavoce.diffusion import Diffusion, guided
from vivavoce.nn.dit import CrossBlock, aligned, renamed, sinusoid
from vivavoce.types import InputError, Motion

HEARS = 768  # numbers of wav2vec 2.0 base or HuBERT base, a row
RANGES = ("scale", "t", "pitch", "yaw", "roll")  # in this order after the expression, 1 3 1 1 1
# the authors' name -> ours, by beginning
NAMES = {
    "audio_feature_map.": "hear.",
    "start_audio_feat": "start_audio",
    "start_motion_feat": "start_motion",
    "null_audio_feat": "null",
    "denoising_net.feature_proj.": "enter.",
    "denoising_net.diff_step_map.": "time.",
    "denoising_net.motion_dec.": "leave.",
    "denoising_net.transformer.layers.": "blocks.",
}
LEFT = (
    "audio_encoder.",
    "diffusion_sched.",
    "denoising_net.TE.",
    "denoising_net.PE.",
    "denoising_net.alignment_mask",
)  # not of this network


class JoyVasa(nn.Module):
    """Args:
    motion: M. width, layers, heads: of the decoder. context, block: rows before, new rows. steps: of the noise.
    indicator: whether a row is told if it is real (1) or padding (0).
    """

    def __init__(
        self,
        motion: int = 70,
        width: int = 512,
        layers: int = 8,
        heads: int = 8,
        context: int = 10,
        block: int = 100,
        steps: int = 50,
        indicator: bool = True,
        same_place: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.context, self.block, self.indicator, self.same_place = width, context, block, indicator, same_place
        self.process = Diffusion(steps)
        self.hear = nn.Linear(HEARS, width)
        self.start_audio = nn.Parameter(torch.randn(1, context, width))
        self.start_motion = nn.Parameter(torch.randn(1, context, motion))
        self.null = nn.Parameter(torch.randn(1, 1, width))
        self.enter = nn.Linear(motion + indicator, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads, 4 * width, 0.1) for _ in range(layers))
        self.leave = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, motion))

    def forward(
        self,
        motion: Tensor,
        audio: Tensor,
        before: Tensor | None,
        before_audio: Tensor | None,
        time: Tensor,
        present: Tensor | None = None,
    ) -> Tensor:
        """The clean motion of the context and the block, [B,context+block,M].

        Args:
            motion: [B,block,M], noisy. audio: [B,block,width], what `hear` made of the features.
            before, before_audio: [B,context,M], [B,context,width]; None: the start. time: [B], 1 .. steps.
            present: [B,block] 1 for rows that are real; None: all are (with `indicator`).
        """
        count = len(motion)
        before = self.start_motion.expand(count, -1, -1) if before is None else before
        before_audio = self.start_audio.expand(count, -1, -1) if before_audio is None else before_audio
        rows = torch.cat([before, motion], 1)
        if self.indicator:
            present = motion.new_ones(motion.shape[:2]) if present is None else present
            rows = torch.cat([rows, torch.cat([before.new_zeros(count, self.context), present], 1)[..., None]], -1)
        place = torch.arange(rows.shape[1], device=rows.device)
        place = torch.full_like(place, rows.shape[1]) if self.same_place else place
        tokens = self.enter(rows) + sinusoid(place, self.width) + self.time(sinusoid(time, self.width))[:, None]
        audio = torch.cat([before_audio, audio], 1)
        seen = torch.ones(1, 1, 1, rows.shape[1], dtype=torch.bool, device=rows.device)
        near = aligned(rows.shape[1], 0, 0, rows.device)
        for block in self.blocks:
            tokens = block(tokens, audio, seen, near)
        return self.leave(tokens)

    @torch.no_grad()
    def sample(
        self,
        features: Tensor,
        noise: Tensor,
        fresh: Callable[[int], Tensor],
        before: Tensor | None = None,
        before_audio: Tensor | None = None,
        guidance: float = 2.8,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Motion [1,block,M] and the audio it heard [1,block,width], both the next block's context by their last rows.

        Args:
            features: [1,block,768] of the encoder, 25 a second. noise: [1,block,M]. fresh: noise of the k-th step.
        """
        audio = self.hear(features)

        def network(noisy: Tensor, time: Tensor) -> Tensor:
            made = [self(noisy, a, before, before_audio, time, present) for a in (self.null.expand_as(audio), audio)]
            return guided(made, [guidance])[:, self.context :]

        return self.process.sample(network, noise, self.process.steps, eta=1.0, fresh=fresh), audio


def from_authors(state: dict[str, Tensor], **sizes: Any) -> JoyVasa:
    """The network of a checkpoint's `model`; sizes are read off its tensors, `steps`, `block` and `heads` as given.

    Raises:
        InputError: keys are missing, or there are others.
    """
    named = renamed({k: v for k, v in state.items() if not k.startswith(LEFT)}, NAMES)
    try:
        start, enter = named["start_motion"], named["enter.weight"]
        layers = len({k.split(".")[1] for k in named if k.startswith("blocks.")})
        with torch.device("meta"):
            net = JoyVasa(
                start.shape[2], enter.shape[0], layers, context=start.shape[1], indicator=enter.shape[1] > start.shape[2], **sizes
            )
        net.load_state_dict(named, assign=True)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            "JoyVASA's motion generator", f"not its keys ({' '.join(str(error).split())[:200]})", "see docs/assets.md"
        ) from error
    return net.eval()


def load(path: str | Path) -> tuple[JoyVasa, dict[str, Tensor]]:
    """A checkpoint file (`iter_0020000.pt`): the network, and the weights of its audio encoder, which was trained with it (names as
    in transformers' HubertModel or Wav2Vec2Model). Nothing in the file is run. Raises InputError when it is no such file."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
        given, state = vars(stored["args"]), stored["model"]
    except Exception as error:  # torch raises a dozen kinds for a damaged or hostile file
        raise InputError(path, f"no checkpoint of JoyVASA ({type(error).__name__})", "fetch it again: vivavoce assets") from error
    net = from_authors(state, block=int(given.get("n_motions", 100)), steps=int(given.get("n_diff_steps", 50)))
    return net, {k.removeprefix("audio_encoder."): v for k, v in state.items() if k.startswith("audio_encoder.")}


class _Arrays(pickle.Unpickler):
    """Arrays and numbers; anything else in the file is refused."""

    KNOWN = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self.KNOWN:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how an array's bytes are written by older Pythons
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def template(path: str | Path) -> dict[str, Tensor]:
    """`motion_template.pkl`: mean_exp, std_exp [63]; min_ and max_ of scale, t, pitch, yaw, roll. Only arrays are read from it.

    Raises InputError when it holds something else, or lacks a name.
    """
    try:
        with Path(path).open("rb") as file:
            stored = _Arrays(file).load()
        names = ["mean_exp", "std_exp", *(f"{end}_{name}" for name in RANGES for end in ("min", "max"))]
        return {name: torch.as_tensor(np.asarray(stored[name], np.float32)).flatten() for name in names}
    except (OSError, pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError, AttributeError) as error:
        raise InputError(path, f"not JoyVASA's motion template ({error})", "fetch it again: vivavoce assets") from error


def motion(code: Tensor, ranges: dict[str, Tensor]) -> Motion:  # [T,70] -> T rows
    """Expression and pose in the space "keypoints"; angles in radians."""
    expression = code[:, :63] * ranges["std_exp"].to(code) + ranges["mean_exp"].to(code)
    parts = dict(zip(RANGES, code[:, 63:70].split([1, 3, 1, 1, 1], 1), strict=True))
    wide = {k: v * (ranges[f"max_{k}"] - ranges[f"min_{k}"]).to(code) + ranges[f"min_{k}"].to(code) for k, v in parts.items()}
    rotation = torch.deg2rad(torch.cat([wide["pitch"], wide["yaw"], wide["roll"]], 1))
    return Motion(rotation, wide["t"], wide["scale"], expression, "keypoints")
