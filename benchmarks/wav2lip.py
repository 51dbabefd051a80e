"""Wav2Lip: time a frame (the authors' network in the same run as a ratio), training steps, and what trained runs do on held-out faces.

    python benchmarks/wav2lip.py --device cuda --peer WAV2LIP_CHECKOUT
    python benchmarks/wav2lip.py --device cuda --faces PACKED --expert RUN --runs RUN RUN --out sheet.png

`--faces` takes packed faces (vivavoce prepare --data) that no run was trained on. Every film is drawn with its own sound, another
moment of it as the reference ("same sound": SSIM, PSNR of the lower half; LMD where the face landmarker is here), and with the sound of the
next film, each frame its own reference, as a film is dubbed ("other sound"). Sync is expert sync, not LSE: name the expert with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from timing import seconds
from torch import Tensor

from vivavoce import media, registry
from vivavoce.data.faces import Faces
from vivavoce.face.box import face_box, fill
from vivavoce.face.crop import crop
from vivavoce.face.landmarker import Landmarker
from vivavoce.methods.wav2lip import Wav2Lip
from vivavoce.metrics.expert_sync import accuracy, expert_sync
from vivavoce.metrics.lmd import lmd
from vivavoce.metrics.psnr import psnr
from vivavoce.metrics.ssim import ssim
from vivavoce.nn.lip_expert import LipExpert, expert_of
from vivavoce.nn.wav2lip import Generator, masked
from vivavoce.speech.mel_wav2lip import columns
from vivavoce.train import load_run
from vivavoce.types import Clip

AWAY = 12  # frames from a frame to its reference, with its own sound


@torch.no_grad()
def speed(device: str, peer: Path | None, times: int) -> None:
    theirs: torch.nn.Module | None = None
    if peer is not None:
        sys.path.insert(0, str(peer))
        from models.wav2lip import Wav2Lip as Theirs  # type: ignore[import-not-found]

        theirs = Theirs().eval().to(device)
    print("| side | rows | ms a frame | the authors' | ratio |\n|---|---|---|---|---|")
    for side in (96, 192, 384):
        net = Generator(side).eval().to(device)
        for rows in (1, 8) if device == "cpu" else (1, 8, 128):
            mel, faces = torch.randn(rows, 1, 80, 16, device=device), torch.rand(rows, 6, side, side, device=device)
            ours = 1000 * seconds(lambda net=net, mel=mel, faces=faces: net(mel, faces), device, times) / rows
            other = 1000 * seconds(lambda mel=mel, faces=faces: theirs(mel, faces), device, times) / rows if theirs and side == 96 else 0.0
            print(f"| {side} | {rows} | {ours:.2f} | {other:.2f} | {ours / other if other else float('nan'):.2f} |", flush=True)


def steps(device: str, times: int) -> None:
    for name, preset in (("lip_expert", ""), ("wav2lip", ""), ("wav2lip", "gan"), ("wav2lip", "high")):
        method = registry.create(name, preset).to(device).train()
        rows = method.config.batch * method.config.window_rows
        grid = torch.rand(rows, 68, 2, device=device) * 80 + 10
        grid[:, 36:48, 1], grid[:, 33, 1] = 40, 55
        clip = Clip(frames=torch.rand(rows, 3, 112, 112, device=device), landmarks=grid, speech=torch.rand(rows, 2, 640, device=device))
        optimizers = method.optimizers()
        took = 1000 * seconds(lambda m=method, c=clip, o=optimizers: m.update(c, 0, o), device, times)
        print(f"a training step of {name} {preset}: {took:.0f} ms ({rows} rows)", flush=True)


def films(faces: Faces) -> list[Clip]:
    """Whole films of at least 40 rows."""
    return [faces.clip(slice(int(a), int(a + n))) for a, n in faces.spans if n >= 40]


@torch.no_grad()
def drawn(method: Wav2Lip, film: Clip, heard: Clip, reference: int, device: str) -> tuple[Tensor, Tensor]:  # -> [T,3,S,S] x2 RGB
    """Crops made and true; the reference is the frame `reference` rows on."""
    assert film.frames is not None and film.landmarks is not None and heard.speech is not None
    true = crop(film.frames.to(device), fill(face_box(film.landmarks).to(device), method.config.side)).flip(1)
    count = min(len(true), len(heard))
    true = true[:count]
    made = method.net(columns(heard.speech[:count].to(device)), torch.cat([masked(true), true.roll(-reference, 0)], 1))
    return made.flip(1).cpu(), true.flip(1).cpu()


def begun(film: Clip) -> Tensor:  # -> [T-1,1,80,16]
    """The sound that begins with each frame: what the next row hears."""
    assert film.speech is not None
    return columns(film.speech[1:])


def landmarks(frames: Tensor, finder: Landmarker | None) -> Tensor:  # -> [T,68,2], NaN where there is no face
    out = torch.full((len(frames), 68, 2), float("nan"))
    if finder is not None:
        large = torch.nn.functional.interpolate(frames, (256, 256), mode="bilinear")
        for t, picture in enumerate(torch.nn.functional.pad(large, (64, 64, 64, 64))):
            found = finder((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
            if found:
                out[t] = torch.from_numpy(found[0].landmarks68)
    return out


def told_right(name: str, held: list[Clip], expert: LipExpert, device: str) -> None:
    """How often an expert tells true pairs from false ones, of real films."""
    said = []
    for film in held:
        assert film.frames is not None and film.landmarks is not None
        true = crop(film.frames.to(device), fill(face_box(film.landmarks).to(device), 96))
        score = expert_sync(true[:-1], begun(film), expert)
        far = [accuracy(true[:-1], begun(film), expert, apart)[1] for apart in (2, 10, 15)]
        said.append((*accuracy(true[:-1], begun(film), expert), *far, score.distance, score.confidence, float(abs(score.offset) <= 1)))
    print("{} on {} real films: in sync {:.3f}, 5 frames off {:.3f} told right (2: {:.3f}, 10: {:.3f}, 15: {:.3f}); distance {:.3f}, "
          "confidence {:.3f}, offset within a frame {:.2f}".format(name, len(held), *np.mean(said, 0)), flush=True)  # fmt: skip


def worth(places: list[Path], held: list[Clip], expert: LipExpert | None, device: str, out: Path | None) -> None:
    try:
        finder: Landmarker | None = Landmarker()
    except ImportError:
        print("no ai-edge-litert here: LMD is left out")
        finder = None
    print("| run | PSNR, lower half | SSIM, lower half | LMD of 256 px | sync, same sound | sync, other sound |\n|---|---|---|---|---|---|")
    sheet = []
    for place in places:
        method, _ = load_run(place, device)
        assert isinstance(method, Wav2Lip)
        rows = []
        for k, film in enumerate(held):
            other = held[(k + 1) % len(held)]
            made, true = drawn(method, film, film, AWAY, device)
            dubbed, _ = drawn(method, film, other, 0, device)
            low = made.shape[2] // 2
            ours, theirs = landmarks(made[::5], finder), landmarks(true[::5], finder)
            both = torch.isfinite(ours).flatten(1).all(1) & torch.isfinite(theirs).flatten(1).all(1)
            near = lmd(ours[both], theirs[both]).mean() if both.any() else float("nan")
            sync = [float("nan")] * 2
            if expert is not None:
                sync = [expert_sync(f[: len(h) - 1], begun(h)[: len(f) - 1], expert).distance for f, h in ((made, film), (dubbed, other))]
            rows.append((psnr(made[:, :, low:], true[:, :, low:]).mean(), ssim(made[:, :, low:], true[:, :, low:]).mean(), near, *sync))
            if k < 4:
                picks = torch.linspace(5, len(dubbed) - 6, 6).long()
                sheet.append(torch.cat([torch.cat(list(row), 2) for row in (true[picks], made[picks], dubbed[picks])], 1))
        values = np.nanmean(np.array(rows, dtype=np.float64), 0)
        print(f"| {place} | {values[0]:.2f} | {values[1]:.3f} | {values[2]:.2f} | {values[3]:.3f} | {values[4]:.3f} |", flush=True)
    if out is not None and sheet:
        media.write_image(out, media.pixels(torch.cat(sheet, 1)[None])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", type=Path, help="checkout of Rudrabha/Wav2Lip")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--split", default="all", help="of the faces: val are the films that `vivavoce train` keeps back")
    parser.add_argument("--most", type=int, default=1000, help="films, at most")
    parser.add_argument("--expert", nargs="*", default=[], help="every one is tried on the films; the last one judges the runs")
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    torch.manual_seed(0)
    if o.faces is None:
        speed(o.device, o.peer, o.times)
        steps(o.device, o.times)
    else:
        held = films(Faces(o.faces, o.split, Wav2Lip.window))[: o.most]
        experts = [expert_of(place, o.device) for place in o.expert]
        for place, expert in zip(o.expert, experts, strict=True):
            told_right(place, held, expert, o.device)
        if o.runs:
            worth(o.runs, held, experts[-1] if experts else None, o.device, o.out)


if __name__ == "__main__":
    main()
