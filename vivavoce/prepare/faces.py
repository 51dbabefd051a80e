"""A recording of a data set -> stretches of packed faces (`data/shards.py`): one person, small crops, landmarks, mel columns, sound.

A film with cuts or gaps becomes several stretches, so that no window of training crosses one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vivavoce import media, speech
from vivavoce.data.layouts import Recording, said
from vivavoce.data.shards import Sample
from vivavoce.face import regions
from vivavoce.face.box import face_box
from vivavoce.face.crop import Crop, crop
from vivavoce.face.landmarker import Landmarker
from vivavoce.prepare.people import people
from vivavoce.speech.mel_wav2lip import BINS, COLUMNS
from vivavoce.types import FPS, HOP, RATE, InputError

SIDE, LEAST_SIDE = 112, 48  # px of a crop
ROOM = 1.2  # of the crop's side, over the longer side of the face's box
QUALITY = 85  # of the JPEGs
LEAST = 10  # frames of a stretch
AROUND = 0.1  # of a given box's sides, looked at on each side of it too
SHORTER, LATE = 2, 25  # frames that sound may end before the pictures: filled with silence; cut off; more is no sound of this film
MEMORY = 200 * 2**20  # bytes of frames that are kept from looking to cutting
PICTURES = (".jpg", ".jpeg", ".png")

Finder = Callable[[], Landmarker]  # asked for only where landmarks are wanting
Pictures = Iterable[NDArray[np.uint8]]


def side_for(side: int) -> int:
    """Of crops for a network that sees faces of `side` px: the room around the face comes on top. Usual ones: 112, 224 and 464."""
    return max(SIDE, round(side * ROOM / 16) * 16)


def samples(recording: Recording, finder: Finder, side: int = SIDE) -> list[Sample]:
    """Every stretch of at least ten frames in which the face is seen.

    Raises InputError when the film or its sound cannot be read, holds no face or several, or no stretch is long enough.
    """
    text, words = said(recording)
    shown = _Shown(recording)
    tracks = _landmarks(recording, shown, finder)
    sound = _sound(recording)
    count = min(len(tracks[0]), _heard(recording, len(sound), len(tracks[0])))
    sound = torch.nn.functional.pad(sound, (0, max(0, count * HOP - len(sound))))
    steps = speech.encode(speech.load("mel_wav2lip"), sound)
    about: dict[str, Any] = {"id": recording.id, "identity": recording.identity, "split": recording.split, "video": recording.video}
    about |= {"text": text, "words": words, "labels": recording.labels, "span": recording.span, "side": side}
    out = []
    found = (stretch for points in tracks for stretch in _stretches(shown, points[:count], side))
    for first, pictures, places in sorted(found, key=lambda stretch: stretch[0]):
        end = first + len(pictures)
        key = f"{recording.id.replace('/', '+')}+{first:06d}"
        columns = _columns(steps[first:end]).half().numpy()
        out.append(Sample(key, about | {"first": first}, pictures, places.numpy(), columns, sound[first * HOP : end * HOP].numpy()))
    if not out:
        raise InputError(recording.video, f"no stretch of {LEAST} frames with a face and sound", "leave it out")
    return out


def _heard(recording: Recording, length: int, count: int) -> int:
    """Frames that have sound. Raises InputError when it ends long before the pictures."""
    heard = -(-length // HOP)
    if heard + LATE < count:
        cause = f"its sound ends {(count - heard) / FPS:.1f} s before its pictures"
        raise InputError(recording.audio or recording.video, cause, "leave it out, or give the whole sound")
    return heard + SHORTER if heard + SHORTER >= count else heard


def _numbered(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of their numbers; the numbers need not follow each other."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.stem.isdecimal()]
    if not found:
        raise InputError(folder, "no numbered pictures in it", "leave it out")
    return sorted(found, key=lambda p: int(p.stem))


class _Shown:
    """A recording's frames, as often as they are asked for; those of a short film are decoded once."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.held: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        if self.held:
            yield from self.held
            return
        held, size = list[NDArray[np.uint8]](), 0
        for picture in _pictures(self.recording):
            size += picture.nbytes
            if size <= MEMORY:
                held.append(picture)
            yield picture
        self.held = held if size <= MEMORY else []


def _pictures(recording: Recording) -> Iterator[NDArray[np.uint8]]:
    """Its frames: the part of the film that is meant, cut to the box around the face."""
    place = Path(recording.video)
    if place.is_dir():
        shown: Pictures = (media.read_image(p) for p in _numbered(place))
    elif recording.span is None:
        shown = media.frames(place)
    else:
        first, last = (round(t * FPS) for t in recording.span)
        shown = islice(media.frames(place, start=first / FPS), max(0, last - first))
    for picture in shown:
        yield picture if recording.box is None else _around(picture, recording)


def _around(picture: NDArray[np.uint8], recording: Recording) -> NDArray[np.uint8]:
    """The part of the picture that the box asks for. Raises InputError when it lies outside."""
    assert recording.box is not None
    height, width = picture.shape[:2]
    down = height / recording.box_of[0]
    across = width / recording.box_of[1] if recording.box_of[1] else down
    x0, y0, x1, y1 = np.array(recording.box) * [across, down, across, down]
    more = AROUND * max(x1 - x0, y1 - y0)
    left, top, right, bottom = (round(v) for v in (max(0, x0 - more), max(0, y0 - more), min(width, x1 + more), min(height, y1 + more)))
    if right - left < 2 or bottom - top < 2:
        raise InputError(recording.video, f"the face's box lies outside its {width} x {height} pixels", "is it the video that was meant?")
    return picture[top:bottom, left:right]


def _sound(recording: Recording) -> Tensor:  # -> [N]
    """Its sound, from its first frame on."""
    first, last = recording.span or (0.0, float("inf"))
    begin = round(first * FPS) * HOP
    end = begin + round((last - first) * RATE) if recording.span else None
    kept, at = [], 0
    for piece in media.sound(recording.audio or recording.video):
        after = at + piece.shape[1]
        if after > begin:
            kept.append(piece[0, max(0, begin - at) : None if end is None else max(0, end - at)])
        at = after
        if end is not None and at >= end:
            break
    return torch.from_numpy(np.concatenate(kept) if kept else np.zeros(0, np.float32))


def _landmarks(recording: Recording, shown: Pictures, finder: Finder) -> list[Tensor]:  # -> [T,68,2] each, NaN without a face
    """Read where they are there already, else found: of the one who is there by far the most, or of all who speak one after another."""
    if not recording.landmarks:
        everyone = people(shown, finder())
        try:
            return [torch.from_numpy(everyone.choose(0, recording.video))]
        except InputError:
            if not recording.speaker or len(everyone) < 2:
                raise
        there = np.isfinite(np.stack(everyone.landmarks)).all((2, 3))  # [P,T]
        alone = there & (there.sum(0) == 1)
        return [torch.from_numpy(np.where(mine[:, None, None], p, np.float32(np.nan))) for mine, p in zip(alone, everyone.landmarks)]
    place = Path(recording.landmarks)
    try:
        if (place / "landmarks.npy").is_file():
            dense = np.load(place / "landmarks.npy", allow_pickle=False)
            return [torch.from_numpy(regions.landmarks68(dense).astype(np.float32))]
        out = torch.full((len(numbers := _numbered(Path(recording.video))), 68, 2), float("nan"))
        for k, picture in enumerate(numbers):
            if (text := place / f"{int(picture.stem)}.lms").is_file():
                out[k] = torch.from_numpy(np.array(text.read_text().split(), np.float32).reshape(68, 2))
    except (OSError, ValueError) as error:
        raise InputError(place, f"landmarks that cannot be read ({error})", "leave it out, or prepare its video anew") from error
    return [out]


def _stretches(shown: Pictures, points: Tensor, side: int) -> Iterator[tuple[int, list[bytes], Tensor]]:
    """First frame, pictures and landmarks of each stretch in which the face is seen."""
    known = torch.isfinite(points).all((1, 2))
    pictures: list[bytes] = []
    places: list[Tensor] = []
    first = 0
    for k, picture in enumerate(islice(shown, len(points))):
        if known[k]:
            data, inside = _crop(picture, points[k], side)
            first = first if pictures else k
            pictures.append(data)
            places.append(inside)
            continue
        if len(pictures) >= LEAST:
            yield first, pictures, torch.stack(places)
        pictures, places = [], []
    if len(pictures) >= LEAST:
        yield first, pictures, torch.stack(places)


def _crop(picture: NDArray[np.uint8], points: Tensor, side: int) -> tuple[bytes, Tensor]:  # [H,W,3], [68,2] -> JPEG, [68,2]
    """A square around the face, and the landmarks in it."""
    box = face_box(points[None])[0]
    scale = side / (ROOM * float((box[2:] - box[:2]).max()))
    middle = (box[:2] + box[2:]) / 2
    matrix = torch.cat([scale * torch.eye(2), (side / 2 - scale * middle)[:, None]], 1)
    where = Crop(matrix[None], (side, side))
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
    levels = (crop(image, where)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue(), where.inside(points[None])[0]


def _columns(steps: Tensor) -> Tensor:  # [T,2,640] -> [ceil(3.2 T) + 16,80]
    """The columns of the frames' windows, each once."""
    rows = steps.reshape(len(steps), COLUMNS, BINS)
    out = rows.new_zeros(-(-len(rows) * COLUMNS // 5) + COLUMNS, BINS)
    for t, window in enumerate(rows):
        out[t * COLUMNS // 5 : t * COLUMNS // 5 + COLUMNS] = window
    return out
