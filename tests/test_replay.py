"""CUDA graphs of a trained head: what they hold is noticed when it changes, and frames are the same with them and without."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import SyntheticPerson
from vivavoce import registry
from vivavoce.nn import replay
from vivavoce.nn.graphs import Graphs, Packing
from vivavoce.nn.replay import Replay, tensors
from vivavoce.types import Camera, Clip

FAMILY = ("egs_talker", "gaussian_talker", "embed_talk", "talking_gaussian")


def test_what_a_graph_reads_is_held_and_a_change_of_place_is_seen() -> None:
    net, identity = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), (torch.ones(2), torch.zeros(3))
    held = replay._Held(net, identity)
    with torch.no_grad():
        net[0].weight.add_(1.0)
    net.load_state_dict({name: torch.zeros_like(value) for name, value in net.state_dict().items()})
    assert held.fits(identity) and not held.fits((identity[0], identity[1].clone()))
    net[0].bias.data = torch.ones(3)
    assert not held.fits(identity)
    held = replay._Held(net, identity)
    net[0].weight = nn.Parameter(net[0].weight.detach())  # the same memory, another parameter
    assert not held.fits(identity)
    held = replay._Held(net, identity)
    net[1] = nn.BatchNorm1d(3)
    assert not held.fits(identity)


def test_a_clip_is_its_tensors_and_a_copy_starts_with_nothing() -> None:
    camera = Camera(torch.zeros(2, 4, 4), torch.zeros(2, 2), torch.zeros(2, 2))
    assert len(tensors(Clip(camera=camera, eyes=torch.zeros(2, 2)))) == 4
    one = Replay()
    one.on = False
    assert copy.deepcopy(one).on


def test_tensors_become_a_row_of_numbers_and_come_back() -> None:
    packing = Packing({"a": (2, 3), "none": (0, 4), "b": (1,)})
    parts = {"b": torch.rand(5, 1), "a": torch.rand(5, 2, 3), "none": torch.zeros(5, 0, 4), "other": torch.rand(2)}
    packed = packing.pack(parts, 5)
    assert packed.shape == (5, 7) and all(torch.equal(part, parts[name]) for name, part in packing.parts(packed).items())
    with pytest.raises(RuntimeError):
        packing.pack(parts | {"b": torch.rand(5, 2)}, 5)


@pytest.mark.gpu
def test_rows_of_any_number_are_recorded_and_what_cannot_be_is_called_as_it_is() -> None:
    device, rows, before = torch.device("cuda"), torch.rand(5, 3), torch.cuda.current_stream()
    double = Graphs(lambda a, b: 2 * a + b, device)
    for count in (5, 1, 3, 2, 5):
        assert torch.equal(double(rows[:count], rows[:count].cuda()).cpu(), 3 * rows[:count])
    assert sorted(double.made) == [1, 2, 4, 8] and double.on
    near = Graphs(lambda a: 2 * a, device, fetch=True)
    for given in (rows, rows.cuda(), rows[:3]):
        made = near(given)
        assert made.device.type == "cpu" and torch.equal(made, 2 * given.cpu())
    looking = Graphs(lambda a: a * float(a.sum()), device)  # waits for the device
    for _ in range(2):
        assert torch.allclose(looking(rows).cpu(), rows * rows.sum()) and not looking.on and not looking.made
    assert torch.cuda.current_stream() == before
    again = Graphs(lambda a: a + 1, device)  # the device is as good as before
    assert torch.equal(again(rows).cpu(), rows + 1) and again.on


def head(name: str) -> tuple[Any, SyntheticPerson]:
    torch.manual_seed(0)
    method: Any = registry.create(name, "tiny")
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    with torch.no_grad():
        for name_, value in method.named_parameters():
            if "deform" in name_ or "last" in name_:
                value.add_(0.02 * torch.randn_like(value))  # a head that moves
    return method.cuda().eval(), person


def frames(method: Any, clip: Clip, identity: Any, graphs: bool) -> Tensor:
    method.avatar.replay.on = graphs
    with torch.no_grad():
        drawn: Tensor = method.render(identity, clip)
    return drawn


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILY)
def test_frames_are_the_same_with_a_graph_and_without(name: str) -> None:
    method, person = head(name)
    clips = [person.clip(slice(start, start + 2), method.needs).to("cuda") for start in range(0, 12, 2)]
    with torch.no_grad():
        identity = method.encode()
    plain = [frames(method, clip, identity, False) for clip in clips]
    played = [frames(method, clip, identity, True) for clip in clips]
    assert method.avatar.replay.graphs == 1 and method.avatar.replay.on
    for one, other in zip(played, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(played[-1], played[-2], atol=1e-3)  # of its own rows, not of those that were recorded
    with torch.no_grad():
        for part in method.parameters():
            part.add_(0.01 * torch.randn_like(part))  # in place: the same graph
    assert torch.allclose(frames(method, clips[0], identity, True), frames(method, clips[0], identity, False), atol=1e-5)
    assert method.avatar.replay.graphs == 1
    camera = clips[0].camera
    assert camera is not None
    larger = dataclasses.replace(clips[0], camera=Camera(camera.pose, camera.focal * 2, camera.center * 2))
    for _ in range(4):
        assert torch.allclose(frames(method, larger, identity, True), frames(method, larger, identity, False), atol=1e-5)
    assert method.avatar.replay.graphs == 2
    method.avatar.torso.plate.data = torch.rand_like(method.avatar.torso.plate)  # another background, elsewhere in memory
    assert torch.allclose(frames(method, clips[1], identity, True), frames(method, clips[1], identity, False), atol=1e-5)


@pytest.mark.gpu
def test_splats_that_need_more_room_than_was_recorded_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    method, person = head("egs_talker")
    clip = person.clip([3], method.needs).to("cuda")
    with torch.no_grad():
        identity = method.encode()
    for _ in range(4):
        frames(method, clip, identity, True)
    (shape,) = method.avatar.replay._shapes.values()
    shape.graph.pairs = tuple(1 for _ in shape.graph.pairs)  # as if the head had come nearer
    assert torch.allclose(frames(method, clip, identity, True), frames(method, clip, identity, False), atol=1e-5)
    assert shape.graph is None
    frames(method, clip, identity, True)
    assert method.avatar.replay.graphs == 2 and shape.graph is not None
    method.train()
    assert not method.avatar.replay._shapes
