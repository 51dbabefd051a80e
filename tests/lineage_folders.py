"""A made-up person as each older repository leaves one on disk: its file names, types, colours, keys, and what it does not write.

Written from a description of their formats, without this package's geometry: the truth that a loader is tested against.
"""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from vivavoce.face import mesh
from vivavoce.face.regions import LANDMARKS_68, OVAL

COUNT, SIZE = 33, 96
FOCAL = 2.4 * SIZE
SPLIT = COUNT * 10 // 11
MOVED = np.array([0.004, -0.012, -0.035])  # metres: their head's origin is not ours
LARGER = 1.05
BLACK, BLUE, GREEN, RED, WHITE, GREY = (0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255), (100, 100, 100)  # RGB
UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)


def lineage_rotation(euler: np.ndarray) -> np.ndarray:  # [T,3] rad -> [T,3,3]
    """Rx Ry Rz from the columns that the lineage's code lists; the last one turns the other way."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(euler).T, np.sin(euler).T
    o, i = np.zeros_like(cx), np.ones_like(cx)
    about_x = np.array([[i, o, o], [o, cx, sx], [o, -sx, cx]]).transpose(2, 1, 0)
    about_y = np.array([[cy, o, -sy], [o, i, o], [sy, o, cy]]).transpose(2, 1, 0)
    about_z = np.array([[cz, -sz, o], [sz, cz, o], [o, o, i]]).transpose(2, 1, 0)
    return about_x @ about_y @ about_z


@dataclass
class Truth:
    """What the folders are made of."""

    mesh: np.ndarray  # [468,3] metres, in their head space
    euler: np.ndarray  # [T,3] rad, their signs
    trans: np.ndarray  # [T,3] decimetres
    landmarks: np.ndarray  # [T,68,2] px
    blink: np.ndarray  # [T] 0 open to 1 shut
    opening: np.ndarray  # [T] of the mouth, 0 to 1

    def seen(self, points: np.ndarray) -> np.ndarray:  # [P,3] or [T,P,3] metres -> [T,P,2] px
        """Their projection: z < 0 in front, y of the picture down."""
        place = 10 * points @ lineage_rotation(self.euler).transpose(0, 2, 1) + self.trans[:, None]
        x, y, z = np.moveaxis(place, 2, 0)
        return np.stack([-FOCAL * x / z + SIZE / 2, FOCAL * y / z + SIZE / 2], 2)

    def matrices(self) -> np.ndarray:  # [T,4,4]
        """`transform_matrix` of every frame: camera to world, metres."""
        out = np.tile(np.eye(4), (COUNT, 1, 1))
        turned = lineage_rotation(self.euler).transpose(0, 2, 1)
        out[:, :3, :3], out[:, :3, 3:] = turned, -turned @ (self.trans / 10)[..., None]
        return out


def truth() -> Truth:
    """A head that turns on all three axes, blinks once and speaks."""
    t = np.arange(COUNT) / 25
    euler = np.stack([0.08 * np.sin(5 * t), 0.3 * np.sin(4 * t), 0.12 * np.cos(6 * t)], 1)
    trans = np.stack([0.1 * np.sin(3 * t), 0.05 * np.cos(4 * t), -7 + 0.1 * t], 1)
    blink, opening = np.exp(-(((t - 0.6) / 0.06) ** 2)), 0.5 - 0.5 * np.cos(2 * np.pi * 3 * t)
    head = LARGER * mesh.vertices().astype(np.float64) + MOVED
    points = np.tile(head[list(LANDMARKS_68)], (COUNT, 1, 1))
    lower = [55, 56, 57, 58, 59, 65, 66, 67]
    points[:, lower, 1] -= 0.010 * opening[:, None]
    for upper, under in ((37, 41), (38, 40), (43, 47), (44, 46)):
        gap = (points[:, upper] - points[:, under]) * 0.35 * blink[:, None]
        points[:, upper], points[:, under] = points[:, upper] - gap, points[:, under] + gap
    made = Truth(head, euler, trans, np.zeros(0), blink, opening)
    made.landmarks = made.seen(points)
    return made


class Maker:
    """Writes the parts that several repositories share."""

    def __init__(self, place: Path) -> None:
        self.place, self.truth = place, truth()
        ramp = np.linspace(120, 220, SIZE)
        self.plate = np.stack([np.tile(ramp, (SIZE, 1)), np.tile(ramp[:, None], (1, SIZE)), np.full((SIZE, SIZE), 150)], 2).astype(np.uint8)
        outline = self.truth.seen(self.truth.mesh[list(OVAL)])
        self.drawn = [self._draw(outline[k], k) for k in range(COUNT)]  # frame and class of each pixel

    def _draw(self, outline: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes: 0 background, 1 face, 2 neck, 3 cloth, 4 hair, 5 inside of the mouth."""
        middle, half = outline.mean(0), np.ptp(outline, 0) / 2
        crown = [middle[0] - 1.15 * half[0], middle[1] - 1.35 * half[1], middle[0] + 1.15 * half[0], middle[1] + 0.3 * half[1]]
        neck = [middle[0] - 0.5 * half[0], middle[1], middle[0] + 0.5 * half[0], SIZE * 0.9]
        cloth = [(SIZE * 0.1, SIZE), (SIZE * 0.3, SIZE * 0.8), (SIZE * 0.7, SIZE * 0.8), (SIZE * 0.9, SIZE)]
        frame, labels = Image.fromarray(self.plate), Image.new("L", (SIZE, SIZE))
        colours = {1: (210, 170, 140), 2: (190, 150, 120), 3: (50, 60, 120), 4: (60, 40, 30), 5: (80, 20, 25)}
        for image, fill in ((frame, colours), (labels, {n: n for n in colours})):
            pen = ImageDraw.Draw(image)
            pen.rectangle(neck, fill=fill[2])
            pen.polygon(cloth, fill=fill[3])
            pen.ellipse(crown, fill=fill[4])
            pen.polygon([tuple(p) for p in outline], fill=fill[1])
            if self.truth.opening[k] > 0.1:
                pen.polygon([tuple(p) for p in self.truth.landmarks[k, 60:68]], fill=fill[5])
        return np.asarray(frame), np.asarray(labels)

    def pictures(self, folder: str) -> None:
        for k, (frame, _) in enumerate(self.drawn):
            self.save(folder, f"{k}.jpg", frame)

    def save(self, folder: str, name: str, image: np.ndarray) -> None:
        (self.place / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(self.place / folder / name, **({"quality": 95, "subsampling": 0} if name.endswith("jpg") else {}))

    def common(self, channels: int = 1, split: bool = False) -> None:
        """ori_imgs with .lms, parsing, bc.jpg, aud.wav."""
        self.pictures("ori_imgs")
        for k, points in enumerate(self.truth.landmarks):
            np.savetxt(self.place / "ori_imgs" / f"{k}.lms", points, "%f")
        table = np.array([WHITE, BLUE, GREEN, RED, BLACK if split else BLUE, GREY if split else BLUE], np.uint8)
        for k, (_, labels) in enumerate(self.drawn):
            self.save("parsing", f"{k}.png", table[labels])
        self.save(".", "bc.jpg", self.plate)
        loud = np.repeat(self.truth.opening, 640)
        sound = (12000 * loud * np.sin(2 * np.pi * 220 * np.arange(len(loud)) / 16000)).astype(np.int16)[:-100]  # theirs end anywhere
        with wave.open(str(self.place / "aud.wav"), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(np.repeat(sound[:, None], channels, 1).tobytes())

    def layers(self) -> None:
        """gt_imgs and torso_imgs of RAD-NeRF and its descendants."""
        self.pictures("gt_imgs")
        for k, (frame, labels) in enumerate(self.drawn):
            body = np.isin(labels, (2, 3))
            self.save("torso_imgs", f"{k}.png", np.concatenate([frame * body[..., None], np.uint8(255) * body[..., None]], 2))

    def features(self, name: str, dim: int, count: int = COUNT) -> None:
        """[N,16,dim] float32: row t holds the 50 Hz steps 2t - 8 to 2t + 7; number k of a step is its loudness to the power 1 + k/8."""
        loud = np.repeat(self.truth.opening, 2)[:, None] ** (1 + np.arange(dim) / 8)
        padded = np.pad(loud, ((8, 8), (0, 0)))
        np.save(self.place / name, np.stack([padded[2 * t : 2 * t + 16] for t in range(count)]).astype(np.float32))

    def cameras(self, rect: bool = False) -> None:
        matrices = self.truth.matrices()
        for name, rows in (("train", range(SPLIT)), ("val", range(SPLIT, COUNT))):
            frames = [{"img_id": k, "aud_id": k, "transform_matrix": matrices[k].tolist()} for k in rows]
            if rect:
                frames = [{**f, "face_rect": [20, 20, 50, 60]} for f in frames]
            table = {"focal_len": FOCAL, "cx": SIZE / 2.0, "cy": SIZE / 2.0, "frames": frames}
            (self.place / f"transforms_{name}.json").write_text(json.dumps(table, indent=2, separators=(",", ": ")))

    def track(self, scale: float = 1.0, dump: bool = False) -> None:
        """track_params.pt, its lengths `scale` decimetres; with `dump` a mesh a frame."""
        table = {
            "id": torch.zeros(1, 100),
            "exp": torch.zeros(COUNT, 79),
            "euler": torch.from_numpy(self.truth.euler).float(),
            "trans": torch.from_numpy(self.truth.trans / scale).float(),
            "focal": torch.tensor([FOCAL]),
        }
        if dump:  # of another number of vertices than our mesh
            table["vertices"] = torch.from_numpy(np.tile(10 * self.truth.mesh[:400], (COUNT, 1, 1))).float()
        torch.save(table, self.place / "track_params.pt")

    def units(self, gap: str = " ", shut: float = 2.5) -> None:
        """au.csv as OpenFace writes it; `gap` is what stands before its names."""
        names = ["frame", *(gap + n for n in ("face_id", "timestamp", "confidence", "success")), *(f"{gap}AU{u:02d}_r" for u in UNITS)]
        rows = []
        for k in range(COUNT):
            values = [shut * self.truth.blink[k] if u == 45 else 3 * self.truth.opening[k] if u == 25 else 0.1 for u in UNITS]
            rows.append(", ".join([str(k + 1), "0", f"{k / 25:.3f}", "0.98", "1", *(f"{v:.2f}" for v in values)]))
        (self.place / "au.csv").write_text("\n".join([",".join(names), *rows]) + "\n")


def ad_nerf(place: Path) -> Maker:
    """AD-NeRF and DFRF: com_imgs and head_imgs, no torso; stereo sound; DeepSpeech that ends a frame early; face_rect."""
    made = Maker(place)
    made.common(channels=2)
    made.pictures("com_imgs")
    for k, (frame, labels) in enumerate(made.drawn):
        made.save("head_imgs", f"{k}.jpg", np.where(np.isin(labels, (1, 4, 5))[..., None], frame, made.plate))
    made.features("aud.npy", 29, COUNT - 1)
    made.cameras(rect=True)
    made.track()
    (place / "HeadNeRF_config.txt").write_text(f"expname = person_head\nnear = {0.5}\nfar = {1.1}\n")
    return made


def rad_nerf(place: Path) -> Maker:
    """RAD-NeRF and R2-Talker: no action units; DeepSpeech in aud.npy, wav2vec in aud_eo.npy."""
    made = Maker(place)
    made.common()
    made.layers()
    made.features("aud.npy", 29)
    made.features("aud_eo.npy", 44)
    made.cameras()
    made.track()
    return made


def er_nerf(place: Path) -> Maker:
    """ER-NeRF: RAD-NeRF's and OpenFace's au.csv with a blank before each name."""
    made = rad_nerf(place)
    made.features("aud_ds.npy", 29)
    made.units()
    return made


def talking_gaussian(place: Path) -> Maker:
    """TalkingGaussian and InsTaG: hair black, inside of the mouth grey, teeth in files of their own, HuBERT as [N,2,1024]."""
    made = Maker(place)
    made.common(split=True)
    made.layers()
    (place / "teeth_mask").mkdir()
    for k, (_, labels) in enumerate(made.drawn):
        np.save(place / "teeth_mask" / f"{k}.npy", np.zeros_like(labels, bool))
    made.features("aud_ds.npy", 29)
    np.save(place / "aud_hu.npy", np.repeat(np.repeat(made.truth.opening, 2), 1024).reshape(COUNT, 2, 1024).astype(np.float32))
    made.cameras()
    made.track()
    made.units()
    return made


def gaussian_talker(place: Path) -> Maker:
    """GaussianTalker and EGSTalker: a mesh a frame in track_params.pt, no blank in au.csv, sound in two parts."""
    made = Maker(place)
    made.common()
    made.layers()
    made.features("aud_ds.npy", 29)
    made.cameras()
    made.track(dump=True)
    made.units(gap="")
    return made


def seed_egs(place: Path) -> Maker:
    """The EGSTalker fork with wav2vec2: one row of 768 a frame, action units that are all 0."""
    made = gaussian_talker(place)
    table = np.repeat(made.truth.opening, 768).reshape(COUNT, 768).astype(np.float32)
    np.save(place / "aud.npy", table)
    np.save(place / "aud_ds.npy", table)
    made.units(gap="", shut=0.0)
    return made


def sync_talk(place: Path) -> Maker:
    """SyncTalk: lengths of the tracker in millimetres, poses from a bundle adjustment in metres, bs.npy, no features on disk."""
    made = Maker(place)
    made.common()
    made.layers()
    for k, (_, labels) in enumerate(made.drawn):
        made.save("parsing", f"{k}_face.png", np.where((labels == 1)[..., None], np.uint8(BLUE), np.uint8(WHITE)))
        made.save("face_mask", f"{k}.png", np.where((labels == 1)[..., None], np.uint8(WHITE), np.uint8(BLACK)))
    made.cameras()
    made.track(scale=0.01)
    pose = {"euler": torch.from_numpy(made.truth.euler), "trans": torch.from_numpy(made.truth.trans / 10), "focal": torch.tensor([FOCAL])}
    torch.save(pose, place / "bundle_adjustment.pt")
    scores = np.zeros((COUNT, 52))
    scores[:, 8:10] = made.truth.blink[:, None]  # MediaPipe's list without its neutral entry, a zero at the end
    np.save(place / "bs.npy", scores)
    return made


def gene_face(place: Path) -> Maker:
    """GeneFace: RAD-NeRF's and AD-NeRF's pictures together, features under long names, coefficients in a pickle."""
    made = Maker(place)
    made.common()
    made.layers()
    made.pictures("com_imgs")
    made.features("aud_deepspeech.npy", 29)
    made.features("aud_esperanto.npy", 44)
    np.save(place / "aud_hubert.npy", np.repeat(np.repeat(made.truth.opening, 2), 1024).reshape(2 * COUNT, 1024).astype(np.float32))
    np.save(place / "vid_coeff.npy", np.array({"coeff": np.zeros((COUNT, 257), np.float32)}, dtype=object), allow_pickle=True)
    made.cameras(rect=True)
    made.track()
    return made


def dyn_tet(place: Path) -> Maker:
    """DynTet: model-view matrices beside the cameras, the body over the plate, no speech features at all."""
    made = Maker(place)
    made.common()
    made.layers()
    made.cameras()
    made.track()
    rotation = lineage_rotation(made.truth.euler)
    for name, rows in (("train", range(SPLIT)), ("val", range(SPLIT, COUNT))):
        frames = []
        for k in rows:
            view = np.eye(4)
            view[:3, :3], view[:3, 3] = rotation[k], made.truth.trans[k]
            frames.append({"img_id": k, "aud_id": k, "exp": [[0.0] * 79], "id": [[0.0] * 100], "transform_matrix": view.tolist()})
        (place / f"mv_transforms_{name}.json").write_text(json.dumps({"focal_len": FOCAL, "cx": 48.0, "cy": 48.0, "frames": frames}))
    for k, (frame, labels) in enumerate(made.drawn):
        made.save("bg_torso", f"{k}.jpg", np.where(np.isin(labels, (2, 3))[..., None], frame, made.plate))
    np.save(place / "face_recon3dmm.npy", np.zeros((COUNT, 257), np.float32))
    return made


FAMILIES = (ad_nerf, rad_nerf, er_nerf, talking_gaussian, gaussian_talker, seed_egs, sync_talk, gene_face, dyn_tet)
