"""What strangers may hand in, checked by decoding it: names and declared types say nothing.

Nothing of a user's file name reaches the disk. A picture is kept as its pixels alone, so that neither the place where it was taken
(EXIF) nor anything hidden behind the picture stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from vivavoce import registry
from vivavoce.controls import EYES
from vivavoce.media import probe, read_image, write_image
from vivavoce.method import Method
from vivavoce.run import SMALLEST, Options
from vivavoce.types import InputError

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # of pictures; Pillow's others start programs or are no photographs
LONGEST = 1920  # px, to which a picture is reduced, as a portrait is anyway
PIECE = 1 << 20  # bytes copied at once
LIVE_MESSAGE = 20 << 20  # bytes of one message of a live session: a portrait, or a piece of sound
POSES = ("source", "generator", "fixed")


@dataclass(frozen=True)
class Limits:
    """How much one user may ask for."""

    upload: int = 200 << 20  # bytes of one request
    seconds: float = 300.0  # of sound
    letters: int = 2000  # of text
    size: int = 1920  # px, longest side of a film
    waiting: int = 20  # jobs in the queue
    keep: float = 24.0  # hours a finished film stays on disk
    live: int = 2  # live sessions at once


def source(stream: BinaryIO, folder: Path, limits: Limits) -> Path:
    """A picture or a film, kept in the folder as `source.png` or `source.film`. Raises InputError for anything else."""
    raw = _received(stream, folder / "upload", "portrait", limits)
    try:
        if _is_picture(raw):
            image = Image.fromarray(read_image(raw))
            image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            write_image(folder / "source.png", np.asarray(image))
            return folder / "source.png"
        if probe(raw).video_codec is None:
            raise InputError("portrait", "is neither a picture nor a video", "upload a JPEG, PNG, WebP or MP4 file")
        return raw.rename(folder / "source.film")
    except InputError as error:
        raise InputError("portrait", error.cause, error.remedy) from error
    finally:
        raw.unlink(missing_ok=True)


def sound(stream: BinaryIO, folder: Path, limits: Limits) -> Path:
    """A recording, or a film with sound, kept in the folder as `sound`. Raises InputError for anything else, or for too much of it."""
    raw = _received(stream, folder / "sound", "audio", limits)
    try:
        info = probe(raw)
        if info.audio_codec is None:
            raise InputError("audio", "holds no sound", "upload a recording, or a film with sound")
        seconds = info.audio_duration or info.duration
        if seconds > limits.seconds:
            raise InputError("audio", f"lasts {seconds:.0f} s, at most {limits.seconds:.0f} are taken", "cut it")
    except InputError as error:
        raw.unlink(missing_ok=True)
        raise InputError("audio", error.cause, error.remedy) from error
    return raw


def words(text: str, limits: Limits) -> str:
    """Text to be said. Raises InputError when there is too much of it."""
    if len(text) > limits.letters:
        raise InputError("text", f"has {len(text)} letters, at most {limits.letters} are taken", "cut it")
    return text


def options(wishes: Mapping[str, Any], limits: Limits, device: str = "auto") -> Options:
    """Settings from a user's wishes: none of them may name a file of this machine.

    Args:
        wishes: renderer, generator, size, face, pose, eyes, background, smooth_lips, seed; what is missing is as `vivavoce run` has it.
        limits: of the size. device: chosen by the server alone.
    Raises:
        InputError: an unknown wish, or a value that is not to be had.
    """
    plain = Options()
    given = {name: value for name, value in wishes.items() if value not in (None, "")}
    if strange := given.keys() - {"renderer", "generator", "size", "face", "pose", "eyes", "background", "smooth_lips", "seed"}:
        raise InputError(", ".join(sorted(strange)), "no such setting", "see: /api/docs")
    for name, choices in (("pose", POSES), ("eyes", EYES), ("renderer", methods("renderer")), ("generator", methods("generator"))):
        if name in given and given[name] not in choices:
            raise InputError(name, f"{str(given[name])[:40]!r} is not to be had", f"choose from: {', '.join(choices)}")
    size = _number(given, "size", 0, limits.size)
    if 0 < size < SMALLEST:
        raise InputError("size", f"{size} px is too small", f"choose from {SMALLEST} to {limits.size}, or 0")
    return Options(
        renderer=str(given.get("renderer", plain.renderer)),
        generator=str(given.get("generator", "")),
        size=size,
        face=_number(given, "face", 0, 100),
        pose=str(given.get("pose", plain.pose)),
        eyes=str(given.get("eyes", plain.eyes)),
        background=_colour(str(given.get("background", ""))),
        smooth_lips=given.get("smooth_lips", False) in (True, "true", "on", "1", 1),
        seed=_number(given, "seed", 0, 2**31 - 1),
        device=device,
    )


@cache
def methods(kind: str) -> tuple[str, ...]:
    """Names of the renderers, or of the generators, that work without being trained by the user. Looked up once: it takes 150 ms."""
    cards = [registry.find(name) for name in registry.names()]
    return tuple(card.name for card in cards if card.kind == kind and ready(card))


def ready(card: registry.Card) -> bool:
    """Whether a method comes with its weights, or needs none."""
    return hasattr(card.cls, "shipped") or card.cls.loss is Method.loss


def _number(given: Mapping[str, Any], name: str, least: int, most: int) -> int:
    try:
        value = int(given.get(name, 0))
    except (TypeError, ValueError, OverflowError):
        value = least - 1
    if not least <= value <= most:
        raise InputError(name, f"{str(given[name])[:40]!r} is not a whole number from {least} to {most}", "change it")
    return value


def _colour(name: str) -> str:
    """As #rrggbb, so that it can never be the name of a file."""
    if not name:
        return ""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise InputError("background", f"{name[:40]!r} is no colour", "give e.g. white or #00ff00") from error
    return f"#{red:02x}{green:02x}{blue:02x}"


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path, formats=KINDS):
            return True
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return isinstance(error, Image.DecompressionBombError)  # a picture, which `read_image` refuses by its size


def _received(stream: BinaryIO, path: Path, what: str, limits: Limits) -> Path:
    """The bytes on disk, no more than allowed."""
    count = 0
    try:
        with path.open("wb") as file:
            while piece := stream.read(PIECE):
                count += len(piece)
                if count > limits.upload:
                    raise InputError(what, f"is larger than {limits.upload >> 20} MB", "make it smaller")
                file.write(piece)
        if not count:
            raise InputError(what, "is empty (0 bytes)", "choose another file")
    except InputError:
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(what, f"cannot be kept ({error.strerror})", f"{shutil.disk_usage(path.parent).free >> 20} MB are free") from error
    return path
