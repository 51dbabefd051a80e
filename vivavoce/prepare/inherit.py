"""A folder that an older repository prepared, taken as it is: clip.json from its files, and only what is missing made.

Steps whose files are there in the lineage's form are `inherited` in clip.json. They are made again only when a step that is
asked for needs more of them than the older tool wrote (our tracker reads 478 points, theirs wrote 68). `aud.wav` of any form
stays as `aud_source.wav`, and `aud.npy`, which older tools mean differently, under the name of what is in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vivavoce.data import features
from vivavoce.data.lineage import true_numbers
from vivavoce.media import probe
from vivavoce.prepare.folder import Folder, sha256
from vivavoce.types import FPS, InputError

CAMERAS = ("transforms_train.json", "transforms_val.json")
LENIENT = ("landmarks", "tracking", "cameras", "units")  # read in the lineage's form by data/person.py too
ASSUMED = ("shots",)  # older tools know one shot, all of which is used
FOREHEAD = 0.35  # of the height from brows to chin: how far the face goes on above the brows


def is_older(folder: Folder) -> bool:
    """Whether another program made this folder."""
    return not folder.clip.get("artefacts") and all(folder.file(name).is_file() for name in CAMERAS)


def inherit(folder: Folder, steps: Sequence[Any]) -> None:
    """Write clip.json for the folder. Raises InputError for one whose pictures are not numbered as the lineage's are."""
    numbers = sorted(int(p.stem) for p in folder.file("ori_imgs").glob("*.jpg") if p.stem.isdecimal() and p.stem == str(int(p.stem)))
    if not numbers or numbers != list(range(len(numbers))):
        raise InputError(folder.file("ori_imgs"), "does not hold 0.jpg, 1.jpg, ... without a gap", "run: vivavoce prepare VIDEO")
    with Image.open(folder.image(0)) as first:
        width, height = first.size
    faces, box = _faces(folder, len(numbers))
    keep_sound(folder)
    true = true_numbers(folder.path)
    held = [true.get(int(f["img_id"]), int(f["img_id"])) for f in json.loads(folder.file(CAMERAS[1]).read_text())["frames"]]
    facts: dict[str, Any] = {"size": [height, width], "rate": FPS, "frames": len(numbers), "crop": None, "faces": faces, "face": box}
    facts |= {"id": folder.path.resolve().name, "split": min(held, default=len(numbers) * 10 // 11)}
    if not folder.clip.get("video"):
        facts["video"] = _source(folder)
    folder.update(**facts)
    there = [s for s in steps if folder.outputs(s.outputs)]
    kept = [s for s in there if s.name in LENIENT or fits(s, folder)] + [s for s in steps if s.name in ASSUMED and s not in there]
    known = {s.name: {"step": s.name, "version": 0, "inputs": {}, "digest": folder.digest(s.outputs), "done": True} for s in kept}
    folder.update(inherited=[s.name for s in kept], artefacts=known)


def fits(step: Any, folder: Folder) -> bool:
    """Whether the step's files are as the step itself would have made them."""
    try:
        step.verify(folder)
    except InputError:
        return False
    return True


def left(folder: Folder, wanted: Sequence[Any], named: Collection[str]) -> list[Any]:
    """Of the steps wanted those to bring.

    The steps `named` and what they lack of their inputs; when none is named, all that is missing, but for what could only be made
    by making something inherited again.
    """
    if "inherited" not in folder.clip:
        return list(wanted)
    inherited = folder.clip["inherited"]
    by_name = {s.name: s for s in wanted}
    whole = {n for n in inherited if n in by_name and (n in ASSUMED or fits(by_name[n], folder))} - (set(named) & set(ASSUMED))
    settled = whole | {name for name in inherited if name in LENIENT}
    out: set[str] = set()
    for name in named or [name for name in by_name if name not in settled]:
        needed = _with_inputs(name, by_name, whole)
        if named or not needed & settled:
            out |= needed
    if "frames" in out:
        cause = "pictures were lost or added since the folder was taken over"
        raise InputError(folder.file("ori_imgs"), cause, f"put them back, or remove {folder.json.name} and run the same command")
    records = folder.clip["artefacts"]
    kept = {name: record for name, record in records.items() if name not in out or name not in inherited}
    folder.update(inherited=[name for name in inherited if name not in out], artefacts=kept)
    return [s for s in wanted if s.name in out]


def _with_inputs(name: str, by_name: dict[str, Any], whole: Collection[str]) -> set[str]:
    """The step and those it reads, directly or not, as far as they are not whole."""
    out: set[str] = set()
    ahead = [name]
    while ahead:
        one = ahead.pop()
        if one in by_name and one not in out | set(whole):
            out.add(one)
            ahead += by_name[one].inputs
    return out


def _faces(folder: Folder, frames: int) -> tuple[list[int], list[float]]:
    """0/1 a frame, and the usual box of the face from the `.lms` files, px."""
    texts = {k: folder.file("ori_imgs", f"{k}.lms") for k in range(frames)}
    faces = [int(t.is_file()) for t in texts.values()]
    if not any(faces):
        raise InputError(folder.file("ori_imgs"), "holds no landmarks (%d.lms)", "run: vivavoce prepare VIDEO")
    found = [k for k in range(frames) if faces[k]]
    points = np.stack([np.loadtxt(texts[k], ndmin=2)[:, :2] for k in found[:: max(1, len(found) // 24)]])
    low, high = np.median(points.min(1), 0), np.median(points.max(1), 0)
    low[1] -= FOREHEAD * (high[1] - low[1])
    return faces, [round(float(v), 2) for v in (*low, *high)]


def keep_sound(folder: Folder) -> None:
    """A second name for the sound and the features, which steps will write in our form."""
    plain = folder.file("aud.npy")
    if plain.is_file():
        width = features.read(plain).shape[-1]
        named = next((form.file for form in features.LINEAGE.values() if form.dim == width), "aud_lineage.npy")
        _link(plain, folder.file(named))
    if folder.file("aud.wav").is_file():
        _link(folder.file("aud.wav"), folder.file("aud_source.wav"))


def _link(old: Any, new: Any) -> None:
    if not new.exists():
        try:
            os.link(old, new)
        except OSError:  # a file system without hard links
            new.write_bytes(old.read_bytes())


def _source(folder: Folder) -> dict[str, Any]:
    """What the sound is read from: the folder's own, else a video in it."""
    for path in [folder.file("aud_source.wav"), *sorted(folder.path.glob("*.mp4"))]:
        if path.is_file() and probe(path).audio_codec is not None:
            stat = path.stat()
            return {"file": path.name, "sha256": sha256(path), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    raise InputError(folder.path, "holds neither aud.wav nor its video", f"run: vivavoce prepare VIDEO --folder {folder.path}")
