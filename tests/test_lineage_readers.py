"""A folder of ours, as nine older repositories read it: same cameras, same pixels, right signs of every axis."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import lineage_readers as readers
from tests.heads import Head, painted, talking_head, turn_errors
from tests.lineage_readers import Scene
from vivavoce.cli import main
from vivavoce.data.person import Person
from vivavoce.face import pose, regions
from vivavoce.media import write_image
from vivavoce.prepare import Folder, prepare
from vivavoce.prepare.export import LAYOUTS, export
from vivavoce.types import InputError

pytestmark = pytest.mark.assets

COUNT, SIZE, LOST = 66, 128, 30  # frame LOST has no face
LIPS = list(regions.LIPS_INNER)
BLINK = [regions.BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]


@pytest.fixture(scope="module")
def head() -> Head:
    return talking_head(frames=COUNT, focal=420, size=SIZE, noise=0.1)


@pytest.fixture(scope="module")
def ours(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, landmarks and parsing of a known head; torso, tracking, cameras, action units and sound by `prepare`."""
    place = tmp_path_factory.mktemp("ours") / "person"
    (place / "parsing").mkdir(parents=True)
    points = head.points.numpy().astype(np.float32)
    scores = np.zeros((COUNT, 52), np.float32)
    scores[:, BLINK] = np.exp(-(((np.arange(COUNT) - 20) / 2) ** 2))[:, None]
    points[LOST], scores[LOST] = np.nan, np.nan
    plate = np.tile(np.linspace(120, 220, SIZE)[:, None, None], (1, SIZE, 3)).astype(np.uint8)
    frames, labels = painted(head, plate)
    for k in range(COUNT):
        write_image(place / "ori_imgs" / f"{k}.jpg", frames[k])
        colours = regions.colours_from_labels(torch.from_numpy(labels[k])[None])[0]
        write_image(place / "parsing" / f"{k}.png", colours.permute(1, 2, 0).contiguous().numpy())
        if k != LOST:
            np.savetxt(place / "ori_imgs" / f"{k}.lms", regions.landmarks68(points[k]), "%f")
    np.save(place / "landmarks.npy", points)
    np.save(place / "blendshapes.npy", scores)
    write_image(place / "bc.jpg", plate)
    steps = np.arange(2 * COUNT, dtype=np.float32)[:, None] / COUNT * np.ones(29, np.float32)
    padded = np.pad(steps, ((8, 8), (0, 0)))
    np.save(place / "aud_ds.npy", np.stack([padded[2 * t : 2 * t + 16] for t in range(COUNT)]))
    with wave.open(str(place / "aud.wav"), "wb") as file:
        file.setparams((1, 2, 16000, COUNT * 640, "NONE", ""))
        file.writeframes((np.sin(np.arange(COUNT * 640) / 20) * 9000).astype(np.int16).tobytes())
    folder = Folder(place)
    faces = [int(k != LOST) for k in range(COUNT)]
    video = {"file": "aud.wav", "sha256": "0" * 64, "bytes": 0, "modified": 0}
    box = [*np.nanmin(points, (0, 1))[:2].tolist(), *np.nanmax(points, (0, 1))[:2].tolist()]
    facts = {"size": [SIZE, SIZE], "rate": 25, "frames": COUNT, "split": COUNT * 10 // 11, "crop": None, "faces": faces, "face": box}
    folder.update(id="person", video=video, **facts)
    prepare(place, only=["torso", "cameras", "units", "halves"])
    return place


@pytest.fixture(params=sorted(LAYOUTS))
def exported(request: pytest.FixtureRequest, ours: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    yield request.param, export(ours, request.param, tmp_path / "out")


READERS: dict[str, Callable[[Path], Scene]] = {
    "ad-nerf": readers.ad_nerf, "dfrf": readers.ad_nerf, "geneface": readers.ad_nerf,
    "rad-nerf": readers.rad_nerf, "er-nerf": readers.rad_nerf, "r2-talker": readers.rad_nerf,
    "gaussiantalker": readers.gaussian_talker, "egstalker": readers.gaussian_talker,
    "talkinggaussian": readers.talking_gaussian, "instag": readers.talking_gaussian,
    "synctalk": readers.sync_talk, "dyntet": readers.dyn_tet,
}  # fmt: skip
STILL = [k for k in range(17, 48) if k not in (37, 38, 40, 41, 43, 44, 46, 47)]  # of the 68: brows, nose, corners of the eyes


def away(scene: Scene) -> float:  # px
    """How far the tracked mesh, drawn their way, lies from their landmarks."""
    mesh = scene.seen[:, list(regions.LANDMARKS_68)]
    return float(np.linalg.norm((mesh - scene.landmarks)[:, STILL], axis=2).mean())


def check(scene: Scene, folder: Path) -> None:
    """What holds for every repository."""
    assert scene.ids == [k for k in range(COUNT) if k != LOST]
    assert away(scene) < 0.5  # px, of a face 60 px wide
    person = Person(folder)
    clip = person.clip(slice(None), {"frames"})
    assert clip.frames is not None
    ours_now = (clip.frames * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(scene.pictures - ours_now).mean() < 1.5  # JPEG, and a soft outline


def test_each_repository_reads_its_export(exported: tuple[str, Path], ours: Path) -> None:
    layout, folder = exported
    scene = READERS[layout](folder)
    check(scene, ours)
    extras, points = scene.extras, np.round(scene.landmarks[:, 27:60]).astype(int)
    rows = np.arange(len(points))[:, None]
    if "head" in extras:  # hair and mouth are of the head
        assert extras["head"][rows, points[..., 1], points[..., 0]].mean() > 0.99
    if "behind" in extras:  # no head in what lies behind it
        red, _, blue = np.moveaxis(extras["behind"], -1, 0)
        assert (red > 1.35 * blue).mean() < 0.02  # skin, hair and mouth alone are so
    if "blink" in extras:
        assert 18 <= scene.ids[int(extras["blink"].argmax())] <= 22 and extras["blink"][0] < 0.1
    if "features" in extras:
        assert np.allclose(extras["features"][10, 8, 0], 20 / COUNT)


def test_our_folder_is_read_as_it_is(ours: Path) -> None:
    """RAD-NeRF, ER-NeRF and R2-Talker need no export; nor do the cameras of the others."""
    scene = readers.rad_nerf(ours)
    check(scene, ours)
    assert scene.extras["torso"][:, -1, SIZE // 2, 3].min() == 255
    table = torch.load(ours / "track_params.pt", weights_only=True)
    turned = readers.lineage_rotation(table["euler"].double().numpy())
    frames, *_ = readers.transforms(ours)
    for f in frames:  # the two files say the same of every frame
        c2w = np.array(f["transform_matrix"])
        assert np.allclose(c2w[:3, :3], turned[f["img_id"]].T, atol=1e-5)
        assert np.allclose(-turned[f["img_id"]] @ c2w[:3, 3] * 10, table["trans"][f["img_id"]], atol=1e-4)


def test_poses_after_the_picture_had_its_say_are_the_heads(ours: Path, head: Head) -> None:
    """Half a degree and a pixel are what poses may be off by; those on disk are no longer the landmarks' alone."""
    table = torch.load(ours / "track_params.pt", weights_only=True)
    camera = pose.camera_from_lineage(table["euler"], table["trans"], table["focal"], torch.tensor([SIZE / 2, SIZE / 2]))
    seen = table["found"]
    off, gauge = turn_errors(pose.euler_from_matrix(pose.pose_from_camera(camera)[0])[seen], head.rotation[seen])
    assert float(off.mean()) < 0.4 and float(off.max()) < 0.8 and gauge < 2  # degrees
    still = list(regions.STILL)
    away = (pose.project(camera, table["vertices"][0] / pose.LINEAGE) - head.clean)[seen][:, still].norm(dim=2)
    assert float(away.mean()) < 0.3 and float(away.max()) < 1  # px
    assert Folder(ours).clip["tracking"]["followed"] > 0.8 * COUNT


@pytest.mark.parametrize("axis", range(3))
def test_a_wrong_sign_would_be_seen(ours: Path, tmp_path: Path, axis: int) -> None:
    folder = export(ours, "egstalker", tmp_path / "out")
    table = torch.load(folder / "track_params.pt", weights_only=True)
    table["euler"][:, axis] *= -1
    (folder / "track_params.pt").unlink()  # a link to ours
    torch.save(table, folder / "track_params.pt")
    assert away(readers.gaussian_talker(folder)) > 1.0


def test_masks_of_talking_gaussian(ours: Path, tmp_path: Path) -> None:
    extras = readers.talking_gaussian(export(ours, "talkinggaussian", tmp_path / "out")).extras
    areas = {name: extras[name].mean((1, 2)).min() for name in ("face", "hair", "mouth")}
    assert areas["face"] > 0.05 and areas["hair"] > 0.02 and areas["mouth"] > 0.001
    assert not (extras["hair"] & extras["face"]).any()


def test_box_and_depth_of_ad_nerf(ours: Path, tmp_path: Path) -> None:
    folder = export(ours, "ad-nerf", tmp_path / "out")
    scene = readers.ad_nerf(folder)
    x, y, width, height = scene.extras["rects"].T[..., None]
    inside = scene.landmarks[:, 17:]
    assert ((inside[..., 0] > x) & (inside[..., 0] < x + width) & (inside[..., 1] > y) & (inside[..., 1] < y + height)).all()
    settings = dict(line.split(" = ") for line in (folder / "HeadNeRF_config.txt").read_text().splitlines())
    assert float(settings["near"]) < scene.extras["far"].min() < scene.extras["far"].max() < float(settings["far"])
    heads, plate = scene.extras["heads"].astype(float), scene.extras["plate"]
    assert np.abs(heads[:, -4:] - plate[-4:]).mean() < 4  # no body
    assert (folder / "aud.npy").read_bytes() == (folder / "aud_ds.npy").read_bytes()


def test_an_export_is_made_again_and_ours_stays(ours: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in ours.rglob("*") if p.is_file()}
    for _ in range(2):
        assert main(["export", str(ours), "--layout", "dyntet", "--out", str(tmp_path / "out")]) == 0
    assert {p: p.read_bytes() for p in ours.rglob("*") if p.is_file()} == before


def test_what_an_export_lacks_is_told(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such layout"):
        export(ours, "nerfstudio", tmp_path / "out")
    with pytest.raises(InputError, match="not a prepared folder"):
        export(tmp_path, "er-nerf", tmp_path / "out")
    with pytest.raises(InputError, match="folder itself"):
        export(ours, "er-nerf", ours)
    for name, layout, command in (
        ("aud_ds.npy", "ad-nerf", "--only speech --speech deepspeech"),
        ("blendshapes.npy", "synctalk", "--only landmarks"),
        ("au.csv", "er-nerf", "--only units"),
    ):
        (ours / name).rename(ours / "kept.npy")
        try:
            with pytest.raises(InputError, match=command):
                export(ours, layout, tmp_path / "out")
        finally:
            (ours / "kept.npy").rename(ours / name)
