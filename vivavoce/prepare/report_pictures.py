"""Pictures and the film of the report: strips of every artefact, the tracked mesh drawn over the frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional

from vivavoce.data.person import Person
from vivavoce.face import pose, regions
from vivavoce.face.mesh import triangles
from vivavoce.media import Writer, audio_chunks, read_image
from vivavoce.nn.torso import bent
from vivavoce.prepare import Folder
from vivavoce.prepare.rows import reader
from vivavoce.types import FPS, HOP

Picture = NDArray[np.uint8]

TILES = 8  # frames of a strip
TILE = 150  # px, height of a tile
FILM = 288  # px, height of the film
PARSING = "parsing: head blue, hair black, neck green, clothes red, inside of the mouth dark grey, teeth light grey"
PIECES, PIECE = 3, 100  # parts of the film, frames of each
LOOPS = (regions.OVAL, regions.EYE_LEFT, regions.EYE_RIGHT, regions.LIPS_OUTER, regions.LIPS_INNER)
LINES = (regions.BROW_LEFT[:5], regions.BROW_RIGHT[:5], regions.NOSE)


def encoded(image: Picture, quality: int = 80) -> str:  # uint8 [h,w,3] -> data address
    """A picture inside the page."""
    whole = io.BytesIO()
    Image.fromarray(image).save(whole, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(whole.getbuffer()).decode("ascii")


def fitted(image: Picture, height: int) -> Picture:
    """The picture at a height, px."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    how = Image.Resampling.BOX if height < image.shape[0] else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), how))


def strip(pictures: Iterator[Picture]) -> Picture:
    """Pictures side by side."""
    return np.concatenate([fitted(p, TILE) for p in pictures], 1)


def parsed(folder: Folder, frame: int) -> Picture:
    """The classes' colours over the frame; the background, white, left as it is."""
    picture = read_image(folder.image(frame)).astype(np.float32)
    colours = read_image(folder.file("parsing", f"{frame}.png")).astype(np.float32)
    shown = (colours.min(2) < 250)[..., None]
    return np.where(shown, 0.5 * picture + 0.5 * colours, picture).astype(np.uint8)


def on_checker(folder: Folder, frame: int) -> Picture:
    """The torso, what is clear of it as a chess board."""
    with Image.open(folder.file("torso_imgs", f"{frame}.png")) as image:
        rgba = np.asarray(image.convert("RGBA")).astype(np.float32)
    cell = max(1, rgba.shape[0] // 32)
    y, x = np.indices(rgba.shape[:2]) // cell
    board = np.where((x + y) % 2, 205.0, 150.0)[..., None]
    alpha = rgba[..., 3:] / 255
    return np.asarray(rgba[..., :3] * alpha + board * (1 - alpha)).astype(np.uint8)


def with_landmarks(folder: Folder, frame: int) -> Picture:
    """The frame with the lines of brows, eyes, nose, lips and chin."""
    picture = read_image(folder.image(frame))
    points = reader(folder.file("landmarks.npy"), "")([frame])[0]
    if not np.isfinite(points).all():
        return picture
    scale = 2 * TILE / picture.shape[0]
    image = Image.fromarray(fitted(picture, 2 * TILE))
    pen, at = ImageDraw.Draw(image), points[:, :2] * scale
    for loop in (*LOOPS, *LINES):
        rows = [*loop, loop[0]] if loop in LOOPS else list(loop)
        pen.line([tuple(p) for p in at[rows].tolist()], fill=(80, 255, 120), width=2)
    return np.asarray(image)


class Tracked:
    """Where the tracked mesh lies in each frame."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.person = folder, Person(folder.path)
        table = torch.load(folder.file("track_params.pt"), map_location="cpu", weights_only=True)
        self.basis = table["basis"] if "basis" in table else torch.zeros(0, regions.MESH, 3)
        self.expression = table["exp"][:, : len(self.basis)].float()
        self.row = {int(k): i for i, k in enumerate(self.person.rows)}
        corners = triangles()
        pairs = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), 1)
        self.edges = np.unique(pairs, axis=0)

    def points(self, frame: int) -> NDArray[np.float64] | None:  # -> [468,2] px
        """The projected mesh with its expression; None for a frame that is not used."""
        if frame not in self.row:
            return None
        camera = self.person.clip([self.row[frame]], {"camera"}).camera
        assert camera is not None
        mesh = self.person.mesh
        if len(self.basis):
            mesh = mesh + torch.einsum("k,kpc->pc", self.expression[frame], self.basis)
        return np.asarray(pose.project(camera, mesh)[0].double())

    def drawn(self, picture: Picture, points: NDArray[np.float64], height: int, strength: float = 0.45) -> Picture:
        """The mesh over a picture, which is made that high; `points` px of it before."""
        small = fitted(picture, height)
        layer = Image.fromarray(small)
        pen, at = ImageDraw.Draw(layer), points * (height / picture.shape[0])
        for a, b in self.edges:
            pen.line([*at[a], *at[b]], fill=(60, 220, 255))
        return np.asarray(Image.blend(Image.fromarray(small), layer, strength))

    def over(self, frame: int, height: int) -> Picture:
        """The mesh drawn over the frame."""
        picture, points = read_image(self.folder.image(frame)), self.points(frame)
        return fitted(picture, height) if points is None else self.drawn(picture, points, height)

    def near(self, frame: int) -> Picture:
        """The same, the face alone, as large as it is shown: of lines drawn in the frame and then reduced nothing would be left."""
        picture, points = read_image(self.folder.image(frame)), self.points(frame)
        if points is None:
            return picture
        middle, half = (points.min(0) + points.max(0)) / 2, 0.65 * float(np.ptp(points[:, 1]))
        height, width = picture.shape[:2]
        half = min(half, height / 2, width / 2)
        x, y = (np.clip(middle, half, [width - half, height - half]) - half).astype(int).tolist()
        part = picture[y : y + int(2 * half), x : x + int(2 * half)]
        return self.drawn(part, points - [x, y], 2 * TILE, 0.9)


def laid_back(folder: Folder, frame: int) -> Picture:
    """The frame with its clothes laid where they are in the canonical picture of the body: from tile to tile they stand still."""
    row = torch.from_numpy(reader(folder.file("body.npy"), "")([frame]))
    picture = torch.from_numpy(np.array(fitted(read_image(folder.image(frame)), TILE))).permute(2, 0, 1)[None].float()
    grid = functional.affine_grid(torch.eye(2, 3)[None], list(picture.shape), align_corners=False)
    if (moves := bent(row)) is not None:
        grid = grid + functional.grid_sample(moves, grid, align_corners=True).permute(0, 2, 3, 1)
    grid = grid @ row[:, None, :, :2].transpose(2, 3) + row[:, None, None, :, 2]
    found = functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)[0]
    return np.ascontiguousarray(found.permute(1, 2, 0).round().byte().numpy())


def strips(folder: Folder, frames: Sequence[int]) -> dict[str, str]:
    """Title -> picture, one strip for each artefact that is there."""
    tracked = Tracked(folder)
    makers: dict[str, tuple[str, Callable[[int], Picture]]] = {
        "frames and landmarks": ("landmarks.npy", lambda k: with_landmarks(folder, k)),
        "tracked mesh": ("track_params.pt", tracked.near),
        PARSING: ("parsing", lambda k: parsed(folder, k)),
        "body without its head": ("torso_imgs", lambda k: on_checker(folder, k)),
        "person over the plate": ("gt_imgs", lambda k: read_image(folder.file("gt_imgs", f"{k}.jpg"))),
        "clothes laid on one picture of them, where they should stand still": ("body.npy", lambda k: laid_back(folder, k)),
    }
    return {title: encoded(strip(map(make, frames))) for title, (name, make) in makers.items() if folder.file(name).exists()}


def chosen_pieces(folder: Folder, turn: NDArray[np.float64]) -> list[tuple[int, int]]:  # [T,3] degrees -> first, end of each
    """Parts of the film: the beginning of what is used, and where the head is farthest from its usual pose."""
    kept = folder.kept
    middle = np.nanmedian(turn[kept], 0)
    away = np.where(kept, np.abs(turn - middle).sum(1), -1.0)
    found: list[tuple[int, int]] = []
    start = int(np.flatnonzero(kept)[0])
    for _ in range(PIECES):
        first = max(0, min(start, folder.frames - PIECE))
        found.append((first, min(first + PIECE, folder.frames)))
        away[max(0, first - PIECE // 2) : first + PIECE + PIECE // 2] = -1
        if away.max() < 0:
            break
        start = int(away.argmax()) - PIECE // 2
    return sorted(_apart(found))


def _apart(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without those that overlap an earlier one."""
    out: list[tuple[int, int]] = []
    for first, end in pieces:
        if all(end <= a or first >= b for a, b in out):
            out.append((first, end))
    return out


def film(folder: Folder, pieces: Sequence[tuple[int, int]]) -> str:
    """The mesh over the frames, with the sound, as an address inside the page."""
    tracked = Tracked(folder)
    height, width = folder.size
    size = (FILM, round(width * FILM / height))

    def sound() -> Iterator[torch.Tensor]:
        wanted = [k for first, end in pieces for k in range(first, end)]
        for number, piece in enumerate(audio_chunks(folder.file("aud.wav"), FPS)):
            rows = [k - number * FPS for k in wanted if number * FPS <= k < (number + 1) * FPS]
            if rows:
                yield piece.reshape(-1, HOP)[rows].reshape(-1)

    with TemporaryDirectory() as place:
        at = Path(place) / "film.mp4"
        with Writer(at, size, audio=sound()) as out:
            for first, end in pieces:
                for k in range(first, end):
                    out.write(np.ascontiguousarray(tracked.over(k, FILM)))
        return "data:video/mp4;base64," + base64.b64encode(at.read_bytes()).decode("ascii")
