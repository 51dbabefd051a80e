"""Wav2Lip: the authors' output on the same weights, the mel it hears, dubbing of whole films."""

from __future__ import annotations

import pytest
import torch

from tests.published import fill, inputs
from tests.test_syncnet import near, recorded
from vivavoce.nn.wav2lip import SIDES, Discriminator, Generator, masked
from vivavoce.types import InputError


@torch.no_grad()
def test_the_generator_gives_the_authors_output() -> None:
    made = fill(Generator)(inputs()["mel"], inputs()["faces"])
    assert near(made[..., ::4, ::4], "wav2lip")


@torch.no_grad()
def test_the_discriminator_gives_the_authors_output() -> None:
    verdict = fill(Discriminator)(inputs()["faces"][:, :3])
    assert near(verdict, "real")
    assert recorded()["real"].shape == (2, 1)


@pytest.mark.parametrize("side", [24, 48, 192])
def test_other_sizes(side: int) -> None:
    made = Generator(side, 0.1).eval()(torch.zeros(1, 1, 80, 16), torch.rand(1, 6, side, side))
    assert made.shape == (1, 3, side, side)
    assert Discriminator(0.1)(made).shape == (1, 1)


def test_only_sizes_that_halve_to_three_pixels() -> None:
    assert all(side * 2 ** -(5 + more) == 3 for side, more in SIDES.items())
    with pytest.raises(InputError, match="choose from"):
        Generator(100)


def test_the_mask_is_the_lower_half() -> None:
    faces = torch.rand(2, 3, 96, 96) + 0.1
    low = masked(faces)
    assert torch.equal(low[:, :, :48], faces[:, :, :48]) and not low[:, :, 48:].any()
