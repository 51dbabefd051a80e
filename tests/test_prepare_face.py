"""Tasks 4, 5, 6, 8 and 9 on three seconds of a real recording: the folder that training starts from."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tests import lineage_readers as readers
from vivavoce.data.person import Person
from vivavoce.face import pose, regions
from vivavoce.media import read_image
from vivavoce.prepare import prepare
from vivavoce.prepare.background import labels_of
from vivavoce.prepare.folder import Folder

pytestmark = [pytest.mark.real, pytest.mark.assets]
COUNT = 30


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The first frames of the recording, prepared up to torso and cameras."""
    at = tmp_path_factory.mktemp("face")
    with av.open(str(shared_data / "video" / "dfrf_cnn2.mp4")) as source, av.open(str(at / "short.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        for k, frame in enumerate(source.decode(video=0)):
            if k == COUNT:
                break
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")))
        out.mux(stream.encode(None))
    return Folder(prepare(at / "short.mp4", only=("torso", "cameras")))


def test_parsing_has_the_parts_where_they_are(folder: Folder) -> None:
    labels = labels_of(folder, 20)
    points = np.load(folder.file("landmarks.npy"))[20]
    at = {name: labels[int(points[k, 1]), int(points[k, 0])] for name, k in (("nose", 4), ("cheek", 50), ("brow", 9))}
    assert set(at.values()) == {regions.HEAD}
    chin, height = points[152], np.linalg.norm(points[10, :2] - points[152, :2])
    assert labels[int(chin[1] - 1.3 * height), int(points[10, 0])] in (regions.HAIR, regions.HEAD)
    assert labels[int(chin[1] + 0.06 * height), int(chin[0])] == regions.NECK
    assert (labels[-10:, 150:350] == regions.CLOTH).mean() > 0.95
    assert (labels[:100, :100] == regions.BACKGROUND).all() and (labels[:100, -100:] == regions.BACKGROUND).all()
    colours = {tuple(c) for c in read_image(folder.file("parsing", "20.png")).reshape(-1, 3).tolist()}
    assert colours <= set(regions.COLOURS)


def test_person_over_the_plate_and_body_without_head(folder: Folder) -> None:
    k = 20
    picture, gt, plate = (read_image(folder.file(*p)).astype(int) for p in (("ori_imgs", f"{k}.jpg"), ("gt_imgs", f"{k}.jpg"), ("bc.jpg",)))
    labels = labels_of(folder, k)
    inside = ndimage.binary_erosion(labels != regions.BACKGROUND, iterations=4)
    outside = ndimage.binary_erosion(labels == regions.BACKGROUND, iterations=4)
    assert np.abs(gt - picture)[inside].mean() < 3 and np.abs(gt - plate)[outside].mean() < 3
    assert np.abs(plate - picture)[outside].mean() < 8  # the studio hardly moves
    torso = np.asarray(Image.open(folder.file("torso_imgs", f"{k}.png")))
    assert torso.shape == (512, 512, 4)
    assert (torso[labels == regions.CLOTH][:, 3] > 120).mean() > 0.99
    face = np.load(folder.file("landmarks.npy"))[k, 4, :2].astype(int)
    assert torso[face[1], face[0], 3] == 0
    assert folder.clip["background"]["seen"] > 0.4


def test_mesh_lies_on_the_face_and_both_files_say_the_same(folder: Folder) -> None:
    person = Person(folder.path)
    assert person.rows.tolist() == list(range(COUNT))
    table = torch.load(folder.file("track_params.pt"), weights_only=True)
    assert {k: tuple(v.shape) for k, v in table.items() if k in ("id", "exp", "euler", "trans", "focal", "vertices")} == {
        "id": (1, 100), "exp": (COUNT, 79), "euler": (COUNT, 3), "trans": (COUNT, 3), "focal": (1,), "vertices": (1, 468, 3)
    }  # fmt: skip
    clip = person.clip(slice(None), {"camera", "points"})
    assert clip.camera is not None and clip.points is not None
    lineage = pose.camera_from_lineage(table["euler"], table["trans"], table["focal"], clip.camera.center[0])
    assert torch.allclose(clip.camera.pose, lineage.pose, atol=1e-5)
    still = list(regions.STILL)
    away = (pose.project(clip.camera, person.mesh)[:, still] - clip.points[:, still, :2]).norm(dim=-1)
    assert float(away.mean()) < 1.5  # px, of a face 138 px between the eyes: the rigid mean mesh alone
    assert float(table["error"].mean()) < 0.8
    train, val = (json.loads(folder.file(f"transforms_{s}.json").read_text())["frames"] for s in ("train", "val"))
    assert len(train) == COUNT * 10 // 11 and [f["img_id"] for f in train + val] == list(range(COUNT))


def test_older_repositories_draw_the_mesh_on_the_face(folder: Folder) -> None:
    """By their own conventions, from either of the two files that hold the pose."""
    scene = readers.rad_nerf(folder.path, units=False)
    bridge = [27, 28, 29, 36, 39, 42, 45]  # of the 68: nose bridge and corners of the eyes hardly move with speech
    away = scene.seen[:, list(regions.LANDMARKS_68)] - scene.landmarks
    assert np.linalg.norm(away[:, bridge], axis=2).mean() < 1.5  # px
    table = torch.load(folder.file("track_params.pt"), weights_only=True)
    turned = readers.lineage_rotation(table["euler"].double().numpy())
    place = readers.mesh_of(folder.path) @ turned.transpose(0, 2, 1) + table["trans"][:, None].double().numpy()
    pixels = float(table["focal"]) * place[..., :2] / -place[..., 2:] * (1, -1) + 256
    assert np.abs(pixels[scene.ids] - scene.seen).max() < 0.05


def test_what_is_lost_is_made_again_and_nothing_else(folder: Folder) -> None:
    lost, kept = folder.file("parsing", "7.png"), folder.file("parsing", "8.png")
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    prepare(folder.path, only="parsing")
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == stamp
