"""Task 2: speech features, two 50 Hz steps for each frame: `aud_<encoder>.npy`, float16 [T,2,D]; `aud.npy` is the first encoder's."""

from __future__ import annotations

import os
import shutil

import numpy as np

from vivavoce import speech
from vivavoce.media import audio_chunks
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.rows import opened, writing
from vivavoce.types import FPS, HOP, STEPS, InputError

AT_ONCE = 10 * FPS  # frames encoded at once


def run(folder: Folder, progress: Progress) -> None:
    """Encode with each encoder asked for; features that are there are kept."""
    names = folder.options.speech
    for number, name in enumerate(names):
        if not folder.file(f"aud_{name}.npy").exists():
            encode(folder, name, lambda done, total, number=number: progress(number * total + done, len(names) * total))  # type: ignore[misc]
    with folder.whole("aud.npy") as part:
        part.unlink(missing_ok=True)
        try:
            os.link(folder.file(f"aud_{names[0]}.npy"), part)
        except OSError:  # a file system without hard links
            shutil.copyfile(folder.file(f"aud_{names[0]}.npy"), part)


def encode(folder: Folder, name: str, progress: Progress) -> None:
    """One encoder, in a constant-memory stream."""
    encoder, total = speech.load(name), folder.frames
    with folder.whole(f"aud_{name}.npy") as part, writing(part, (total, STEPS, encoder.dim), np.float16) as append:
        at, heard, state = 0, 0, encoder.start()
        for chunk in audio_chunks(folder.file("aud.wav"), AT_ONCE):
            heard += len(chunk)
            steps, state = encoder.push(chunk, state, last=heard >= total * HOP)
            append(steps.cpu().numpy())
            at += len(steps)
            progress(at // STEPS, total)


def verify(folder: Folder) -> None:
    """Every encoder asked for has two finite steps a frame."""
    remedy = f"run: vivavoce prepare {folder.path} --only speech"
    for path in [*(folder.file(f"aud_{name}.npy") for name in folder.options.speech), folder.file("aud.npy")]:
        table = opened(path, remedy)
        if table.ndim != 3 or table.shape[:2] != (folder.frames, STEPS):
            raise InputError(path, f"shape {list(table.shape)}, not [{folder.frames}, {STEPS}, D]", remedy)
        if not np.isfinite(table[:: max(1, len(table) // 100)]).all():
            raise InputError(path, "holds numbers that are not finite", remedy)


STEP = Step("speech", 2, 2, ("audio",), ("aud.npy", "aud_*.npy"), run, verify)
