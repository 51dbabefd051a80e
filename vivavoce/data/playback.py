"""Motion played back: a renderer driven by another person's video, or by a file of coefficients, in place of a generator from speech."""

from __future__ import annotations

from pathlib import Path

import torch

from vivavoce.data import coefficients
from vivavoce.data.person import Person
from vivavoce.method import Generator
from vivavoce.types import Clip, InputError, Motion, mirror

FILES = (".npy", ".mat")


class Playback(Generator):
    """A Generator that knows its rows beforehand, plays them to and fro for as long as the sound lasts, and does not listen to it.

    Args:
        motion: the rows, one a frame.
        clock: name of a speech encoder that needs no file: frames come as the sound does.
    """

    needs = frozenset({"speech"})

    def __init__(self, motion: Motion, clock: str = "mel") -> None:
        super().__init__(None)
        self.speech, self.window, self.space = clock, (1, 1), motion.space
        self.motion = motion

    def start(self, source: Clip) -> int:
        return 0

    def generate(self, clip: Clip, state: int) -> tuple[Motion, int]:
        assert clip.speech is not None
        count = len(clip.speech)
        rows = mirror(torch.arange(state, state + count), len(self.motion))
        return self.motion[rows].to(clip.speech.device), state + count


def playback(drive: str | Path, folder: str | Path, space: str, smooth: float = 0.0) -> Playback:
    """What drives a person.

    Args:
        drive: a person folder, or a `.npy` or `.mat` file of coefficients (data/coefficients.py) for the space "bfm". Files tell no
            pose that could be used: their rotation and translation are zero.
        folder: of the person who is driven, for the mean of the coefficients and, where another's basis is known, its own.
        space: motion space that the renderer reads. smooth: standard deviation in frames of a Gaussian over time, for shaky files.
    Raises:
        InputError: neither; a file where coefficients are not what is read; a folder that lacks the motion.
    """
    drive, folder = Path(drive), Path(folder)
    if drive.is_dir():
        person = Person(drive, space=space)
        motion = person.clip(slice(None), {"motion"}).motion
        assert motion is not None
        rows, source = motion.expression.numpy(), drive
    elif drive.suffix.lower() in FILES and space == "bfm":
        rows, source = coefficients.read(drive), None
        still = torch.zeros(len(rows), 3)
        motion = Motion(still, still, torch.ones(len(rows), 1), torch.zeros(len(rows), 0), space)
    else:
        what = "a person folder" + (", or a .npy or .mat file of coefficients" if space == "bfm" else "")
        raise InputError(drive, f"nothing that drives a face in the space {space!r}", f"give {what}")
    if space == "bfm":
        rows = coefficients.retarget(rows, source, folder)
    expression = torch.from_numpy(coefficients.smoothed(rows, smooth))
    return Playback(Motion(motion.rotation, motion.translation, motion.scale, expression, space))
