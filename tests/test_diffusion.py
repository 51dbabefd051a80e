"""Processes against what is known exactly: for data of one normal distribution the best network is a formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vivavoce.diffusion import Diffusion, Flow, guided, weighted
from vivavoce.types import InputError

MIDDLE, SPREAD = 1.7, 0.4  # of the data
PREDICTS = ("data", "noise", "velocity")


def best(process: Diffusion | Flow, noisy: Tensor, time: Tensor) -> Tensor:
    """The mean of what the network is asked for, given the noisy data: data and noise are jointly normal with it."""
    zero, one = torch.zeros_like(noisy), torch.ones_like(noisy)
    signal, rest = process.mix(one, zero, time), process.mix(zero, one, time)
    variance = signal**2 * SPREAD**2 + rest**2
    off = (noisy - signal * MIDDLE) / variance
    return process.target(MIDDLE + signal * SPREAD**2 * off, rest * off, time)


def noise(count: int = 33) -> Tensor:
    return torch.linspace(-2.5, 2.5, count, dtype=torch.float64).reshape(-1, 1, 1)


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_best_network_leads_noise_onto_the_data_by_ddim(predicts: str, schedule: str) -> None:
    """The path without new noise keeps order and rank: the end is middle + spread * noise. Twice the steps, less than 0.6 of the error."""
    errors = []
    for steps in (50, 100, 300):
        process = Diffusion(steps, schedule, predicts)
        made = process.sample(lambda x, t, p=process: best(p, x, t), noise(), steps)
        errors.append(float((made - (MIDDLE + SPREAD * noise())).abs().max()))
    assert errors[2] < 0.03 and errors[1] < 0.62 * errors[0]


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_euler_is_of_first_and_heun_of_second_order(predicts: str) -> None:
    process = Flow(predicts)

    def error(evaluations: int, order: int) -> float:
        made = process.sample(lambda x, t: best(process, x, t), noise(), evaluations, order)
        return float((made - (MIDDLE + SPREAD * noise())).abs().max())

    assert 1.8 < error(40, 1) / error(80, 1) < 2.3
    assert error(80, 2) < 0.25 * error(80, 1)
    assert error(320, 2) < 1e-3


def test_ancestral_sampling_gives_the_data_its_spread() -> None:
    random = torch.Generator().manual_seed(0)
    process = Diffusion(80)
    begin = torch.randn(8_000, 1, generator=random)
    made = process.sample(lambda x, t: best(process, x, t), begin, 80, eta=1.0, fresh=lambda k: torch.randn(8_000, 1, generator=random))
    assert abs(float(made.mean()) - MIDDLE) < 0.03 and abs(float(made.std()) - SPREAD) < 0.03
    assert abs(float(torch.corrcoef(torch.cat([made, begin], 1).T)[0, 1])) < 0.3  # most of the noise was added anew


def test_eta_one_over_all_steps_is_the_posterior_of_ddpm() -> None:
    """Ho et al. eq. 7: mean and deviation of x[t-1] given x[t] and x0."""
    process = Diffusion(20)
    begin, fresh = torch.randn(3, 4, dtype=torch.float64), torch.randn(20, 3, 4, dtype=torch.float64)
    guess = torch.randn(3, 4, dtype=torch.float64)
    made = process.sample(lambda x, t: guess, begin, 20, eta=1.0, fresh=lambda k: fresh[k])
    level, x = process.levels, begin
    for k, t in enumerate(range(20, 0, -1)):
        alpha, beta = level[t] / level[t - 1], 1 - level[t] / level[t - 1]
        mean = level[t - 1].sqrt() * beta / (1 - level[t]) * guess + alpha.sqrt() * (1 - level[t - 1]) / (1 - level[t]) * x
        x = mean + (beta * (1 - level[t - 1]) / (1 - level[t])).sqrt() * fresh[k]
    assert torch.allclose(made, x, atol=1e-9)


@pytest.mark.parametrize("process", [*(Diffusion(30, "cosine", p) for p in PREDICTS), Flow("velocity"), Flow("data")])
def test_what_is_asked_for_gives_data_and_noise_back(process: Diffusion | Flow) -> None:
    data, other = torch.randn(2, 64, 5, dtype=torch.float64)
    time = process.draw(64)
    noisy = process.mix(data, other, time)
    found, seen = process.estimate(process.target(data, other, time), noisy, time)
    clear = time < 29 if isinstance(process, Diffusion) else time < 0.99  # at the end all is noise
    assert torch.allclose(found[clear], data[clear], atol=1e-4) and torch.allclose(seen[clear], other[clear], atol=1e-4)


def test_levels_fall_from_one_to_nothing() -> None:
    for schedule in ("cosine", "linear"):
        for steps in (50, 1000):
            levels = Diffusion(steps, schedule).levels
            assert float(levels[0]) == 1 and bool((levels.diff() < 0).all()) and float(levels[-1]) < 1e-4
    half = Diffusion(1000).levels[500]
    assert abs(float(half) - math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2) < 1e-3


def test_a_truncated_chain_begins_where_it_is_told() -> None:
    seen: list[int] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        seen.append(int(time[0]))
        return torch.zeros_like(x)

    Diffusion(50).sample(network, torch.randn(1, 2), 10, start=10)
    assert seen == list(range(10, 0, -1))
    seen.clear()
    Diffusion(50).sample(network, torch.randn(1, 2), 10)
    assert seen == list(range(50, 0, -5))


def test_guidance_adds_conditions_one_after_another() -> None:
    none, one, both = torch.randn(3, 4, 2)
    assert torch.allclose(guided([none, one], [1.0]), one)
    assert torch.allclose(guided([none, one, both], [2.0, 0.5]), none + 2 * (one - none) + 0.5 * (both - one))


def test_only_entries_that_weigh_count() -> None:
    error = torch.tensor([[1.0, 9.0], [3.0, 9.0]])
    assert float(weighted(error, torch.tensor([[1.0, 0.0]]))) == 5.0
    assert float(weighted(error, torch.zeros(1, 1))) == 0.0


def test_words_that_are_not_there_are_refused() -> None:
    for wrong in (lambda: Diffusion(schedule="cosin"), lambda: Diffusion(predicts="x0"), lambda: Flow("noise"), lambda: Diffusion(0)):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="fresh"):
        Diffusion(4).sample(lambda x, t: x, torch.randn(1, 2), 4, eta=1.0)
