"""Which frames belong together: the shots of the film, and which of them are used.

A person is learnt from one camera: a second person, another picture of the same one (nearer, or before another background), and the
frames of a flash or a fade would spoil the plate, the head's shape and the focal length. Shots of the same person in the same picture
(an interview with parts cut out) stay together; of what does not, the part with most frames is used. Every frame keeps its number.

clip.json gets `shots`: [first frame, last frame, "kept" or why not] one after another, and `jumps`: the frames at which a new shot
begins in one step, so that nothing is smoothed across. `shots.json` holds the same for the steps that follow from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivavoce.prepare import Folder, Progress, Step
from vivavoce.prepare.cuts import Floats, Look, changes, face_mask, look, thumbnail
from vivavoce.prepare.parallel import cores, each
from vivavoce.prepare.rows import reader
from vivavoce.types import FPS, InputError

KEPT, FLASH, FADE, PERSON, VIEW, EMPTY = "kept", "a flash", "a fade", "another person", "another picture", "no face"
GAP = 5  # frames without a face, after which another person may be there
MOST = 4  # threads that look: half of a look needs the interpreter, for which more only wait
BRIEF = 12  # frames: what lasts no longer between two like shots is a flash or an insert
PICKED = 25  # frames a shot is described by
SHAPE, COLOUR = 0.032, 12.5  # of two shots of one person: distance of the face shapes, levels of skin and of hair under one light. Halves
# of a clip lie 0.005 to 0.014 apart (to 0.03 when the head is turned in one), ten speakers in one studio 0.02 to 0.06 and 8 to 100 levels
SKIN, HAIR = (0.25, 0.3, 0.75, 0.8), (0.2, -0.3, 0.8, -0.05)  # x0, y0, x1, y1 in the face's box
SAME_SIZE, SAME_PLACE = 1.2, 0.5  # ratio of face heights; face heights between its usual places
SAME_PICTURE = 16.0  # levels of the picture beside the face
RIGID = (
    *(10, 67, 109, 338, 297, 103, 332, 54, 284, 21, 251, 162, 389, 127, 356, 234, 454, 9, 8, 151, 168, 6, 197, 195, 5, 4, 1, 2),
    *(33, 133, 263, 362, 160, 158, 385, 387, 98, 327, 64, 294, 48, 278),
)  # points of bone and cartilage: brow, temples, eyes' corners, nose


@dataclass
class Shot:
    """Frames [first, last] without a cut, and what they show. None where no frame has a face."""

    first: int
    last: int
    faces: int  # frames with a face
    shape: NDArray[np.float64] | None  # [R,3] of size 1, upright
    middle: Floats  # [2] px of the face
    height: float  # px of the face
    colours: Floats  # [6] levels, of skin and of hair
    picture: Floats  # [h,w,3] median
    beside: NDArray[np.bool_]  # [h,w] pixels that the face never covers


def upright(points: NDArray[np.float64], like: NDArray[np.float64]) -> NDArray[np.float64]:  # [n,R,3], [R,3] -> [n,R,3]
    """Each turned onto one shape (Kabsch)."""
    left, _, right = np.linalg.svd(np.einsum("npi,pj->nij", points, like))
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    return np.asarray(points @ (left @ right))


def face_shape(points: Floats) -> NDArray[np.float64]:  # [n,478,3] -> [R,3]
    """The median of the faces, each without its place, size and pose."""
    rows = points[:, list(RIGID)].astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    rows /= np.sqrt(np.square(rows).sum((1, 2), keepdims=True))
    like = rows[len(rows) // 2]
    for _ in range(3):
        like = np.median(upright(rows, like), 0)
        like -= like.mean(0)
        like /= np.sqrt(np.square(like).sum())
    return like


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:  # [R,3] each
    """Between two face shapes of size 1."""
    return float(np.sqrt(np.square(upright(a[None], b)[0] - b).sum()))


def colour_of(picture: Floats, box: Floats, part: tuple[float, float, float, float]) -> Floats:  # [h,w,3], [4] 0..1 -> [3]
    """Median colour of a part of the face's box, itself given in shares of that box."""
    size = np.array([picture.shape[1], picture.shape[0]])
    low, high = (box[:2] + np.array(p) * (box[2:] - box[:2]) for p in (part[:2], part[2:]))
    x0, y0 = np.clip((low * size).round(), 0, size - 1).astype(int).tolist()
    x1, y1 = np.clip((high * size).round(), [x0 + 1, y0 + 1], size).astype(int).tolist()
    return np.asarray(np.median(picture[y0:y1, x0:x1].reshape(-1, 3), 0), np.float32)


def same_person(a: Shot, b: Shot) -> bool:
    """By the shape of the face and the colours of skin and hair together."""
    assert a.shape is not None and b.shape is not None
    colour = float(np.abs(a.colours - b.colours).max())
    return (distance(a.shape, b.shape) / SHAPE) ** 2 + (colour / COLOUR) ** 2 < 1


def same_picture(a: Shot, b: Shot) -> bool:
    """The camera stands where it stood: face size and place, and what lies beside the face."""
    ratio = a.height / b.height
    if not 1 / SAME_SIZE < ratio < SAME_SIZE or np.linalg.norm(a.middle - b.middle) > SAME_PLACE * max(a.height, b.height):
        return False
    beside = a.beside & b.beside
    return not beside.any() or float(np.abs(a.picture - b.picture).mean(2)[beside].mean()) < SAME_PICTURE


def describe(folder: Folder, first: int, last: int, faces: NDArray[np.bool_], points: Floats) -> Shot:
    """What a shot shows, from frames spread over it. `points` [n,478,3] px: its landmarks at those frames."""
    rows = spread(first, last, faces)
    height, width = folder.size
    pictures = np.stack([thumbnail(folder.image(k)) for k in rows])
    if not len(points):
        nothing = np.zeros(6, np.float32)
        return Shot(first, last, 0, None, nothing[:2], 1.0, nothing, np.median(pictures, 0), np.ones(pictures.shape[1:3], bool))
    low, high = points[:, :, :2].min(1), points[:, :, :2].max(1)
    boxes = (np.concatenate([low, high], 1) / np.array([width, height] * 2)).astype(np.float32)
    heads = np.stack([face_mask(box, pictures.shape[1:3]) for box in boxes])
    return Shot(
        first,
        last,
        int(faces[first : last + 1].sum()),
        face_shape(points),
        np.median((low + high) / 2, 0),
        float(np.median(high[:, 1] - low[:, 1])),
        np.median(np.stack([np.concatenate([colour_of(p, b, SKIN), colour_of(p, b, HAIR)]) for p, b in zip(pictures, boxes)]), 0),
        np.median(pictures, 0),
        np.asarray(~heads.any(0)),
    )


def spread(first: int, last: int, faces: NDArray[np.bool_]) -> list[int]:
    """Frames to look at in a shot: with a face where there are such."""
    rows = np.flatnonzero(faces[first : last + 1]) + first
    rows = rows if len(rows) else np.arange(first, last + 1)
    return [int(k) for k in rows[np.unique(np.linspace(0, len(rows) - 1, min(PICKED, len(rows))).round().astype(int))]]


def borders(hard: Sequence[int], fades: Sequence[tuple[int, int]], faces: NDArray[np.bool_]) -> list[int]:
    """First frames of everything that may be a shot of its own: 0, cuts, both ends of fades, the end of a gap without a face."""
    found = {0, *hard}
    for first, last in fades:
        found |= {first, last + 1}
    away = 0
    for k, face in enumerate(faces):
        if face and away >= GAP:
            found |= {k - away, k}
        away = 0 if face else away + 1
    if away >= GAP:
        found.add(len(faces) - away)
    return sorted(k for k in found if 0 <= k < len(faces))


def verdicts(shots: Sequence[Shot], fades: Sequence[tuple[int, int]]) -> list[str]:
    """Why each shot is left out, or "kept".

    Raises ValueError when no shot has a face.
    """
    out = [EMPTY if s.shape is None else "" for s in shots]
    for i, s in enumerate(shots):
        if any(first <= s.first and s.last <= last for first, last in fades):
            out[i] = FADE
        elif 0 < i < len(shots) - 1 and s.last - s.first < BRIEF and _flash(shots[i - 1], s, shots[i + 1]):
            out[i] = FLASH
    open_ = sorted((i for i, why in enumerate(out) if not why), key=lambda i: -shots[i].faces)
    if not open_:
        raise ValueError("no shot with a face")
    groups: list[list[int]] = []
    for i in open_:
        alike = next((g for g in groups if same_person(shots[g[0]], shots[i]) and same_picture(shots[g[0]], shots[i])), None)
        if alike is None:
            groups.append([i])
        else:
            alike.append(i)
    best = max(groups, key=lambda g: sum(shots[i].faces for i in g))
    for i in open_:
        if i in best:
            out[i] = KEPT
        else:
            out[i] = VIEW if same_person(shots[best[0]], shots[i]) else PERSON
    return out


def _flash(before: Shot, brief: Shot, after: Shot) -> bool:
    """The picture returns to what it was."""
    back = float(np.abs(after.picture - before.picture).mean())
    return back < SAME_PICTURE / 2 and float(np.abs(brief.picture - before.picture).mean()) > 2 * back


def run(folder: Folder, progress: Progress) -> None:
    """Look at every frame once, then at some of each shot."""
    faces, size, total = folder.faces, folder.size, folder.frames
    read = reader(folder.file("landmarks.npy"), f"run: vivavoce prepare {folder.path} --only landmarks")
    some = read(np.flatnonzero(faces)[:: max(1, int(faces.sum()) // 100)])
    height = float(np.median(np.ptp(some[:, :, 1], axis=1)))

    def looks() -> Iterator[Look]:
        for k, found in enumerate(each(lambda k: look(folder.image(k), read([k])[0], size), range(total), min(cores(), MOST))):
            if k % FPS == 0:
                progress(k, total)
            yield found

    seen = changes(looks(), height)
    starts = borders(seen.hard, seen.fades, faces)
    shots = []
    for first, end in zip(starts, [*starts[1:], total]):
        rows = [k for k in spread(first, end - 1, faces) if faces[k]]
        shots.append(describe(folder, first, end - 1, faces, read(rows)))
    table, jumps = _joined(shots, verdicts(shots, seen.fades), set(seen.hard))
    with folder.whole("shots.json") as part:
        part.write_text(json.dumps({"shots": table, "jumps": jumps}), "utf-8")
    folder.update(shots=table, jumps=jumps)
    if "inherited" not in folder.clip:  # an older repository's folder has its own split
        folder.update(split=split_of(folder.used))


def _joined(shots: Sequence[Shot], why: Sequence[str], hard: set[int]) -> tuple[list[list[object]], list[int]]:
    """Neighbours of one verdict that no cut divides as one; and the cuts that are no edge of a flash."""
    table: list[list[object]] = []
    jumps: list[int] = []
    for i, s in enumerate(shots):
        cut = s.first in hard and FLASH not in (why[i], why[i - 1]) and i > 0
        jumps += [s.first] if cut else []
        if table and table[-1][2] == why[i] and not cut:
            table[-1][1] = s.last
        else:
            table.append([s.first, s.last, why[i]])
    return table, jumps


def split_of(used: NDArray[np.bool_]) -> int:  # [T]
    """The frame before which 10/11 of the used frames lie."""
    rows = np.flatnonzero(used)
    return int(rows[len(rows) * 10 // 11])


def verify(folder: Folder) -> None:
    """Shots that follow each other from the first frame to the last, and one is kept."""
    path, remedy = folder.file("shots.json"), f"run: vivavoce prepare {folder.path} --only shots"
    try:
        table = json.loads(path.read_text("utf-8"))
        shots, ends = table["shots"], [int(s[1]) for s in table["shots"]]
        whole = [int(s[0]) for s in shots] == [0, *(e + 1 for e in ends[:-1])] and ends[-1] == folder.frames - 1
    except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
        raise InputError(path, "missing or no list of shots", remedy) from e
    if not whole or not any(s[2] == KEPT for s in shots):
        raise InputError(path, f"its shots are not those of {folder.frames} frames", remedy)
    ours = "inherited" not in folder.clip
    if folder.clip.get("shots") != shots or (ours and folder.clip.get("split") != split_of(folder.used)):
        raise InputError(path, "does not agree with clip.json", remedy)


STEP = Step("shots", 0, 1, ("frames", "landmarks"), ("shots.json",), run, verify)
