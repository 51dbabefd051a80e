"""Data sets of acted emotion: MEAD, CREMA-D."""

from __future__ import annotations

import re
from pathlib import Path

from vivavoce.data.layouts.recording import SOUNDS, Layout, Recording, films, refused

SPOKEN = {  # CREMA-D's twelve sentences
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
EMOTIONS = {"ANG": "angry", "DIS": "disgusted", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": ""}


def _mead(root: Path) -> list[Recording]:
    found = [p for p in films(root, "*/video/*/*/level_*/*") if re.fullmatch(r"[MW]\d{3}", p.parts[-6])]
    if not found:
        raise refused(root, "MEAD", "M003/video/front/angry/level_1/001.mp4")
    out = []
    for film in found:
        who, view, emotion, level = film.parts[-6], film.parts[-4], film.parts[-3], film.parts[-2]
        take = root / who / "audio" / emotion / level / film.stem
        sound = next((str(take.with_suffix(kind)) for kind in SOUNDS if take.with_suffix(kind).is_file()), "")
        labels = {"emotion": emotion, "level": level.removeprefix("level_"), "view": view}
        out.append(Recording("/".join((who, view, emotion, level, film.stem)), str(film), who, sound, labels=labels))
    return out


def _crema_d(root: Path) -> list[Recording]:
    pattern = re.compile(rf"(\d{{4}})_({'|'.join(SPOKEN)})_({'|'.join(EMOTIONS)})_(LO|MD|HI|XX|X)")
    sounds = {p.stem: str(p) for p in sorted(root.glob("**/*.wav"))}
    out: dict[str, Recording] = {}
    for film in films(root, "**/*"):
        if (match := pattern.fullmatch(film.stem)) and film.stem not in out:
            actor, sentence, emotion, level = match.groups()
            labels = {"emotion": EMOTIONS[emotion], "level": LEVELS.get(level, "")}
            out[film.stem] = Recording(
                f"{actor}/{film.stem}", str(film), actor, sounds.get(film.stem, ""), text=SPOKEN[sentence], labels=labels
            )
    if not out:
        raise refused(root, "CREMA-D", "VideoFlash/1001_DFA_ANG_XX.flv")
    return list(out.values())


LAYOUTS = (
    Layout(
        "mead", "<M### or W###>/video/<view>/<emotion>/level_<n>/<take>.mp4, .../audio/<emotion>/level_<n>/<take>.m4a",
        "actor", "by actor", "research only", _mead,
    ),
    Layout(
        "crema_d", "VideoFlash/<actor>_<sentence>_<emotion>_<level>.flv (or .mp4), AudioWAV/ of the same names",
        "actor", "by actor", "ODbL 1.0", _crema_d, ("cremad",),
    ),
)  # fmt: skip
