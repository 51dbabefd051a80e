"""vivavoce run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vivavoce.cli.screen import bar, err, out
from vivavoce.cli.words import File, Source
from vivavoce.types import InputError

FILMS = {".mp4", ".mov", ".mkv", ".webm", ".avi"}


@dataclass
class Run:
    """Make the source speak: a portrait, a person's video, a person folder or a trained run."""

    source: Source  # picture, video, person folder, run folder, or a sample of: vivavoce assets list
    audio: File = None  # what to say: any audio or video file, or a sample of: vivavoce assets list
    text: str = ""  # what to say, in words (needs the extra: pip install 'vivavoce[tts]')
    out: Path = Path("out.mp4")  # .mp4, .mov or .mkv; a picture, NAME-preview.png, goes beside it
    renderer: str = "face_warp"  # method for a portrait, or a run folder
    generator: str = ""  # speech -> motion, or a run folder; "": one trained beside it, or shipped
    drive: str = ""  # what moves the face in place of a generator: a person folder, a film, or a .npy or .mat file of coefficients
    size: int = 0  # longest side of the film, px; 0: as trained, or as the picture (at most 1920)
    face: int = 0  # which face of a portrait, from the left; 0: the only one
    pose: str = "source"  # of the head: source, generator, fixed, or a file (transforms_*.json, .npy)
    eyes: Literal["source", "fixed", "blink"] = "source"  # as in the video, open, or open with a blink now and then
    background: str = ""  # behind a trained person: a picture, a video, or a colour
    smooth_lips: bool = False  # calmer lips, a little less sharp
    block: int = 0  # frames rendered at once; 0: 2 on a CPU, 8 on a GPU
    seed: int = 0  # of the idle motion: blinks, small turns of the head
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: CUDA when it is there


def do(o: Run) -> None:
    from vivavoce.run import Options, speak

    if o.drive and o.audio is None and not o.text and (sound := Path(o.drive) / "aud.wav").is_file():
        o = dataclasses.replace(o, audio=str(sound))  # a person's video drives with its own sound
    elif o.drive and o.audio is None and not o.text and Path(o.drive).suffix.lower() in FILMS:
        o = dataclasses.replace(o, audio=o.drive)
    if (o.audio is None) == (not o.text):
        raise InputError("vivavoce run", "it must be told what to say", "give --audio FILE or --text WORDS, one of them")
    source = given(o.source)
    if o.audio is None:
        from vivavoce.tts import say

        audio = say(o.text, o.out.with_name(f"{o.out.stem}-voice.wav"))
    else:
        audio = given(o.audio)
    known = {f.name for f in dataclasses.fields(Options)}
    options = Options(**{k: v for k, v in vars(o).items() if k in known})
    progress, move = bar("run")
    with progress:
        report = speak(source, audio, o.out, options, move)
    for note in report.notes:
        err.print(f"note: {note}", style="yellow")
    times = ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items())
    rate = report.frames / max(report.seconds["total"] - report.seconds["load"], 1e-9)
    out.print(f"{report.out}: {report.frames} frames, {rate:.0f} a second after loading ({times}); preview: {report.preview}")


def given(text: str) -> Path:
    """A file the user named, or the catalogued sample of that name where no such file is."""
    from vivavoce import assets
    from vivavoce.catalogue import CATALOGUE

    path = Path(text)
    return assets.path(text) if text.startswith("sample_") and text in CATALOGUE and not path.exists() else path
