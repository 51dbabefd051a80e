"""Background plate and torso pictures, on pictures whose truth is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.drawn import folder_of
from vivavoce.face import looks, parse
from vivavoce.face.landmarker import Landmarker
from vivavoce.face.regions import BACKGROUND, CLOTH, HEAD, NECK
from vivavoce.media import read_image
from vivavoce.prepare import background, parsing
from vivavoce.prepare.background import labels_of, plate
from vivavoce.prepare.torso import body, over_plate, raised
from vivavoce.turns import one_thread_each

SIZE = 96
SIDE, FILM = 256, 7  # px and frames of the film of a photographed woman
CUT = (slice(0, 330), slice(60, 380))  # head and shoulders of the photograph


def scene(shift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A round head, a neck and a block of cloth, moved sideways, before a coloured ramp: picture, labels, background."""
    y, x = np.mgrid[:SIZE, :SIZE]
    back = np.stack([x * 2, y * 2, 200 - x], 2).astype(np.uint8)
    labels = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    labels[(y > 70) & (abs(x - 48 - shift) < 34)] = CLOTH
    labels[(y > 52) & (y <= 70) & (abs(x - 48 - shift) < 9)] = NECK
    labels[(y - 38) ** 2 + (x - 48 - shift) ** 2 < 20**2] = HEAD
    picture = back.copy()
    for label, colour in ((CLOTH, (20, 40, 90)), (NECK, (180, 140, 120)), (HEAD, (220, 170, 150))):
        picture[labels == label] = colour
    return picture, labels, back


def distances(labels: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(labels == BACKGROUND).astype(np.float32)


def test_the_plate_is_the_true_background_wherever_some_frame_shows_it() -> None:
    scenes = [scene(s) for s in (-26, 0, 26)]
    image, seen, spread = plate(np.stack([p for p, _, _ in scenes]), np.stack([distances(lb) for _, lb, _ in scenes]))
    clear = np.stack([distances(lb) > 5 for _, lb, _ in scenes]).any(0)
    assert (image[clear] == scenes[0][2][clear]).all()
    assert seen == clear.mean() and 0.5 < seen < 1 and spread == 0


def test_one_wrong_frame_does_not_leave_a_trace() -> None:
    picture, labels, back = scene(0)
    pictures, away = np.stack([picture] * 5), np.stack([distances(labels)] * 5)
    pictures[2, :10] = 255  # a flash
    image, _, _ = plate(pictures, away)
    assert (image[:10] == back[:10]).all()


def test_pixels_never_seen_go_on_smoothly_from_those_that_are() -> None:
    picture, labels, back = scene(0)
    image, _, _ = plate(picture[None], distances(labels)[None])
    hidden = labels != BACKGROUND
    off = abs(image.astype(int) - back)[hidden]
    assert off.mean() < 12 and off.max() < 70  # the true background is a ramp: its continuation is near it
    assert (image[hidden] != picture[hidden]).any(1).mean() > 0.99  # and no trace of the person


def test_hair_that_no_mask_holds_does_not_colour_what_is_never_seen() -> None:
    truth = np.full((192, 192, 3), (40, 170, 220), np.uint8)
    y, x = np.mgrid[:192, :192]
    hidden = (y - 96) ** 2 + (x - 96) ** 2 < 40**2
    picture = np.where(hidden[..., None], (90, 60, 40), truth).astype(np.uint8)
    picture[50:60, 90:104:4] = (90, 60, 40)  # wisps, 6 px beyond the mask
    image, _, _ = plate(picture[None], ndimage.distance_transform_edt(~hidden)[None].astype(np.float32))
    assert abs(image[hidden].astype(int) - truth[hidden]).max() <= 1


def test_the_body_is_opaque_where_it_is_and_goes_on_behind_the_head() -> None:
    picture, labels, _ = scene(0)
    out = body(picture, labels)
    solid = np.isin(labels, (NECK, CLOTH))
    inner = solid & np.roll(solid, 3, 1) & np.roll(solid, -3, 1) & np.roll(solid, 3, 0) & np.roll(solid, -3, 0)
    assert (out[inner][:, 3] == 255).all() and (out[inner & (labels == CLOTH)][:, :3] == (20, 40, 90)).all()
    top = 58 - round(53 * SIZE / 512)  # the head ends at row 57; the neck is continued so far up behind it
    assert out[top + 3, 48, 3] > 200 and out[20, 48, 3] == 0
    assert (abs(out[54, 48, :3].astype(int) - (180, 140, 120)) < 25).all()  # neck colour, not the head's
    assert (out[out[..., 3] == 0][:, :3] == 0).all()


def test_the_continuation_darkens_by_two_percent_a_row() -> None:
    colours = np.full((20, 3, 3), 100, np.float32)
    head, part = np.zeros((20, 3), bool), np.zeros((20, 3), bool)
    head[:10], part[10:] = True, True
    out, where = raised(colours, head, part, 5, 0)
    assert where[5:10].all() and not where[:5].any()
    assert np.allclose(out[9:4:-1, 1, 0], 100 * 0.98 ** np.arange(1, 6))


def test_no_neck_in_sight_is_no_error() -> None:
    labels = np.full((32, 32), HEAD, np.uint8)
    assert body(np.zeros((32, 32, 3), np.uint8), labels)[..., 3].max() == 0


def test_the_person_stays_and_the_background_becomes_the_plate() -> None:
    picture, labels, back = scene(0)
    dirty = picture.copy()
    dirty[labels == BACKGROUND] = 0
    merged = over_plate(dirty, labels, back)
    away = distances(labels)
    far, rim = away > 5, (away > 0) & (away <= 1)
    assert (merged[far] == back[far]).all()
    assert merged[rim].mean() < 0.1 * back[rim].mean(), "pixels around the outline stay the video's own"
    deep = np.zeros_like(far)
    deep[34:42, 44:52] = True
    assert (merged[deep] == picture[deep]).all()


def test_the_outline_of_the_mask_may_be_wrong_by_some_pixels() -> None:
    picture, labels, back = scene(0)
    away = distances(labels)
    picture[(away > 0) & (away <= 4)] = (220, 170, 150)  # skin outside the mask
    image, seen, _ = plate(picture[None], away[None])
    clear = away > 5
    assert seen == clear.mean() and (image[clear] == back[clear]).all()
    assert (np.abs(image.astype(int) - (220, 170, 150)).max(2) > 20).all()  # nothing of it in the plate


def test_a_neck_that_begins_in_the_last_row_is_continued_upwards() -> None:
    colours, head, part = np.full((8, 4, 3), 100, np.float32), np.zeros((8, 4), bool), np.zeros((8, 4), bool)
    head[:7], part[7] = True, True
    colours[7] = 50
    out, where = raised(colours, head, part, 3, 2)
    assert where[4:7].all() and not where[:4].any() and (out[6] == 49).all()


def cut_out() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photographed woman without what she stands before: picture [h,w,3], share of each pixel [h,w], mesh [478,3] px."""
    from skimage import data

    photo = np.array(data.astronaut())
    (face,) = Landmarker()(photo)
    person = parse.outlined(parse.Selfie()(photo), photo, parse.reduced(photo)) > 0.5
    shape = parse.tidy(np.where(person, HEAD, BACKGROUND).astype(np.uint8)) == HEAD
    scale = 0.72 * SIDE / (CUT[0].stop - CUT[0].start)
    width, height = (round(scale * (part.stop - part.start)) for part in (CUT[1], CUT[0]))

    def small(picture: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(np.ascontiguousarray(picture[CUT])).resize((width, height), Image.Resampling.BOX), np.float64)

    return small(photo), small(255 * shape.astype(np.uint8)) / 255, (face.points - [CUT[1].start, CUT[0].start, 0]) * scale


@pytest.mark.assets
def test_masks_and_plate_of_a_film_whose_truth_is_known(
    tmp_path: Path, asset: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """She walks through the picture before a made-up wall, every frame with noise of its own: whatever her outline, it is known."""
    for name in ("face_landmarker", "selfie_segmentation"):
        asset(name)
    monkeypatch.setattr(looks, "STEPS", 30)  # hair from cloth is not asked here
    her, share, mesh = cut_out()
    height, width = share.shape
    y, x = np.mgrid[:SIDE, :SIDE] * (512 / SIDE)
    wall = np.stack([120 + 40 * np.sin(x / 60), 130 + 40 * np.sin(y / 50 + x / 90), 150 + 30 * np.cos((x + y) / 70)], 2)
    pictures, truths, points = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for left in np.linspace(-0.2, 1.2, FILM) * (SIDE - width):
        first, there = max(0, round(left)), np.zeros((SIDE, SIDE, 1))
        last, painted = min(SIDE, round(left) + width), np.zeros((SIDE, SIDE, 3))
        part, shown = slice(first - round(left), last - round(left)), np.s_[SIDE - height :, first:last]
        there[shown], painted[shown] = share[:, part, None], her[:, part]
        noisy = wall + np.random.default_rng(len(points)).normal(0, 2, wall.shape)
        pictures.append(np.clip(noisy * (1 - there) + painted * there, 0, 255).round().astype(np.uint8))
        truths.append(there[..., 0] > 0.5)
        points.append(mesh + np.array([round(left), SIDE - height, 0]))
    folder = folder_of(tmp_path / "she", pictures, np.stack(points).astype(np.float32))
    folder.update(size=[SIDE, SIDE], shots=[[0, FILM - 1, "kept"]], jumps=[])
    with one_thread_each():
        parsing.run(folder, lambda done, total: None)
        background.run(folder, lambda done, total: None)
    labels = [labels_of(folder, k) for k in range(FILM)]
    for found, truth in zip(labels, truths, strict=True):
        person = found != BACKGROUND
        assert (person & truth).sum() / (person | truth).sum() >= 0.97
    seen = np.stack([distances(found) > background.CLEAR for found in labels]).any(0)
    assert folder.clip["background"]["seen"] == pytest.approx(seen.mean(), abs=1e-3) and seen.mean() > 0.9
    off = (read_image(folder.file("bc.jpg")) - wall)[seen]
    assert 10 * np.log10(255**2 / np.square(off).mean()) >= 40  # dB
