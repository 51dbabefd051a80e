"""Is this clip fit to learn a person from? Found out in seconds, before the long steps; a bad clip is refused with the reasons.

Each check has a value, a limit from which it is worth a warning, perhaps one from which the clip is refused, and what to do. The list
is kept in clip.json as `checks`, for other tools, and in `checks.json`. `--force` goes on with a clip that is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vivavoce.face import regions
from vivavoce.face.landmarker import Landmarker
from vivavoce.media import audio_chunks, probe, read_image
from vivavoce.prepare import Folder, Progress, Step, measures, sync
from vivavoce.prepare.cuts import thumbnail
from vivavoce.prepare.rows import reader
from vivavoce.types import FPS, InputError

Floats = NDArray[np.float32]

PASS, WARN, REFUSE = "pass", "warn", "refuse"
REFUSED = "refused.html"  # the page of a clip that is refused
LOOKS = 24  # pictures looked at
PIECE = 500  # frames whose landmarks are held at once
TURNED = 35.0  # degrees to the side at which the far half of the mouth is hidden
UNITS = ("%", "px", "s", "ms", "dB")  # told with a limit as well
EMPTY = -100.0  # dB of full scale: nothing was recorded at all
RIVAL = 0.4  # of the main face's height: as large as this, another face may be taken for it


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


def looked(folder: Folder, rows: Sequence[int]) -> dict[str, float]:
    """What some pictures say."""
    points = reader(folder.file("landmarks.npy"), "")(list(rows))
    height, width = folder.size
    landmarker = Landmarker(threads=1)
    dark, burnt, sharp, rivals = [], [], [], 0
    for k, p in zip(rows, points):
        picture = read_image(folder.image(k))
        part = measures.face_part(picture, p)
        dark.append(float(np.median(part @ measures.LUMA)))
        burnt.append(float((part.max(2) >= 252).mean()))
        sharp.append(measures.sharpness(part))
        own = float(np.ptp(p[:, 1]))
        middle = (p[:, :2].min(0) + p[:, :2].max(0)) / 2
        others = [f for f in landmarker(picture) if np.linalg.norm((f.box[:2] + f.box[2:]) / 2 - middle) > own / 2]
        rivals += any(f.box[3] - f.box[1] > RIVAL * own for f in others)
    boxes = np.concatenate([points[:, :, :2].min(1), points[:, :, :2].max(1)], 1) / np.array([width, height] * 2)
    small = np.stack([thumbnail(folder.image(k)) for k in rows])
    return {
        "too dark": float(np.median(dark)),
        "too bright": float(np.median(burnt)),
        "sharpness": float(np.median(sharp)),
        "other faces": rivals / len(rows),
        "camera": measures.unsteady(small, boxes.astype(np.float32)),
    }


def measured(folder: Folder, seen: Signals) -> dict[str, float]:
    """The value of every early check."""
    faces, used, kept = folder.faces, folder.used, folder.kept
    levels, full, _ = measures.loudness(sound(folder))
    loud = levels > measures.QUIET
    rows = np.flatnonzero(kept)
    spread = rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOKS, len(rows))).round().astype(int))]
    return {
        "length": float(kept.sum()) / FPS,
        "faces": float(faces[used].mean()),
        "one picture": float(used.mean()),
        "face size": float(np.median(seen.height[kept])),
        "framing": float((seen.cut[kept] > 0.02).mean()),
        "room": float(np.median(seen.height[kept])) / folder.size[0],
        "turned away": float((np.abs(seen.turn[kept, 1]) > TURNED).mean()),
        "jitter": measures.jitter(seen.still, kept),
        "frame rate": probe(folder.video).rate or float(FPS),
        "loudness": float(np.median(levels[loud])) if loud.any() else float(levels.max()),
        "speech": float(loud.mean()),
        "clipping": full,
        **looked(folder, spread.tolist()),
    }


def sound(folder: Folder) -> Iterator[torch.Tensor]:
    """Pieces of aud.wav."""
    return audio_chunks(folder.file("aud.wav"), 10 * FPS)


def offset(folder: Folder, seen: Signals) -> sync.Sync | None:
    """The offset of the sound over the frames that are used."""
    return sync.offset(sync.spectrum(sound(folder), folder.frames), np.where(folder.kept, seen.opening, np.nan))


def run(folder: Folder, progress: Progress) -> None:
    """Measure, judge, note; raises InputError with every reason for which the clip is refused."""
    seen = signals(folder)
    progress(1, 3)
    values = measured(folder, seen)
    progress(2, 3)
    found = offset(folder, seen)
    verdicts = [*judged_sound([judged(check, values[check.name]) for check in EARLY], values["loudness"]), judged_sync(found)]
    folder.update(checks=[asdict(v) for v in verdicts], sync=None if found is None else asdict(found))
    bad = [v for v in verdicts if v.verdict == REFUSE]
    if bad and not folder.options.force:
        from vivavoce.prepare.report import refusal  # which judges by these checks

        with folder.whole(REFUSED) as part:
            part.write_text(refusal(folder, verdicts, seen), "utf-8")
        cause = "; ".join(v.what for v in bad)
        remedy = "; ".join(dict.fromkeys(v.advice for v in bad))
        remedy += f"; or go on nevertheless with --force; see {folder.file(REFUSED)}"
        raise InputError(folder.clip["video"]["file"], f"refused: {cause}", remedy)
    folder.file(REFUSED).unlink(missing_ok=True)
    with folder.whole("checks.json") as part:
        part.write_text(json.dumps([asdict(v) for v in verdicts], indent=1), "utf-8")


def verify(folder: Folder) -> None:
    """A verdict for every check."""
    path, remedy = folder.file("checks.json"), f"run: vivavoce prepare {folder.path} --only checks"
    try:
        names = [v["name"] for v in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(path, "missing or no list of checks", remedy) from e
    if names != [c.name for c in EARLY] + [OFFSET.name]:
        raise InputError(path, "holds other checks", remedy)


STEP = Step("checks", 0, 1, ("frames", "audio", "landmarks", "shots"), ("checks.json",), run, verify, options=("force",))
