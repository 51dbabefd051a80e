"""How far a trained head's mouth stands open when nobody speaks to it, and what it does with foreign voices.

    python benchmarks/silence.py RUN [WAV ...] [--device cpu] [--seconds 10] [--every 5] [--out FOLDER]

The landmarker measures the gap between the lips over the mouth's width on drawn frames: of digital silence, white noise, hum, and
each WAV. The same is measured on frames of the video: "shut" is the mean of the share with the narrowest lips, "wide" the 95th
percentile. A figure of 0 % is the person's shut mouth, 100 % the wide one. With --out a contact sheet of each sound is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vivavoce import speech
from vivavoce.data.person import Person
from vivavoce.face.landmarker import Landmarker
from vivavoce.media import audio, write_image
from vivavoce.method import Renderer
from vivavoce.nn.silence import SHUT, lip_gap
from vivavoce.talker import Talker
from vivavoce.train import load_run
from vivavoce.types import RATE

SHOWN = 8  # frames on a contact sheet
SAMPLE = 60  # frames of the video that are measured


def openness(landmarker: Landmarker, frames: Tensor) -> np.ndarray:  # [T,3,H,W] -> [T], NaN without a face
    pictures = (frames * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = [landmarker(picture) for picture in pictures]
    return np.array([max(f, key=lambda face: face.score).mouth_open if f else np.nan for f in found])


def sounds(seconds: float, files: list[Path]) -> dict[str, Tensor]:
    count = int(seconds * RATE)
    time, draw = torch.arange(count) / RATE, torch.Generator().manual_seed(1)
    made = {
        "digital silence": torch.zeros(count),
        "noise, -40 dB": 0.01 * torch.randn(count, generator=draw),
        "noise, -26 dB": 0.05 * torch.randn(count, generator=draw),
        "hum, 50 Hz": 0.05 * (2 * torch.pi * 50 * time).sin(),
    }
    return made | {file.stem: audio(file)[:count] for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("wavs", type=Path, nargs="*")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--every", type=int, default=5, help="measure every so many frames")
    parser.add_argument("--size", type=int, help="px; default: as trained")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    method, about = load_run(options.run, options.device)
    assert isinstance(method, Renderer)
    size = options.size or about["size"]
    person = Person(about["folder"], size, "all", method.speech, method.window, device=options.device)
    landmarker = Landmarker()
    rows = list(range(0, len(person), max(1, len(person) // 1500)))
    landmarks = person.clip(rows, {"landmarks"}).landmarks.cpu()  # type: ignore[union-attr]
    gaps, width = lip_gap(landmarks), float((landmarks[:, 48] - landmarks[:, 54]).norm(dim=1).median())  # px
    narrow = [rows[k] for k in (gaps <= gaps.quantile(SHUT)).nonzero()[:, 0].tolist()]
    every = list(range(0, len(person), max(1, len(person) // SAMPLE)))
    seen = {}
    for name, chosen in (("shut", narrow[:: max(1, len(narrow) // SAMPLE)]), ("any", every)):
        seen[name] = openness(landmarker, person.clip(chosen, {"frames"}).frames)  # type: ignore[arg-type]
    shut, wide = float(np.nanmean(seen["shut"])), float(np.nanpercentile(seen["any"], 95))
    print(f"{about['method']} {options.run}: the person's shut mouth {shut:.4f}, wide {wide:.4f} (gap over width), {size} px")
    print(f"5 % is {(wide - shut) / 20 * width:.2f} px of lip gap; below half a pixel the landmarker takes a soft edge for a gap")
    encoder = speech.load(method.speech, options.device)
    for name, sound in sounds(options.seconds, options.wavs).items():
        talker = Talker(method, person, {method.speech: encoder})
        frames = torch.cat([block.cpu() for block in talker.stream([sound])])[:: options.every]
        open_ = openness(landmarker, frames)
        share = (np.array([np.nanmean(open_), np.nanpercentile(open_, 95)]) - shut) / max(wide - shut, 1e-6) * 100
        moves = np.nanstd(open_) / max(wide - shut, 1e-6) * 100
        print(f"{name:<32} open {share[0]:6.1f} % (95th percentile {share[1]:6.1f} %, deviation {moves:5.1f} %) of {len(frames)} frames")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            at = torch.linspace(0, len(frames) - 1, SHOWN).long()
            write_image(options.out / f"{name.replace(' ', '_')}.png", torch.cat(list(frames[at]), 2))


if __name__ == "__main__":
    main()
