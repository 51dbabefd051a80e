"""What is asked of a clip, how an answer is judged, and what the landmarks of all frames say, for the step `checks` and its pages.

Each check has a value, a limit from which it is worth a warning, perhaps one from which the clip is refused, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vivavoce.face import regions
from vivavoce.media import audio_chunks
from vivavoce.prepare import Folder, measures, sync
from vivavoce.prepare.rows import reader
from vivavoce.types import FPS

Floats = NDArray[np.float32]

PASS, WARN, REFUSE = "pass", "warn", "refuse"
PIECE = 500  # frames whose landmarks are held at once
UNITS = ("%", "px", "s", "ms", "dB")  # told with a limit as well
EMPTY = -100.0  # dB of full scale: nothing was recorded at all


@dataclass(frozen=True)
class Check:
    """What a measure should be."""

    name: str
    what: str  # for the table, with the unit in place of {}
    warn: float
    refuse: float | None
    low: bool  # a low value is bad
    advice: str
    scale: float = 1.0  # what the value is multiplied by to be shown
    digits: int = 0


@dataclass(frozen=True)
class Verdict:
    """One check, judged."""

    name: str
    what: str
    value: str
    limit: str
    verdict: str  # pass, warn, refuse
    advice: str  # what to do; empty where all is well


EARLY = (
    Check("length", "{} s to learn from", 30, 1, True, "record two to five minutes of speech", digits=1),
    Check("faces", "{} % of the frames show a face", 0.95, 0.5, True, "cut out the parts without the person, or film from the front", 100),
    Check("one picture", "{} % of the film is one person before one camera", 0.8, None, True,
          "cut the film into its shots and prepare the best one", 100),
    Check("face size", "face {} px high", 110, 44, True, "film nearer or at a higher resolution; prepare with a larger --size"),
    Check("framing", "{} % of the frames cut off a part of the face", 0.03, 0.4, False, "leave room around the head", 100, 1),
    Check("room", "the face is {} % of the picture's height", 0.8, None, False, "leave room for hair and shoulders", 100),
    Check("turned away", "{} % of the frames are turned by more than 35 degrees", 0.1, 0.6, False, "look into the camera", 100),
    Check("jitter", "landmarks tremble by {} % of the distance of the eyes", 0.009, 0.05, False,
          "use a less compressed, better lit video", 100, 2),
    Check("too dark", "brightness of the face {} of 255", 55, 22, True, "use more light"),
    Check("too bright", "{} % of the face is burnt out", 0.1, 0.5, False, "use less light, or a shorter exposure", 100, 1),
    Check("sharpness", "finest detail {} % of the face's contrast", 0.1, 0.03, True,
          "focus on the eyes; use a less compressed video, one that was not enlarged", 100, 1),
    Check("camera", "what is beside the person changes by {} of 255 levels", 8, None, False,
          "use a tripod and a background at rest; else the plate is a mixture", digits=1),
    Check("frame rate", "{} frames a second in the source", 23, 9, True, "film at 25 frames a second or more", digits=1),
    Check("other faces", "{} % of the frames show another large face", 0.05, None, False, "use a video of one person", 100),
    Check("loudness", "sound at {} dB of full scale", -38, -58, True, "record nearer to the mouth; raise the level", digits=1),
    Check("speech", "{} % of the time is not silence", 0.35, 0.05, True, "use a part in which the person speaks", 100),
    Check("clipping", "{} % of the sound is cut off at full scale", 0.001, 0.05, False, "record at a lower level", 100, 2),
)  # fmt: skip
LATE = (
    Check("plate", "{} % of the background was seen in some frame", 0.35, None, True, "leave more room beside the person", 100),
    Check("plate at rest", "the background differs by {} of 255 levels from frame to frame", 8, None, False,
          "use a tripod and a background at rest", digits=1),
    Check("mesh on the face", "the tracked mesh lies {} px off", 0.012, None, False, "use a larger, sharper face", digits=2),
    Check("body", "clothes could be followed in {} % of the frames", 0.8, None, True,
          "wear something with a pattern; keep the arms low", 100),
)  # fmt: skip
OFFSET = Check("sync", "sound {} ms after the lips", 0.08, 0.16, False, "", 1000)


def judged(check: Check, value: float) -> Verdict:
    """The verdict for a value."""
    sign = -1 if check.low else 1
    beyond = [limit is not None and sign * value > sign * limit for limit in (check.warn, check.refuse)]
    verdict = REFUSE if beyond[1] else WARN if beyond[0] else PASS
    shown = [f"{v * check.scale:.{check.digits}f}" for v in (value, check.warn, *(() if check.refuse is None else (check.refuse,)))]
    unit = check.what.partition("{}")[2].split()[:1]
    after = f" {unit[0]}" if unit and unit[0] in UNITS else ""
    limit = f"{'at least' if check.low else 'at most'} {shown[1]}{after}"
    limit += f", refused {'below' if check.low else 'above'} {shown[2]}{after}" if check.refuse is not None else ""
    return Verdict(check.name, check.what.format(shown[0]), shown[0], limit, verdict, check.advice if verdict != PASS else "")


def judged_sync(found: sync.Sync | None) -> Verdict:
    """The verdict on the offset of the sound; one that cannot be told is worth a warning."""
    shown = judged(OFFSET, abs(found.offset) if found is not None else 0.0)
    if found is None:
        why = f"the lips or the sound move too little, or for less than {sync.FEWEST / FPS:.0f} s, to tell the sound's offset"
        return Verdict("sync", why, "?", shown.limit, WARN, "see that the person speaks, for 20 s or more")
    way = "after" if found.offset > 0 else "before"
    if found.confidence < sync.SURE:
        why = "the lips do not follow the sound clearly enough to tell its offset"
        perhaps = f"perhaps {abs(found.offset) * 1000:.0f} ms {way}; " if found.confidence > sync.SURE / 2 else ""
        why += f" ({perhaps}confidence {found.confidence:.1f}, believed from {sync.SURE:.0f})"
        advice = "see that the person in the picture is the one who is heard, and that the clip has 20 s of speech or more"
        return Verdict("sync", why, "?", shown.limit, WARN, advice)
    what = f"sound {abs(found.offset) * 1000:.0f} ms {way} the lips (confidence {found.confidence:.1f})"
    advice = f"move the sound: ffmpeg -i IN -itsoffset {-found.offset:.3f} -i IN -map 0:v -map 1:a -c:v copy OUT"
    return Verdict("sync", what, f"{found.offset * 1000:.0f}", shown.limit, shown.verdict, advice if shown.verdict != PASS else "")


def judged_sound(verdicts: list[Verdict], loudness: float) -> list[Verdict]:
    """The same verdicts; an empty sound track is called so, and nobody is told to speak up."""
    if loudness > EMPTY:
        return verdicts
    advice = "use a copy of the video that has its sound"
    what = {"loudness": "the sound track is empty (digital silence)"}
    return [replace(v, what=what.get(v.name, v.what), advice=advice) if v.name in ("loudness", "speech") else v for v in verdicts]


@dataclass
class Signals:
    """What the landmarks of all frames say; NaN rows without a face."""

    height: measures.Rows  # [T] px
    turn: measures.Rows  # [T,3] degrees
    cut: measures.Rows  # [T]
    opening: measures.Rows  # [T]
    still: Floats  # [T,S,2] px


def signals(folder: Folder) -> Signals:
    """Read the landmarks once, piece by piece."""
    read, size = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks"), folder.size
    rows: list[tuple[Any, ...]] = []
    for first in range(0, folder.frames, PIECE):
        p = read(np.arange(first, min(first + PIECE, folder.frames)))
        still = p[:, list(regions.STILL), :2]
        rows.append((measures.heights(p), measures.turns(p), measures.cut_off(p, size), sync.opening(p), still))
    return Signals(*(np.concatenate(part) for part in zip(*rows)))


def sound(folder: Folder) -> Iterator[torch.Tensor]:
    """Pieces of aud.wav."""
    return audio_chunks(folder.file("aud.wav"), 10 * FPS)
