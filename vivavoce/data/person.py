"""A prepared person folder as a source of Clips; reads the AD-NeRF lineage's folders too.

Frames are decoded when asked for. At a size other than the folder's (and on a GPU) they are kept as uint8 in a cache that
is a file on disk (or, when it fits into a quarter of the free memory of the GPU, lies there), so memory does not grow with
the length of the video.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vivavoce.data import features, lineage, motions
from vivavoce.data.rowcache import RowCache
from vivavoce.face import regions
from vivavoce.face.pose import camera_from_transform, motion_from_camera
from vivavoce.media import audio, read_image
from vivavoce.types import HOP, STEPS, Camera, Clip, InputError, Motion, Rows

MOUTH_MARGIN = 0.35  # of the lips' box, on each side
FARTHEST = 0.06  # of the longest side: landmarks that lie farther from a head do not belong to these cameras


class Person:
    """Rows of a person folder.

    Args:
        folder: made by `vivavoce prepare`, or by an older repository of the lineage.
        size: longest side of the images, px; None keeps the folder's. Cameras and landmarks are scaled with them.
        split: "train", "val" (the last 1/11, never trained on) or "all".
        speech: encoder whose features are read, from `aud_<speech>.npy` or the lineage's file (`data/features.py`).
        window: (past, future) 50 Hz steps a row of speech holds.
        target: "plate" (frames with the background plate pasted, what the lineage trains on) or "original".
        space: motion space that `motion` is read in (`data/motions.py`).
        device: where Clips are made; a GPU holds the images itself when they fit.
    Raises:
        InputError: an artefact is missing; names the command that makes it.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | None = None,
        split: str = "all",
        speech: str = "whisper",
        window: tuple[int, int] = (8, 8),
        target: str = "plate",
        device: str | torch.device = "cpu",
        space: str = "blendshapes",
    ) -> None:
        self.folder, self.split, self.speech, self.window, self.target = Path(folder), split, speech, window, target
        self.space = space
        self.device = torch.device(device)
        frames = self._cameras(split)
        self.rows = torch.tensor([f["img_id"] for f in frames], dtype=torch.long)  # frame number of each row
        if not len(self.rows):
            raise InputError(folder, f"no frame of split {split!r}", self._remedy("cameras"))
        self._frames = frames
        with Image.open(self._image("ori_imgs", int(self.rows[0]), (".jpg", ".png"))) as first:
            width, height = first.size
        self.scale = 1.0 if size is None else size / max(width, height)
        self.size = (round(height * self.scale), round(width * self.scale))
        self._caches: dict[str, RowCache] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, rows: Rows, needs: Iterable[str] | None = None) -> Clip:
        """The given rows (positions in the split) with the fields asked for; all cheap ones when none are named."""
        index = self.rows[rows] if not isinstance(rows, list | tuple | range) else self.rows[list(rows)]
        wanted = set(needs) if needs is not None else {"frames", "camera", "speech", "eyes", "background"}
        out: dict[str, Any] = {"index": index.to(self.device)}
        for name in sorted(wanted - {"index"}):
            read: Callable[[Tensor], Any] | None = getattr(self, f"_read_{name}", None)
            if read is None:
                raise InputError(self.folder, f"a person folder does not hold {name!r}")
            out[name] = read(index).to(self.device)
        return Clip(**out)

    @cached_property
    def spans(self) -> Tensor:  # [n,2] int64: first row and number of rows
        """Rows whose frames follow one another in the video: a window of training must lie in one of them."""
        ends = torch.cat([(self.rows.diff() != 1).nonzero()[:, 0] + 1, torch.tensor([len(self.rows)])])
        starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
        return torch.stack([starts, ends - starts], 1)

    @cached_property
    def mesh(self) -> Tensor:  # [468,3] metres
        """Mean head mesh, OpenGL axes (x right, y up, z toward the viewer), in the head space of this folder's cameras.

        The tracker's; where another tracker made the folder, the canonical face laid onto the landmarks.
        """
        found = lineage.vertices(self._track) if (self.folder / "track_params.pt").is_file() else None
        if found is not None and len(found) == regions.MESH:
            return found
        rows = self.rows[torch.linspace(0, len(self) - 1, min(len(self), lineage.FITTED)).long()]
        laid = lineage.laid_on(self._read_landmarks(rows), self._read_camera(rows))
        if laid is None or laid[1] > FARTHEST * max(self.size):
            cause = "its cameras and the landmarks (ori_imgs/%d.lms) do not belong to one head"
            raise InputError(self.folder / "transforms_train.json", cause, "prepare its video anew: vivavoce prepare VIDEO --folder NEW")
        return laid[0]

    @cached_property
    def background(self) -> Tensor:  # [3,H,W]
        """The background plate at this size."""
        return _pixels(_resize(read_image(self._file("bc.jpg", "background")), self.size))

    # ---- one reader a field: frame numbers [T] -> rows ----

    def _read_frames(self, index: Tensor) -> Tensor:
        if self.target == "original":
            return self._images("ori_imgs", index, (".jpg", ".png"), 3, "frames")
        folder = next((f for f in lineage.COMPOSITED if (self.folder / f).is_dir()), lineage.COMPOSITED[0])
        return self._images(folder, index, (".jpg", ".png"), 3, "torso")

    def _read_torso(self, index: Tensor) -> Tensor:
        return self._images("torso_imgs", index, (".png",), 4, "torso")

    def _read_body(self, index: Tensor) -> Tensor:
        """From body.npy; a folder without it (an older repository's) has a body that does not move."""
        if self._body is None:
            return torch.eye(2, 3).expand(len(index), -1, -1)
        return torch.from_numpy(self._body[index.numpy()])

    def _read_labels(self, index: Tensor) -> Tensor:
        colours = self._images("parsing", index, (".png",), 3, "parsing", nearest=True)
        return regions.labels_from_colours((colours * 255).round().to(torch.uint8))

    def _read_background(self, index: Tensor) -> Tensor:
        return self.background.expand(len(index), -1, -1, -1)

    def _read_speech(self, index: Tensor) -> Tensor:
        past, future = self.window
        steps = self._speech
        places = 2 * index[:, None] - past + torch.arange(past + future)
        inside = (places >= 0) & (places < len(steps))
        rows = torch.from_numpy(steps[places.clamp(0, len(steps) - 1).numpy()].astype(np.float32))
        return rows * inside[..., None]

    def _read_audio(self, index: Tensor) -> Tensor:
        sound = self._audio
        frames = -(-len(sound) // HOP)
        padded = torch.nn.functional.pad(sound, (0, frames * HOP - len(sound))).reshape(frames, HOP)
        return padded[index.clamp(max=frames - 1)]

    def _read_camera(self, index: Tensor) -> Camera:
        return self._camera[torch.searchsorted(self.rows, index)]

    def _read_motion(self, index: Tensor) -> Motion:
        rows = torch.from_numpy(np.asarray(self._expressions[index.numpy()], np.float32))
        return motions.motion(rows, motion_from_camera(self._read_camera(index)), self.space)

    def _read_points(self, index: Tensor) -> Tensor:
        return self._points[index] * self.scale

    def _read_landmarks(self, index: Tensor) -> Tensor:
        if (self.folder / "landmarks.npy").is_file():
            return self._read_points(index)[:, regions.LANDMARKS_68, :2]
        texts = [self._image("ori_imgs", int(i), (".lms",)) for i in index]
        return torch.stack([torch.from_numpy(np.loadtxt(t, dtype=np.float32)) for t in texts]) * self.scale

    def _read_mouth(self, index: Tensor) -> Tensor:
        lips = self._read_landmarks(index)[:, 48:68]
        low, high = lips.amin(1), lips.amax(1)
        margin = MOUTH_MARGIN * (high - low).amax(1, keepdim=True)
        height, width = self.size
        limit = torch.tensor([width, height, width, height], dtype=torch.float32)
        return torch.minimum(torch.cat([low - margin, high + margin], 1).clamp(min=0), limit)

    def _read_units(self, index: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self._blendshapes[index.numpy()], np.float32))

    def _read_eyes(self, index: Tensor) -> Tensor:
        if any((self.folder / name).is_file() for name in ("blendshapes.npy", "bs.npy")):
            names = [regions.BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]
            return 1 - self._read_units(index)[:, names].clamp(0, 1)
        if (blink := self._blink) is not None:
            return (1 - blink[index])[:, None].expand(-1, 2)
        return self._openness[torch.searchsorted(self.rows, index)]

    # ---- files ----

    def _cameras(self, split: str) -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = []
        true = lineage.true_numbers(self.folder)
        for name in ("train", "val") if split == "all" else (split,):
            path = self._file(f"transforms_{name}.json", "cameras")
            try:
                table = json.loads(path.read_text())
                lens = {key: table[key] for key in ("focal_len", "cx", "cy")}
                frames += [{**f, **lens, "img_id": true.get(int(f["img_id"]), int(f["img_id"]))} for f in table["frames"]]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(path, f"not a transforms file ({error})", self._remedy("cameras")) from error
        return sorted(frames, key=lambda f: int(f["img_id"]))

    @cached_property
    def _count(self) -> int:
        """Frames up to the last of any split: its splits share the files of one cache, which must not change size under each other."""
        splits = [s for s in ("train", "val") if (self.folder / f"transforms_{s}.json").is_file()]
        return max(int(f["img_id"]) for s in splits for f in self._cameras(s)) + 1

    @cached_property
    def _camera(self) -> Camera:
        matrices = torch.tensor([f["transform_matrix"] for f in self._frames], dtype=torch.float32)
        focal = torch.tensor([f["focal_len"] for f in self._frames], dtype=torch.float32) * self.scale
        center = torch.tensor([[f["cx"], f["cy"]] for f in self._frames], dtype=torch.float32) * self.scale
        return camera_from_transform(matrices, focal[:, None].expand(-1, 2), center)

    @cached_property
    def _track(self) -> dict[str, Tensor]:
        path = self._file("track_params.pt", "tracking")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a damaged or hostile file
            raise InputError(path, f"cannot be read ({type(error).__name__})", self._remedy("tracking")) from error

    @cached_property
    def _speech(self) -> Any:  # [S,D] steps of 20 ms, memory-mapped where the file is in our form
        path, remedy = features.find(self.folder, self.speech), f"{self._remedy('speech')} --speech {self.speech}"
        table, frames = features.read(path, remedy), int(self.rows[-1]) + 1
        by_step = table.ndim == 2 and len(table) > 1.5 * frames  # GeneFace's HuBERT: a row a step, not a frame
        steps = table if by_step else features.steps(table)
        if len(steps) < STEPS * (frames - motions.LAST):
            raise InputError(path, f"features of {len(steps) // STEPS} frames, not of {frames}", remedy)
        return steps

    @cached_property
    def _audio(self) -> Tensor:
        return audio(self._file("aud.wav", "audio"))

    @cached_property
    def _points(self) -> Tensor:
        return torch.from_numpy(np.load(self._file("landmarks.npy", "landmarks"), allow_pickle=False))

    @cached_property
    def _body(self) -> Any:  # [T,2,3] or [T,2,67] float32, or None
        path = self.folder / "body.npy"
        if not path.is_file():
            return None
        try:
            rows = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(path, "no NumPy file", self._remedy("body")) from error
        fits = rows.ndim == 3 and rows.shape[1] == 2 and rows.shape[2] in (3, 67)  # an affine map; with a spline of 8 x 8 nodes
        if not fits or len(rows) <= int(self.rows[-1]):
            raise InputError(path, f"its shape is {list(rows.shape)}, not a [2,67] for every frame", self._remedy("body"))
        return rows

    @cached_property
    def _blendshapes(self) -> Any:  # float32 [T,52]
        return motions.table(self.folder, "blendshapes", int(self.rows[-1]) + 1)

    @cached_property
    def _expressions(self) -> Any:  # float32 [T,E]
        return motions.table(self.folder, self.space, int(self.rows[-1]) + 1)

    @cached_property
    def _blink(self) -> Tensor | None:  # [T] in 0..1
        """From OpenFace's intensity, clipped as the lineage does; None without a file, or where nobody ever blinks (a placeholder)."""
        path = self.folder / "au.csv"
        if not path.is_file():
            return None
        try:
            head = [h.strip() for h in path.open().readline().split(",")]  # OpenFace puts a space before its names
            values = np.loadtxt(path, delimiter=",", skiprows=1, usecols=head.index("AU45_r"), dtype=np.float32, ndmin=1)
        except (OSError, ValueError) as error:
            raise InputError(path, f"not a table with a column AU45_r ({error})", self._remedy("units")) from error
        blink = torch.from_numpy(motions.whole(values, path, int(self.rows[-1]) + 1, "units")).clamp(0, 2) / 2
        return blink if float(blink.max()) > 0 else None

    @cached_property
    def _openness(self) -> Tensor:  # [len(self),2]
        return lineage.openness(self._read_landmarks(self.rows))

    def _images(self, folder: str, index: Tensor, endings: tuple[str, ...], channels: int, step: str, nearest: bool = False) -> Tensor:
        if folder not in self._caches:
            if not (self.folder / folder).is_dir():
                raise InputError(self.folder, f"{folder}/ is not there", self._remedy(step))

            def read(number: int) -> Any:
                return _resize(_open(self._image(folder, number, endings), channels), self.size, nearest)

            height, width = self.size
            self._caches[folder] = RowCache(self.folder, folder, self._count, (height, width, channels), read, self.device)
        return self._caches[folder](index)

    def _image(self, folder: str, number: int, endings: tuple[str, ...]) -> Path:
        for ending in endings:
            path = self.folder / folder / f"{number}{ending}"
            if path.is_file():
                return path
        step = {".lms": "landmarks"}.get(endings[0]) or {"ori_imgs": "frames", "parsing": "parsing"}.get(folder, "torso")
        raise InputError(self.folder / folder / f"{number}{endings[0]}", "is not there", self._remedy(step))

    def _file(self, name: str, step: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise InputError(path, "is not there", self._remedy(step))
        return path

    def _remedy(self, step: str) -> str:
        return motions.remedy(self.folder, step)


def _open(path: Path, channels: int) -> Any:  # -> uint8 [H,W,C]
    if channels == 3:
        return read_image(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def _resize(image: Any, size: tuple[int, int], nearest: bool = False) -> Any:  # uint8 [h,w,C] -> [H,W,C]
    height, width = size
    if image.shape[:2] == size:
        return image
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BOX if image.shape[0] > height else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), how))


def _pixels(image: Any) -> Tensor:  # uint8 [H,W,C] -> [C,H,W] in 0..1
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
