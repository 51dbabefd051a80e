"""JoyVASA's and Ditto's motion networks against the authors' own code on weights that anyone can make again.

`motion_nets.npz` was recorded with jdh-algo/JoyVASA at 74290f6 and antgroup/ditto-talkinghead at e9191cf (their networks at a small width,
filled by name as in tests/published.py): the keys and shapes of their state dicts, also at full size, and what their networks and samplers
gave. The released weights themselves were not here.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.published import _numbers, weights
from vivavoce.nn import ditto_lmdm, joyvasa
from vivavoce.nn.dit import sinusoid
from vivavoce.types import InputError

RECORDED = np.load(Path(__file__).parent / "motion_nets.npz")


def keys(name: str) -> dict[str, Tensor]:
    """A state dict of the authors', without numbers."""
    return {k: torch.empty(shape, device="meta") for k, shape in json.loads(str(RECORDED[name])).items()}


def filled(name: str) -> dict[str, Tensor]:
    left = ("diffusion_sched", "denoising_net.TE", "denoising_net.PE", "denoising_net.alignment", "rotary")
    return weights({k: v for k, v in keys(name).items() if not any(part in k for part in left)})


def noises(name: str, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda k: _numbers(f"{name} step {k}", shape)


def small_joyvasa() -> joyvasa.JoyVasa:
    return joyvasa.from_authors(filled("joyvasa_small"), block=20)


def test_joyvasa_gives_the_authors_output() -> None:
    net = small_joyvasa()
    features, noise, before = _numbers("joy features", (1, 20, 768)), _numbers("joy noise", (1, 20, 12)), _numbers("joy before", (1, 4, 12))
    with torch.no_grad():
        made = net(noise, net.hear(features), before, None, torch.tensor([17]))
    assert torch.allclose(made, torch.from_numpy(RECORDED["joyvasa_out"]), atol=1e-4)
    sampled, _ = net.sample(features, noise, noises("joy", (1, 20, 12)), before, guidance=2.8)
    assert torch.allclose(sampled, torch.from_numpy(RECORDED["joyvasa_sample"]), atol=1e-4)


def test_ditto_gives_the_authors_output() -> None:
    net = ditto_lmdm.from_authors(filled("ditto_small"))
    noise, known, heard = _numbers("ditto noise", (1, 16, 20)), _numbers("ditto known", (1, 20)), _numbers("ditto heard", (1, 16, 40))
    with torch.no_grad():
        for name, condition in (("ditto_out", heard), ("ditto_null", None)):
            made = net(noise, known, condition, torch.tensor([401]))  # their step 400 is our 401: ours counts from the clean motion
            assert torch.allclose(made, torch.from_numpy(RECORDED[name]), atol=1e-4), name
    sampled = net.sample(heard, known, noise, noises("ditto", (1, 16, 20)), evaluations=10)
    assert torch.allclose(sampled, torch.from_numpy(RECORDED["ditto_sample"]), atol=1e-4)


@pytest.mark.parametrize("name", ["joyvasa", "ditto"])
def test_the_full_networks_have_the_authors_keys_and_sizes(name: str) -> None:
    """Every number of theirs has its place in ours, and no place of ours is left without."""
    state = keys(f"{name}_full")
    net: Any = joyvasa.from_authors(state) if name == "joyvasa" else ditto_lmdm.from_authors(state)
    left = joyvasa.LEFT if name == "joyvasa" else ("rotary.",)
    wanted = sum(v.numel() for k, v in state.items() if not any(part in k for part in left))
    assert sum(p.numel() for p in net.parameters()) == wanted
    assert len(net.blocks) == 8 and net.leave[-1].out_features == 70 if name == "joyvasa" else net.leave.out_features == 265


def test_other_keys_are_refused() -> None:
    for load, name in ((joyvasa.from_authors, "joyvasa_small"), (ditto_lmdm.from_authors, "ditto_small")):
        state = filled(name)
        with pytest.raises(InputError, match="keys"):
            load({**state, "surplus.weight": torch.zeros(2)})
        state.pop(next(k for k in state if "linear1.weight" in k))
        with pytest.raises(InputError, match="keys"):
            load(state)


def test_a_checkpoint_of_joyvasa_is_read_with_its_audio_encoder_and_nothing_is_run(tmp_path: Path) -> None:
    state = filled("joyvasa_small") | {
        "audio_encoder.encoder.layer_norm.weight": torch.ones(3),
        "denoising_net.TE.pe": torch.zeros(1, 51, 32),
    }
    file = tmp_path / "iter_0020000.pt"
    torch.save({"args": argparse.Namespace(n_motions=20, n_diff_steps=50), "model": state}, file)
    net, encoder = joyvasa.load(file)
    assert net.block == 20 and list(encoder) == ["encoder.layer_norm.weight"]
    assert torch.equal(net.enter.weight, state["denoising_net.feature_proj.weight"])
    torch.save({"args": argparse.Namespace(), "model": state, "extra": pytest.raises}, file)
    with pytest.raises(InputError, match="JoyVASA"):
        joyvasa.load(file)
    torch.save({"model_state_dict": filled("ditto_small")}, file)
    assert ditto_lmdm.load(file).width == 64
    file.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="Ditto"):
        ditto_lmdm.load(file)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def test_the_template_is_arrays_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "motion_template.pkl"
    stored: dict[str, Any] = {"mean_exp": np.arange(63.0), "std_exp": np.full(63, 2.0, np.float32)}
    for name in joyvasa.RANGES:
        stored |= {f"min_{name}": np.float32(-1), f"max_{name}": np.float32(3)}
    file.write_bytes(pickle.dumps(stored))
    ranges = joyvasa.template(file)
    code = torch.full((2, 70), 0.5)
    made = joyvasa.motion(code, ranges)
    assert made.space == "keypoints" and torch.allclose(made.expression[0], torch.arange(63.0) + 1)
    assert torch.allclose(made.rotation, torch.deg2rad(torch.ones(2, 3))) and torch.allclose(made.scale, torch.ones(2, 1))
    for wrong in ({**stored, "more": Trap()}, {k: v for k, v in stored.items() if k != "max_t"}):
        file.write_bytes(pickle.dumps(wrong))
        with pytest.raises(InputError, match="template"):
            joyvasa.template(file)
    assert not capsys.readouterr().out


def test_dittos_numbers_are_a_motion() -> None:
    code = torch.zeros(1, 265)
    code[0, 0] = 0.2  # scale less 1
    for angle, place in enumerate((40, 30, 33)):
        code[0, 1 + 66 * angle + place] = 50  # a sure bin
    code[0, 199:202] = torch.tensor([0.1, 0.2, 0.3])
    code[0, 202:] = 0.01
    made = ditto_lmdm.motion(code)
    assert torch.allclose(torch.rad2deg(made.rotation), torch.tensor([[22.5, -7.5, 1.5]]), atol=1e-3)
    assert torch.allclose(made.scale, torch.tensor([[1.2]])) and torch.allclose(made.translation, torch.tensor([[0.1, 0.2, 0.3]]))
    assert made.expression.shape == (1, 63) and torch.allclose(made.expression, torch.tensor(0.01))


def test_older_weights_of_joyvasa_can_have_one_place_for_all_rows() -> None:
    """With it, rows that hear the same alike and hold the same are told apart by nothing."""
    net = small_joyvasa()
    net.same_place = True
    state = torch.zeros(1, 20, 12), torch.zeros(1, 20, 32), torch.zeros(1, 4, 12), torch.zeros(1, 4, 32)
    with torch.no_grad():
        same = net(*state, torch.tensor([3]))[0, 4:]
        net.same_place = False
        own = net(*state, torch.tensor([3]))[0, 4:]
    assert same.std(0).max() < 1e-5 < own.std(0).max()
    assert sinusoid(torch.tensor([3, 4]), 32).diff(dim=0).abs().max() > 0.1
