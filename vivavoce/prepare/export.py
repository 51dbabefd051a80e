"""A prepared folder in exactly the form that an older repository reads: its names, colours, and the files it alone has.

Most of them read our folder as it is; they differ where one name means two things (the colours of `parsing`), and in files of
their own. What does not change is linked, not copied. What only their own networks could make is left out and told: 3DMM
coefficients of Deep3DFaceRecon (DynTet, GeneFace).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from vivavoce.data import features
from vivavoce.face import pose, regions
from vivavoce.media import read_image, write_image
from vivavoce.prepare import steps
from vivavoce.prepare.background import labels_of
from vivavoce.prepare.cameras import FILES
from vivavoce.prepare.folder import Folder
from vivavoce.prepare.parallel import each
from vivavoce.types import InputError

HEAD = (regions.HEAD, regions.HAIR, regions.INNER_MOUTH, regions.TEETH)
ALIKE = ("bc.jpg", "aud.wav", "aud_train.wav", "aud_novel.wav", "au.csv", "track_params.pt")
WIDE, HIGH = 1.5, 1.15  # face_rect: of half the face's width, and of the nose bridge's height over the chin
NEAR, FAR = 0.2, 0.4  # metres before and behind the head's mean distance
BLUR = 1.7  # px, sigma of the edge of SyncTalk's face mask (its Gaussian kernel is 9 px wide)


class Export:
    """Files of one folder on their way to another."""

    def __init__(self, source: Folder, out: Path) -> None:
        self.source, self.out, self.target = source, out, Folder(out)
        self.rows = [int(k) for k in np.flatnonzero(source.kept)]  # frames that their loaders ask for

    def link(self, path: Path, *names: str) -> None:
        """The file under another name: a hard link where the file system can, a copy where not."""
        target = self.out.joinpath(*names)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)

    def alike(self, *folders: str) -> None:
        """Everything that no repository wants changed, and the pictures of these folders."""
        for name in (*ALIKE, *(p.name for p in self.source.path.glob("aud_idexp*.npy"))):  # the latter R2-Talker's, where there are any
            self.link(self.source.file(name), name)
        for folder in ("ori_imgs", *folders):
            for path in sorted(self.source.file(folder).iterdir()):
                if path.suffix in (".jpg", ".png", ".lms") and not path.name.startswith("."):
                    self.link(path, folder, path.name)

    def speech(self, *encoders: str) -> None:
        """Features in the lineage's form; raises InputError when the folder has those of none of the encoders."""
        there = [e for e in encoders if self.source.file(features.LINEAGE[e].file).is_file()]
        if not there:
            command = f"run: vivavoce prepare {self.source.path} --only speech --speech {encoders[0]}"
            raise InputError(self.source.path, f"has speech features of none of {', '.join(encoders)}", command)
        for name in there:
            self.link(self.source.file(features.LINEAGE[name].file), features.LINEAGE[name].file)

    @cached_property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Both files of cameras."""
        return {name: json.loads(self.source.file(name).read_text()) for name in FILES}

    def cameras(self, rect: bool = False) -> None:
        """transforms_*.json; with `rect`, AD-NeRF's box of the face in each frame."""
        for name, table in self.tables.items():
            frames = [{**f, "face_rect": self._rect(f["img_id"])} if rect else f for f in table["frames"]]
            self.text(json.dumps({**table, "frames": frames}, indent=2), name)

    def _rect(self, frame: int) -> list[int]:
        points = np.loadtxt(self.source.file("ori_imgs", f"{frame}.lms"))
        height, width = self.source.size
        middle = int((points[:, 0].min() + points[:, 0].max()) / 2), int(points[27, 1])
        half = int((points[:, 0].max() - middle[0]) * WIDE), int((points[8, 1] - middle[1]) * HIGH)
        x, y = max(middle[0] - half[0], 0), max(middle[1] - half[1], 0)
        return [x, y, min(width - 1 - x, 2 * half[0]), min(height - 1 - y, 2 * half[1])]

    def parsing(self, split: bool) -> None:
        """parsing/%d.png in four colours, or in the six of TalkingGaussian (teeth are inside the mouth there)."""

        def work(k: int) -> None:
            labels = labels_of(self.source, k).copy()
            labels[labels == regions.TEETH] = regions.INNER_MOUTH
            table = regions.colours_from_labels(torch.from_numpy(labels)[None], split)[0]
            write_image(self.out / "parsing" / f"{k}.png", table.permute(1, 2, 0).contiguous().numpy())

        list(each(work, range(self.source.frames)))

    def each_frame(self, make: Callable[[int, np.ndarray], None]) -> None:
        """`make(frame, labels [H,W])` for every frame that a loader asks for."""
        list(each(lambda k: make(k, labels_of(self.source, k)), self.rows))

    def picture(self, image: np.ndarray, folder: str, name: str) -> None:
        write_image(self.out / folder / name, image)

    def array(self, values: np.ndarray, *names: str) -> None:
        with self.target.whole(*names) as part:
            np.save(part, values)

    def text(self, content: str, name: str) -> None:
        with self.target.whole(name) as part:
            part.write_text(content)

    def composite(self, frame: int) -> np.ndarray:  # -> uint8 [H,W,3]
        """The frame over the plate."""
        return read_image(self.source.file("gt_imgs", f"{frame}.jpg"))


def rad_nerf(e: Export) -> None:
    """RAD-NeRF, R2-Talker, ER-NeRF."""
    e.speech("deepspeech", "esperanto", "hubert")
    e.alike("gt_imgs", "torso_imgs")
    e.cameras()
    e.parsing(split=False)


def gaussian_talker(e: Export) -> None:
    """GaussianTalker, EGSTalker: the head mask is what is blue in parsing; the mesh of track_params.pt starts the Gaussians."""
    e.speech("deepspeech")
    e.alike("gt_imgs", "torso_imgs")
    e.cameras()
    e.parsing(split=False)


def talking_gaussian(e: Export) -> None:
    """TalkingGaussian, InsTaG: hair and inside of the mouth apart, teeth as masks of their own."""
    e.speech("deepspeech", "esperanto", "hubert")
    e.alike("gt_imgs", "torso_imgs")
    e.cameras()
    e.parsing(split=True)
    e.each_frame(lambda k, labels: e.array(labels == regions.TEETH, "teeth_mask", f"{k}.npy"))


def ad_nerf(e: Export) -> None:
    """AD-NeRF, DFRF: head and body over the plate, the box of the face, two files of settings."""
    e.speech("deepspeech")
    e.link(e.source.file(features.LINEAGE["deepspeech"].file), "aud.npy")
    e.alike()
    e.cameras(rect=True)
    e.parsing(split=False)
    _head_pictures(e)
    camera = torch.tensor([f["transform_matrix"] for table in e.tables.values() for f in table["frames"]])
    away = float(pose.camera_from_transform(camera, torch.ones(1), torch.zeros(2)).pose[:, :3, 3].norm(dim=1).mean())
    for name, short in (("HeadNeRF_config.txt", "head"), ("TorsoNeRF_config.txt", "com")):
        lines = {"expname": f"{e.out.name}_{short}", "datadir": e.out.resolve(), "basedir": e.out.resolve() / "logs"}
        rows = {**lines, "near": away - NEAR, "far": away + FAR, "testskip": max(1, len(e.tables[FILES[1]]["frames"]) // 7)}
        e.text("".join(f"{key} = {value}\n" for key, value in rows.items()), name)


def gene_face(e: Export) -> None:
    """GeneFace: the pictures of AD-NeRF and RAD-NeRF, features under its names. vid_coeff.npy is made by its own extract_3dmm.py."""
    e.speech("deepspeech")
    for name in ("deepspeech", "esperanto"):
        if (path := e.source.file(features.LINEAGE[name].file)).is_file():
            e.link(path, f"aud_{name}.npy")
    if (path := e.source.file(features.LINEAGE["hubert"].file)).is_file():
        e.array(np.asarray(features.steps(features.read(path)), np.float32), "aud_hubert.npy")
    e.alike("gt_imgs", "torso_imgs")
    e.cameras(rect=True)
    e.parsing(split=False)
    _head_pictures(e)


def sync_talk(e: Export) -> None:
    """SyncTalk: the face's mask with a soft edge beside the parsing, blendshapes without the neutral one."""
    e.alike("gt_imgs", "torso_imgs")
    e.cameras()
    e.parsing(split=False)
    scores = np.nan_to_num(np.load(e.source.file("blendshapes.npy"), allow_pickle=False))
    e.array(np.concatenate([scores[:, 1:], np.zeros_like(scores[:, :1])], 1), "bs.npy")

    def face(k: int, labels: np.ndarray) -> None:
        skin = np.isin(labels, (regions.HEAD, regions.INNER_MOUTH, regions.TEETH)).astype(np.float32)
        soft = np.round(255 * (1 - ndimage.gaussian_filter(skin, BLUR))).astype(np.uint8)  # blue where the face is
        e.picture(np.stack([soft, soft, np.full_like(soft, 255)], 2), "parsing", f"{k}_face.png")

    e.each_frame(face)


def dyn_tet(e: Export) -> None:
    """DynTet: model-view matrices in the tracker's own lengths, body over plate. face_recon3dmm.npy is made by its own task 8."""
    e.alike("gt_imgs", "torso_imgs")
    e.cameras()
    e.parsing(split=False)
    table = torch.load(e.source.file("track_params.pt"), map_location="cpu", weights_only=True)
    for name, content in e.tables.items():
        frames = []
        for f in content["frames"]:
            view = torch.linalg.inv(torch.tensor(f["transform_matrix"], dtype=torch.float64))
            view[:3, 3] *= pose.LINEAGE
            shapes = {"exp": table["exp"][[f["img_id"]]].tolist(), "id": table["id"].tolist()}
            frames.append({"img_id": f["img_id"], "aud_id": f["aud_id"], **shapes, "transform_matrix": view.tolist()})
        e.text(json.dumps({**content, "frames": frames}), f"mv_{name}")
    plate = read_image(e.source.file("bc.jpg")).astype(np.float32)

    def layers(k: int, labels: np.ndarray) -> None:
        with Image.open(e.source.file("torso_imgs", f"{k}.png")) as image:
            body = np.asarray(image.convert("RGBA"), np.float32)
        share = body[..., 3:] / 255
        e.picture(np.asarray(np.round(body[..., :3] * share + plate * (1 - share)), np.uint8), "bg_torso", f"{k}.jpg")
        e.picture(np.repeat(np.isin(labels, HEAD)[..., None] * np.uint8(255), 3, 2), "head_mask", f"{k}.png")

    e.each_frame(layers)


def _head_pictures(e: Export) -> None:
    """com_imgs and head_imgs of AD-NeRF."""
    plate = read_image(e.source.file("bc.jpg"))

    def make(k: int, labels: np.ndarray) -> None:
        picture = e.composite(k)
        e.picture(picture, "com_imgs", f"{k}.jpg")
        e.picture(np.where(np.isin(labels, HEAD)[..., None], picture, plate), "head_imgs", f"{k}.jpg")

    e.each_frame(make)


LAYOUTS: dict[str, Callable[[Export], None]] = {
    "ad-nerf": ad_nerf, "dfrf": ad_nerf, "rad-nerf": rad_nerf, "er-nerf": rad_nerf, "r2-talker": rad_nerf, "geneface": gene_face,
    "gaussiantalker": gaussian_talker, "egstalker": gaussian_talker, "talkinggaussian": talking_gaussian, "instag": talking_gaussian,
    "synctalk": sync_talk, "dyntet": dyn_tet,
}  # fmt: skip


def export(folder: str | Path, layout: str, out: str | Path | None = None) -> Path:
    """Write a prepared folder in another repository's form; gives the new folder.

    `layout`: one of LAYOUTS. `out`: default FOLDER-LAYOUT beside it; an older export there is brought up to date.
    Raises InputError for an unknown layout, a folder that is not prepared, or speech features that they need and it lacks.
    """
    if layout not in LAYOUTS:
        raise InputError(f"--layout {layout}", "no such layout", f"choose from: {', '.join(LAYOUTS)}")
    source = Folder(folder)
    if not source.json.is_file() or not all(source.file(name).is_file() for name in FILES):
        raise InputError(source.path, "not a prepared folder", f"run: vivavoce prepare VIDEO --folder {source.path}")
    place = Path(out) if out is not None else source.path.with_name(f"{source.path.resolve().name}-{layout}")
    if place.resolve() == source.path.resolve():
        raise InputError(place, "is the prepared folder itself", "choose another --out")
    try:
        place.mkdir(parents=True, exist_ok=True)
        LAYOUTS[layout](Export(source, place))
    except FileNotFoundError as error:
        lost = Path(error.filename or source.path)
        by = [f" --only {s.name}" for s in steps() if any(lost.match(pattern) for pattern in s.outputs)]
        raise InputError(lost, "is not there", f"run: vivavoce prepare {source.path}{''.join(by[:1])}") from error
    return place
