"""Figures of streams of frames, taken in a few at a time: sums are kept, frames are not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vivavoce import speech
from vivavoce.data.person import Person
from vivavoce.evaluate.columns import PASTED, PLATE, SYNTHESISED
from vivavoce.evaluate.faces import Means, Track
from vivavoce.face.box import face_box, fill
from vivavoce.face.crop import crop
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import pixels
from vivavoce.metrics import expert_sync, lse
from vivavoce.metrics.cpbd import BLOCK, cpbd
from vivavoce.metrics.csim import Identity, csim
from vivavoce.metrics.frechet import RECOMMENDED, Inception, Statistics, VideoNetwork, frechet
from vivavoce.metrics.ms_ssim import SMALLEST, with_ssim
from vivavoce.metrics.offsets import Watch
from vivavoce.metrics.psnr import psnr
from vivavoce.nn.lip_expert import SIDE, LipExpert, expert_of
from vivavoce.nn.perceptual import Perceptual
from vivavoce.nn.syncnet import FRAMES
from vivavoce.prepare import sync
from vivavoce.speech import vad
from vivavoce.speech.mel_wav2lip import columns
from vivavoce.types import HOP, STEPS, InputError

log = logging.getLogger(__name__)

LOOKED = 50  # frames at which sharpness and identity are looked at, at most
ASK = {
    "fid": "not asked for; add --fid",
    "fvd": "not asked for; add --fvd FILE (i3d_torchscript.pt)",
    "expert_c": "not asked for; add --expert RUN, of lip_expert",
    "expert_d": "not asked for; add --expert RUN, of lip_expert",
}
T = TypeVar("T")

# What is compared with what; landmarks, embeddings and expressions always with the original's.
PAIRS = {SYNTHESISED: ("made", "original"), PLATE: ("made", "plate"), PASTED: ("pasted", "original")}
TRUTH = {SYNTHESISED: ("plate", "original"), PLATE: ("plate", "plate"), PASTED: ("original", "original")}


@dataclass
class Judges:
    """The networks that judge, loaded once. What cannot be had is None, and `notes` says why and what helps."""

    landmarker: Callable[[np.ndarray], list[Face]]
    notes: dict[str, str] = field(default_factory=dict)
    lpips: Perceptual | None = None
    identity: Identity | None = None
    syncnet: Any = None
    inception: Inception | None = None
    video: VideoNetwork | None = None
    sharp: bool = True
    expert: LipExpert | None = None
    cautions: dict[str, str] = field(default_factory=dict)  # what to know of figures that are there

    @classmethod
    def summon(cls, device: str, identity: str = "sface", fid: bool = False, fvd: str = "", expert: str = "") -> Judges:
        """All that are at hand. Raises InputError when the landmarker, or what was asked for (FID, FVD, expert), cannot be had."""
        made = cls(Landmarker(most=1))
        made.lpips = made._try(("lpips",), lambda: Perceptual.pretrained("alexnet", device))
        made.identity = made._try(("csim",), lambda: Identity(identity))
        made.syncnet = made._try(("lse_c", "lse_d"), lambda: lse.syncnet(device))
        made.sharp = made._try(("cpbd",), lambda: cpbd(torch.rand(1, 3, BLOCK, BLOCK))) is not None
        made.inception = Inception(device) if fid else None
        made.video = VideoNetwork(fvd, device) if fvd else None
        made.expert = expert_of(expert, device) if expert else None
        there = {"fid": fid, "fvd": fvd, "expert_c": expert, "expert_d": expert}
        made.notes |= {k: v for k, v in ASK.items() if not there.get(k)}
        if expert:
            words = f"by {Path(expert).name}; not LSE, and praise where it taught the method"
            made.cautions |= dict.fromkeys(("expert_c", "expert_d"), words)
        made.cautions["csim"] = f"by {identity}"
        return made

    def _try(self, keys: tuple[str, ...], make: Callable[[], T]) -> T | None:
        try:
            return make()
        except InputError as error:
            for key in keys:
                self.notes[key] = str(error)
            log.warning("%s left out: %s", " and ".join(keys), error)
            return None

    def faces(self, frames: Tensor) -> list[Face | None]:  # [T,3,H,W]
        found = [self.landmarker(picture) for picture in pixels(frames)]
        return [max(f, key=lambda face: face.score) if f else None for f in found]


class Measure:
    """Everything that is said of one run on one person. `add` takes frames in; `figures` gives made and truth by version.

    Args:
        rows: number of frames that will come.
        pasted_only: the method draws into the true frame, so that nothing of it is synthesised.
        places: [T,4] px, where the face is in the source's frames, for LSE and the expert; None: these are left out.
    """

    def __init__(self, judges: Judges, rows: int, pasted_only: bool, sound: Tensor | None, places: Tensor | None) -> None:
        self.judges, self.rows, self.sound = judges, rows, sound
        self.versions = (PASTED,) if pasted_only else tuple(PAIRS)
        pairs = {*(PAIRS[v] for v in self.versions), *(TRUTH[v] for v in self.versions)}
        self.streams = sorted({name for pair in pairs for name in pair} | {"original"})
        self.pairs = {pair: Means() for pair in sorted(pairs) if pair[0] != pair[1]}
        self.tracks = {name: Track() for name in self.streams}
        self.alone = {name: Means() for name in self.streams}
        self.looked = set(torch.linspace(0, rows - 1, min(rows, LOOKED)).round().long().tolist())
        self.places = places
        self.watches: dict[str, Watch] = {}
        self.expert: dict[str, Watch] = {}
        if places is not None and sound is not None and min(rows, len(sound) // HOP) > FRAMES:
            self.squares = lse.squares(places.double().numpy())
            if judges.syncnet is not None:
                self.watches = {name: lse.watch(sound, rows, judges.syncnet) for name in self.streams}
            if judges.expert is not None:
                mel = mels(sound)
                self.expert = {name: expert_sync.watch(mel, rows, judges.expert) for name in self.streams}
        self.stills = _Sets(judges.inception, self.streams)
        self.films = _Sets(judges.video, self.streams, getattr(judges.video, "length", 1))

    def add(self, at: int, frames: dict[str, Tensor], joined: list[bool]) -> None:
        """Frames from row `at` on, [t,3,H,W] of each stream, of one size; `joined`: whether a frame follows the one before."""
        frames = {name: frames[name] for name in self.streams}
        looks = {name: self.judges.lpips.features(x) for name, x in frames.items()} if self.judges.lpips is not None else {}
        for (a, b), means in self.pairs.items():
            single, scales = with_ssim(frames[a], frames[b])
            values = {"psnr": psnr(frames[a], frames[b]), "ssim": single, "ms_ssim": scales}
            if self.judges.lpips is not None:
                values["lpips"] = self.judges.lpips.distance(looks[a], looks[b])
            for name, value in values.items():
                means.add(name, float(value.sum()), len(value))
        faces = {name: self.judges.faces(x) for name, x in frames.items()}
        for name, track in self.tracks.items():
            for face, real, follows in zip(faces[name], faces["original"], joined, strict=True):
                track.add(face, real, follows)
        self._look(at, frames, faces)
        for name, x in frames.items():
            self.stills.add(name, x)
            self.films.add(name, x)
            if name in self.watches:
                squares = self.squares[at : at + len(x)]
                self.watches[name].push(torch.stack([lse.cropped(p, s) for p, s in zip(pixels(x), squares, strict=True)]))
            if name in self.expert and self.places is not None:
                self.expert[name].push(crop(x.float().cpu(), fill(self.places[at : at + len(x)], SIDE)))

    def _look(self, at: int, frames: dict[str, Tensor], faces: dict[str, list[Face | None]]) -> None:
        """Sharpness and identity of the frames whose turn it is."""
        count = len(faces["original"])
        for k in (k for k in range(count) if at + k in self.looked):
            codes: dict[str, Tensor] = {}
            for name, x in frames.items():
                if self.judges.sharp and min(x.shape[-2:]) >= BLOCK:
                    self.alone[name].add("cpbd", float(cpbd(x[k : k + 1].float().cpu())))
                face = faces[name][k]
                if self.judges.identity is not None and face is not None:
                    codes[name] = self.judges.identity(x[k : k + 1].float().cpu(), torch.as_tensor(face.landmarks68)[None].float())
            for name, code in codes.items():
                if "original" in codes:
                    self.alone[name].add("csim", float(csim(code, codes["original"])))

    def figures(self) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
        """{version: {figure: value}} of the method, and of the ground truth; what cannot be said is NaN."""
        bands, speaking = None, None
        if self.sound is not None:
            pieces = self.sound.reshape(-1, HOP)
            bands, speaking = sync.spectrum(iter([self.sound]), len(pieces)), vad.push(pieces)[0] > 0
        tracks = {name: t.figures(self.tracks["original"], bands, speaking) for name, t in self.tracks.items()}
        scores, ours = ({name: watch.score() for name, watch in w.items()} for w in (self.watches, self.expert))

        def of(pair: tuple[str, str]) -> dict[str, float]:
            name, real = pair
            out = {**tracks[name], **{k: self.alone[name].of(k) for k in ("cpbd", "csim")}}
            if pair in self.pairs:  # a stream against itself has nothing to say of pictures
                out |= {k: self.pairs[pair].of(k) for k in ("psnr", "ssim", "ms_ssim", "lpips")}
                out |= {"fid": self.stills.distance(name, real), "fvd": self.films.distance(name, real)}
            if name in scores:
                out |= {"lse_c": scores[name].confidence, "lse_d": scores[name].distance}
            if name in ours:
                out |= {"expert_c": ours[name].confidence, "expert_d": ours[name].distance}
            return out

        return {v: of(PAIRS[v]) for v in self.versions}, {v: of(TRUTH[v]) for v in self.versions}

    def notes(self, size: tuple[int, int], made: dict[str, dict[str, float]]) -> dict[str, str]:
        """Why a figure of `made` is blank, and what to know of one that is not, by figure."""
        why = {
            "av": "lips and sound agree too little to be sure",
            "drift": "under 20 s, or lips and sound agree too little; take more with --split all",
            "silence": "no silence in the sound, or no speech",
            "blinks": "under a second",
        }
        if min(size) < SMALLEST:
            why["ms_ssim"] = f"frames under {SMALLEST} px; evaluate larger with --size"
        if min(size) < BLOCK:
            why["cpbd"] = f"frames under {BLOCK} px; evaluate larger with --size"
        if self.sound is None:
            missing = "the folder has no aud.wav; run: vivavoce prepare FOLDER --only audio"
            why |= dict.fromkeys(("av", "drift", "silence", "lse_c", "lse_d", "expert_c", "expert_d"), missing)
        elif self.rows < sync.FEWEST:
            why["av"] = f"{self.rows} frames, it needs {sync.FEWEST}; take more with --split all"
        if self.places is None and self.sound is not None:
            missing = "the folder has no landmarks; run: vivavoce prepare FOLDER --only landmarks"
            why |= dict.fromkeys(("lse_c", "lse_d", "expert_c", "expert_d"), missing)
        why |= self.judges.notes
        blank = {k for figures in made.values() for k in why if not math.isfinite(figures.get(k, math.nan))}
        know = {k: v for k, v in self.judges.cautions.items() if k not in blank}
        if self.judges.inception is not None and self.rows < RECOMMENDED:
            know["fid"] = f"of {self.rows} frames: under {RECOMMENDED} it is too high; compare within this table alone"
        return {k: why[k] for k in why if k in blank} | know


class _Sets:
    """Features of frames, or of stretches of frames, by stream."""

    def __init__(self, network: Any, streams: list[str], length: int = 1) -> None:
        self.network, self.length = network, length
        self.waiting: dict[str, Tensor] = {}
        self.sums: dict[str, Statistics] = {}
        self.streams = streams

    def add(self, name: str, frames: Tensor) -> None:  # [t,3,H,W]
        if self.network is None:
            return
        rows = torch.cat([self.waiting[name], frames]) if name in self.waiting else frames
        whole = len(rows) - len(rows) % self.length
        self.waiting[name] = rows[whole:]
        if whole:
            features = self.network(rows[:whole])
            self.sums.setdefault(name, Statistics.empty(features.shape[1])).add(features)

    def distance(self, made: str, real: str) -> float:
        if self.network is None or any(name not in self.sums or self.sums[name].count < 2 for name in (made, real)):
            return float("nan")
        return frechet(self.sums[made], self.sums[real])


def heard(person: Person, rows: int) -> Tensor | None:  # -> [rows*640]
    """The sound of the first rows; None where the folder holds none."""
    try:
        audio = person.clip(range(rows), {"audio"}).audio
    except InputError:
        return None
    return None if audio is None else audio.reshape(-1).cpu()


def face_boxes(person: Person, rows: int) -> Tensor | None:  # -> [rows,4] px
    """Around the face of the source, from its landmarks; None where it has none. Crops of what was made take the source's boxes."""
    try:
        points = person.clip(range(rows), {"landmarks"}).landmarks
    except InputError:
        return None
    return face_box(points.cpu()) if points is not None and bool(torch.isfinite(points).all()) else None


def mels(sound: Tensor) -> Tensor:  # [N] -> [T,1,80,16]
    """What lip experts hear of each frame."""
    encoder = speech.load("mel_wav2lip")
    steps, _ = encoder.push(sound, encoder.start(), True)
    return columns(speech.windows(steps.unflatten(0, (-1, STEPS)), 0, STEPS))
