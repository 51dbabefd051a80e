"""How well motion follows people that no generator was trained on; packing what training needs of prepared folders.

    python benchmarks/motion.py pack PREPARED CORPUS --test NAME [NAME ...]      (25 minutes of speech are 50 MB)
    vivavoce train dit_motion CORPUS/train --out RUN
    python benchmarks/motion.py ship RUN vivavoce/weights/dit_motion_whisper.safetensors [--set temperature=0.3]
    python benchmarks/motion.py compare CORPUS [RUN ...] [--device cuda] [--seeds 3] [--out table.csv] [--picture curves.png]

`pack` takes of every prepared folder below PREPARED what a generator reads (features, blendshapes, poses, sound; one small picture), so
that a corpus travels to another machine; people named by --test (a part of the folder's name) go to CORPUS/test, those named by
--without nowhere.

`compare` measures on every person of CORPUS/test, against what the landmarker saw on their video: correlation of the lips' gap and of its
velocity, how far lips move (deviation over that of the person), and the lips' gap where nobody speaks (over that at rest). Beside the runs:
the mean face, the mouth of the training frame that sounds most alike (nearest), 64 kinds of sound with the mean mouth of each (units: a
viseme table learned from data), a regression on loudness, and the weights that come with vivavoce.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vivavoce import registry
from vivavoce.data.corpus import Corpus, person_folders
from vivavoce.data.person import Person
from vivavoce.face import blendshapes, resting
from vivavoce.media import audio
from vivavoce.method import Generator
from vivavoce.nn import shipping
from vivavoce.speech import vad
from vivavoce.train import load_run
from vivavoce.types import RATE, Clip

FILES = ("blendshapes.npy", "transforms_train.json", "transforms_val.json")
UNITS, NEAR, LISTENED = 64, 2, 12  # kinds of sound; frames on each side that the baselines hear; rounds of k-means
WAYS: tuple[dict[str, float], ...] = ({}, {"mouth_temperature": 0.7}, {"guidance": 1.5}, {"evaluations": 2})  # of dit_motion
Mouth = Callable[[Person], Tensor]  # -> gap of the lips [T] metres


def pack(prepared: Path, corpus: Path, test: list[str], without: list[str]) -> None:
    """Every folder with cameras, below `prepared` at any depth, but for those named in `without`."""
    for place, _, files in sorted(os.walk(prepared, followlinks=True)):
        folder = Path(place)
        if "transforms_val.json" not in files or any(w in folder.name for w in without):
            continue
        to = corpus / ("test" if any(t in folder.name for t in test) else "train") / folder.name
        (to / "ori_imgs").mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(folder / name, to / name)
        for features in folder.glob("aud_*.npy"):
            if features.name == "aud_whisper.npy":
                np.save(to / features.name, np.load(features, allow_pickle=False).astype(np.float16))
        person = Person(folder)
        for row in {int(person.rows[0]), int(Person(folder, split="val").rows[0])}:  # what tells the pictures' size
            with Image.open(folder / "ori_imgs" / f"{row}.jpg") as image:
                image.resize((image.width // 8, image.height // 8)).save(to / "ori_imgs" / f"{row}.jpg")
        _write_sound(to / "aud.wav", audio(folder / "aud.wav"))


def _write_sound(path: Path, samples: Tensor) -> None:
    """Four bits a sample: enough to tell a voice from silence."""
    import av

    with av.open(str(path), "w", format="wav") as file:
        stream = file.add_stream("adpcm_ima_wav", rate=RATE, layout="mono")
        whole = (samples.clamp(-1, 1) * 32767).short().numpy()
        size = stream.codec_context.frame_size or 1017
        for at in range(0, len(whole), size):
            piece = np.pad(whole[at : at + size], (0, max(0, size - len(whole[at : at + size]))))
            frame = av.AudioFrame.from_ndarray(piece[None], format="s16p", layout="mono")
            frame.rate = RATE
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def heard(source: Any, rows: Any) -> Tensor:  # -> [T,W*D]
    """What the baselines hear: features of the frames around."""
    return source.clip(rows, {"speech"}).speech.flatten(1)


def learned(folders: list[Path]) -> dict[str, Mouth]:
    """The baselines, from the training people."""
    window = (2 * NEAR, 2 * NEAR + 2)
    corpus = Corpus(folders, split="all", window=window)
    rows = torch.arange(len(corpus))
    x = torch.cat([heard(corpus, part) for part in rows.split(4000)])
    y = torch.cat(
        [blendshapes.load().gap(corpus.people[i].clip(slice(0, len(p)), {"units"}).units).mean(1) for i, p in enumerate(corpus.people)]
    )
    middle, spread = x.mean(0), x.std(0).clamp(min=1e-3)
    torch.manual_seed(0)
    _, _, v = torch.pca_lowrank((x - middle)[:: max(1, len(x) // 4000)] / spread, 48, center=False)
    basis = v  # principal directions: distances in 3840 numbers are mostly noise
    x = (x - middle) / spread @ basis
    centres = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:UNITS]]
    for _ in range(LISTENED):
        near = torch.cdist(x, centres).argmin(1)
        centres = torch.stack([x[near == k].mean(0) if bool((near == k).any()) else centres[k] for k in range(UNITS)])
    near = torch.cdist(x, centres).argmin(1)
    shapes = torch.stack([y[near == k].mean() if bool((near == k).any()) else y.mean() for k in range(UNITS)])
    loud = torch.cat([_loudness(p) for p in corpus.people])
    line = torch.linalg.lstsq(torch.stack([loud, torch.ones_like(loud)], 1), y[:, None]).solution[:, 0]

    def code(person: Person) -> Tensor:
        near = Person(person.folder, split="all", window=window)
        return (heard(near, slice(0, len(near))) - middle) / spread @ basis

    return {
        "mean face": lambda p: y.mean().expand(len(p)),
        "loudness": lambda p: _loudness(p) * line[0] + line[1],
        "nearest": lambda p: _smooth(torch.cat([y[torch.cdist(part, x).argmin(1)] for part in code(p).split(500)])),
        "units": lambda p: _smooth(shapes[torch.cdist(code(p), centres).argmin(1)]),
    }


def _loudness(person: Person) -> Tensor:  # -> [T] dB
    frames = person.clip(slice(0, len(person)), {"audio"}).audio
    assert frames is not None
    return (frames.square().mean(1) + 1e-7).log10() * 10


def _smooth(values: Tensor) -> Tensor:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    return torch.nn.functional.conv1d(torch.nn.functional.pad(values[None, None], (1, 1), mode="replicate"), kernel[None, None])[0, 0]


@torch.no_grad()
def generated(method: Generator, person: Person, device: str) -> Tensor:  # -> [T] metres
    """The gap of the lips that a generator makes for a person's voice, from the person's first frame."""
    own = Person(person.folder, split="all", speech=method.speech, window=method.window)
    state = method.start(own.clip([0], {"units"}).to(device))
    pieces = []
    for rows in torch.arange(len(own)).split(500):
        motion, state = method.generate(Clip(speech=own.clip(rows, {"speech"}).speech.to(device)), state)
        pieces.append(motion.expression.cpu())
    return blendshapes.load().gap(torch.cat(pieces)).mean(1)


def judged(made: Tensor, person: Person) -> dict[str, float]:
    """Figures of one person."""
    clip = person.clip(slice(0, len(person)), {"units", "audio"})
    assert clip.units is not None and clip.audio is not None
    seen = blendshapes.load().gap(clip.units).mean(1)
    voiced = vad.around(clip.audio, 3) > 0
    rest = float(blendshapes.load().gap(resting.scores(resting.rest(clip.units[None])[0])).mean())
    quiet = ~voiced
    return {
        "gap": _agree(made, seen),
        "velocity": _agree(made.diff(), seen.diff()),
        "moves": float(made.std() / seen.std().clamp(min=1e-9)),
        "quiet mm": 1000 * float(made[quiet].mean()) if int(quiet.sum()) > 5 else float("nan"),
        "quiet seen mm": 1000 * float(seen[quiet].mean()) if int(quiet.sum()) > 5 else float("nan"),
        "rest mm": 1000 * rest,
    }


def _agree(a: Tensor, b: Tensor) -> float:
    if float(a.std()) < 1e-9:
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def compare(corpus: Path, runs: list[Path], device: str, seeds: int, out: Path | None, picture: Path | None) -> None:
    """A row a generator: the mean over the test people."""
    people = [Person(f, split="all") for f in person_folders(corpus / "test")]
    mouths = learned(person_folders(corpus / "train"))
    for name in ("speech_motion",):
        shipped = registry.find(name).cls.shipped()  # type: ignore[attr-defined]
        mouths[f"{name}, shipped"] = lambda p, m=shipped: generated(m, p, "cpu")
    for run in runs:
        for seed in range(seeds):
            method, about = load_run(run, device)
            assert isinstance(method, Generator)
            ways = WAYS if about["method"] == "dit_motion" else ({},) if seed == 0 else ()
            for way in ways:
                own, _ = load_run(run, device)
                own.config = replace(own.config, seed=seed, **way)
                said = ", ".join([about["method"], run.name, f"seed {seed}", *(f"{k} {v}" for k, v in way.items())])
                mouths[said] = lambda p, m=own: generated(m, p, device)
    rows, curves = [], {}
    people.sort(key=len, reverse=True)  # the longest one is drawn
    for name, mouth in mouths.items():
        made = [mouth(p) for p in people]
        curves[name] = made[0]
        each = [judged(m, p) for m, p in zip(made, people, strict=True)]
        row = {k: float(np.nanmean([e[k] for e in each])) for k in each[0]}
        rows.append({"generator": name, **{k: round(v, 3) for k, v in row.items()}})
        print(rows[-1], "by person:", [round(e["gap"], 2) for e in each], flush=True)
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if picture is not None:
        seen = blendshapes.load().gap(people[0].clip(slice(0, len(people[0])), {"units"}).units).mean(1)
        draw(picture, {"seen": seen, **curves})


def ship(run: Path, file: Path, tastes: dict[str, str]) -> None:
    """The weights of a run as the package holds them, without the judge; tastes are numbers of its settings that a user may change."""
    method, _ = load_run(run)
    config = replace(method.config, **{k: float(v) for k, v in tastes.items()})
    shipping.write(file, config, {k: v for k, v in method.state_dict().items() if not k.startswith("judge.")})
    print(f"{file}: {file.stat().st_size} bytes")


def draw(picture: Path, curves: dict[str, Tensor]) -> None:
    """The lips' gap over the first ten seconds, a line each."""
    from PIL import ImageDraw

    image = Image.new("RGB", (1060, 70 * len(curves)), "white")
    pen = ImageDraw.Draw(image)
    for k, (name, gap) in enumerate(curves.items()):
        points = [(40 + 4 * t, 70 * k + 65 - 6000 * float(v)) for t, v in enumerate(gap[:250])]
        pen.line([(x, max(70 * k, y)) for x, y in points], fill="black", width=2)
        pen.text((44, 70 * k + 2), name, fill="blue")
    image.save(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("pack")
    one.add_argument("prepared", type=Path)
    one.add_argument("corpus", type=Path)
    one.add_argument("--test", nargs="+", default=[])
    one.add_argument("--without", nargs="+", default=[])
    three = verbs.add_parser("ship")
    three.add_argument("run", type=Path)
    three.add_argument("file", type=Path)
    three.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    two = verbs.add_parser("compare")
    two.add_argument("corpus", type=Path)
    two.add_argument("runs", type=Path, nargs="*")
    two.add_argument("--device", default="cpu")
    two.add_argument("--seeds", type=int, default=1)
    two.add_argument("--out", type=Path)
    two.add_argument("--picture", type=Path)
    o = parser.parse_args()
    if o.verb == "pack":
        pack(o.prepared, o.corpus, o.test, o.without)
    elif o.verb == "ship":
        ship(o.run, o.file, dict(pair.split("=") for pair in o.set))
    else:
        compare(o.corpus, o.runs, o.device, o.seeds, o.out, o.picture)


if __name__ == "__main__":
    main()
