"""Task 1: the sound at 16 kHz, mono, 16 bits; exactly 640 samples for each frame, starting with the first frame.

`aud_train.wav` and `aud_novel.wav` are the parts of the training and the held-out frames, as GaussianTalker and EGSTalker expect.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator

import torch
from torch import Tensor

from vivavoce.media import audio_chunks, write_audio
from vivavoce.prepare import VIDEO, Folder, Progress, Step
from vivavoce.types import FPS, HOP, RATE, InputError


def run(folder: Folder, progress: Progress) -> None:
    """Write the three files."""
    ranges = {"aud.wav": (0, folder.frames), "aud_train.wav": (0, folder.split), "aud_novel.wav": (folder.split, folder.frames)}
    for name, (first, last) in ranges.items():
        with folder.whole(name) as part:
            write_audio(part, span(folder, first, last, progress))


def span(folder: Folder, first: int, last: int, progress: Progress) -> Iterator[Tensor]:
    """Samples of frames [first, last); silence where the sound is shorter than the video."""
    at = 0  # frames
    for chunk in audio_chunks(folder.video, 10 * FPS):
        end = at + len(chunk) // HOP
        low, high = max(first, at), min(last, end)
        if low < high:
            yield chunk[(low - at) * HOP : (high - at) * HOP]
        at = end
        progress(min(at, last), last)
        if at >= last:
            return
    start = max(at, first)
    if start < last:
        yield torch.zeros((last - start) * HOP)


def verify(folder: Folder) -> None:
    """Form and length of the three files."""
    lengths = {"aud.wav": folder.frames, "aud_train.wav": folder.split, "aud_novel.wav": folder.frames - folder.split}
    for name, frames in lengths.items():
        path, remedy = folder.file(name), f"run: vivavoce prepare {folder.path} --only audio"
        try:
            with wave.open(str(path)) as sound:
                form = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
                count = sound.getnframes()
        except (OSError, wave.Error, EOFError) as e:
            raise InputError(path, "missing or no wav file", remedy) from e
        if form != (1, 2, RATE) or count != frames * HOP or path.stat().st_size < 2 * count:
            raise InputError(path, f"{count} samples at {form[2]} Hz, not {frames * HOP} at {RATE} Hz mono", remedy)


STEP = Step("audio", 1, 1, (VIDEO, "frames"), ("aud.wav", "aud_train.wav", "aud_novel.wav"), run, verify)
