"""Head pose, eyes and background as a user wishes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import hostile
from tests.synthetic import SyntheticPerson
from tests.test_talker import Count
from vivavoce.controls import LIDS, Scene, Staging, covering, read_poses
from vivavoce.face import idle
from vivavoce.face.pose import camera_from_motion, motion_from_camera, transform_from_camera
from vivavoce.media import write_image
from vivavoce.method import Renderer
from vivavoce.nn.torso import Torso
from vivavoce.types import Clip, InputError, Motion

FRAME = torch.arange(5)


class Painted(Renderer):
    """Draws nothing but what stands behind the head."""

    needs = frozenset({"camera", "body", "eyes"})

    def __init__(self) -> None:
        super().__init__(None)
        self.torso = Torso((8, 8), cells=4)

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.body is not None
        return self.torso(torch.zeros(len(clip), 6), clip.body, (8, 8))[0]


class Portrayed(Renderer):
    needs, space = frozenset({"motion"}), "blendshapes"


def nod(space: str = "blendshapes") -> Motion:
    """A head that nods a little more in every frame, its lids half shut."""
    turn = torch.zeros(5, 3)
    turn[:, 0] = torch.arange(5) / 100
    return Motion(turn, turn / 10, torch.ones(5, 1), torch.full((5, 52), 0.5), space)


def staged(scene: Scene, person: SyntheticPerson | None = None, motion: Motion | None = None) -> tuple[Clip, Motion | None, Staging]:
    person, renderer = person or SyntheticPerson(), Painted() if motion is None else Portrayed(None)
    staging = Staging(scene, renderer, person, Count(None) if motion is not None else None)
    fields = renderer.needs - {"motion"}
    return *staging(person.clip(FRAME, fields) if fields else Clip(), FRAME, motion), staging


def test_by_itself_everything_is_as_in_the_source() -> None:
    person = SyntheticPerson()
    clip, _, staging = staged(Scene(), person)
    true = person.clip(FRAME, Painted.needs)
    assert clip.camera is not None and true.camera is not None and torch.equal(clip.camera.pose, true.camera.pose)
    assert clip.eyes is not None and bool((clip.eyes == 1).all()) and not staging.single and not staging.notes


def test_a_fixed_head_stays_in_the_middle_of_its_poses_with_the_body_of_that_row() -> None:
    person = SyntheticPerson(count=200)
    clip, _, _ = staged(Scene(pose="fixed"), person)
    assert clip.camera is not None and clip.body is not None and len(clip.body) == 5
    assert torch.allclose(clip.camera.pose, clip.camera.pose[:1].expand(5, 4, 4))
    yaw = motion_from_camera(clip.camera).rotation[0, 1]
    assert abs(float(yaw + person.yaw.median())) < 0.01  # the head's own yaw is the camera's, the other way round
    assert torch.equal(clip.camera.focal, person.camera.focal[FRAME])


@pytest.mark.parametrize("kind", ["json", "matrices", "numbers"])
def test_poses_of_a_file_are_followed_to_and_fro(kind: str, tmp_path: Path) -> None:
    person = SyntheticPerson()
    three = person.camera[[3, 9, 15]]
    motion = motion_from_camera(three)
    path = tmp_path / ("poses.json" if kind == "json" else "poses.npy")
    matrices = transform_from_camera(three)
    if kind == "json":
        path.write_text(json.dumps({"frames": [{"img_id": i, "transform_matrix": m.tolist()} for i, m in enumerate(matrices)]}))
    else:
        np.save(path, matrices.numpy() if kind == "matrices" else torch.cat([motion.rotation, motion.translation], 1).numpy())
    clip, _, staging = staged(Scene(pose=str(path)), person)
    assert clip.camera is not None and not staging.notes
    assert torch.allclose(clip.camera.pose, person.camera.pose[[3, 9, 15, 15, 9]], atol=1e-5)


def test_another_persons_poses_turn_this_head_about_its_own_middle(tmp_path: Path) -> None:
    person = SyntheticPerson()
    far = motion_from_camera(person.camera)
    far = replace(far, translation=far.translation * 3 + 0.4)  # a camera that stood elsewhere
    np.save(tmp_path / "poses.npy", torch.cat([far.rotation, far.translation], 1).numpy())
    clip, _, staging = staged(Scene(pose=str(tmp_path / "poses.npy")), person)
    assert clip.camera is not None and "moved onto" in staging.notes[0]
    away = motion_from_camera(clip.camera).translation
    assert float((away - motion_from_camera(person.camera).translation.median(0).values).norm(dim=1).max()) < 0.2


def test_a_generators_head_moves_from_the_middle_pose(tmp_path: Path) -> None:
    person, renderer = SyntheticPerson(), Painted()
    staging = Staging(Scene(pose="generator"), renderer, person, Count(None))
    fixed = Staging(Scene(pose="fixed"), renderer, person)
    clip = person.clip(FRAME, renderer.needs)
    moved, still = staging(clip, FRAME, nod())[0].camera, fixed(clip, FRAME, None)[0].camera
    assert moved is not None and still is not None
    a, b = motion_from_camera(moved), motion_from_camera(still)
    assert torch.allclose(a.rotation - b.rotation, nod().rotation, atol=1e-5)
    assert torch.allclose(a.translation - b.translation, nod().translation, atol=1e-5)
    with pytest.raises(InputError, match="--pose generator"):
        Staging(Scene(pose="generator"), renderer, person)


def test_a_portrait_can_be_held_still_and_its_lids_open() -> None:
    _, motion, _ = staged(Scene(pose="fixed", eyes="fixed"), motion=nod())
    assert motion is not None and not motion.rotation.any() and not motion.translation.any()
    assert not motion.expression[:, LIDS].any() and bool((motion.expression[:, 0] == 0.5).all())
    _, free, _ = staged(Scene(), motion=nod())
    assert free is not None and torch.equal(free.rotation, nod().rotation) and bool((free.expression == 0.5).all())


class Winking(SyntheticPerson):
    """Shuts its eyes now and then."""

    def clip(self, rows: object, needs: object = None) -> Clip:
        clip = super().clip(rows, needs)  # type: ignore[arg-type]
        if clip.eyes is not None and clip.index is not None:
            clip.eyes = 0.8 * (clip.index % 5 != 0).float()[:, None].expand(-1, 2)
        return clip


def test_eyes_are_held_open_or_blink_by_themselves() -> None:
    person, renderer = Winking(), Painted()
    held, _, _ = staged(Scene(eyes="fixed"), person)
    assert held.eyes is not None and torch.allclose(held.eyes, torch.full((5, 2), 0.8))
    frame = torch.arange(200)
    clip = person.clip(torch.zeros(200, dtype=torch.long), renderer.needs)
    eyes = Staging(Scene(eyes="blink", seed=3), renderer, person)(clip, frame, None)[0].eyes
    assert eyes is not None and torch.allclose(eyes[:, 0], 0.8 * (1 - idle.blink(frame, 3)))
    assert float(eyes.min()) < 0.05


def test_a_picture_or_a_colour_stands_behind_the_head(tmp_path: Path) -> None:
    picture = torch.zeros(3, 10, 30)
    picture[1, :, 10:20] = 1  # its middle third is green, and just that fills a square
    write_image(tmp_path / "wall.png", picture)
    for wish, colour in ((str(tmp_path / "wall.png"), (0, 1, 0)), ("#ff0080", (1, 0, 128 / 255)), ("white", (1, 1, 1))):
        renderer, person = Painted(), SyntheticPerson()
        staging = Staging(Scene(background=wish), renderer, person)
        clip, _ = staging(person.clip(FRAME, renderer.needs), FRAME, None)
        with torch.no_grad():
            frames = renderer.render(None, clip)
        assert not staging.single and torch.allclose(frames[:, :, 4, 4], torch.tensor(colour).float().expand(5, 3), atol=0.02), wish


def test_a_film_behind_the_head_goes_on_frame_by_frame_and_begins_again(tmp_path: Path) -> None:
    film = hostile.video(tmp_path / "film.mp4", [np.full((64, 64, 3), level, np.uint8) for level in (0, 120, 240)], with_sound=False)
    renderer, person = Painted(), SyntheticPerson()
    staging = Staging(Scene(background=str(film)), renderer, person)
    assert staging.single
    seen = []
    for k in range(8):
        clip, _ = staging(person.clip([0], renderer.needs), torch.tensor([k]), None)
        with torch.no_grad():
            seen.append(float(renderer.render(None, clip).mean()) * 255)
    assert np.allclose(seen, [0, 120, 240, 0, 120, 240, 0, 120], atol=6)


def test_a_picture_covers_the_frame_and_keeps_its_shape() -> None:
    ramp = torch.linspace(0, 1, 40).expand(3, 10, 40)
    made = covering(ramp, (20, 20))
    assert made.shape == (3, 20, 20) and torch.allclose(made[0, 0], torch.linspace(0.375, 0.625, 20), atol=0.03)


@pytest.mark.parametrize(
    "scene, said",
    [
        (Scene(pose="sideways"), "choose from: source, generator, fixed"),
        (Scene(eyes="shut"), "choose from: source, fixed, blink"),
        (Scene(background="grass-ish"), "no file and no colour"),
    ],
)
def test_a_wish_that_cannot_be_had_is_told_in_one_line(scene: Scene, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Staging(scene, Painted(), SyntheticPerson())


def test_a_renderer_without_a_layer_behind_the_head_keeps_its_background() -> None:
    with pytest.raises(InputError, match="no layer behind the head"):
        Staging(Scene(background="white"), Portrayed(None), SyntheticPerson(), Count(None))


@pytest.mark.parametrize("rows", [np.zeros((0, 6)), np.zeros((4, 5)), np.full((4, 6), np.nan)])
def test_a_file_that_holds_no_poses_is_refused(rows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "poses.npy", rows)
    with pytest.raises(InputError, match="no head poses"):
        read_poses(str(tmp_path / "poses.npy"))


def test_poses_come_back_as_they_were_written(tmp_path: Path) -> None:
    camera = SyntheticPerson().camera
    np.save(tmp_path / "poses.npy", transform_from_camera(camera).numpy())
    again = camera_from_motion(read_poses(str(tmp_path / "poses.npy")), camera.focal, camera.center)
    assert torch.allclose(again.pose, camera.pose, atol=1e-5)
