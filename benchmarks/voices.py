"""How lips follow voices that a head was not trained on: correlation of the gap of its lips with that of the one who speaks.

    python benchmarks/voices.py RUN ... --films FILM ... [--device cpu] [--seconds 8]

FILMs show other people speaking. Each head speaks their sound, and the landmarker measures the lips of both; beside it stands the
head's own voice, in rows held out from its training.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivavoce import speech
from vivavoce.data.person import Person
from vivavoce.face.landmarker import Landmarker
from vivavoce.media import audio, frames
from vivavoce.method import Renderer
from vivavoce.nn.silence import lip_gap
from vivavoce.talker import Talker
from vivavoce.train import load_run
from vivavoce.types import FPS, HOP


class Film(NamedTuple):
    """Somebody speaking."""

    name: str
    sound: Tensor  # [N] at 16 kHz
    gap: np.ndarray  # [T] of the lips over the mouth's width, NaN without a face


def gaps(landmarker: Landmarker, pictures: list[np.ndarray]) -> np.ndarray:  # [H,W,3] uint8 each -> [T]
    found = [landmarker(picture) for picture in pictures]
    return np.array([max(f, key=lambda face: face.score).mouth_open if f else np.nan for f in found])


def r(made: np.ndarray, real: np.ndarray) -> float:
    """Of the rows where both have a face."""
    there = ~(np.isnan(made) | np.isnan(real))
    return float(np.corrcoef(made[there], real[there])[0, 1])


def read(path: Path, seconds: float, landmarker: Landmarker) -> Film:
    gap = gaps(landmarker, list(itertools.islice(frames(path), int(seconds * FPS))))
    sound = audio(path)[: len(gap) * HOP]
    return Film(path.stem, sound, gap[: len(sound) // HOP])


def drawn(run: Path, films: list[Film], device: str, landmarker: Landmarker) -> None:
    method, about = load_run(run, device)
    assert isinstance(method, Renderer)
    person = Person(about["folder"], about["size"], "val", method.speech, method.window, device=device)
    encoder = speech.load(method.speech, device)

    def speak(sound: Tensor) -> np.ndarray:
        blocks = Talker(method, person, {method.speech: encoder}).stream([sound])
        shown = [(block * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy() for block in blocks]
        return gaps(landmarker, list(np.concatenate(shown)))

    found = {film.name: r(speak(film.sound)[: len(film.gap)], film.gap) for film in films}
    clip = person.clip(slice(0, len(person)), {"landmarks", "audio"})
    assert clip.audio is not None and clip.landmarks is not None
    own = r(speak(clip.audio.flatten().cpu()), lip_gap(clip.landmarks).cpu().numpy())
    print(f"{run}: own voice, held out {own:.3f}; others {np.mean(list(found.values())):.3f} of {len(films)}")
    print("  " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--films", type=Path, nargs="+", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    landmarker = Landmarker()
    films = [read(path, options.seconds, landmarker) for path in options.films]
    for run in options.runs:
        drawn(run, films, options.device, landmarker)


if __name__ == "__main__":
    main()
