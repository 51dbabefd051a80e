"""Source + encoder + generator + renderer: what is missing is named, memory is bounded, frames belong to their sound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.synthetic import LoudnessEncoder, SyntheticPerson
from vivavoce.controls import Scene
from vivavoce.method import Generator, Renderer
from vivavoce.speech import Stream
from vivavoce.speech.mel import Mel
from vivavoce.talker import Talker
from vivavoce.types import Clip, InputError, Motion, mirror


class Grey(Renderer):
    """A grey picture whose level is the loudness of the frame, beside the row number it was given."""

    needs = frozenset({"speech", "eyes"})
    speech, window = "whisper", (0, 2)

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.speech is not None
        return clip.speech[:, :, 0].mean(1)[:, None, None, None].expand(-1, 3, 4, 4)


class Moved(Renderer):
    needs, space = frozenset({"motion"}), "blendshapes"

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.motion is not None
        return clip.motion.expression[:, :1, None, None].expand(-1, 3, 4, 4)


class Count(Generator):
    """Numbers the rows."""

    needs, space = frozenset({"speech"}), "blendshapes"
    speech, window = "whisper", (0, 2)

    def start(self, source: Clip) -> int:
        return 0

    def generate(self, clip: Clip, state: int) -> tuple[Motion, int]:
        assert clip.speech is not None
        n = len(clip.speech)
        rows = torch.arange(state, state + n).float()[:, None]
        return Motion(torch.zeros(n, 3), torch.zeros(n, 3), torch.ones(n, 1), rows, "blendshapes"), state + n


class Keypoints(Count):
    space = "keypoints"


class Blocks(Generator):
    """Repeats, for a block, how loud the speech of its first row is; writes down what speech it was given of the others."""

    needs, space = frozenset({"speech"}), "blendshapes"
    speech, window = "mel", (4, 6)
    every = 3

    def __init__(self) -> None:
        super().__init__(None)
        self.between: list[float] = []

    def start(self, source: Clip) -> tuple[int, Tensor]:
        return 0, torch.zeros(1, 1)

    def generate(self, clip: Clip, state: tuple[int, Tensor]) -> tuple[Motion, tuple[int, Tensor]]:
        assert clip.speech is not None
        (frame, level), rows = state, []
        for speech in clip.speech:
            if frame % 3:
                self.between.append(float(speech.abs().sum()))
            else:
                level = speech.mean().reshape(1, 1)
            rows.append(level)
            frame += 1
        n, zero = len(rows), torch.zeros(len(rows), 3)
        return Motion(zero, zero, torch.ones(n, 1), torch.cat(rows), "blendshapes"), (frame, level)


class Pieces(Mel):
    """Counts how often it is asked."""

    asked = 0

    def push(self, samples: Tensor, state: Stream, last: bool = False) -> tuple[Tensor, Stream]:
        self.asked += 1
        return super().push(samples, state, last)


EAR = {"whisper": LoudnessEncoder()}


def test_a_frame_shows_its_own_sound() -> None:
    person = SyntheticPerson()
    audio = torch.zeros(640 * 10)
    audio[640 * 4 : 640 * 5] = 0.5
    level = Talker(Grey(None), person, EAR)(audio)[:, 0, 0, 0]
    assert torch.allclose(level, torch.tensor([0.0] * 4 + [0.5] + [0.0] * 5), atol=1e-6)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 64_000])
def test_every_started_frame_is_spoken(samples: int) -> None:
    assert len(Talker(Grey(None), SyntheticPerson(), EAR)(torch.zeros(samples))) == -(-samples // 640)


def test_blocks_are_never_longer_than_asked() -> None:
    blocks = list(Talker(Grey(None), SyntheticPerson(), EAR, block=3).stream([torch.zeros(640 * 100)]))
    assert max(map(len, blocks)) == 3 and sum(map(len, blocks)) == 100


def test_the_generator_drives_the_renderer_across_chunks() -> None:
    chunks = torch.zeros(640 * 30).split(777)
    frames = torch.cat(list(Talker(Moved(None), SyntheticPerson(), EAR, Count(None)).stream(chunks)))
    assert frames[:, 0, 0, 0].tolist() == list(range(30))


@pytest.mark.parametrize("samples", [640 * 23, 640 * 23 + 100, 640, 640 * 6])
def test_sound_between_the_rows_that_a_generator_reads_is_heard_with_the_next_of_them(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same frames, as soon, and a third as many questions to the encoder."""
    audio = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))

    def spoken(every: int) -> tuple[list[int], Tensor, int, list[float]]:
        monkeypatch.setattr(Blocks, "every", every)
        blocks, ear, came = Blocks(), Pieces(), list[int]()
        given, frames = 0, list[Tensor]()

        def pieces() -> Iterator[Tensor]:
            nonlocal given
            for piece in audio.split(500):
                given += len(piece)
                yield piece

        for images in Talker(Moved(None), SyntheticPerson(), {"mel": ear}, blocks, block=1).stream(pieces()):
            frames.append(images)
            came.append(given)
        return came, torch.cat(frames), ear.asked, blocks.between

    eager, lazy = spoken(1), spoken(3)
    assert lazy[0] == eager[0] and len(eager[0]) == -(-samples // 640)
    torch.testing.assert_close(lazy[1], eager[1])
    if samples > 640 * 20:
        assert lazy[2] <= eager[2] / 3 and min(eager[3]) > 0 and 0 in lazy[3]


def test_a_renderer_without_its_generator_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs motion.*--generator"):
        Talker(Moved(None), SyntheticPerson(), EAR)


def test_different_motion_spaces_are_refused() -> None:
    with pytest.raises(InputError, match=r"keypoints.*blendshapes"):
        Talker(Moved(None), SyntheticPerson(), EAR, Keypoints(None))


def test_smooth_lips_keep_a_third_of_the_frame_before_across_blocks_and_chunks() -> None:
    audio = torch.zeros(640 * 12)
    audio[640 * 4 : 640 * 5] = 0.5
    plain = Talker(Grey(None), SyntheticPerson(), EAR)(audio)[:, 0, 0, 0]
    talker = Talker(Grey(None), SyntheticPerson(), EAR, block=3, scene=Scene(smooth_lips=True))
    whole = talker(audio)[:, 0, 0, 0]
    expected = [0.5 * 0.65 * 0.35**k for k in range(8)]
    assert torch.allclose(whole, torch.tensor([0.0] * 4 + expected), atol=1e-6) and float(plain[4]) == pytest.approx(0.5)
    assert torch.equal(torch.cat(list(talker.stream(audio.split(777))))[:, 0, 0, 0], whole)
    moved = Talker(Moved(None), SyntheticPerson(), EAR, Count(None), scene=Scene(smooth_lips=True))(torch.zeros(640 * 3))[:, 0, 0, 0]
    assert torch.allclose(moved, torch.tensor([0, 0.65, 0.35 * 0.65 + 0.65 * 2]))


def test_a_missing_encoder_is_named() -> None:
    with pytest.raises(InputError, match="hears 'whisper'"):
        Talker(Grey(None), SyntheticPerson(), {})


def test_look_ahead_is_the_encoders_and_the_windows() -> None:
    assert Talker(Grey(None), SyntheticPerson(), EAR).lookahead == 20 + 2 * 20


def test_a_source_is_played_to_and_fro() -> None:
    assert mirror(torch.arange(8), 3).tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirror(torch.arange(3), 1).tolist() == [0, 0, 0]
