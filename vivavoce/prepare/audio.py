"""Task 1: the sound, `aud.wav`, at 16 kHz, mono, 16 bits; exactly 640 samples for each frame, starting with the first frame."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vivavoce.media import audio_chunks, write_audio
from vivavoce.prepare import VIDEO, Folder, Progress, Step
from vivavoce.types import FPS, HOP, RATE, InputError


def run(folder: Folder, progress: Progress) -> None:
    """Write the file."""
    with folder.whole("aud.wav") as part:
        write_audio(part, span(folder.video, 0, folder.frames, progress))


def span(source: Path, first: int, last: int, progress: Progress) -> Iterator[Tensor]:
    """Samples of frames [first, last); silence where the sound is shorter than the video."""
    at = 0  # frames
    for chunk in audio_chunks(source, 10 * FPS):
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
    """Form and length of the file."""
    lasts(folder.file("aud.wav"), folder.frames, f"run: vivavoce prepare {folder.path} --only audio")


def lasts(path: Path, frames: int, remedy: str) -> None:
    """Raises InputError where a file is not mono sound at 16 kHz of that many frames."""
    try:
        with wave.open(str(path)) as sound:
            form = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
            count = sound.getnframes()
    except (OSError, wave.Error, EOFError) as e:
        raise InputError(path, "missing or no wav file", remedy) from e
    if form != (1, 2, RATE) or count != frames * HOP or path.stat().st_size < 2 * count:
        raise InputError(path, f"{count} samples at {form[2]} Hz, not {frames * HOP} at {RATE} Hz mono", remedy)


STEP = Step("audio", 1, 2, (VIDEO, "frames"), ("aud.wav",), run, verify)
