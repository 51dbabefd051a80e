"""`vivavoce run`: a source and a voice in, a video file out.

A source is a portrait, a person's video, a prepared person folder or a trained run. Frames are rendered and encoded as
they become final, so memory does not grow with the audio; the file appears under its name when it is whole.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivavoce import registry, speech
from vivavoce.controls import Scene
from vivavoce.data import driving
from vivavoce.data.person import Person
from vivavoce.data.playback import playback
from vivavoce.data.portrait import Portrait, Size
from vivavoce.media import Writer, audio_chunks, is_picture, pixels, probe, write_image
from vivavoce.method import Generator, Method, Renderer
from vivavoce.prepare import people
from vivavoce.talker import Talker
from vivavoce.train import load_run
from vivavoce.types import FPS, InputError, Source

PREVIEW = 5  # frames in the preview strip
SHIPPED = "speech_motion"  # the generator whose weights come with vivavoce
DUBBING = "dubbing"  # the family of methods that draw into the frames of a film
SPARE = "mel"  # speech encoder that needs no file: what ships for it takes over where another's weights cannot be had
SMALLEST, LARGEST = 64, 8192  # px, longest side of a film
LIVE, MOVING = 640, 512  # px, most of a portrait that is drawn in time, and of what moves in it: 25 ms of one core


@dataclass
class Options:
    """How to speak."""

    renderer: str = "face_warp"  # method for a portrait
    generator: str = ""  # speech -> motion, for renderers that read motion; "": one trained beside it, or shipped, of its motion space
    drive: str = ""  # what moves the face in place of a generator: a person folder, a film, or a file of coefficients for the space bfm
    size: int = 0  # longest side, px; 0: as trained, or as the picture
    face: int = 0  # which face of a portrait, counted from the left; 0: the only one
    pose: str = "source"  # "source" (as in the video), "generator", "fixed", or a file of poses
    eyes: str = "source"  # "source", "fixed" or "blink"
    background: str = ""  # picture, video or colour behind a trained person
    smooth_lips: bool = False
    live: bool = False  # a portrait whose `size` is not told is reduced, so that its pictures come in time
    block: int = 0  # frames rendered at once; 0: 2 on a CPU, 8 on a GPU
    seed: int = 0
    device: str = "auto"


@dataclass
class Report:
    """What was made and how long each stage took."""

    out: Path
    preview: Path
    frames: int
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def pick_device(wanted: str = "auto") -> str:
    """`auto`: CUDA when it is there, else the CPU. Raises InputError for a device that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if not (number or "0").isdecimal() or int(number or 0) >= there.get(kind, 0):
        raise InputError(f"--device {wanted}", "not on this machine", "see: vivavoce doctor")
    return wanted


def build(source: str | Path, options: Options, like: Talker | None = None) -> tuple[Talker, tuple[int, int], list[str]]:
    """A Talker for the source, the size (H, W) of its frames, and notes for the user. Raises InputError.

    `like`: one built with the same options, whose methods and encoders speak for another portrait as well.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(path, "no such file or folder")
    device, notes = pick_device(options.device), list[str]()
    if _dubs(options.renderer):
        return _dubbed(path, options, device, notes)
    run = _run_of(path)
    if run is not None:
        if run != path:
            notes.append(f"speaking with the trained run {run}")
        method, about = load_run(run, device)
        if not isinstance(method, Renderer):
            raise InputError(run, f"{about['method']} draws no frames", "give a run of a renderer: vivavoce list")
        if registry.find(about["method"]).family == DUBBING:
            raise InputError(run, "it draws into films and has none of its own", f"run: vivavoce run FILM --renderer {run} --audio FILE")
        idle = ("renderer", "face") if "motion" in method.needs else ("renderer", "face", "generator", "drive")
        if unheard := [f"--{name}" for name in idle if getattr(options, name) != getattr(Options, name)]:
            notes.append(f"{', '.join(unheard)}: of no use with a trained run of {about['method']}")
        folder = Path(about.get("folder", ""))
        longest = options.size or about.get("size")
        person: Source = Person(folder, longest, "all", method.speech, method.window, device=device, space=method.space or "blendshapes")
        return _talker(method, person, options, device, None, notes, [run.parent, folder / "runs"]), person.size, notes
    portrait = _portrait(path, options, notes)
    if like is not None:
        return like.again(portrait, portrait.paste), portrait.full, notes
    method = _ready(options.renderer, device, options)
    if not isinstance(method, Renderer):
        raise InputError(f"--renderer {options.renderer}", "is a generator, not a renderer", "see: vivavoce list")
    return _talker(method, portrait, options, device, portrait.paste, notes), portrait.full, notes


def speak(
    source: str | Path,
    audio: str | Path,
    out: str | Path,
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
    finish: Callable[[np.ndarray], np.ndarray] | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Make the video; `out` is whole or not there.

    Args:
        source: portrait, video, person folder or run. audio: a file with sound. out: .mp4, .mov or .mkv.
        progress: told (frames done, frames expected) after each block; what it raises ends the work and leaves no file.
        finish: each block of frames, uint8 [T,H,W,3], on its way into the file: where a mark is put on.
        about: words kept in the file, by the container's names (title, comment, description, date, ...).
    Raises:
        InputError: an input that cannot be used.
    """
    options, out, audio = options or Options(), Path(out), Path(audio)
    if out.suffix.lower() not in {".mp4", ".mov", ".mkv"}:
        raise InputError(out, "unknown kind of video file", "name it .mp4, .mov or .mkv")
    report = Report(out, out.with_name(f"{out.stem}-preview.png"), 0)
    heard = _check(Path(source), audio, options, (out, report.preview))
    begun = time.perf_counter()
    talker, size, notes = build(source, options)
    report.notes, report.seconds["load"] = notes, time.perf_counter() - begun
    total = max(1, round(heard * FPS))
    kept: list[np.ndarray] = []  # uint8 [H,W,3] each
    keep_at = set(torch.linspace(0, total - 1, PREVIEW + 2).long().tolist()[1:-1])
    with Writer(out, size, FPS, audio, about=about) as writer, Behind(writer.write) as encode:
        # as 8 bits at once: float frames that wait for the encoder outlive their block, and the heap grows around them
        for images in map(pixels, talker.stream(_counted(audio_chunks(audio), report))):
            images = images if finish is None else finish(images)
            kept += [image.copy() for at, image in enumerate(images, report.frames) if at in keep_at]
            report.frames += len(images)
            encode(images)
            if progress is not None:
                progress(report.frames, max(total, report.frames))
    write_image(report.preview, np.concatenate(kept or [images[-1]], 1))
    report.seconds |= talker.seconds | {"encode": encode.seconds, "total": time.perf_counter() - begun}
    return report


def _check(source: Path, audio: Path, options: Options, made: Iterable[Path]) -> float:  # -> s
    """How long the sound lasts; raises InputError for files or options of no use, before anything slow begins.

    `made`: what will be written, and must not be what is read.
    """
    if not source.exists():
        raise InputError(source, "no such file or folder", "check the name")
    inputs = [p for p in (source, audio, *map(Path, (options.drive, options.pose, options.background))) if p.is_file()]
    for path in made:
        if path.exists() and any(path.samefile(p) for p in inputs):
            raise InputError(path, "is the input itself", "choose another --out")
    if abs(options.seed) >= 2**31:
        raise InputError(f"--seed {options.seed}", "is too large a number", f"choose from 0 to {2**31 - 1}")
    if options.block < 0:
        raise InputError(f"--block {options.block}", "is not a number of frames", "give 1 or more, or 0 for the usual")
    if options.size and not SMALLEST <= options.size <= LARGEST:
        raise InputError(f"--size {options.size}", "is not a size for frames", f"choose from {SMALLEST} to {LARGEST} px, or 0")
    info = probe(audio)
    if info.audio_codec is None or next(audio_chunks(audio, 1), None) is None:
        raise InputError(audio, "holds no sound", "give a recording, or a film with sound")
    return info.audio_duration or info.duration


def _counted(chunks: Iterable[Tensor], report: Report) -> Iterator[Tensor]:
    """The chunks, with the time their decoding took."""
    begun = time.perf_counter()
    for chunk in chunks:
        report.seconds["decode"] = report.seconds.get("decode", 0.0) + time.perf_counter() - begun
        yield chunk
        begun = time.perf_counter()


class Behind:
    """Calls a function in another thread, in order, a few items behind: encoding overlaps rendering."""

    def __init__(self, work: Callable[[np.ndarray], Any]) -> None:
        self.work, self.seconds = work, 0.0
        self.waiting: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=2)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while (item := self.waiting.get()) is not None:
            if self.error is None:
                begun = time.perf_counter()
                try:
                    self.work(item)
                except BaseException as error:  # raised again by the caller's thread
                    self.error = error
                self.seconds += time.perf_counter() - begun

    def __enter__(self) -> Behind:
        self.thread.start()
        return self

    def __call__(self, item: np.ndarray) -> None:
        if self.error is not None:
            raise self.error
        self.waiting.put(item)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.waiting.put(None)
        self.thread.join()
        if self.error is not None and error is None:
            raise self.error


def _run_of(path: Path) -> Path | None:
    """The run folder meant by a path: itself, or the newest finished renderer of a person folder (or of a video's folder)."""
    if _is_run(path):
        return path
    folder = path if path.is_dir() else path.with_suffix("")
    return next((run for run, card, _ in _runs([folder / "runs"]) if card.kind == "renderer"), None)


def _runs(places: Sequence[Path]) -> Iterator[tuple[Path, registry.Card, dict[str, Any]]]:
    """Finished runs in those folders, the newest first: the folder, the method's card, its config.json."""
    found = {path.resolve(): path for place in places for path in place.glob("*/model.safetensors")}
    for path in sorted(found.values(), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            about = json.loads((path.parent / "config.json").read_text())
            yield path.parent, registry.find(about["method"]), about
        except (OSError, ValueError, KeyError, TypeError, InputError):
            continue  # no run of ours, or of a method that is not installed here


def _portrait(path: Path, options: Options, notes: list[str]) -> Portrait:
    live = options.live and not options.size
    moving = MOVING if pick_device(options.device) == "cpu" else 0
    portrait = _looked_for(path, options.face, Size(most=LIVE, moving=moving) if live else Size(options.size), notes)
    if live and portrait.reduced:
        reduced = f"the portrait is reduced to {max(portrait.full)} px, so that its pictures come in time"
        notes.append(f"{reduced}; wish for another `size` if there is time")
    return portrait


def _looked_for(path: Path, face: int, size: Size, notes: list[str]) -> Portrait:
    if path.is_dir():
        pictures = sorted((path / "ori_imgs").glob("*.jpg"))
        if not pictures:
            raise InputError(path, "neither a person folder nor a trained run", "run: vivavoce prepare VIDEO")
        notes.append(f"no trained run in this folder: speaking from its best frame; for full quality run: vivavoce train egs_talker {path}")
        return Portrait.best(pictures[:: max(1, len(pictures) // 24)], str(path), size)
    if is_picture(path):
        return Portrait(path, face=face, size=size)
    notes.append(f"no trained run of this video: speaking from its best frame; for full quality run: vivavoce prepare {path} and train")
    return Portrait.of_video(path, size)


def _talker(
    renderer: Renderer, source: Source, options: Options, device: str, paste: Any, notes: list[str], places: Sequence[Path] = ()
) -> Talker:
    encoders = {renderer.speech: speech.load(renderer.speech, device)} if "speech" in renderer.needs else {}
    generator: Generator | None = None
    if options.drive and isinstance(renderer, driving.Extractor) and Path(options.drive).is_file():
        generator, encoders[SPARE] = driving.played(options.drive, renderer, source), speech.load(SPARE, device)
    elif "motion" in renderer.needs:
        generator = _generator(renderer, places, options, device, encoders, notes)
    scene = Scene(options.pose, options.eyes, options.background, options.smooth_lips, options.seed)
    talker = Talker(renderer, source, encoders, generator, paste, options.block, scene)
    notes += talker.staging.notes
    return talker


def _generator(
    renderer: Renderer, places: Sequence[Path], options: Options, device: str, encoders: dict[str, speech.Encoder], notes: list[str]
) -> Generator:
    """The generator, with what it hears put into `encoders`: its SPARE form where the encoder's weights cannot be had."""
    name = options.drive or options.generator or _found(renderer, places, notes)
    folder = places[-1].parent if places else name
    made: Method = playback(name, folder, renderer.space) if options.drive else _ready(name, device, options)
    if not isinstance(made, Generator):
        raise InputError(f"--generator {name}", "is a renderer, not a generator", "see: vivavoce list")
    if "speech" in made.needs and made.speech not in encoders:
        try:
            encoders[made.speech] = speech.load(made.speech, device)
        except InputError as error:
            shipped: Callable[[int, str], Generator] | None = getattr(made, "shipped", None)
            if shipped is None or made.speech == SPARE or _is_run(name):
                raise
            notes.append(f"hearing {SPARE} instead of {made.speech}, so the lips follow less closely: {error}")
            made, encoders[SPARE] = shipped(options.seed, SPARE).to(device).eval(), speech.load(SPARE, device)
    return made


def _found(renderer: Renderer, places: Sequence[Path], notes: list[str]) -> str:
    """A generator of the renderer's motion space: the newest that was trained beside it, else one whose weights come with vivavoce."""
    for run, card, about in _runs(places):
        if card.kind == "generator" and registry.create(card.name, **about["config"]).space == renderer.space:
            notes.append(f"its face is moved by {run}")
            return str(run)
    if renderer.space == registry.find(SHIPPED).cls.space:
        return SHIPPED
    folder = places[-1].parent if places else "FOLDER"
    cause = f"it reads motion in the space {renderer.space!r}, and nothing here makes that from speech"
    remedy = f"run: vivavoce train geneface_motion {folder} --preset {renderer.space}"
    if renderer.space == "keypoints":  # dit_motion alone makes them
        remedy = "add --drive FILM, whose face moves this one, or --generator with a run of dit_motion in that space"
    raise InputError(type(renderer).__name__, cause, remedy)


def _dubs(name: str) -> bool:
    """Whether a method, or the method of a run folder, draws into the frames of a film."""
    if not _is_run(name):
        return registry.find(name).family == DUBBING
    try:
        about = json.loads((Path(name) / "config.json").read_text("utf-8"))
        return registry.find(about["method"]).family == DUBBING
    except (ValueError, KeyError, TypeError):
        return False  # whoever loads it says what is wrong with it


def _dubbed(path: Path, options: Options, device: str, notes: list[str]) -> tuple[Talker, tuple[int, int], list[str]]:
    """A Talker that gives one person of a film another mouth."""
    method = _ready(options.renderer, device, options)
    assert isinstance(method, Renderer)
    film = people.film(path, options.face, options.size)
    return _talker(method, film, options, device, None, notes), film.size, notes


def _is_run(name: str | Path) -> bool:
    return (Path(name) / "config.json").is_file()


def _ready(name: str, device: str, options: Options) -> Method:
    """A method that works without being trained by the user: from a run folder, or with the weights in the package."""
    if _is_run(name):
        return load_run(name, device)[0]
    card = registry.find(name)
    shipped: Callable[[int], Method] | None = getattr(card.cls, "shipped", None)
    if shipped is None and card.cls.loss is not Method.loss:
        raise InputError(name, "it has to be trained first", f"run: vivavoce train {name} FOLDER, then run with the run folder")
    return (shipped(options.seed) if shipped else registry.create(name)).to(device).eval()  # what has no loss has nothing to learn
