"""LivePortrait's networks as ONNX files, with the names of files, inputs and outputs that the field's ports use.

Volumes are sampled by gathers (`grid_sample3d.gathered`), so that run times without a five-dimensional GridSample run the files: that
operator is what others need plug-ins for. Writing needs the packages onnx and onnxscript; vivavoce does without them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vivavoce.files import whole
from vivavoce.nn import grid_sample3d
from vivavoce.nn.liveportrait import Networks
from vivavoce.nn.liveportrait.blocks import fold
from vivavoce.types import InputError

HEADS = ("pitch", "yaw", "roll", "t", "exp", "scale", "kp")


@dataclass(frozen=True)
class Part:
    """One file."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]  # examples, by name; their first axis may have any length
    outputs: Sequence[str]


class Heads(nn.Module):
    """M with its outputs in a fixed order."""

    def __init__(self, motion: nn.Module) -> None:
        super().__init__()
        self.motion = motion

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.motion(images)
        return tuple(found[name] for name in HEADS)


class WarpAndDraw(nn.Module):
    """W and G: the volume and two sets of key points -> pictures."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.warping, self.decoder = fold(networks.warping), copy.deepcopy(networks.decoder)
        self.warping.sample = grid_sample3d.gathered

    def forward(self, volume: Tensor, source: Tensor, driving: Tensor) -> Tensor:
        return self.decoder(self.warping(volume, driving, source).features)


def parts(networks: Networks, side: int) -> list[Part]:
    """What is written: F, M, W with G, stitching, eyes and lips."""
    images = torch.zeros(2, 3, side, side)
    with torch.no_grad():
        volume = networks.appearance(images)
    correct = networks.stitching
    drawn = {"feature_3d": volume, "kp_source": torch.zeros(2, 21, 3), "kp_driving": torch.zeros(2, 21, 3)}  # one tensor would be one input
    return [
        Part("appearance_feature_extractor", networks.appearance, {"img": images}, ("output",)),
        Part("motion_extractor", Heads(networks.motion), {"img": images}, HEADS),
        Part("warping_spade", WarpAndDraw(networks), drawn, ("out",)),
        Part("stitching", correct.shoulder, {"input": torch.zeros(2, 126)}, ("output",)),
        Part("stitching_eye", correct.eye, {"input": torch.zeros(2, 66)}, ("output",)),
        Part("stitching_lip", correct.mouth, {"input": torch.zeros(2, 65)}, ("output",)),
    ]


def export(networks: Networks, folder: str | Path, side: int = 256) -> list[Path]:
    """Write every part to `folder`, each whole or not at all.

    Args:
        networks: on the CPU, float32.
        side: px of the pictures read; fixed in the files.

    Raises:
        InputError: onnx or onnxscript are not installed.
    """
    if lost := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError("ONNX export", f"needs the packages {' and '.join(lost)}", "run: pip install onnx onnxscript")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for part in parts(networks.eval(), side):
        target = folder / f"{part.name}.onnx"
        free = tuple({0: torch.export.Dim("batch")} for _ in part.inputs)
        with torch.no_grad(), whole(target) as unfinished:
            torch.onnx.export(
                part.module.eval(), tuple(part.inputs.values()), str(unfinished), input_names=list(part.inputs),
                output_names=list(part.outputs), dynamic_shapes=free, external_data=False, verbose=False, dynamo=True,
            )  # fmt: skip
        out.append(target)
    return out
