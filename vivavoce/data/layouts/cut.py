"""Data sets that are lists of times and places in videos of the web: HDTF, VFHQ, CelebV-HQ. Whole videos or clips already cut from them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from vivavoce.data.layouts.recording import FILMS, Layout, Recording, films, refused
from vivavoce.types import InputError

EDGE = 0.02  # CelebV-HQ: of the picture, added on each side of its boxes, as its authors cut them


def _rows(path: Path) -> dict[str, list[str]]:
    """First word -> the others, of each line."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    return {words[0]: words[1:] for words in (line.split() for line in lines) if words}


def _seconds(clock: str) -> float:  # "01:20" or "1:01:20" -> s
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total


def _hdtf(root: Path) -> list[Recording]:
    have = {p.stem: p for p in reversed(films(root, "**/*"))}
    lists = next((d for d in (root, root / "HDTF_dataset") if any(d.glob("*_annotion_time.txt"))), None)
    out = []
    for times in sorted(lists.glob("*_annotion_time.txt")) if lists else []:
        part = times.name.split("_")[0]
        crops, heights = _rows(times.with_name(f"{part}_crop_wh.txt")), _rows(times.with_name(f"{part}_resolution.txt"))
        for file, spans in _rows(times).items():
            name = Path(file).stem
            for k, span in enumerate(spans):
                crop = crops.get(f"{name}_{k}.mp4", [])
                cut = next((have[n] for n in (f"{name}_{k}", f"{part}_{name}_{k}", f"{part}_{name}_{k:03d}") if n in have), None)
                whole = next((have[n] for n in (name, f"{part}_{name}") if n in have), None)
                record = _hdtf_clip(part, name, k, cut or whole)
                if cut is not None:
                    out.append(record)
                elif whole is not None and len(crop) == 4 and "-" in span:  # without a crop the authors leave a clip out as well
                    x, width, y, height = map(float, crop)
                    of = float((heights.get(file) or ["0"])[0])
                    first, last = (_seconds(c) for c in span.split("-"))
                    box = (x, y, x + width, y + height)
                    out.append(replace(record, span=(first, last), box=box if of else None, box_of=(of, 0.0)))
    if not lists:  # clips that others have cut, by their names
        matches = ((p, re.fullmatch(r"(?:(RD|WDA|WRA)_)?(.+?)_(\d+)", stem)) for stem, p in sorted(have.items()))
        out = [_hdtf_clip(m[1] or "", m[2], int(m[3]), p) for p, m in matches if m]
    if not out:
        raise refused(root, "HDTF", "HDTF_dataset/RD_annotion_time.txt with videos that it names, nor RD_<name>_<i>.mp4")
    return out


def _hdtf_clip(part: str, name: str, number: int, film: Path | None) -> Recording:
    """The politicians' videos are numbered: MikeCrapo0, MikeCrapo1; the radio's numbers are people."""
    who = name if re.fullmatch(r"Radio\d+", name) else name.rstrip("0123456789") or name
    prefix = f"{part}_" if part else ""
    return Recording(f"{who}/{prefix}{name}_{number}", str(film), who, labels={"part": part} if part else {})


def _vfhq(root: Path) -> list[Recording]:
    have = {p.stem: p for p in reversed(films(root, "**/*"))}
    for folder in sorted(root.glob("**/Clip+*/")):  # as its authors give them out: a folder of pictures a clip, without sound
        have.setdefault(folder.name, folder)
    out = []
    for meta in sorted(root.glob("**/Clip+*.txt")):
        words = re.fullmatch(r"(Clip\+(.+)\+(P\d+)\+C\d+)\+F(\d+)-(\d+)", meta.stem)
        if words is None:
            continue
        short, video, person = words.groups()[:3]
        cut = have.get(meta.stem, have.get(short))
        record = Recording(f"{video}/{meta.stem}", str(cut), video, labels={"video": video, "person": person})
        if cut is not None:
            out.append(record)
        elif video in have:
            facts = _rows(meta)
            try:
                rate, height, width = (float(facts[k][-1]) for k in ("FPS", "H", "W"))
                x0, y0, x1, y1 = map(float, facts["CROP"][-4:])
            except (KeyError, IndexError, ValueError) as error:
                raise InputError(meta, "lacks H, W, FPS or CROP of a VFHQ clip", "copy or download it again") from error
            # frames at both ends belong to the transitions around the clip
            span = ((int(words[4]) + 1) / rate, (int(words[5]) - 1) / rate)
            out.append(replace(record, video=str(have[video]), span=span, box=(x0, y0, x1, y1), box_of=(height, width)))
    if not out:  # clips without the lists
        matches = ((path, re.fullmatch(r"Clip\+(.+?)\+(P\d+)\+C\d+.*", stem)) for stem, path in sorted(have.items()))
        out = [Recording(f"{m[1]}/{p.stem}", str(p), m[1], labels={"video": m[1], "person": m[2]}) for p, m in matches if m]
    if not out:
        raise refused(root, "VFHQ", "Clip+<video>+P<n>+C<n>+F<a>-<b>.txt with videos or clips that it names, nor such clips")
    return out


def _celebv_hq(root: Path) -> list[Recording]:
    info = next((p for p in (root / "celebvhq_info.json", *sorted(root.glob("*/celebvhq_info.json"))) if p.is_file()), None)
    if info is None:
        raise refused(root, "CelebV-HQ", "celebvhq_info.json")
    try:
        clips = json.loads(info.read_text("utf-8"))["clips"]
        facts = [(str(k), v["ytb_id"], v["duration"], v["bbox"], v.get("attributes", {}).get("emotion", {})) for k, v in clips.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(info, f"not CelebV-HQ's list of clips ({type(error).__name__}: {error})", "download it again") from error
    have = {p.stem: p for p in reversed(films(root, "**/*"))}
    out = []
    for name, video, times, box, emotion in facts:
        single = isinstance(emotion, dict) and not emotion.get("sep_flag", True) and isinstance(emotion.get("labels"), str)
        labels = {"video": video} | ({"emotion": emotion["labels"]} if single else {})
        if name in have:
            out.append(Recording(f"{video}/{name}", str(have[name]), video, labels=labels))
        elif video in have:
            span = (float(times["start_sec"]), float(times["end_sec"]))
            sides = (box["left"] - EDGE, box["top"] - EDGE, box["right"] + EDGE, box["bottom"] + EDGE)
            place = (max(0.0, sides[0]), max(0.0, sides[1]), min(1.0, sides[2]), min(1.0, sides[3]))
            out.append(Recording(f"{video}/{name}", str(have[video]), video, labels=labels, span=span, box=place))
    if not out:
        raise refused(root, "CelebV-HQ", f"clip <name>{FILMS[0]} nor video <ytb_id>{FILMS[0]} of those in {info.name}")
    return out


LAYOUTS = (
    Layout(
        "hdtf", "HDTF_dataset/{RD,WDA,WRA}_{annotion_time,crop_wh,resolution}.txt with **/<name>.mp4 (whole) or **/<name>_<i>.mp4 (cut)",
        "person by the video's name", "by person", "CC BY 4.0 for the lists; the videos are their owners'", _hdtf,
    ),
    Layout(
        "vfhq", "**/Clip+<video>+P<n>+C<n>+F<a>-<b>.txt with **/<video>.mp4 (whole) or clips of that name (cut)",
        "video", "by video", "research only", _vfhq,
    ),
    Layout(
        "celebv_hq", "celebvhq_info.json with **/<ytb_id>.mp4 (whole) or **/<clip>.mp4 (cut)",
        "video", "by video", "research only", _celebv_hq, ("celebvhq", "celebv"),
    ),
)  # fmt: skip
