"""Faces: the mesh and its regions, crops and paste back, and the landmarker against MediaPipe's own answers.

`mediapipe_faces.npz` holds the points and scores that mediapipe 1.2.2's FaceLandmarker (image mode, the same task file) gives for
scikit-image's astronaut and for one frame each of four recordings (number 80; 20 for latentsync_demo2).
"""

from __future__ import annotations

import itertools
import os
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vivavoce import media
from vivavoce.face import crop as cropping
from vivavoce.face import litert, mesh, regions
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.types import InputError

MEDIAPIPE = np.load(Path(__file__).with_name("mediapipe_faces.npz"))
LOOPS = ("LIPS_OUTER", "LIPS_INNER", "EYE_LEFT", "EYE_RIGHT", "BROW_LEFT", "BROW_RIGHT", "OVAL")

# --- mesh and regions ---


def loop(name: str) -> list[frozenset[int]]:
    points = getattr(regions, name)
    return [frozenset(pair) for pair in zip(points, (*points[1:], points[0]), strict=True)]


def test_loops_run_along_edges_of_the_mesh_and_the_oval_is_its_rim() -> None:
    corners = mesh.triangles()
    count = Counter(frozenset((int(a), int(b))) for t in corners for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0])))
    for name in LOOPS:
        assert set(loop(name)) <= set(count), name
    assert {edge for edge, n in count.items() if n == 1} == set(loop("OVAL"))


def test_left_and_right_mirror_each_other() -> None:
    points = mesh.vertices()
    away = np.linalg.norm(points[:, None] - points * [-1, 1, 1], axis=2)
    other = away.argmin(0)
    assert away.min(0).max() < 1e-6
    assert {int(i) for i in other[list(regions.EYE_LEFT)]} == set(regions.EYE_RIGHT)
    assert {int(i) for i in other[list(regions.BROW_LEFT)]} == set(regions.BROW_RIGHT)
    mirrored = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    mirrored += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
    view = np.array(regions.LANDMARKS_68)
    assert (other[view] == view[mirrored]).all()
    assert points[regions.EYE_LEFT[0], 0] > 0 > points[regions.LIPS_CORNERS[0], 0]  # the person's left is the viewer's right


def test_the_canonical_face_has_the_size_of_a_face() -> None:
    face = mesh.canonical()
    assert face.vertices.shape == (468, 3) and face.triangles.shape == (898, 3) and face.texture.shape == (468, 2)
    size = np.ptp(face.vertices, axis=0)
    assert 0.13 < size[0] < 0.17 and 0.16 < size[1] < 0.20  # metres
    assert face.vertices[4, 2] == face.vertices[:, 2].max()  # the tip of the nose comes first
    assert face.vertices[10, 1] > face.vertices[152, 1]  # forehead over chin
    corners = face.vertices[face.triangles]
    out = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
    assert (out > 0).mean() > 0.98 and (face.weights > 0).sum() == 33


@pytest.mark.assets
def test_mesh_bytes_that_are_none_are_refused(asset: Callable[[str], Path]) -> None:
    with zipfile.ZipFile(asset(mesh.ASSET)) as task:
        whole = task.read(mesh.MEMBER)
    for bad in (b"", b"no protobuf at all", whole[:-5000], whole[:100]):
        with pytest.raises(ValueError, match=r"protobuf|metadata"):
            mesh.Canonical(bad)


@pytest.mark.real
def test_mesh_equals_the_one_read_by_others(shared_data: Path) -> None:
    theirs = np.load(shared_data / "models" / "mediapipe_canonical_face.npz")
    ours = mesh.canonical()
    np.testing.assert_allclose(ours.vertices, theirs["vertices"] / 100, atol=1e-7)
    np.testing.assert_array_equal(ours.triangles, theirs["faces"])
    np.testing.assert_array_equal(ours.texture, theirs["uv"])
    np.testing.assert_array_equal(ours.weights, theirs["procrustes_weight"])


def test_names_and_classes() -> None:
    assert len(regions.BLENDSHAPES) == len(set(regions.BLENDSHAPES)) == 52 and regions.BLENDSHAPES[25] == "jawOpen"
    assert len(regions.BLENDSHAPE_POINTS) == 146 and sorted(regions.BLENDSHAPE_POINTS) == list(regions.BLENDSHAPE_POINTS)
    assert len(regions.FROM_CELEBAMASK) == 19 and regions.FROM_CELEBAMASK[16] == regions.CLOTH
    assert len(regions.CLASSES) == len(regions.COLOURS) == 7


def test_parsing_colours_go_there_and_back() -> None:
    labels = torch.randint(0, 7, (2, 40, 30), dtype=torch.uint8)
    colours = regions.colours_from_labels(labels)
    assert colours.dtype == torch.uint8 and colours.shape == (2, 3, 40, 30)
    noise = torch.randint(-24, 25, colours.shape)
    assert torch.equal(regions.labels_from_colours((colours.int() + noise).clamp(0, 255).to(torch.uint8)), labels)
    old = regions.labels_from_colours(regions.colours_from_labels(labels, split=False))
    assert set(old.unique().tolist()) == {regions.BACKGROUND, regions.HEAD, regions.NECK, regions.CLOTH}
    cloth = colours.movedim(1, -1)[labels == regions.CLOTH]
    assert (cloth == torch.tensor([255, 0, 0])).all()  # red, where the order is RGB


# --- crops ---


def waves(height: int, width: int) -> torch.Tensor:  # -> [1,3,H,W] smooth, known at any place
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return wave(torch.stack([x, y], -1)).permute(2, 0, 1)[None]


def wave(places: torch.Tensor) -> torch.Tensor:  # [...,2] -> [...,3]
    x, y = places.unbind(-1)
    return torch.stack([torch.sin(x / 17), torch.cos(y / 13), torch.sin((x + y) / 23)], -1) * 0.5 + 0.5


def tilted(size: tuple[int, int], angle: float = 0.3, margin: float = 1.3) -> cropping.Crop:
    """A crop around 68 points on a tilted ellipse in the middle of a 300 x 400 picture."""
    turn = torch.linspace(0, 6.283, 68)
    points = torch.stack([70 * torch.cos(turn), 90 * torch.sin(turn)], 1)
    points[list(cropping.EYES_68)] = torch.tensor([[-40.0, -30], [-15, -30], [15, -30], [40, -30]])
    c, s = np.cos(angle), np.sin(angle)
    spun = points @ torch.tensor([[c, s], [-s, c]], dtype=torch.float32) + torch.tensor([200.0, 150.0])
    return cropping.around(spun[None], size, margin)


@pytest.mark.parametrize("size", [(256, 256), (64, 64), (97, 131)])
def test_a_crop_shows_the_right_places_and_goes_back(size: tuple[int, int]) -> None:
    picture, where = waves(300, 400), tilted(size)
    made = cropping.crop(picture, where)
    grid = torch.stack(torch.meshgrid(torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5, indexing="xy"), -1).reshape(1, -1, 2)
    places = where.outside(grid)
    torch.testing.assert_close(where.inside(places), grid, atol=1e-3, rtol=0)
    kept = ((places > 1) & (places < torch.tensor([399.0, 299.0]))).all(-1)[0]
    torch.testing.assert_close(made[0].flatten(1).t()[kept], wave(places)[0][kept], atol=6e-3, rtol=0)
    back = cropping.paste(picture, made, where)
    torch.testing.assert_close(back, picture, atol=1.2e-2, rtol=0)
    inverted = cropping.paste(picture, 1 - made, where)
    outside = cropping.paste(torch.zeros_like(picture), torch.ones_like(made), where) == 0
    assert outside.any() and torch.equal(inverted[outside], picture[outside])
    assert (inverted - picture).abs().max() > 0.5


def test_eyes_are_level_in_a_crop() -> None:
    where = tilted((128, 128))
    direction = where.matrix[0, :, :2] @ torch.tensor([np.cos(0.3), np.sin(0.3)], dtype=torch.float32)
    assert direction[0] > 0 and abs(direction[1]) < 1e-4 * direction[0]
    assert float(where.scale) == pytest.approx(128 / (180 * 1.3), rel=0.01)


def test_gradients_pass_through_crop_and_paste() -> None:
    where = tilted((5, 4))
    full = torch.rand(1, 2, 300, 400, requires_grad=True)
    made = torch.rand(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    small = torch.rand(1, 1, 6, 7, dtype=torch.float64)
    near = cropping.Crop(where.matrix.clone(), where.size)
    near.matrix[:, :, 2] += near.matrix[:, :, :2] @ torch.tensor([197.0, 147.0])
    assert torch.autograd.gradcheck(lambda x: cropping.paste(small, x, near), (made,))
    assert torch.autograd.gradcheck(lambda x: cropping.crop(x, near), (small.clone().requires_grad_(),))
    cropping.paste(full, cropping.crop(full, where), where).sum().backward()  # type: ignore[no-untyped-call]
    assert full.grad is not None and float(full.grad.sum()) == pytest.approx(full.numel(), rel=1e-3)


def test_crops_beyond_the_picture_and_masks() -> None:
    picture = waves(300, 400)
    far = cropping.Crop(tilted((64, 64)).matrix + torch.tensor([0.0, 0.0, 5000.0]), (64, 64))
    assert torch.equal(cropping.paste(picture, torch.zeros(1, 3, 64, 64), far), picture)
    for oval in (False, True):
        mask = cropping.soft_mask((60, 40), 0.2, oval)
        assert mask.shape == (1, 1, 60, 40) and mask[0, 0, 30, 20] > 0.99 and mask[0, 0, :, 0].max() < 0.02
        torch.testing.assert_close(mask, mask.flip(2).flip(3))
    hard = cropping.paste(picture, torch.zeros(1, 3, 64, 64), tilted((64, 64)), torch.ones(1, 1, 64, 64))
    assert float(hard[0, :, 150, 200].max()) == 0


@pytest.mark.parametrize("corner", [(40, 30), (-25, 260), (370, -12)])  # inside, and over the picture's edge
def test_whole_pixels_come_back_bit_for_bit(corner: tuple[int, int]) -> None:
    picture, drawn = torch.rand(2, 3, 300, 400), torch.rand(2, 3, 64, 48)
    shift = torch.tensor([[1.0, 0.0, -corner[0]], [0.0, 1.0, -corner[1]]]).expand(2, 2, 3)
    where = cropping.Crop(shift, (64, 48))
    wanted, (x, y) = picture.clone(), corner
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + 48, 400), min(y + 64, 300)
    wanted[..., y0:y1, x0:x1] = drawn[..., y0 - y : y1 - y, x0 - x : x1 - x]
    assert torch.equal(cropping.paste(picture, drawn, where, torch.ones(1, 1, 64, 48)), wanted)
    off = shift + torch.tensor([[0.0, 0.0, 1e-3], [0.0, 0.0, 1e-3]])  # resampled
    soft = [cropping.paste(picture, drawn, cropping.Crop(m, (64, 48))) for m in (shift, off)]
    torch.testing.assert_close(*soft, atol=0.01, rtol=0)


def test_one_steady_crop_holds_every_face() -> None:
    points = torch.rand(5, 478, 2) * 60 + torch.arange(5)[:, None, None] * torch.tensor([4.0, 2.0]) + 100
    points[3] = (points[3] - points[3].mean(0)) * 1.5 + points[3].mean(0)
    where = cropping.steady(cropping.around(points, (128, 128), 1.6, level=False))
    inside = where.inside(points)
    assert len(where) == 5 and torch.equal(where.matrix[0], where.matrix[4])
    assert inside.min() > 0 and inside.max() < 128
    for bad in (torch.zeros(2, 478, 2), torch.zeros(0, 478, 2), torch.full((1, 478, 2), float("nan"))):
        with pytest.raises(InputError):
            cropping.around(bad, (64, 64))
    with pytest.raises(InputError, match="eyes"):
        cropping.around(torch.rand(1, 7, 2), (64, 64))


# --- the landmarker ---


@pytest.fixture(scope="session")
def landmarker(asset: Callable[[str], Path]) -> Landmarker:
    return Landmarker(threads=2, file=asset("face_landmarker"))


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    from skimage import data

    return np.array(data.astronaut())


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def agrees(face: Face, name: str) -> None:
    theirs, scores = MEDIAPIPE[f"{name}_points"], MEDIAPIPE[f"{name}_blendshapes"]
    across = np.linalg.norm(theirs[33, :2] - theirs[263, :2])
    assert np.linalg.norm(face.points[:, :2] - theirs[:, :2], axis=1).mean() < 0.0125 * across
    assert np.abs(face.points[:, 2] - theirs[:, 2]).mean() < 0.0125 * across
    assert np.abs(face.blendshapes - scores).mean() < 0.03


@pytest.mark.assets
def test_the_astronaut_as_mediapipe_sees_her(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    (face,) = landmarker(astronaut)
    agrees(face, "astronaut")
    assert face.score > 0.99 and face.landmarks68.shape == (68, 2)
    assert face.blendshapes[regions.BLENDSHAPES.index("mouthSmileLeft")] > 0.5  # she smiles
    assert face.eyes.min() > 0.8 and 0.05 < face.mouth_open < 0.4
    assert face.landmarks68[36, 0] < face.landmarks68[45, 0]  # her right eye is on the picture's left


@pytest.mark.assets
def test_pictures_without_a_face_give_none(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 420, 3), dtype=np.uint8)
    blank = [np.full(s, 90, np.uint8) for s in ((1, 1, 3), (1, 300, 3), (16, 16), (64, 2000, 3))]
    for picture in (noise, astronaut[300:], *blank):
        assert landmarker(picture) == []
        assert landmarker.follow(picture, None) is None


@pytest.mark.assets
def test_two_faces_are_two(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    near = np.concatenate([astronaut, resized(astronaut[:256, 100:356], 512, 512)], 1)
    first, second = landmarker(near)
    assert first.box[0] > 512 > second.box[2]  # the larger first
    assert len(Landmarker(most=1, file=None)(near)) == 1


@pytest.mark.assets
def test_sizes_channels_and_turns(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    (face,) = landmarker(astronaut)
    across = np.linalg.norm(face.points[33, :2] - face.points[263, :2])

    def off(points: np.ndarray) -> float:
        return float(np.linalg.norm(points[:, :2] - face.points[:, :2], axis=1).mean() / across)

    grey = np.asarray(Image.fromarray(astronaut).convert("L"))
    (seen,) = landmarker(grey)
    assert off(seen.points) < 0.03
    (seen,) = landmarker(np.dstack([astronaut, grey]))
    assert off(seen.points) == 0
    (seen,) = landmarker(resized(astronaut, 2160, 2160))
    assert off(seen.points * (512 / 2160)) < 0.03
    (seen,) = landmarker(np.rot90(astronaut).copy())
    assert off(np.stack([512 - seen.points[:, 1], seen.points[:, 0]], 1)) < 0.05
    wide = np.full((2160, 3840, 3), 120, np.uint8)  # a face of 106 px in 4K: only the search can find it
    wide[900:1412, 2000:2512] = astronaut
    (seen,) = landmarker(wide)
    assert off(seen.points - [2000, 900, 0]) < 0.03
    (seen,) = landmarker(resized(astronaut, 64, 64))
    assert off(seen.points * 8) < 0.12
    with pytest.raises(InputError, match="no picture"):
        landmarker(astronaut.astype(np.float32))
    with pytest.raises(InputError, match="5 channels"):
        landmarker(np.zeros((40, 40, 5), np.uint8))


@pytest.mark.assets
def test_following_needs_no_detector_until_the_face_is_gone(
    landmarker: Landmarker, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    detect = Landmarker._detect
    monkeypatch.setattr(Landmarker, "_detect", lambda self, p: calls.append(1) or detect(self, p))
    face, start = None, None
    for step in range(6):
        face = landmarker.follow(np.roll(astronaut, 5 * step, 1), face)
        assert face is not None and len(calls) == 1
        start = face.points[4, 0] if start is None else start
        assert face.points[4, 0] - start == pytest.approx(5 * step, abs=1.5)
    empty = np.full_like(astronaut, 100)
    assert landmarker.follow(empty, face) is None and len(calls) == 2
    jumped = landmarker.follow(np.roll(astronaut, -170, 1), face)
    assert jumped is not None and jumped.points[4, 0] < 120


def test_nets_opened_side_by_side_leave_the_standard_error_where_it_was() -> None:
    """Errors are told there: it once ended nowhere when two threads opened nets at the same time."""

    def work(_: int) -> None:
        with litert.quiet():
            time.sleep(0.002)

    before = os.fstat(2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    after = os.fstat(2)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)


def test_a_broken_task_file_is_told(tmp_path: Path) -> None:
    for name, body in (("empty", b""), ("text", b"not a zip")):
        (tmp_path / name).write_bytes(body)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "no nets")
    with zipfile.ZipFile(tmp_path / "junk.zip", "w") as junk:
        for net in ("face_detector.tflite", "face_landmarks_detector.tflite", "face_blendshapes.tflite"):
            junk.writestr(net, b"\0" * 4000)
    for name in ("empty", "text", "other.zip", "junk.zip", "absent"):
        with pytest.raises(InputError, match="vivavoce assets fetch face_landmarker"):
            Landmarker(file=tmp_path / name)


@pytest.mark.real
@pytest.mark.assets
@pytest.mark.parametrize("name", ["dfrf_cnn2", "adth_31", "latentsync_demo2", "hyperlips_video1"])
def test_recordings_as_mediapipe_sees_them(landmarker: Landmarker, shared_data: Path, name: str) -> None:
    number = 20 if name == "latentsync_demo2" else 80
    frame = next(itertools.islice(media.frames(shared_data / "video" / f"{name}.mp4"), number, None))
    agrees(landmarker(frame)[0], name)  # hyperlips_video1 also shows a drawn face, which counts


@pytest.mark.real
@pytest.mark.assets
def test_scores_follow_lids_and_lips(landmarker: Landmarker, shared_data: Path) -> None:
    """Every frame of a recording has its face, and the scores move with what the points show."""
    face, faces = None, []
    for frame in media.frames(shared_data / "grid_s1" / "bbaf2n.mp4"):
        face = landmarker.follow(frame, face)
        assert face is not None
        faces.append(face)
    points = np.stack([f.points for f in faces])
    lids = np.linalg.norm(points[:, 386, :2] - points[:, 374, :2], axis=1) / np.linalg.norm(points[:, 362, :2] - points[:, 263, :2], axis=1)
    scores = np.stack([f.blendshapes for f in faces])
    opening = np.array([f.mouth_open for f in faces])
    assert np.corrcoef(lids, scores[:, regions.BLENDSHAPES.index("eyeBlinkLeft")])[0, 1] < -0.9
    assert np.corrcoef(opening, scores[:, regions.BLENDSHAPES.index("jawOpen")])[0, 1] > 0.6
    assert opening.max() > 0.15 > 0.05 > opening.min()
