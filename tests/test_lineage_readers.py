"""A folder of ours, as nine older repositories read it: same cameras, same pixels, right signs of every axis."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests import lineage_readers as readers
from tests.heads import talking_head
from tests.lineage_readers import Scene
from vivavoce.cli import main
from vivavoce.data.person import Person
from vivavoce.face import regions
from vivavoce.media import write_image
from vivavoce.prepare import Folder, prepare
from vivavoce.prepare.export import LAYOUTS, export
from vivavoce.types import InputError

pytestmark = pytest.mark.assets

COUNT, SIZE, LOST = 66, 128, 30  # frame LOST has no face
LIPS = list(regions.LIPS_INNER)
BLINK = [regions.BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]
COLOURS = {1: (210, 170, 140), 2: (190, 150, 120), 3: (50, 60, 120), 4: (60, 40, 30), 5: (80, 20, 25)}


def draw(points: np.ndarray, plate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [478,3] px -> frame, labels
    outline = points[list(regions.OVAL), :2]
    middle, half = outline.mean(0), np.ptp(outline, 0) / 2
    frame, labels = Image.fromarray(plate), Image.new("L", (SIZE, SIZE))
    parts = (regions.HEAD, regions.NECK, regions.CLOTH, regions.HAIR, regions.INNER_MOUTH)
    for image, fill in ((frame, COLOURS), (labels, dict(zip(COLOURS, parts, strict=True)))):
        pen = ImageDraw.Draw(image)
        pen.rectangle([*(middle - (0.5 * half[0], 0)), middle[0] + 0.5 * half[0], SIZE * 0.9], fill=fill[2])
        pen.polygon([(SIZE * 0.1, SIZE), (SIZE * 0.3, SIZE * 0.8), (SIZE * 0.7, SIZE * 0.8), (SIZE * 0.9, SIZE)], fill=fill[3])
        pen.ellipse([*(middle - (1.15, 1.35) * half), *(middle + (1.15, 0.3) * half)], fill=fill[4])
        pen.polygon([tuple(p) for p in outline], fill=fill[1])
        mouth = points[LIPS, :2].mean(0)
        pen.ellipse([*(mouth - (5, 3)), *(mouth + np.array([5, 3]))], fill=fill[5])
    return np.asarray(frame), np.asarray(labels)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, landmarks and parsing of a known head; torso, tracking, cameras, action units and sound by `prepare`."""
    place = tmp_path_factory.mktemp("ours") / "person"
    (place / "parsing").mkdir(parents=True)
    head = talking_head(frames=COUNT, focal=420, size=SIZE, noise=0.1)
    points = head.points.numpy().astype(np.float32)
    scores = np.zeros((COUNT, 52), np.float32)
    scores[:, BLINK] = np.exp(-(((np.arange(COUNT) - 20) / 2) ** 2))[:, None]
    points[LOST], scores[LOST] = np.nan, np.nan
    plate = np.tile(np.linspace(120, 220, SIZE)[:, None, None], (1, SIZE, 3)).astype(np.uint8)
    for k in range(COUNT):
        frame, labels = draw(points[k - (k == LOST)], plate)
        write_image(place / "ori_imgs" / f"{k}.jpg", frame)
        colours = regions.colours_from_labels(torch.tensor(labels)[None])[0]
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
    assert away(scene) < 1.5  # px, of a face 60 px wide whose flat hair, which the pose follows, turns otherwise than a head's would
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
        skin = np.abs(extras["behind"] - COLOURS[1]).max(-1) < 12
        assert skin.mean() < 0.02
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
