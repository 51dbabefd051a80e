"""Who is in a film, and where each face lies in every frame: for dubbing one of several people, across cuts.

Faces are followed from frame to frame; the detector looks for new ones once a second, after a cut, and when a face is lost. What was
followed without a break is a track. Tracks that are seen at one time are different people; others are one person when the shape of the
face and the colours of skin and hair agree, directly or through a third. Frames of a person's absence keep NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vivavoce.data.dubbed import Dubbed
from vivavoce.data.person import Person
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import frames
from vivavoce.prepare.cuts import SIDE, Floats
from vivavoce.prepare.shots import COLOUR, HAIR, PICKED, SHAPE, SKIN, colour_of, distance, face_shape
from vivavoce.types import FPS, InputError

OVERLAP = 0.3  # least intersection over union of a face's boxes in two frames
CUT, SURPRISE = 8.0, 5.0  # a cut: levels between small pictures, and times the usual change of the last second
GAP = 3  # frames without the face that are bridged
SMOOTH = 5  # frames averaged, as Wav2Lip's boxes are
LOOK = 3  # frames between two searches while nobody is there
BRIEF = 5  # frames: a shorter track is no person
ALIKE = 1.0  # of `_unlike`: one person's tracks lie 0.04 to 0.6 apart, 1.5 when the hair moved; ten speakers in one studio 1.1 to 75
RIVAL = 0.35  # another person on screen for this share of the first one's time: the user must choose


@dataclass
class Track:
    """One face from when it appears to when it goes."""

    first: int  # frame
    landmarks: list[Floats] = field(default_factory=list)  # [68,2] px each, NaN where it was lost for a moment
    points: list[Floats] = field(default_factory=list)  # [478,3] of frames spread over it
    colours: list[Floats] = field(default_factory=list)  # [6] of the same frames
    face: Face | None = None  # where it was last
    lost: int = 0  # frames since then

    def add(self, face: Face, picture: NDArray[np.uint8]) -> None:
        """The next frame, in which it is seen."""
        self.landmarks.append(face.landmarks68.astype(np.float32))
        self.face, self.lost = face, 0
        if len(self.landmarks) % 5 == 1 and len(self.points) < 4 * PICKED:
            box = (face.box / np.tile(picture.shape[1::-1], 2)).astype(np.float32)
            self.points.append(face.points.astype(np.float32))
            levels = picture.astype(np.float32)
            self.colours.append(np.concatenate([colour_of(levels, box, SKIN), colour_of(levels, box, HAIR)]))

    def miss(self) -> None:
        """The next frame, in which it is not."""
        self.landmarks.append(np.full((68, 2), np.nan, np.float32))
        self.lost += 1


@dataclass
class People:
    """Landmarks of everyone in a film, from the left in the frame that shows most of them, then by appearance."""

    landmarks: list[Floats]  # [T,68,2] px each, NaN where the person is not seen
    frames: int

    def __len__(self) -> int:
        return len(self.landmarks)

    def choose(self, face: int, name: str) -> Floats:  # -> [T,68,2]
        """The landmarks of one person; 0 for the only one, or the one that is seen by far the most.

        Raises InputError when nobody is there, no such number, or nobody stands out.
        """
        if not self.landmarks:
            raise InputError(name, "no face found in any frame", "use a film in which a face is larger, lit and seen from the front")
        if not 0 <= face <= len(self):
            raise InputError(name, f"{len(self)} people found, number {face} asked for", f"--face 1..{len(self)}")
        if face:
            return self.landmarks[face - 1]
        seen = [_presence(points) for points in self.landmarks]
        order = np.argsort(seen)[::-1]
        if len(seen) > 1 and seen[order[1]] > RIVAL * seen[order[0]]:
            raise InputError(name, f"{len(self)} people found", f"choose one, counted from the left: --face 1..{len(self)}")
        return self.landmarks[int(order[0])]


def _presence(landmarks: Floats) -> float:
    """Time on screen times size of the face."""
    there = landmarks[np.isfinite(landmarks).all((1, 2))]
    return float(np.ptp(there[:, :, 0], axis=1).sum()) if len(there) else 0.0


def people(
    pictures: Iterable[NDArray[np.uint8]], landmarker: Landmarker | None = None, progress: Callable[[int], None] | None = None
) -> People:
    """Look at every frame of a film once, in constant memory but for the landmarks."""
    finder, tracks, open_ = landmarker or Landmarker(), list[Track](), list[Track]()
    before: Floats | None = None
    usual, count = list[float](), 0
    for picture in pictures:
        small = _small(picture)
        change = float(np.abs(small - before).mean()) if before is not None else 0.0
        cut = change > CUT and change > SURPRISE * (float(np.median(usual[-FPS:])) if usual else 0.0)
        usual.append(change)
        open_ = [] if cut else open_
        fresh = _advance(finder, picture, open_)
        if cut or before is None or (open_ and not fresh) or count % (FPS if open_ else LOOK) == 0:
            started = _search(finder, picture, open_, count)
            tracks += started
            open_ += started
        open_ = [t for t in open_ if t.lost <= GAP]
        before, count = small, count + 1
        if progress is not None:
            progress(count)
    kept = [t for t in tracks if np.isfinite(np.stack(t.landmarks)).all((1, 2)).sum() >= min(BRIEF, count)]
    return _people(kept, count)


def _advance(finder: Landmarker, picture: NDArray[np.uint8], open_: list[Track]) -> bool:
    """Every open track one frame further. Whether all faces were found."""
    taken: list[Face] = []
    for track in open_:
        assert track.face is not None
        face = finder.follow(picture, track.face) if track.lost == 0 else None
        if face is None or _share(face.box, track.face.box) < OVERLAP or any(_share(face.box, t.box) > OVERLAP for t in taken):
            track.miss()
            continue
        taken.append(face)
        track.add(face, picture)
    return all(t.lost == 0 for t in open_) and bool(open_)


def _search(finder: Landmarker, picture: NDArray[np.uint8], open_: list[Track], at: int) -> list[Track]:
    """Faces that no track follows: those of a track just lost go on with it, the others begin one of their own."""
    started = []
    for face in finder(picture):
        near = max(open_, key=lambda t: _share(face.box, t.face.box) if t.face is not None else 0.0, default=None)
        if near is not None and near.face is not None and _share(face.box, near.face.box) > OVERLAP:
            if near.lost:
                near.landmarks.pop()
                near.add(face, picture)
            continue
        track = Track(at)
        track.add(face, picture)
        started.append(track)
    return started


def _people(tracks: list[Track], count: int) -> People:
    """Tracks of one person joined, and ordered."""
    groups = [[i] for i in range(len(tracks))]
    unlike = _unlike(tracks)
    while len(groups) > 1:
        pairs = [(_nearest(unlike, a, b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups[:i])]
        least, i, j = min(pairs)
        if least > ALIKE:
            break
        groups[j] += groups.pop(i)
    return People(_ordered([_rows([tracks[i] for i in group], count) for group in groups]), count)


def _unlike(tracks: list[Track]) -> NDArray[np.float64]:  # -> [n,n]
    """How different two tracks look; infinite for those seen together."""
    shapes = [face_shape(np.stack(t.points)) for t in tracks]
    colours = [np.median(np.stack(t.colours), 0) for t in tracks]
    out = np.zeros((len(tracks), len(tracks)))
    for i, j in np.ndindex(out.shape):
        if i != j and _together(tracks[i], tracks[j]):
            out[i, j] = np.inf
        elif i != j:
            colour = float(np.abs(colours[i] - colours[j]).max())
            out[i, j] = (distance(shapes[i], shapes[j]) / SHAPE) ** 2 + (colour / COLOUR) ** 2
    return out


def _nearest(unlike: NDArray[np.float64], a: list[int], b: list[int]) -> float:
    """Difference of the two most alike tracks of two people; infinite when any two are seen together."""
    between = unlike[np.ix_(a, b)]
    return float(between.min() if np.isfinite(between).all() else np.inf)


def _together(a: Track, b: Track) -> bool:
    """Whether both are seen in one frame."""
    return a.first < b.first + len(b.landmarks) - b.lost and b.first < a.first + len(a.landmarks) - a.lost


def _rows(tracks: list[Track], count: int) -> Floats:  # -> [T,68,2]
    """Landmarks of every frame: short gaps bridged, smoothed within each track."""
    out = np.full((count, 68, 2), np.nan, np.float32)
    for track in tracks:
        values = np.stack(track.landmarks)[: len(track.landmarks) - track.lost or None]
        found = np.flatnonzero(np.isfinite(values).all((1, 2)))
        flat = values.reshape(len(values), -1)
        whole = np.stack([np.interp(np.arange(len(values)), found, column[found]) for column in flat.T], 1)
        padded = np.pad(whole, ((SMOOTH // 2, SMOOTH // 2), (0, 0)), mode="edge")
        smooth = np.lib.stride_tricks.sliding_window_view(padded, SMOOTH, 0).mean(-1)
        out[track.first : track.first + len(values)] = smooth.reshape(values.shape)
    return out


def _ordered(people: list[Floats]) -> list[Floats]:
    """From the left in the frame that shows most people, then those who appear elsewhere."""
    if not people:
        return []
    there = np.stack([np.isfinite(p).all((1, 2)) for p in people])  # [P,T]
    most = int(there.sum(0).argmax())
    left = [float(np.nanmean(p[most, :, 0])) if there[i, most] else np.inf for i, p in enumerate(people)]
    first = there.argmax(1)
    return [people[i] for i in sorted(range(len(people)), key=lambda i: (left[i], first[i]))]


def _share(a: Floats, b: Floats) -> float:
    """Intersection over union of two boxes."""
    cut = float(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod())
    return cut / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - cut, 1e-9)


def _small(picture: NDArray[np.uint8]) -> Floats:  # -> [h,w,3] 0..255
    """The picture at the size that is compared."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(image, np.float32)


def film(path: str | Path, face: int = 0, size: int = 0, progress: Callable[[int], None] | None = None) -> Dubbed | Person:
    """A source for dubbing one person of it: a film or a picture, or a prepared folder (whose one person is known).

    Raises InputError when the face cannot be found or chosen, or the folder lacks frames or landmarks.
    """
    place = Path(path)
    if place.is_dir():
        if face > 1:
            raise InputError(place, f"a prepared folder holds one person, number {face} asked for", "give the film itself")
        return Person(place, size or None, target="original")
    return Dubbed(place, people(frames(place), progress=progress).choose(face, str(place)), size)
