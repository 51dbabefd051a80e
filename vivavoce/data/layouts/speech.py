"""Data sets of speech seen and heard: LRS2, LRS3, LRW, GRID, VoxCeleb."""

from __future__ import annotations

import re
from pathlib import Path

from vivavoce.data.layouts.recording import SOUNDS, Layout, Recording, beside, films, listed, refused

SENTENCE = re.compile(r"(?:^|_)([bpls])([bgrw])([abiw])([a-z])([z1-9])([anps])$")  # GRID: six letters, one a word
WORDS: tuple[dict[str, str], ...] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},
    dict(zip("z123456789", ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), strict=True)),
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)


def _lrs2(root: Path) -> list[Recording]:
    base = next((b for b in (root, root / "mvlrs_v1", root / "data") if (b / "main").is_dir() or (b / "pretrain").is_dir()), None)
    if base is None:
        raise refused(root, "LRS2", "mvlrs_v1/main/<programme>/<clip>.mp4")
    lists = {name.removeprefix("main/"): split for split, name in listed((base, root, root / "filelist", root / "filelists"))}
    names = [Path("main") / n for n in lists] or [p.relative_to(base).with_suffix("") for p in films(base, "main/*/*.mp4")]
    names += [p.relative_to(base).with_suffix("") for p in films(base, "pretrain/*/*.mp4")]
    if not any((base / n).with_name(f"{n.name}.mp4").is_file() for n in names):
        raise refused(root, "LRS2", "main/<programme>/<clip>.mp4" + " of those in its train.txt, val.txt, test.txt" * bool(lists))
    out = []
    for name in names:
        film = base / f"{name}.mp4"
        part, programme, clip = name.parts[0], name.parts[-2], name.parts[-1]
        split = "train" if part == "pretrain" and lists else lists.get(f"{programme}/{clip}", "")
        out.append(Recording(str(name), str(film), programme, split=split, script=beside(film, (".txt",)), labels={"part": part}))
    return out


def _lrs3(root: Path) -> list[Recording]:
    base = next((b for b in (root, root / "lrs3_v0.4", root / "lrs3") if (b / "trainval").is_dir() or (b / "pretrain").is_dir()), None)
    found = [] if base is None else [p for part in ("trainval", "pretrain", "test") for p in films(base, f"{part}/*/*.mp4")]
    if base is None or not found:
        raise refused(root, "LRS3", "trainval/<talk>/<clip>.mp4 nor pretrain/<talk>/<clip>.mp4")
    return [
        Recording(
            str(p.relative_to(base).with_suffix("")),
            str(p),
            p.parent.name,
            split="test" if p.parents[1].name == "test" else "",
            script=beside(p, (".txt",)),
            labels={"part": p.parents[1].name},
        )
        for p in found
    ]


def _lrw(root: Path) -> list[Recording]:
    base = root / "lipread_mp4" if (root / "lipread_mp4").is_dir() else root
    found = [p for split in ("train", "val", "test") for p in films(base, f"*/{split}/*.mp4") if p.stem.startswith(f"{p.parents[1].name}_")]
    if not found:
        raise refused(root, "LRW", "<WORD>/train/<WORD>_00001.mp4")
    return [
        Recording(str(p.relative_to(base).with_suffix("")), str(p), p.stem, split=p.parent.name, text=p.parents[1].name.lower())
        for p in found
    ]


def _speaker(path: Path, root: Path) -> str:
    """The part s1 ... s34 of a path, or "" """
    return next((part for part in path.relative_to(root).parts if re.fullmatch(r"s\d+", part)), "")


def _grid(root: Path) -> list[Recording]:
    found: dict[tuple[str, str], Path] = {}
    for path in films(root, "**/*"):  # of a clip in several qualities the first folder by name: mpg_6000 before mpg_vcd
        found.setdefault((_speaker(path, root), path.stem), path)
    many = {key: path for key, path in found.items() if key[0]}
    clips = many or {key: path for key, path in found.items() if SENTENCE.search(key[1])}
    if not clips:
        raise refused(root, "GRID", "s1/<sentence>.mpg nor <sentence>.mpg such as bbaf2n.mpg")
    scripts = {(_speaker(p, root), p.stem): str(p) for p in sorted(root.rglob("*.align"))}
    out = []
    for (speaker, stem), path in clips.items():
        who, spelled = speaker or root.resolve().name, SENTENCE.search(stem)
        text = " ".join(w.get(c, c) for w, c in zip(WORDS, map(str, spelled.groups()), strict=True)) if spelled else ""
        out.append(Recording(f"{who}/{stem}", str(path), who, text=text, script=scripts.get((speaker, stem), "")))
    return out


def _voxceleb(root: Path) -> list[Recording]:
    out = []
    for part in ("dev", "test", "."):
        for base in (root / part / "mp4", root / part):
            for film in films(base, "id*/*/*") if base.is_dir() else []:
                who, video, clip = film.parts[-3], film.parts[-2], film.stem
                other = (root / part / "aac" / who / video / film.name).with_suffix(".m4a")
                sound = str(other) if other.is_file() else beside(film, SOUNDS)
                split = "test" if part == "test" else ""
                out.append(Recording(f"{who}/{video}/{clip}", str(film), who, audio=sound, split=split, labels={"video": video}))
    for part in ("train", "test"):  # crops of the First Order Motion Model, named <id>#<video>#<start>#<end>
        for film in films(root, f"{part}/*#*#*"):
            who, video = film.stem.split("#")[:2]
            split = "test" if part == "test" else ""
            out.append(Recording(film.stem.replace("#", "/"), str(film), who, beside(film, SOUNDS), split, labels={"video": video}))
    if not out:
        raise refused(
            root, "VoxCeleb", "dev/mp4/id<n>/<video>/<clip>.mp4, id<n>/<video>/<clip>.mp4 or train/<id>#<video>#<start>#<end>.mp4"
        )
    return out


LAYOUTS = (
    Layout(
        "lrs2", "mvlrs_v1/{main,pretrain}/<programme>/<clip>.mp4 + .txt; train.txt, val.txt, test.txt", "programme",
        "its lists; without them by programme", "BBC's agreement, research only", _lrs2,
        speaker=True,
    ),
    Layout(
        "lrs3", "{trainval,pretrain,test}/<talk>/<clip>.mp4 + .txt", "talk", "its test; val by talk",
        "CC BY-NC-ND 4.0 (TED)", _lrs3, speaker=True,
    ),
    Layout("lrw", "<WORD>/{train,val,test}/<WORD>_<n>.mp4", "not told", "its folders", "BBC's agreement, research only", _lrw, (), True),
    Layout(
        "grid", "s1 .. s34/**/<sentence>.mpg (or .mp4), **/<sentence>.align; or one speaker's clips", "speaker",
        "by speaker", "CC BY 4.0", _grid,
    ),
    Layout(
        "voxceleb2", "{dev,test}/mp4/id<n>/<video>/<clip>.mp4 (+ aac/.../<clip>.m4a); or train, test of <id>#<video>#<start>#<end>.mp4",
        "speaker", "its test; val by speaker", "CC BY 4.0 for the lists; the videos are their owners'", _voxceleb,
        ("vox2", "voxceleb", "voxceleb1"), speaker=True,
    ),
)  # fmt: skip
