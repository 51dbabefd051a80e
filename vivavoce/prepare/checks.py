"""Is this clip fit to learn a person from? Found out in seconds, before the long steps; a bad clip is refused with the reasons.

What is asked of a clip, and how an answer is judged, says `verdicts.py`. The verdicts are kept in clip.json as `checks`, for other
tools, and in `checks.json`. `--force` goes on with a clip that is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from vivavoce.face.landmarker import Landmarker
from vivavoce.media import probe, read_image
from vivavoce.prepare import Folder, Progress, Step, measures, sync
from vivavoce.prepare.cuts import thumbnail
from vivavoce.prepare.report import refusal
from vivavoce.prepare.rows import reader
from vivavoce.prepare.verdicts import EARLY, OFFSET, REFUSE, Signals, judged, judged_sound, judged_sync, signals, sound
from vivavoce.types import FPS, InputError

REFUSED = "refused.html"  # the page of a clip that is refused
LOOKS = 24  # pictures looked at
TURNED = 35.0  # degrees to the side at which the far half of the mouth is hidden
RIVAL = 0.4  # of the main face's height: as large as this, another face may be taken for it


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
