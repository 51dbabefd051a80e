"""What a user decides when a face speaks: where the head looks, what the eyes do, what is behind it, how nervous the lips are.

`Talker` asks a `Staging` for each block of frames, by the number of the frame, so nothing is remembered but the last condition of
`smooth_lips`, which the stream itself carries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional as F

from vivavoce.face import idle
from vivavoce.face.pose import camera_from_motion, camera_from_transform, motion_from_camera
from vivavoce.face.regions import BLENDSHAPES
from vivavoce.media import frames, is_picture, read_image
from vivavoce.method import Generator, Renderer
from vivavoce.nn.torso import Torso
from vivavoce.types import Camera, Clip, InputError, Motion, Source, mirror

POSES = ("source", "generator", "fixed")
EYES = ("source", "fixed", "blink")
SMOOTH = 0.35  # of the condition of the frame before that stays (RAD-NeRF's smooth_lips)
LOOKED = 200  # rows of the source that are looked at for its usual pose and eyes
APART = (0.1, 0.02)  # rad, metres: poses whose middle lies farther than this and three deviations from the source's are another person's
LIDS = [BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]


@dataclass
class Scene:
    """A user's wishes, as `vivavoce run` takes them."""

    pose: str = "source"  # of the head: source, generator, fixed, or a file of poses
    eyes: str = "source"  # source, fixed (open), blink (every few seconds)
    background: str = ""  # a picture, a video or a colour behind a trained person; "": as trained
    smooth_lips: bool = False  # calmer lips, a little less sharp
    seed: int = 0  # of the blinks


class Staging:
    """A Scene made ready for a renderer and its source.

    Args:
        scene: the wishes.
        renderer: whose background is exchanged in place, where one is wished for.
        source: gives the usual pose and eyes.
        generator: moves the face, where the renderer reads motion.
    Raises:
        InputError: a wish that cannot be had: no such file, no colour, a renderer without a layer behind the head.
    """

    def __init__(self, scene: Scene, renderer: Renderer, source: Source, generator: Generator | None = None) -> None:
        self.scene, self.needs = scene, renderer.needs
        if scene.eyes not in EYES:
            raise InputError(f"--eyes {scene.eyes}", "no such way", f"choose from: {', '.join(EYES)}")
        self.notes: list[str] = []
        self.rows = torch.linspace(0, len(source) - 1, min(len(source), LOOKED)).long()
        self.open = self._open(source) if scene.eyes != "source" and "eyes" in self.needs else None
        self.calm: Motion | None = None
        self.body: Tensor | None = None
        if scene.pose != "source" and "camera" in self.needs:
            self.calm, self.body = self._calm(source)
        self.track = None if scene.pose in POSES else self._fitting(read_poses(scene.pose), source)
        if scene.pose == "generator" and generator is None and "camera" in self.needs:
            raise InputError(
                "--pose generator", "this renderer hears for itself, no generator moves its head", "choose source, fixed or a file"
            )
        self.lids: Tensor | None = None  # [2] scores, of a face that the generator would blink
        if scene.eyes == "fixed" and "eyes" not in self.needs and generator is not None:
            self.lids = self._quiet_lids(source, generator)
        self.plates = [m for m in renderer.modules() if isinstance(m, Torso)] if scene.background else []
        self.behind = self._behind() if scene.background else None

    @property
    def single(self) -> bool:
        """Whether every frame has a background of its own, so that frames are drawn one by one."""
        return isinstance(self.behind, Path)

    def __call__(self, clip: Clip, frame: Tensor, motion: Motion | None) -> tuple[Clip, Motion | None]:
        """The rows as wished, and the motion.

        Args:
            clip: rows of the source, with the fields that the renderer reads.
            frame: [T] int64 numbers since the stream began.
            motion: of the generator.
        """
        if self.open is not None and clip.eyes is not None:
            shut = idle.blink(frame, self.scene.seed) if self.scene.eyes == "blink" else torch.zeros(len(frame))
            clip = replace(clip, eyes=(1 - shut)[:, None].to(clip.eyes) * self.open.to(clip.eyes))
        if self.lids is not None and motion is not None:
            expression = motion.expression.clone()
            expression[:, LIDS] = self.lids.to(expression)
            motion = replace(motion, expression=expression)
        if clip.camera is not None and self.calm is not None:
            pose = self._pose(frame, motion)
            body = None if clip.body is None or self.body is None else self.body.to(clip.body).expand(len(frame), *self.body.shape[1:])
            lens = clip.camera
            moved = camera_from_motion(pose.to(lens.pose.device), lens.focal, lens.center)
            clip = replace(clip, camera=moved, body=body)
        elif motion is not None and clip.camera is None and self.scene.pose not in ("source", "generator"):
            motion = self._turned(motion, frame)
        self._exchange(frame)
        return clip, motion

    # ---- pose ----

    def _calm(self, source: Source) -> tuple[Motion, Tensor | None]:
        """The row whose pose is nearest to the middle of all, and where the body lies in it."""
        fields = {"camera", "body"} & self.needs
        every = source.clip(self.rows, fields)
        assert every.camera is not None
        pose = motion_from_camera(every.camera).to("cpu")
        places = torch.cat([pose.rotation, pose.translation], 1)
        off = (places - places.median(0).values) / places.std(0, unbiased=False).clamp_min(1e-4)
        row = off.square().sum(1).argmin()[None]
        return pose[row], None if every.body is None else every.body[row.to(every.body.device)]

    def _pose(self, frame: Tensor, motion: Motion | None) -> Motion:
        """Of the head before the camera, frame by frame."""
        assert self.calm is not None
        if self.track is not None:
            return self.track[mirror(frame, len(self.track))]
        still = self.calm[torch.zeros(len(frame), dtype=torch.long)]
        if self.scene.pose == "fixed" or motion is None:
            return still
        own = motion.to("cpu")
        return Motion(still.rotation + own.rotation, still.translation + own.translation, still.scale * own.scale, still.expression)

    def _turned(self, motion: Motion, frame: Tensor) -> Motion:
        """A portrait's own: relative to how it was taken."""
        still = torch.zeros_like(motion.rotation), torch.zeros_like(motion.translation), torch.ones_like(motion.scale)
        if self.track is None:
            return Motion(*still, motion.expression, motion.space)
        row, first = self.track[mirror(frame, len(self.track))].to(motion.rotation.device), self.track[:1].to(motion.rotation.device)
        return Motion(row.rotation - first.rotation, row.translation - first.translation, still[2], motion.expression, motion.space)

    def _fitting(self, track: Motion, source: Source) -> Motion:
        """The poses as they are; those of another person or camera, moved so that their middle is the source's."""
        if self.calm is None:
            return track
        camera = source.clip(self.rows, {"camera"}).camera
        assert camera is not None
        own, shifts = motion_from_camera(camera).to("cpu"), []
        for name, least in zip(("rotation", "translation"), APART, strict=True):
            here, there = getattr(own, name), getattr(track, name)
            shift = here.median(0).values - there.median(0).values
            shifts.append(shift if bool((shift.abs() > 3 * here.std(0, unbiased=False) + least).any()) else torch.zeros(3))
        if any(bool(s.any()) for s in shifts):
            self.notes.append(f"{self.scene.pose}: these poses are not of this camera: their middle is moved onto the source's")
        return Motion(track.rotation + shifts[0], track.translation + shifts[1], track.scale, track.expression)

    # ---- eyes ----

    def _open(self, source: Source) -> Tensor:  # -> [2]
        eyes = source.clip(self.rows, {"eyes"}).eyes
        assert eyes is not None
        return eyes.cpu().median(0).values

    def _quiet_lids(self, source: Source, generator: Generator) -> Tensor | None:
        """Of blendshapes the source's own lids; another generator's settings say whether it blinks."""
        if generator.space == "blendshapes":
            units = source.clip([0], {"units"}).units
            assert units is not None
            return units[0, LIDS].cpu()
        if hasattr(generator.config, "blinks"):
            generator.config.blinks = 0.0
        else:
            self.notes.append("--eyes fixed: this generator's eyes cannot be held open")
        return None

    # ---- background ----

    def _behind(self) -> Tensor | Path:  # a picture [3,H,W], or a film
        name = self.scene.background
        if not self.plates:
            raise InputError(
                f"--background {name}", "this renderer draws no layer behind the head", "it works for persons that were trained"
            )
        path = Path(name)
        if path.is_file():
            if not is_picture(path):
                next(iter(frames(path)))  # raises InputError for what is no video
                return path
            return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1).float() / 255
        try:
            red, green, blue = ImageColor.getrgb(name)[:3]
        except ValueError as error:
            remedy = "give a picture, a video, or e.g. white, #00ff00"
            raise InputError(f"--background {name}", "no file and no colour", remedy) from error
        return torch.tensor([red, green, blue], dtype=torch.float32)[:, None, None].expand(3, 8, 8) / 255

    @torch.no_grad()
    def _exchange(self, frame: Tensor) -> None:
        """The layer behind the head: once for a picture, for every frame of a film, which begins again when it ends."""
        if self.behind is None:
            return
        if isinstance(self.behind, Tensor):
            if int(frame[0]) == 0:
                self._put(self.behind)
            return
        if int(frame[0]) == 0:
            self.film: Iterator[np.ndarray] = iter(frames(self.behind))
        picture = next(self.film, None)
        if picture is None:
            self.film = iter(frames(self.behind))
            picture = next(self.film)
        self._put(torch.from_numpy(picture).permute(2, 0, 1).float() / 255)

    def _put(self, picture: Tensor) -> None:
        for torso in self.plates:
            torso.plate.data = covering(picture, (torso.plate.shape[1], torso.plate.shape[2])).to(torso.plate)


def covering(picture: Tensor, size: tuple[int, int]) -> Tensor:  # [3,h,w] -> [3,H,W]
    """The picture as large as it must be to fill the size, its middle kept."""
    height, width = size
    scale = max(height / picture.shape[1], width / picture.shape[2])
    inner = max(height, round(picture.shape[1] * scale)), max(width, round(picture.shape[2] * scale))
    large = F.interpolate(picture[None], inner, mode="bilinear", align_corners=False, antialias=True)[0]
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
    return large[:, top : top + height, left : left + width]


def read_poses(name: str) -> Motion:
    """Head poses of a file: `transforms_*.json` of the lineage, or `.npy`: [T,4,4] such matrices, or [T,6] pitch, yaw, roll (rad)
    and the head's place before the camera (metres, x right, y down, z away). Raises InputError."""
    path = Path(name)
    remedy = f"choose from: {', '.join(POSES)}, or give transforms_*.json or .npy"
    if not path.is_file():
        raise InputError(f"--pose {name}", "no such way and no such file", remedy)
    try:
        if path.suffix == ".json":
            rows = np.array([f["transform_matrix"] for f in json.loads(path.read_text())["frames"]], np.float32)
        else:
            rows = np.load(path, allow_pickle=False).astype(np.float32)
        if not len(rows) or rows.shape[1:] not in ((4, 4), (6,)) or not np.isfinite(rows).all():
            raise ValueError(f"its shape is {list(rows.shape)}")
    except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
        cause = "no array of numbers" if "pickle" in str(error) else str(error)
        raise InputError(path, f"no head poses ({cause})", remedy) from error
    table = torch.from_numpy(rows)
    if table.ndim == 2:
        return Motion(table[:, :3], table[:, 3:], torch.ones(len(table), 1), torch.zeros(len(table), 0))
    camera: Camera = camera_from_transform(table, torch.ones(len(table), 2), torch.zeros(len(table), 2))
    return motion_from_camera(camera)


def smoothed(rows: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:  # [T,...], [...] -> [T,...], [...]
    """Each row with a share of the one before it in it, and the last one."""
    out = []
    for row in rows:
        before = row if before is None else SMOOTH * before + (1 - SMOOTH) * row
        out.append(before)
    assert before is not None
    return torch.stack(out), before
