"""face_warp on a made-up portrait whose every point is known, and on real ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivavoce.face import mesh, regions, rings
from vivavoce.face.blendshapes import LIP_PAIRS
from vivavoce.face.pose import FLIP
from vivavoce.methods.face_warp import Config, FaceWarp, Identity
from vivavoce.render import eyes, mouth, warp
from vivavoce.types import Clip, InputError, Motion

SIZE = 160
NUMBER = {name: i for i, name in enumerate(regions.BLENDSHAPES)}
SKIN, LIPS, TEETH = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.7, 0.3, 0.3]), torch.tensor([0.95, 0.95, 0.9])


def portrait(smile: float = 0.0) -> Clip:
    """The canonical face, painted: textured skin, red lips, dark eyes, and teeth where `smile` (metres) parts the lips."""
    vertices = torch.from_numpy(mesh.vertices()).clone()
    shares = rings.lip_shares()
    gap = (vertices[[a for a, _ in LIP_PAIRS], 1] - vertices[[b for _, b in LIP_PAIRS], 1]).clamp(min=0)
    bow = torch.tensor([0.5, 0.8, 0.95, 1, 1, 1, 0.95, 0.8, 0.5]) * smile
    vertices[:, 1] += shares @ torch.cat([0.5 * (bow - gap), -0.5 * (bow - gap)])
    points = 620 * vertices * torch.tensor(FLIP) + torch.tensor([SIZE / 2, SIZE / 2 - 4, 0])
    points = torch.cat([points, points[:10]])
    ys, xs = torch.meshgrid(torch.arange(SIZE) / SIZE, torch.arange(SIZE) / SIZE, indexing="ij")
    picture = torch.stack([0.3 + 0.3 * ys, 0.4 + 0.2 * xs, 0.5 + 0.05 * torch.sin(40 * xs)])
    for loop, colour in ((regions.OVAL, SKIN), (regions.LIPS_OUTER, LIPS), (regions.LIPS_INNER, TEETH), *_eyes()):
        mask = warp.polygon(points[None, list(loop), :2], (SIZE, SIZE), 1.0)[0]
        picture = picture + mask * (colour[:, None, None] * (1 + 0.03 * torch.sin(60 * ys)) - picture)
    units = torch.zeros(1, 52)
    if smile:
        units[0, [NUMBER[n] for n in ("mouthSmileLeft", "mouthSmileRight", "mouthUpperUpLeft", "mouthUpperUpRight")]] = 0.7
    return Clip(frames=picture[None].clamp(0, 1), points=points[None], units=units)


def _eyes() -> list[tuple[tuple[int, ...], Tensor]]:
    return [(loop, torch.tensor([0.15, 0.2, 0.4])) for loop in (regions.EYE_LEFT, regions.EYE_RIGHT)]


def motion(count: int = 1, pose: tuple[float, float, float] = (0, 0, 0), **scores: float) -> Clip:
    expression = torch.zeros(count, 52)
    for name, value in scores.items():
        expression[:, [i for n, i in NUMBER.items() if n in (name, f"{name}Left", f"{name}Right")]] = value
    return Clip(motion=Motion(torch.tensor([pose]).repeat(count, 1).float(), torch.zeros(count, 3), torch.ones(count, 1), expression))


def own(source: Clip) -> Clip:
    assert source.units is not None
    return Clip(motion=Motion(torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 1), source.units))


def encoded(source: Clip, **changes: object) -> tuple[FaceWarp, Identity]:
    method = FaceWarp(Config(**changes))  # type: ignore[arg-type]
    return method, method.encode(source)


def mouth_of(frames: Tensor, source: Clip) -> Tensor:
    """The frames around the mouth [T,3,h,w]."""
    assert source.points is not None
    lips = source.points[0, list(regions.LIPS_OUTER), :2]
    low, high = (lips.amin(0) - 3).int().tolist(), (lips.amax(0) + 12).int().tolist()
    return frames[..., low[1] : high[1], low[0] : high[0]]


@pytest.mark.parametrize("smile", [0.0, 0.012])
def test_its_own_expression_gives_the_portrait(smile: float) -> None:
    source = portrait(smile)
    method, identity = encoded(source)
    assert source.frames is not None
    assert (method.render(identity, own(source)) - source.frames).abs().max() < 2 / 255


def test_an_open_jaw_shows_the_dark_inside() -> None:
    source = portrait()
    method, identity = encoded(source)
    dark = [float((mouth_of(method.render(identity, motion(jawOpen=s)), source).mean(1) < 0.25).float().mean()) for s in (0, 0.2, 0.5)]
    assert dark[0] == 0 and dark[2] > dark[1] > 0.005


def test_what_is_not_looked_at_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mouth and eyes are drawn where lips and lids are: no other than with the whole of their windows, also off the picture."""
    method, identity = encoded(portrait(0.012))
    spoken = [motion(jawOpen=0.5, eyeBlink=0.9), motion(mouthFunnel=0.5), motion(1, (0.1, 0.2, 0.05), jawOpen=0.2, eyeBlink=0.4)]
    clip = Clip.cat([*spoken, motion()])
    far = Clip(motion=dataclasses.replace(motion(jawOpen=0.5).motion, translation=torch.tensor([[0.3, 0.2, 0.0]])))
    drawn, away, sizes = method.render(identity, clip), method.render(identity, far), list[int]()

    def whole(outline: Tensor, room: float, origin: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        (_, part) = window(outline, room, origin, size)
        sizes.append(part[0] * part[1] < size[0] * size[1])
        return origin, size

    window = mouth.window
    for place in (mouth, eyes):
        monkeypatch.setattr(place, "window", whole)
    assert torch.allclose(drawn, method.render(identity, clip), atol=1e-4) and sizes == [True] * 3
    assert torch.allclose(away, method.render(identity, far), atol=1e-4)


def test_a_smile_with_teeth_shuts_and_opens() -> None:
    source = portrait(0.012)
    method, identity = encoded(source)
    assert identity.mouth.shows and source.frames is not None

    def teeth(frames: Tensor) -> float:
        return float((mouth_of(frames, source).amin(1) > 0.8).float().mean())

    showing, shut = teeth(source.frames), teeth(method.render(identity, motion()))
    assert showing > 0.05 and shut < 0.02 * showing
    opened = method.render(identity, motion(jawOpen=0.5, mouthSmile=0.7, mouthUpperUp=0.7))
    assert teeth(opened) > 0.3 * showing
    assert (mouth_of(opened, source).mean(1) < 0.3).any()


def test_teeth_do_not_stretch() -> None:
    """The portrait's own teeth stay where the skull is: what was teeth and still lies between the lips has not moved."""
    source = portrait(0.012)
    method, identity = encoded(source)
    assert source.frames is not None
    wide = method.render(identity, motion(jawOpen=0.5, mouthSmile=0.7, mouthUpperUp=0.7))
    before, after = (mouth_of(f, source)[0].amin(0) > 0.85 for f in (source.frames, wide))
    assert after.sum() > 20 and (after & ~before).sum() <= 0.15 * after.sum()


def test_lids_slide_over_an_eye_that_stays() -> None:
    source = portrait()
    method, identity = encoded(source)
    frames = method.render(identity, Clip.cat([motion(), motion(eyeBlink=0.37), motion(eyeBlink=0.9)]))
    places = source.points[0, list(regions.EYE_LEFT), :2]  # type: ignore[index]
    low, high = places.amin(0).int().tolist(), places.amax(0).int().tolist()
    eye = frames[:, :, low[1] : high[1] + 1, low[0] : high[0] + 1]
    blue = (eye[:, 2] > 1.3 * eye[:, 0]).float().mean((1, 2))
    assert blue[0] > 0.3 and blue[0] > blue[1] > 0 and blue[2] < 0.1 * blue[0]


@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (0.05, 0.14, -0.08), (-0.1, -0.14, 0.1)])
def test_the_border_stands_still(pose: tuple[float, float, float]) -> None:
    source = portrait()
    method, identity = encoded(source)
    frames = method.render(identity, motion(pose=pose, jawOpen=0.6))
    change = (frames - source.frames).abs()  # type: ignore[operator]
    assert change.amax() > 0.2
    assert torch.stack([change[..., 0, :].amax(), change[..., -1, :].amax(), change[..., 0].amax(), change[..., -1].amax()]).max() < 2 / 255


def test_a_turned_head_moves_its_nose_the_way_the_convention_says() -> None:
    """yaw > 0: the nose points to the right side of the picture; pitch > 0: down."""
    source = portrait()
    method, identity = encoded(source)
    for pose, axis in (((0, 0.14, 0), 0), ((0.14, 0, 0), 1)):
        clip = motion(pose=pose)
        assert clip.motion is not None
        moved, *_ = method._face(identity, clip.motion)
        target, _ = method._place(identity, moved, clip.motion)
        nose, side = ((target[0] - identity.points)[i, axis] for i in (4, 10))
        assert nose > 3 and nose > side


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_rows_are_independent(backend: str) -> None:
    method, identity = encoded(portrait(0.012), backend=backend)
    clips = Clip.cat([motion(jawOpen=0.3), motion(), motion(pose=(0.05, 0.1, 0), mouthPucker=0.8), motion(eyeBlink=0.6)])
    whole = method.render(identity, clips)
    single = torch.cat([method.render(identity, clips[i : i + 1]) for i in range(len(clips))])
    assert torch.allclose(whole, single, atol=1e-5)


def test_back_ends_draw_the_same_frames() -> None:
    source, clip = portrait(0.012), Clip.cat([motion(jawOpen=0.3, mouthFunnel=0.4), motion(pose=(0.05, 0.1, 0.05), eyeBlink=0.5)])
    frames = [method.render(identity, clip) for method, identity in (encoded(source, backend=b) for b in ("numba", "torch"))]
    assert ((frames[0] - frames[1]).abs() > 2e-3).float().mean() < 1e-4


def test_odd_sizes_and_faces_at_the_edge() -> None:
    source = portrait()
    assert source.frames is not None and source.points is not None
    for left, top, right, bottom in ((3, 5, 150, 152), (50, 40, 121, 117)):
        shift = torch.tensor([left, top, 0.0])
        cut = Clip(frames=source.frames[..., top:bottom, left:right], points=source.points - shift, units=source.units)
        method, identity = encoded(cut)
        frames = method.render(identity, motion(pose=(0.1, 0.1, 0.1), jawOpen=0.5))
        assert frames.shape == (1, 3, bottom - top, right - left) and torch.isfinite(frames).all()
        assert frames.min() >= 0 and frames.max() <= 1


def test_a_portrait_without_a_face_is_refused() -> None:
    with pytest.raises(InputError, match="points, units"):
        FaceWarp(Config()).encode(Clip(frames=torch.rand(1, 3, 8, 8)))


@pytest.mark.real
@pytest.mark.assets
def test_real_portraits_shut_their_mouths_and_keep_their_pictures(shared_data: Path) -> None:
    """Photographs, paintings, statues: own expression gives the picture; silence shows no inside; speech does."""
    from vivavoce.data.portrait import Portrait

    for file in sorted((shared_data / "portrait").iterdir()):
        source = Portrait(file).row
        method, identity = encoded(source)
        assert source.frames is not None
        assert (method.render(identity, own(source)) - source.frames).abs().mean() < 1e-4, file.name
        gaps = [method._face(identity, clip.motion)[1] for clip in (motion(), motion(jawOpen=0.4)) if clip.motion is not None]
        assert gaps[0] < 0.0015 < 0.005 < gaps[1], file.name
