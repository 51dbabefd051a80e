"""The published weights: the authors' five `.pth` files, or the same keys in safetensors (the mirror used by ComfyUI).

Every part loads strictly: a missing, surplus or differently shaped tensor is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vivavoce import assets
from vivavoce.catalogue import Hub
from vivavoce.nn.liveportrait import Networks
from vivavoce.types import InputError

PARTS = {
    "appearance": "appearance_feature_extractor",
    "motion": "motion_extractor",
    "warping": "warping_module",
    "decoder": "spade_generator",
    "stitching": "stitching_retargeting_module",
}
ASSET = "liveportrait_"  # before a part's file name, its name in the catalogue
CORRECTIONS = {"shoulder": "retarget_shoulder", "mouth": "retarget_mouth", "eye": "retarget_eye"}


def published(folder: str | Path = "") -> Networks:
    """The networks with the authors' weights, on the CPU.

    Args:
        folder: holds the five files, `.safetensors` or `.pth`, in it or anywhere below it; "": the catalogue's (cache,
            $VIVAVOCE_ASSETS, or fetched).

    Raises:
        InputError: a file cannot be had, or is not what it should be.
    """
    if not folder:
        lost = [ASSET + name for name in PARTS.values() if assets.locate(ASSET + name) is None]
        if lost and assets.offline():
            where = " or ".join(dict.fromkeys(s.repository for s in assets.asset(lost[0]).sources if isinstance(s, Hub)))
            cause = f"its weights are not on this machine and the network is off (they lie on huggingface.co in {where})"
            raise InputError("live_portrait", cause, f"run: vivavoce assets fetch {' '.join(lost)}")
    with torch.device("meta"):  # no time spent on first weights that nobody will see
        networks = Networks()
    for part, name in PARTS.items():
        held = assets.state_dict(ASSET + name) if not folder else _read(_find(Path(folder), name))
        load(networks, part, held, str(folder) or ASSET + name)
    return networks.eval()


def load(networks: Networks, part: str, held: Mapping[str, Tensor], name: str = "") -> None:
    """Fill one part from a state dict of the authors' keys. Raises InputError naming the first keys that do not fit."""
    module: nn.Module = networks.get_submodule(part)
    renamed = _corrections(held) if part == "stitching" else dict(held)
    try:
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in renamed.items()}, assign=True)
    except RuntimeError as error:
        cause = f"not the weights of LivePortrait's {PARTS[part]} ({' '.join(str(error).split())[:160]})"
        raise InputError(name or PARTS[part], cause, f"run: vivavoce assets fetch {ASSET}{PARTS[part]} --again") from error


def keys(networks: Networks, part: str) -> dict[str, Tensor]:
    """A part's state dict with the authors' keys."""
    back = CORRECTIONS if part == "stitching" else {}
    state: dict[str, Tensor] = networks.get_submodule(part).state_dict()
    if not back:
        return state
    return {f"{back[key.split('.')[0]]}.module.{key.split('.', 1)[1]}": value for key, value in state.items()}


def _corrections(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`retarget_eye.module.mlp.0.weight` -> `eye.mlp.0.weight`; the mirrors leave out `module.`."""
    ours = {theirs: name for name, theirs in CORRECTIONS.items()}
    out = {}
    for key, value in held.items():
        first, _, rest = key.partition(".")
        out[f"{ours.get(first, first)}.{rest.removeprefix('module.')}"] = value
    return out


def _find(folder: Path, name: str) -> Path:
    for ending in (".safetensors", ".pth"):
        if found := sorted(folder.rglob(name + ending)):
            return found[0]
    raise InputError(folder, f"holds no {name}.safetensors or {name}.pth", "give the folder of the published weights")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, named by their path in it; nothing in it is run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # two readers, and a damaged file makes each raise what it likes
        raise InputError(path, f"its tensors cannot be read ({' '.join(str(error).split())[:120]})", "fetch it again") from error
    out: dict[str, Tensor] = {}
    for key, value in held.items():
        out |= {f"{key}.{inner}": tensor for inner, tensor in value.items()} if isinstance(value, Mapping) else {key: value}
    return out
