"""Task 2: speech features, two 50 Hz steps for each frame: `aud_<encoder>.npy`, float16 [T,2,D]; `aud.npy` is the first encoder's.

Where the AD-NeRF lineage has a file for an encoder (`aud_ds.npy`, `aud_eo.npy`, `aud_hu.npy`: data/features.py) that is written too,
with the same numbers, and one that somebody else made is used in place of ours.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import torch

from vivavoce import speech
from vivavoce.data import features
from vivavoce.media import audio_chunks
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.rows import writing
from vivavoce.types import FPS, HOP, STEPS, InputError

AT_ONCE = 10 * FPS  # frames encoded at once
LIGHT = ("mel", "whisper")  # quick on a CPU, beside other steps; a GPU would take half a gigabyte of the host's memory first


def run(folder: Folder, progress: Progress) -> None:
    """Encode with each encoder asked for; features that are there are kept."""
    names = folder.options.speech
    for number, name in enumerate(names):
        if not features.find(folder.path, name).is_file():
            encode(folder, name, lambda done, total, number=number: progress(number * total + done, len(names) * total))  # type: ignore[misc]
        if name in features.LINEAGE and not folder.file(features.LINEAGE[name].file).is_file():
            for_lineage(folder, name)
    first = features.find(folder.path, names[0])
    if first.name == "aud.npy":
        return
    with folder.whole("aud.npy") as part:
        part.unlink(missing_ok=True)
        try:
            os.link(first, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(first, part)


def encode(folder: Folder, name: str, progress: Progress) -> None:
    """One encoder, in a constant-memory stream; a heavy one on a GPU where there is one."""
    device = "cuda" if name not in LIGHT and torch.cuda.is_available() else "cpu"
    encoder, total = speech.load(name, device), folder.frames
    with folder.whole(f"aud_{name}.npy") as part, writing(part, (total, STEPS, encoder.dim), np.float16) as append:
        at, heard, state = 0, 0, encoder.start()
        for chunk in audio_chunks(folder.file("aud.wav"), AT_ONCE):
            heard += len(chunk)
            steps, state = encoder.push(chunk, state, last=heard >= total * HOP)
            append(steps.cpu().numpy())
            at += len(steps)
            progress(at // STEPS, total)


def for_lineage(folder: Folder, name: str) -> None:
    """An encoder's features in the lineage's form, from ours: as float32, and in windows of 16 steps where it has them so."""
    form, table = features.LINEAGE[name], features.read(features.find(folder.path, name))
    rows = features.steps(table)[: folder.frames * STEPS]
    past = features.PAST if form.rows > STEPS else 0
    windows = speech.Windows(past, form.rows - past, form.dim)
    with folder.whole(form.file) as part, writing(part, (folder.frames, form.rows, form.dim), np.float32) as append:
        for at in range(0, len(rows), AT_ONCE * STEPS):
            last = at + AT_ONCE * STEPS >= len(rows)
            append(windows.push(torch.tensor(rows[at : at + AT_ONCE * STEPS], dtype=torch.float32), last).numpy())


def verify(folder: Folder) -> None:
    """Every encoder asked for has two finite steps a frame, in our form or the lineage's, and `aud.npy` is there."""
    remedy = f"run: vivavoce prepare {folder.path} --only speech"
    theirs = [folder.file(features.LINEAGE[name].file) for name in folder.options.speech if name in features.LINEAGE]
    for path in [*(features.find(folder.path, name) for name in folder.options.speech), *theirs, folder.file("aud.npy")]:
        table = features.read(path, remedy)
        rows = 1 if table.ndim == 2 else table.shape[1]
        short = folder.frames - len(table)
        if short and not (short == 1 and rows == features.PAST + features.FUTURE):  # the lineage's loop leaves the last row out
            raise InputError(path, f"shape {list(table.shape)}, not [{folder.frames}, {rows}, D]", remedy)
        if not np.isfinite(table[:: max(1, len(table) // 100)]).all():
            raise InputError(path, "holds numbers that are not finite", remedy)


FILES = (*(f"aud_{name}.npy" for name in speech.names()), *(form.file for form in features.LINEAGE.values()))
STEP = Step("speech", 2, 3, ("audio",), ("aud.npy", *FILES), run, verify)
