"""Networks of a frame: folded, they are what the field says; the kernels against the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticPerson
from vivavoce import registry
from vivavoce.nn import grid, radiance
from vivavoce.nn.fields import Rows, Views
from vivavoce.render import rays
from vivavoce.render.rays import shade
from vivavoce.types import InputError

METHODS = ["er_nerf", "geneface", "r2_talker", "rad_nerf"]


def some_net(
    parts: int, gates: bool, bend: bool, hidden: int = 24, inside: int = 20, width: int = 18
) -> tuple[shade.Net, list[Tensor], Tensor, Tensor]:
    """A net, features, views and rays of 150 points; widths that are no powers of two."""
    draw = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / (shape[-1] ** 0.5 if len(shape) > 1 else 4)

    widths, listen, see = [width, 7][:parts], hidden // 2, inside // 4
    gate = shade.Gates(make(listen, width), make(hidden, listen), make(see, width), make(2, see), make(hidden, 2)) if gates else None
    net = shade.Net(
        tuple(make(hidden, width) for width in widths), make(hidden), make(hidden, hidden), make(hidden), 1.5, make(inside, hidden),
        make(3, inside), make(hidden) if bend else None, gate,
    )  # fmt: skip
    ray = torch.randint(9, (150,), generator=draw)
    return net, [torch.randn(150, width, generator=draw) for width in widths], make(9, inside), ray


def kernels_are_the_oracle(device: str) -> None:
    for parts, gates, bend in ((1, True, False), (1, False, True), (2, False, False)):
        net, features, views, ray = some_net(parts, gates, bend)
        wanted = shade.colours(net, views, "torch")(features, ray)
        found = shade.colours(_there(net, device), views.to(device), "triton")([part.to(device) for part in features], ray.to(device))
        torch.testing.assert_close(found[0].cpu().log(), wanted[0].log(), atol=1e-2, rtol=0)
        torch.testing.assert_close(found[1].cpu(), wanted[1], atol=2e-3, rtol=0)
    layers = torch.randn(24, 18), torch.randn(24), torch.randn(20, 24) / 5, torch.randn(3, 20) / 5
    heard = torch.randn(150, 18)
    first, bias, second, third = (layer.to(device) for layer in layers)
    place = shade.coordinates(first, bias, second, third, "triton")(heard.to(device)).cpu()
    torch.testing.assert_close(place, shade.coordinates(*layers, "torch")(heard), atol=5e-3, rtol=0)
    net, features, views, ray = some_net(1, False, False)
    wild = shade.colours(_there(net, device), views.to(device), "triton")([features[0].to(device) * 1.55e4], ray.to(device))
    assert wild[0].isfinite().all() and wild[1].isfinite().all(), "half precision has an end"
    nothing = shade.colours(_there(net, device), views.to(device), "triton")([features[0][:0].to(device)], ray[:0].to(device))
    assert nothing[0].shape == (0,) and nothing[1].shape == (0, 3)


def _there(net: shade.Net, device: str) -> shade.Net:
    """On the device."""
    gates = net.gates and shade.Gates(*(part.to(device) for part in net.gates))
    first = tuple(part.to(device) for part in net.first)
    others: dict[str, Any] = {name: part.to(device) for name, part in net._asdict().items() if isinstance(part, Tensor)}
    return net._replace(first=first, gates=gates, **others)


@pytest.mark.gpu
def test_the_kernels_are_the_oracle() -> None:
    kernels_are_the_oracle("cuda")


@pytest.mark.gpu
def test_the_kernels_are_the_oracle_for_a_whole_frame() -> None:
    """As many points as a picture has, and the widths of the full presets."""
    for parts, gates, bend in ((1, True, False), (1, False, True), (2, False, False)):
        net, features, views, ray = some_net(parts, gates, bend, 64, 64, 36)
        net, views, ray = _there(net, "cuda"), views.cuda(), ray.cuda().repeat(10_000)
        features = [part.cuda().repeat(10_000, 1) for part in features]
        wanted, found = (shade.colours(net, views, backend)(features, ray) for backend in ("torch", "triton"))
        torch.testing.assert_close(found[0].log(), wanted[0].log(), atol=1e-2, rtol=0)
        torch.testing.assert_close(found[1], wanted[1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_frame_folded_is_the_field(name: str) -> None:
    """Density and colour of points, whatever the weights and the condition."""
    torch.manual_seed(0)
    method = registry.create(name, "tiny").eval()
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    clip = SyntheticPerson(window=method.window, space="landmarks").clip([3], method.needs)
    clip.speech = torch.randn(1, sum(method.window), 8)  # an untrained method hears eight features
    with torch.no_grad():
        told = method.tell(clip)  # type: ignore[operator]
        points, directions = torch.rand(200, 3), torch.nn.functional.normalize(torch.randn(7, 3), dim=1)
        ray = torch.randint(7, (200,))
        density, features, _ = method.density(points, told, Rows(None, 1))  # type: ignore[operator]
        colour = method.colour(features, Views(directions, ray), told, Rows(None, 1))  # type: ignore[operator]
        found = shade.asked(method.still(told), directions)(points, ray)  # type: ignore[operator]
    torch.testing.assert_close(found[0], density, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], colour, rtol=0, atol=1e-5)
    assert colour.std() > 0.01 and density.std() > 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("er_nerf", {}),
        ("er_nerf", {"volume": 2}),
        ("geneface", {"ambient": 3}),
        ("r2_talker", {"features": 4}),
        ("r2_talker", {"features": 3}),
        ("rad_nerf", {}),
    ],
)
def test_a_frame_in_one_kernel_is_that_of_plain_torch(name: str, changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables hashed, tiled and dense, in two dimensions and three, of one, two and four features, one level half open; three features
    are more than the kernel knows, and are drawn all the same."""
    torch.manual_seed(0)
    method, person = registry.create(name, "tiny", **changes), SyntheticPerson(space="landmarks")
    if method.speech:
        person = SyntheticPerson(window=method.window)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.15 if name == "r2_talker" else 0.4)  # its scales are products
    if name == "r2_talker":
        method.open_levels.fill_(2.5)  # type: ignore[union-attr, operator]
    method.eval()
    clip, room = person.clip([3], method.needs), method.room
    clip.speech = torch.randn(1, sum(method.window), 8)
    room.occupancy.update(lambda points: 50 * (points.norm(dim=1) < 0.09))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        told = method.tell(clip)  # type: ignore[operator]
        for stop in ("OPAQUE", "UNSEEN"):
            monkeypatch.setattr(radiance, stop, 1e-4)
        assert shade.whole(method.still(told)) == (changes != {"features": 3})  # type: ignore[operator]
        fast = room.head(method, told, clip.camera, (40, 44))  # type: ignore[union-attr, operator]
        for module in (shade, grid, rays):
            monkeypatch.setattr(module, "choose", lambda *_: "torch")
        slow = room.head(method, told, clip.camera, (40, 44))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(fast[0], slow[0], atol=5e-4, rtol=0)
    torch.testing.assert_close(fast[1], slow[1], atol=1e-3, rtol=0)
    assert slow[0][:, 3].max() > 0.9 and slow[0][:, 3].min() == 0 and slow[0][:, :3].std() > 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_a_frame_on_a_gpu_is_that_of_plain_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    method, person = registry.create(name, "tiny"), SyntheticPerson(space="landmarks")
    if method.speech:
        person = SyntheticPerson(window=method.window)
    method.setup(person)
    method.eval().cuda()
    clip = person.clip([0, 3], method.needs).to("cuda")
    monkeypatch.setattr(shade, "choose", lambda _: "triton")
    fast = method.render(None, clip)  # type: ignore[operator]
    monkeypatch.setattr(shade, "choose", lambda _: "torch")
    monkeypatch.setattr(grid, "choose", lambda *_: "torch")
    torch.testing.assert_close(fast, method.render(None, clip), atol=3e-3, rtol=0)  # type: ignore[operator]


def test_a_back_end_that_is_not_there_is_told() -> None:
    net, _, views, _ = some_net(1, False, False)
    with pytest.raises(InputError, match="cuda"):
        shade.colours(net, views, "cuda")
