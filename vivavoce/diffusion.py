"""Diffusion and flow matching on any tensor: what is mixed in training, what the network is asked for, how one walks back.

Two processes with one set of verbs (`draw`, `mix`, `target`, `estimate`, `sample`), so that a method names its process in a
setting. `Diffusion`: variance-preserving, in steps 1 .. N, 0 is clean (Ho et al. 2020; cosine: Nichol and Dhariwal 2021; v: Salimans
and Ho 2022; sampler: Song et al. 2021, DDIM eq. 12, which at eta 1 and N evaluations is DDPM's ancestral sampler). `Flow`: the
straight path from noise at time 0 to data at time 1 (Lipman et al. 2023; Liu et al. 2023), walked by Euler or Heun. Guidance: Ho and
Salimans 2022.

A network is a function (noisy [B,...], time [B]) -> [B,...] of the noisy one's shape. Nothing here draws random numbers but `draw`;
noise is handed in, so that a stream and a file can have the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from vivavoce.types import InputError

Network = Callable[[Tensor, Tensor], Tensor]
Fresh = Callable[[int], Tensor]  # number of the step taken (0, 1, ...) -> noise of the data's shape

OFFSET, STEEPEST = 0.008, 0.999  # of the cosine schedule: keeps the first step from being too small, the last from being infinite
LINEAR = (1e-4, 0.02)  # variances added by the first and the last of 1000 steps


@dataclass(frozen=True)
class Diffusion:
    """Args:
        steps: N.
        schedule: "cosine" or "linear" (scaled so that N steps end as 1000 do).
        predicts: what the network is asked for: "data" (x0), "noise" (epsilon) or "velocity" (v).
    Raises:
        InputError: another word, or no step.
    """

    steps: int = 50
    schedule: str = "cosine"
    predicts: str = "data"

    def __post_init__(self) -> None:
        _known("schedule", self.schedule, ("cosine", "linear"))
        _known("predicts", self.predicts, ("data", "noise", "velocity"))
        if self.steps < 1:
            raise InputError("diffusion", f"{self.steps} steps", "give 1 or more")

    @cached_property
    def levels(self) -> Tensor:  # [N+1] float64
        """Share of the data's variance left after each step (alpha bar); 1 at step 0."""
        if self.schedule == "cosine":
            place = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            height = ((place + OFFSET) / (1 + OFFSET) * math.pi / 2).cos().square()
            added = (1 - height[1:] / height[:-1]).clamp(0, STEEPEST)
        else:
            scale = 1000 / self.steps
            added = torch.linspace(LINEAR[0] * scale, LINEAR[1] * scale, self.steps, dtype=torch.float64).clamp(max=STEEPEST)
        return torch.cat([torch.ones(1, dtype=torch.float64), (1 - added).cumprod(0)])

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}

    def _there(self, device: torch.device) -> Tensor:  # [N+1]
        """The levels on a device; copied once, for while a CUDA graph is recorded nothing can be."""
        if device not in self._copies:
            self._copies[device] = self.levels.to(device)
        return self._copies[device]

    def draw(self, count: int, device: torch.device | str = "cpu") -> Tensor:  # -> [count] int64 in 1 .. N
        """Times to train at."""
        return torch.randint(1, self.steps + 1, (count,), device=device)

    def shares(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:  # [B], [B,...] -> [B,1,...], [B,1,...]
        """Factors of data and noise at that time."""
        level = self._there(time.device)[time.long()].reshape(-1, *[1] * (like.ndim - 1))
        return level.sqrt().to(like), (1 - level).sqrt().to(like)

    def mix(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:  # [B,...], [B,...], [B] -> [B,...]
        """The noisy data."""
        signal, rest = self.shares(time, data)
        return signal * data + rest * noise

    def target(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:  # -> [B,...]
        """What the network should say."""
        signal, rest = self.shares(time, data)
        return {"data": data, "noise": noise, "velocity": signal * noise - rest * data}[self.predicts]

    def estimate(self, output: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Data and noise, both [B,...], that the network's output means."""
        signal, rest = self.shares(time, noisy)
        if self.predicts == "velocity":
            return signal * noisy - rest * output, rest * noisy + signal * output
        if self.predicts == "noise":
            return (noisy - rest * output) / signal.clamp(min=1e-8), output
        return output, (noisy - signal * output) / rest.clamp(min=1e-8)

    def sample(
        self,
        network: Network,
        noise: Tensor,
        evaluations: int,
        eta: float = 0.0,
        start: int | None = None,
        fresh: Fresh | None = None,
    ) -> Tensor:  # [B,...] -> [B,...]
        """Data from noise, by DDIM.

        Args:
            noise: [B,...], deviation 1.
            evaluations: of the network, at steps evenly apart.
            eta: noise added anew: 0 none (the result follows from `noise` alone), 1 as DDPM.
            start: step to begin at instead of N, as if the noise were what has been left there (a truncated chain).
            fresh: gives the noise of each step; needed when eta > 0.
        """
        first = self.steps if start is None else min(start, self.steps)
        places = torch.linspace(first, 0, min(evaluations, first) + 1, dtype=torch.float64).ceil().long().tolist()
        noisy = noise
        for k, (now, then) in enumerate(pairwise(places)):
            time = torch.full((len(noise),), now, device=noise.device)
            data, seen = self.estimate(network(noisy, time), noisy, time)
            level, after = float(self.levels[now]), float(self.levels[then])
            anew = eta * math.sqrt((1 - after) / (1 - level) * (1 - level / after))
            noisy = math.sqrt(after) * data + math.sqrt(max(0.0, 1 - after - anew**2)) * seen
            if anew > 0:
                if fresh is None:
                    raise InputError("diffusion", f"eta {eta} adds noise at every step and none is given", "give `fresh`")
                noisy = noisy + anew * fresh(k)
        return noisy


@dataclass(frozen=True)
class Flow:
    """Args:
        predicts: "velocity" (data less noise) or "data".
    Raises:
        InputError: another word.
    """

    predicts: str = "velocity"

    def __post_init__(self) -> None:
        _known("predicts", self.predicts, ("velocity", "data"))

    def draw(self, count: int, device: torch.device | str = "cpu") -> Tensor:  # -> [count] in 0 .. 1
        """Times to train at."""
        return torch.rand(count, device=device)

    def mix(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:  # [B,...], [B,...], [B] -> [B,...]
        """The noisy data."""
        return torch.lerp(noise, data, _beside(time, data))

    def target(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:  # -> [B,...]
        """What the network should say."""
        return data if self.predicts == "data" else data - noise

    def estimate(self, output: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Data and noise, both [B,...], that the network's output means."""
        at = _beside(time, noisy)
        if self.predicts == "velocity":
            return noisy + (1 - at) * output, noisy - at * output
        return output, (noisy - at * output) / (1 - at).clamp(min=1e-4)

    def velocity(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:  # -> [B,...]
        """Direction of the path."""
        if self.predicts == "velocity":
            return output
        return (output - noisy) / (1 - _beside(time, noisy)).clamp(min=1e-4)

    def sample(self, network: Network, noise: Tensor, evaluations: int, order: int = 1) -> Tensor:  # [B,...] -> [B,...]
        """Data from noise.

        Args:
            noise: [B,...], deviation 1.
            evaluations: of the network.
            order: 1 Euler (one evaluation a step), 2 Heun (two a step; the last step is Euler's, where the path ends).
        """
        steps = evaluations if order == 1 else (evaluations + 1) // 2
        noisy = noise
        for k in range(steps):
            now, then = (noise.new_full((len(noise),), (k + i) / steps) for i in (0, 1))
            slope = self.velocity(network(noisy, now), noisy, now)
            reached = noisy + slope / steps
            if order == 2 and k + 1 < steps:
                slope = (slope + self.velocity(network(reached, then), reached, then)) / 2
                reached = noisy + slope / steps
            noisy = reached
        return noisy


def guided(outputs: Sequence[Tensor], scales: Sequence[float]) -> Tensor:  # n + 1 of [B,...], n -> [B,...]
    """Classifier-free guidance by one condition after another: outputs heard without any condition, with the first, with the first
    and the second, ...; each difference times its scale. One condition at scale 1 is the output with it."""
    out = outputs[0]
    for scale, less, more in zip(scales, outputs[:-1], outputs[1:], strict=True):
        out = out + scale * (more - less)
    return out


def weighted(error: Tensor, weight: Tensor) -> Tensor:  # [...], broadcast -> []
    """Mean of the squared error over the entries that weigh."""
    weight = weight.expand_as(error)
    return (error.square() * weight).sum() / weight.sum().clamp(min=1e-8)


def _beside(time: Tensor, like: Tensor) -> Tensor:  # [B] -> [B,1,...]
    return time.to(like).reshape(-1, *[1] * (like.ndim - 1))


def _known(setting: str, word: str, words: Sequence[str]) -> None:
    if word not in words:
        raise InputError(f"{setting} {word!r}", "there is no such", f"choose from: {', '.join(words)}")
