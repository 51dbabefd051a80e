"""Folders that are no published data set: of videos, of prepared people, and Wav2Lip's own pre-processed faces."""

from __future__ import annotations

from pathlib import Path

from vivavoce.data.layouts.recording import FILMS, SOUNDS, Layout, Recording, beside, films, listed, refused


def _videos(root: Path) -> list[Recording]:
    if root.is_file() and root.suffix.lower() in FILMS:
        return [Recording(root.stem, str(root), root.stem, beside(root, SOUNDS))]
    out = []
    for film in films(root, "**/*"):
        below = film.relative_to(root)
        who = below.parts[0] if len(below.parts) > 1 else film.stem
        out.append(Recording(str(below.with_suffix("")), str(film), who, beside(film, SOUNDS)))
    if not out:
        raise refused(root, "a folder of videos", f"<video>.mp4 nor <person>/<video>.mp4 ({' '.join(FILMS)})")
    return out


def _ad_nerf(root: Path) -> list[Recording]:
    out = []
    for place in [root, *sorted(p for p in root.iterdir() if p.is_dir())] if root.is_dir() else []:
        if (place / "ori_imgs").is_dir() and (place / "aud.wav").is_file():
            who = place.resolve().name
            beside_it = place if (place / "landmarks.npy").is_file() else place / "ori_imgs"
            has = (beside_it / "landmarks.npy").is_file() or any(beside_it.glob("*.lms"))
            out.append(Recording(who, str(place / "ori_imgs"), who, str(place / "aud.wav"), landmarks=str(beside_it) if has else ""))
    if not out:
        raise refused(root, "folders of the AD-NeRF lineage", "<person>/ori_imgs with <person>/aud.wav")
    return out


def _wav2lip(root: Path) -> list[Recording]:
    base = next((b for b in (root / "preprocessed_data", root / "lrs2_preprocessed", root) if b.is_dir()), root)
    lists = {name.removeprefix("main/"): s for s, name in listed((root, root / "filelist", root / "filelists", root.parent / "filelists"))}
    out = []
    for sound in sorted(base.glob("*/*/audio.wav")):
        name = "/".join(sound.parts[-3:-1])
        if not lists or name in lists:
            out.append(Recording(name, str(sound.parent), sound.parts[-3], str(sound), lists.get(name, "")))
    if not out:
        wanted = "<speaker>/<clip>/audio.wav with 0.jpg, 1.jpg, ..." + " of those in its lists" * bool(lists)
        raise refused(root, "Wav2Lip's pre-processed faces", wanted)
    return out


LAYOUTS = (
    Layout(
        "videos", "<video>.mp4, or <person>/<video>.mp4 (any kind of film)",
        "person, or each video", "by person", "yours to know", _videos, ("folder",),
    ),
    Layout(
        "ad_nerf", "<person>/ori_imgs/<n>.jpg, aud.wav; landmarks where they are there",
        "person", "by person", "yours to know", _ad_nerf, ("people",),
    ),
    Layout(
        "wav2lip", "<speaker>/<clip>/{0.jpg, 1.jpg, ..., audio.wav}; train.txt, val.txt, test.txt beside or in filelists/",
        "speaker", "its lists; without them by speaker", "that of the films they were made of", _wav2lip,
    ),
)  # fmt: skip
