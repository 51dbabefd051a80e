"""The parts of dyntet against what they should be: light, tracked movement, the first solid of a head, a surface that stays closed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce import registry
from vivavoce.face import mesh as face_mesh
from vivavoce.face import pose, regions
from vivavoce.methods.dyntet import DynTet
from vivavoce.nn import face_motion, shading
from vivavoce.nn.head_solid import Solid, head_solid
from vivavoce.nn.skin import Skin, first_colours
from vivavoce.nn.tetrahead import TetraHead
from vivavoce.render import mesh as draw
from vivavoce.render.mesh.atlas import atlas
from vivavoce.types import Camera, InputError

SIZE = 96


def directions(count: int = 20_000) -> Tensor:  # [N,3] evenly over the sphere
    k = torch.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, math.pi * (1 + math.sqrt(5)) * k
    ring = (1 - z * z).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), z], 1)


def cameras(count: int) -> Camera:
    """Around a head at the origin, seven tenths of a metre away."""
    turn = torch.stack([torch.zeros(count), torch.linspace(-0.2, 0.2, count), torch.zeros(count)], 1)
    away = torch.tensor([0.0, 0.0, -0.7]).expand(count, -1)
    return pose.camera_from_pose(pose.matrix_from_euler(turn), away, torch.tensor([2.2 * SIZE]), torch.tensor([SIZE / 2, SIZE / 2]))


def face() -> tuple[Tensor, Tensor, Tensor]:
    """The canonical face with its mouth a centimetre open, its triangles, and which of them close the mouth."""
    vertices, triangles = torch.from_numpy(face_mesh.vertices()), torch.from_numpy(face_mesh.triangles())
    middle = vertices[[13, 14], 1].mean()
    lower = vertices[:, 1] < middle
    lower[[78, 308]] = False
    vertices[lower, 1] -= 0.012
    return vertices, triangles, torch.isin(triangles, torch.tensor(regions.LIPS_INNER)).all(1)


def outlines(camera: Camera) -> Tensor:  # [T,H,W] bool
    """Of an egg around the face."""
    points = directions(60_000) * torch.tensor([0.085, 0.125, 0.09]) + torch.tensor([0.0, 0.0, -0.01])
    at = pose.project(camera, points).floor().long().clamp(0, SIZE - 1)
    mask = torch.zeros(len(at), SIZE, SIZE, dtype=torch.bool)
    for row in range(len(at)):
        mask[row, at[row, :, 1], at[row, :, 0]] = True
    return mask


@pytest.fixture(scope="module")
def solid() -> Solid:
    camera = cameras(5)
    return head_solid(*face(), camera, outlines(camera), 96)


def test_harmonics_are_orthonormal() -> None:
    basis = shading.harmonics(directions())
    gram = basis.t() @ basis * (4 * math.pi / len(basis))
    assert torch.allclose(gram, torch.eye(16), atol=2e-3)


def test_light_that_falls_is_the_integral_over_the_half_sphere() -> None:
    light = shading.Environment()
    with torch.no_grad():
        white = light.irradiance(directions(50))
        assert torch.allclose(white, torch.ones_like(white), atol=1e-5)
        light.coefficients.normal_(generator=torch.Generator().manual_seed(0))
        light.coefficients[9:] = 0  # of order 3 a cosine sees nothing
        around, normal = directions(), directions(7)
        seen = shading.harmonics(around) @ light.coefficients
        wanted = (normal @ around.t()).clamp(min=0) @ seen * (4 / len(around))  # 4 pi / N, over pi
        assert torch.allclose(light.irradiance(normal), wanted, atol=5e-3)
        sharp, dull = (light.mirrored(normal, torch.full((7, 1), r)) for r in (0.0, 1.0))
        assert torch.allclose(sharp, shading.harmonics(normal) @ light.coefficients)
        assert float(dull.std(0).mean()) < 0.6 * float(sharp.std(0).mean())


def test_a_matt_surface_looks_like_its_colour_and_metal_like_what_it_mirrors() -> None:
    light, normal = shading.Environment(), torch.tensor([[0.0, 0.0, -1.0]])
    colour = torch.tensor([[0.8, 0.5, 0.3]])
    with torch.no_grad():
        matt = shading.shade(light, normal, normal, colour, torch.tensor([[0.0, 1.0, 0.0]]))
        assert torch.allclose(matt, colour, atol=0.05)
        metal = shading.shade(light, normal, normal, colour, torch.tensor([[0.0, 0.0, 1.0]]))
        assert torch.allclose(metal, colour, atol=0.05)
        assert float(shading.shade(light, normal, normal, colour, torch.tensor([[1.0, 0.5, 0.0]])).abs().max()) == 0


def test_the_tracked_movement_is_found_in_any_code() -> None:
    g = torch.Generator().manual_seed(0)
    mesh, camera = face()[0], cameras(300)
    basis = 2e-3 * torch.randn(5, 468, 3, generator=g) * torch.tensor([1.0, 1.0, 0.0])
    hidden = torch.randn(300, 5, generator=g)
    code = torch.cat([hidden @ torch.randn(5, 5, generator=g) + 3, torch.ones(300, 2)], 1)  # mixed, shifted, two numbers that never change
    moved = mesh + torch.einsum("tk,kvc->tvc", hidden, basis)
    motion = face_motion.face_motion(code, mesh, camera, pose.project(camera, moved))
    error = (motion.moved(code) - moved)[..., :2].norm(dim=2).mean()
    assert float(error) < 0.12 * float((moved - mesh).norm(dim=2).mean())
    assert float(motion.basis[5:].abs().max()) == 0
    assert torch.equal(face_motion.face_motion(code, mesh, camera, None).moved(code), mesh.expand(300, -1, -1))


def test_space_follows_the_face_near_it() -> None:
    vertices, triangles, hole = face()
    points = torch.cat([vertices[triangles[~hole][::40]].mean(1), torch.tensor([[0.0, 0.0, -0.3]])])
    index, weight = face_motion.follow(points, vertices, triangles, hole)
    assert not bool(hole[index].any())
    assert torch.allclose(weight[:-1].sum(1), torch.ones(len(points) - 1), atol=1e-3) and float(weight[-1].sum()) < 1e-3


def test_a_heads_first_solid(solid: Solid) -> None:
    vertices, triangles, hole = face()
    lips = vertices[triangles[hole]].mean((0, 1))
    nose = vertices[4]
    places = torch.stack([lips - torch.tensor([0, 0, 0.008]), nose - torch.tensor([0, 0, 0.01]), nose + torch.tensor([0, 0, 0.006])])
    mouth, inside, before = solid.at(places).tolist()
    assert mouth > 0.001  # the hollow behind the lips
    assert inside < -0.002 and before > 0.002
    skin = solid.at(vertices[triangles[~hole]].mean(1))
    assert float(skin.abs().median()) < 0.002
    with pytest.raises(InputError, match="--only tracking"):
        camera = cameras(2)
        head_solid(vertices, triangles, hole, camera, torch.zeros(2, SIZE, SIZE, dtype=torch.bool), 24)


def tetra_head(solid: Solid) -> TetraHead:
    vertices, triangles, hole = face()
    torch.manual_seed(0)
    head = TetraHead(4, 16, 16)
    motion = face_motion.FaceMotion(torch.zeros(1), torch.ones(1), vertices, torch.zeros(1, 468, 3))
    motion.basis[0, vertices[:, 1] < vertices[14, 1] + 1e-4, 1] = 0.01  # the jaw goes up
    head.begin(solid, motion, torch.zeros(1), triangles, hole, 30)
    return head


def test_the_surface_has_no_hole_when_its_triangles_stay(solid: Solid) -> None:
    head = tetra_head(solid)
    before = head.shape()
    head.fix()
    shape = head.shape()
    assert head.fixed and bool((shape.linked.triangle >= 0).all())  # every edge has two triangles
    assert len(shape.surface.faces) > 0.9 * len(before.surface.faces)
    assert float(torch.cdist(shape.rest, before.rest).detach().amin(1).max()) < 2e-4
    other = TetraHead(4, 16, 16)
    other.resize(head.state_dict(), "")
    other.load_state_dict(head.state_dict())
    code, told = torch.tensor([[0.0], [1.0]]), torch.zeros(2, 4)
    assert torch.equal(head.moved(shape, code, told)[0], other.moved(other.shape(), code, told)[0])


def test_the_lips_close_as_the_tracked_face_does(solid: Solid) -> None:
    head = tetra_head(solid)
    head.fix()
    shape = head.shape()
    still, shut = head.moved(shape, torch.tensor([[0.0], [1.0]]), torch.zeros(2, 4))[0].detach()
    rise = (shut - still)[:, 1]
    vertices = face()[0]
    lip, brow = (int((still - vertices[k]).norm(dim=1).argmin()) for k in (17, 9))
    assert 0.007 < float(rise[lip]) < 0.011 and abs(float(rise[brow])) < 5e-4


def test_first_colours_come_from_pixels_of_the_head() -> None:
    frames, head = torch.zeros(2, 3, 40, 40), torch.zeros(2, 40, 40, dtype=torch.bool)
    frames[:, 0], head[:, 5:35, 5:35] = 0.7, True
    frames[:, 2, :5] = 1.0
    target = torch.tensor([[10.0, 10.0], [20.0, 2.0], [21.0, 11.0]]).expand(2, -1, -1)
    shown = torch.tensor([[True, True, False], [True, True, False]])
    found = first_colours(target, shown, head, frames)
    assert torch.allclose(found, torch.tensor([0.7, 0.0, 0.0]).expand(3, 3))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_pixels_are_lit_by_a_kernel_as_by_plain_torch(device: str) -> None:
    """Under a light of every order, by surfaces of every kind: with gradients it is plain torch, without them the kernel."""
    torch.manual_seed(0)
    skin, camera, count = Skin(4, 16, 4, 32, 10), cameras(2), 3000
    with torch.no_grad():
        skin.light.coefficients.normal_()
        for part in (skin.texture[1], skin.texture[3]):
            part.weight.normal_()  # type: ignore[operator]
    place, frame, row = torch.rand(count, 3), torch.randn(2, 4), torch.randint(2, (count,))
    normal, at = 3 * torch.randn(count, 3), SIZE * torch.rand(count, 2)
    wanted = [part.detach() for part in skin.seen(place, frame, row, normal, at, camera)]
    place, frame, row, normal, at = (part.to(device) for part in (place, frame, row, normal, at))
    skin.to(device)
    with torch.no_grad():
        found = skin.seen(place, frame, row, normal, at, camera.to(device))
    assert float(wanted[0].std()) > 0.1 and float(wanted[1].std()) > 0.1
    for here, there in zip(wanted, found, strict=True):
        assert torch.allclose(here, there.cpu(), atol=1e-4, rtol=1e-3)


def test_the_baked_picture_shows_the_surface(solid: Solid) -> None:
    """A skin that was taught one colour a half of the head: so is its picture, gutters too."""
    head = tetra_head(solid)
    head.fix()
    shape = head.shape()
    torch.manual_seed(0)
    skin = Skin(4, 16, 4, 32, 10)
    left = shape.rest[:, :1] < 0
    wanted = torch.where(left, torch.tensor([0.9, 0.2, 0.2]), torch.tensor([0.2, 0.2, 0.9]))
    skin.warm(head.unit(shape.rest), wanted, torch.zeros(4), 60, 1e-2)
    charts = atlas(shape.rest, shape.surface.faces)
    normal = torch.nn.functional.normalize(shape.rest[charts.vertex], dim=1)
    picture = skin.bake(head.unit(shape.rest[charts.vertex]), normal, charts.flat, charts.faces, torch.zeros(4), 128)
    found = draw.texture(picture, charts.flat)
    far = shape.rest[charts.vertex, 0].abs() > 0.02
    assert float((found - wanted[charts.vertex])[far].abs().mean()) < 0.12
    assert float(picture.amax(0).min()) > 0.3


def test_the_torso_stays_where_its_masks_are_and_a_picture() -> None:
    """Under an edge of the head, which lets a little of it through, it would else take any colour: a seam when the chin goes up."""
    torch.manual_seed(0)
    method, person = registry.create("dyntet", "tiny"), SyntheticPerson(space="bfm")
    assert isinstance(method, DynTet)
    method.setup(person)
    before, optimizers = method.torso.picture.detach().clone(), method.optimizers()
    clip = person.clip(slice(0, 2), method.needs | method.loss_needs)
    with torch.no_grad():
        method.torso.picture[:3] += torch.randn_like(before[:3])
    for step in range(2):
        method.train().update(clip, step, optimizers)
    colours, share = method.torso.picture.detach().split((3, 1))
    assert torch.equal(share, before[3:]) and not torch.equal(colours, before[:3])
    assert float(colours.min()) >= 0 and bool((colours <= share).all())


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws_and_learns() -> None:
    """Through both phases."""
    torch.manual_seed(0)
    person = SyntheticPerson(space="bfm")
    method = registry.create("dyntet", "tiny", noise=0.0)
    method.setup(person)
    method.to("cuda")
    optimizers, needs = method.optimizers(), method.needs | method.loss_needs
    clip = person.clip(slice(0, 4), needs).to("cuda")
    totals = [sum(float(v) for v in method.train().update(clip, step, optimizers).values()) for step in range(16)]
    assert min(totals[-3:]) < totals[0] and method.head.fixed  # type: ignore[union-attr]
    with torch.no_grad():
        there = method.eval().render(None, clip).cpu()  # type: ignore[operator]
        here = method.cpu().render(None, clip.to("cpu"))  # type: ignore[operator]
    assert float((there - here).abs().mean()) < 2e-3
