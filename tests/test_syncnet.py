"""SyncNet and the lip expert: the authors' output on the same weights, and their files."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.published import fill, inputs
from vivavoce import assets
from vivavoce.nn.lip_expert import LipExpert, lips, sync_loss
from vivavoce.nn.mel_encoder import load_published, weights_of
from vivavoce.nn.syncnet import SyncNet
from vivavoce.types import InputError

# Output of the authors' code on the weights and inputs of published.py: Rudrabha/Wav2Lip 5c90fa9 (models/), joonson/syncnet_python
# 6efbb1c (SyncNetModel.py), torch 2.13 on a CPU. The generator's picture at every fourth pixel.
RECORDED = Path(__file__).parent / "published_lips.npz"


@cache
def recorded() -> dict[str, Tensor]:
    with np.load(RECORDED) as held:
        return {k: torch.from_numpy(v) for k, v in held.items()}


def near(ours: Tensor, name: str) -> bool:
    """Within 1e-4 of the recorded tensor's size."""
    theirs = recorded()[name]
    assert ours.shape == theirs.shape and theirs.std() > 1e-3
    return float((ours - theirs).abs().max()) < 1e-4 * max(1.0, float(theirs.abs().max()))


def checkpoint(net: nn.Module, path: Path) -> dict[str, Tensor]:
    """The net's weights through a file of the authors' form, with its prefix and what else lies in it, as the package reads it."""
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"state_dict": state, "optimizer": optimizer, "global_step": 7, "global_epoch": 1}, path)
    return assets.tensors(path)


@torch.no_grad()
def test_the_expert_gives_the_authors_output() -> None:
    net = fill(LipExpert)
    sound, sight = net(inputs()["mel"], inputs()["lips"])
    assert near(sound, "expert_sound") and near(sight, "expert_lips")
    assert torch.allclose(sound.norm(dim=1), torch.ones(2)) and sound.min() >= 0


@torch.no_grad()
def test_syncnet_gives_the_authors_output() -> None:
    net = fill(SyncNet)
    assert near(net.hear(inputs()["mfcc"]), "heard")
    assert near(net.see(inputs()["frames"]), "seen")


def test_the_authors_files_are_read(tmp_path: Path) -> None:
    """With small nets put in the place of the published ones, which take seconds to write."""
    for kind, name in ((partial(LipExpert, 0.05), "lipsync_expert.pth"), (partial(SyncNet, 8), "syncnet_v2.model")):
        net = fill(kind)
        again = kind().eval()
        load_published(again, checkpoint(net, tmp_path / name), name)
        assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_file_of_another_net_is_refused() -> None:
    with pytest.raises(InputError, match="not its weights"):
        LipExpert.from_authors(LipExpert(0.1).state_dict())
    with pytest.raises(InputError, match="syncnet"):
        SyncNet.from_authors({"a": torch.zeros(1)})


def test_prefixes_are_taken_off() -> None:
    assert weights_of({"state_dict.module.a": torch.ones(1), "global_step": torch.ones(1)}).keys() == {"a"}
    assert weights_of({"module.a": torch.ones(1), "b": torch.ones(1)}).keys() == {"a", "b"}


def test_the_expert_sees_lower_halves_blue_first() -> None:
    faces = torch.rand(2, 5, 3, 96, 96)
    seen = lips(faces)
    assert torch.equal(seen[1, 6:9], faces[1, 2, [2, 1, 0], 48:])
    assert lips(torch.rand(1, 5, 3, 192, 192)).shape == lips(torch.rand(1, 5, 3, 24, 24)).shape == (1, 15, 48, 96)


def test_the_loss_is_cross_entropy() -> None:
    loss = sync_loss(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
    assert torch.isclose(loss, -(torch.tensor(0.9).log() + torch.tensor(0.8).log()) / 2)
