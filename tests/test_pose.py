"""The pose convention: round trips, signs, the lineage's formulas written out, and the solver."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce.face import pose
from vivavoce.types import Camera, Motion


def random_motion(rows: int = 64) -> Motion:
    g = torch.Generator().manual_seed(0)
    rotation = (torch.rand(rows, 3, generator=g) - 0.5) * torch.tensor([2.0, 2.4, 3.0])
    place = (torch.rand(rows, 3, generator=g) - 0.5) * 0.3 + torch.tensor([0, 0, -0.8])
    return Motion(rotation, place, torch.ones(rows, 1), torch.zeros(rows, 0))


def head(points: int = 120) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (torch.rand(points, 3, generator=g) - 0.5) * torch.tensor([0.15, 0.2, 0.1])


FOCAL, CENTER = torch.tensor([1200.0]), torch.tensor([250.0, 260.0])


def test_euler_matrix_round_trip_and_axes() -> None:
    motion = random_motion()
    matrix = pose.matrix_from_euler(motion.rotation)
    assert torch.allclose(matrix @ matrix.transpose(1, 2), torch.eye(3).expand_as(matrix), atol=1e-5)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(len(matrix)), atol=1e-5)
    assert torch.allclose(pose.euler_from_matrix(matrix), motion.rotation, atol=1e-5)
    one = [pose.matrix_from_euler(a * torch.eye(3)) for a in (0.3, -0.3)]
    axes = [pose.matrix_from_axis(a * torch.eye(3)) for a in (0.3, -0.3)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, axes))  # each angle turns right-handed about its own axis


def test_signs_are_those_documented() -> None:
    nose, crown = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 1, 0])
    turned = pose.matrix_from_euler(0.2 * torch.eye(3))
    assert (turned[0] @ nose)[1] < -0.1  # pitch: nose down
    assert (turned[1] @ nose)[0] > 0.1  # yaw: nose to the picture's right
    assert (turned[2] @ crown)[0] < -0.1  # roll: top of the head to the picture's left


def test_euler_is_differentiable() -> None:
    rotation = random_motion(3).rotation.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: pose.euler_from_matrix(pose.matrix_from_euler(r)), rotation)
    vectors = torch.cat([torch.zeros(1, 3), torch.randn(3, 3, generator=torch.Generator().manual_seed(0))]).double().requires_grad_()
    assert torch.autograd.gradcheck(pose.matrix_from_axis, vectors)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.1, 2.0, 3.1])
def test_axis_round_trip(angle: float) -> None:
    vector = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8]]).double(), dim=1) * angle
    assert torch.allclose(pose.axis_from_matrix(pose.matrix_from_axis(vector)), vector, atol=1e-7)


def test_motion_camera_round_trip() -> None:
    motion = random_motion()
    back = pose.motion_from_camera(pose.camera_from_motion(motion, FOCAL, CENTER))
    assert torch.allclose(back.rotation, motion.rotation, atol=1e-5)
    assert torch.allclose(back.translation, motion.translation, atol=1e-6)


def test_scale_is_seen_as_nearness() -> None:
    motion = random_motion(5)
    motion.scale = torch.full((5, 1), 1.7)
    seen = pose.project(pose.camera_from_motion(motion, FOCAL, CENTER), head())
    rotation = pose.matrix_from_euler(motion.rotation)
    place = 1.7 * head() @ rotation.transpose(1, 2) + motion.translation[:, None]
    assert torch.allclose(seen[..., 0], -1200 * place[..., 0] / place[..., 2] + 250, atol=1e-2)


def lineage_rotation(euler: Tensor) -> Tensor:
    """Rx(theta) Ry(phi) Rz(psi) with the columns of each matrix as the lineage's tracker lists them."""
    (c1, c2, c3), (s1, s2, s3) = euler.cos().unbind(1), euler.sin().unbind(1)
    o, i = torch.zeros_like(c1), torch.ones_like(c1)

    def columns(*lists: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.stack(column, 1) for column in lists], 2)

    about_x = columns((i, o, o), (o, c1, s1), (o, -s1, c1))
    about_y = columns((c2, o, -s2), (o, i, o), (s2, o, c2))
    about_z = columns((c3, -s3, o), (s3, c3, o), (o, o, i))  # not the sense of the other two
    return about_x @ about_y @ about_z


def test_lineage_projection_equals_ours() -> None:
    motion = random_motion()
    euler, trans = motion.rotation, motion.translation * 10
    place = 10 * head() @ lineage_rotation(euler).transpose(1, 2) + trans[:, None]  # decimetres
    lineage = torch.stack([-1200 * place[..., 0] / place[..., 2] + 250, 1200 * place[..., 1] / place[..., 2] + 260], -1)
    camera = pose.camera_from_lineage(euler, trans, FOCAL, CENTER)
    assert torch.allclose(pose.project(camera, head()), lineage, atol=2e-2)
    again = pose.lineage_from_camera(camera)
    assert torch.allclose(again[0], euler, atol=1e-5)
    assert torch.allclose(again[1], trans, atol=1e-4)


def test_transforms_equal_the_lineage_formula() -> None:
    motion = random_motion()
    rotation = lineage_rotation(motion.rotation * torch.tensor([1.0, 1.0, -1.0]))
    matrix = torch.eye(4).repeat(len(rotation), 1, 1)
    matrix[:, :3, :3] = rotation.transpose(1, 2)
    matrix[:, :3, 3:] = -rotation.transpose(1, 2) @ motion.translation[..., None]
    camera = pose.camera_from_transform(matrix, FOCAL, CENTER)
    assert torch.allclose(camera.pose, pose.camera_from_motion(motion, FOCAL, CENTER).pose, atol=1e-5)
    assert torch.allclose(pose.transform_from_camera(camera), matrix, atol=1e-6)


def test_camera_looks_along_its_own_z() -> None:
    camera = pose.camera_from_motion(random_motion(), FOCAL, CENTER)
    assert isinstance(camera, Camera)
    depth = ((torch.zeros(3) - camera.pose[:, :3, 3]) * camera.pose[:, :3, 2]).sum(1)
    assert bool((depth > 0.5).all())  # the head is in front, along +z of the camera
    assert torch.allclose(torch.linalg.det(camera.pose[:, :3, :3]), torch.ones(len(depth)), atol=1e-5)


def test_solve_exact_then_noise_then_outliers() -> None:
    motion = random_motion()
    mesh = head()
    truth = pose.matrix_from_euler(motion.rotation)
    seen = pose.project(pose.camera_from_motion(motion, FOCAL, CENTER), mesh)

    def error(points: Tensor, weights: Tensor | None = None) -> Tensor:  # degrees
        rotation, _ = pose.solve(points, mesh, FOCAL, CENTER, weights)
        return pose.axis_from_matrix(rotation @ truth.transpose(1, 2)).norm(dim=1) * 180 / math.pi

    _, translation = pose.solve(seen, mesh, FOCAL, CENTER)
    assert float(error(seen).max()) < 0.01
    assert torch.allclose(translation, motion.translation, atol=2e-4)
    g = torch.Generator().manual_seed(2)
    noisy = seen + torch.randn(seen.shape, generator=g)
    assert float(error(noisy).mean()) < 0.3
    wild = noisy.clone()
    wild[:, ::8] += 25
    assert float(error(wild).mean()) < 0.5  # Huber: an eighth of the points 25 px off does not turn the head
    weights = torch.ones(len(mesh))
    weights[::8] = 0
    assert float(error(wild, weights).mean()) < 0.35


def test_the_synthetic_person_moves_as_its_camera_says() -> None:
    clip = SyntheticPerson(count=12).clip(range(12), ("camera", "motion"))
    assert clip.camera is not None and clip.motion is not None
    seen = pose.camera_from_motion(clip.motion, clip.camera.focal, clip.camera.center)
    assert torch.allclose(seen.pose, clip.camera.pose, atol=1e-6) and float(clip.motion.rotation[:, 1].abs().max()) > 0.1
