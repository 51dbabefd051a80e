"""The viewer: pictures from any side, by a stage of a made-up person; and the server's loop, driven by a stand-in for viser."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.synthetic import SyntheticPerson
from vivavoce import registry, viewer
from vivavoce.method import Method
from vivavoce.methods.egs_talker import EgsTalker
from vivavoce.render.splats import ply
from vivavoce.types import InputError
from vivavoce.viewer import Stage, Viewer, seen_from


@pytest.fixture(scope="module")
def stage() -> Stage:
    torch.manual_seed(0)
    method = registry.create("egs_talker", "tiny")
    assert isinstance(method, EgsTalker)
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    torch.nn.init.normal_(method.token_eyes[2].bias)  # type: ignore[arg-type]
    torch.nn.init.normal_(method.deform.weight, std=0.5)  # type: ignore[arg-type]
    heard = person.clip(slice(0, 24), {"speech"}).speech
    assert heard is not None
    return Stage(method.eval(), person, heard[:10])


def test_the_camera_of_a_browser_is_a_camera_of_ours() -> None:
    half = 2**-0.5
    camera = seen_from((0.0, 0.1, 0.7), (0.0, 1.0, 0.0, 0.0), np.pi / 2, (100, 160))  # from the front, y down
    assert torch.allclose(camera.pose[0, :3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])), atol=1e-6)
    assert torch.allclose(camera.pose[0, :3, 3], torch.tensor([0.0, 0.1, 0.7]))
    assert torch.allclose(camera.focal, torch.tensor(50.0)) and camera.center.tolist() == [[80.0, 50.0]]
    turned = seen_from((0, 0, 0), (half, 0, half, 0), 1.0, (10, 10)).pose[0, :3, :3]
    assert torch.allclose(turned @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)  # a quarter about y


def test_a_picture_of_any_row_side_and_eye(stage: Stage) -> None:
    whole = stage.frame(3)
    assert whole.shape == (48, 48, 3) and whole.dtype == np.uint8 and stage.length == 10
    assert np.array_equal(stage.frame(13), whole)  # played again
    assert not np.array_equal(stage.frame(3, blink=1.0), stage.frame(3, blink=0.0))
    front = seen_from((0.0, 0.0, 0.7), (0.0, 1.0, 0.0, 0.0), 0.5, (40, 60))
    head = stage.frame(3, front, size=(40, 60), scene=False)
    assert head.shape == (40, 60, 3)
    assert (np.abs(head[:4, :4].astype(int) - round(viewer.GREY * 255)) <= 1).all()  # no torso, no background
    assert np.abs(head[16:24, 26:34].astype(int) - round(viewer.GREY * 255)).mean() > 20


class Handle(SimpleNamespace):
    """A slider or a checkbox."""


class Server:
    """viser's server, as far as the viewer uses it, with one visitor."""

    def __init__(self, **_: Any) -> None:
        self.sent: list[np.ndarray] = []
        camera = SimpleNamespace(position=(0.0, 0.0, 0.7), wxyz=(0.0, 1.0, 0.0, 0.0), fov=0.5, aspect=1.5)
        scene = SimpleNamespace(set_background_image=lambda image, **_: self.sent.append(image), set_up_direction=lambda _: None)
        self.client = SimpleNamespace(camera=camera, scene=scene)
        self.scene, self.gui = scene, self
        self.stopped = False

    def add_slider(self, name: str, *, initial_value: float, **_: Any) -> Handle:
        return Handle(value=initial_value)

    def add_checkbox(self, name: str, *, initial_value: bool) -> Handle:
        return Handle(value=initial_value)

    def on_client_connect(self, call: Callable[[Any], None]) -> None:
        call(self.client)

    def get_clients(self) -> dict[int, Any]:
        return {0: self.client}

    def stop(self) -> None:
        self.stopped = True


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_a_visitor_changes_is_drawn_anew_and_only_that(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    viser = ModuleType("viser")
    viser.ViserServer = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "viser", viser)
    shown = Viewer(stage)
    server = shown.server
    assert server.client.camera.position == (0.0, 0.0, viewer.FRONT)
    until(lambda: len(server.sent) == 1)
    time.sleep(0.2)
    assert len(server.sent) == 1 and np.array_equal(server.sent[0][:, 12:60], stage.frame(0))  # grey at its sides
    assert server.sent[0].shape == (48, 72, 3) and (server.sent[0][:, :12] == round(viewer.GREY * 255)).all()
    assert viewer.widened(stage.frame(0), 0.5).shape == (96, 48, 3)
    shown.film.value, shown.scene.value = False, False
    until(lambda: server.sent[-1].shape[:2] == (128, 192))  # the visitor's own camera, 128 px high
    shown.film.value = True
    shown.play.value = True
    until(lambda: shown.row.value == 4)
    shown.close()
    assert server.stopped and not shown.thread.is_alive()


def test_a_radiance_field_is_shown_too_and_knows_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    method = registry.create("er_nerf", "tiny")
    assert isinstance(method, viewer.Layered) and not isinstance(method, viewer.Splatted)
    person = SyntheticPerson(window=method.window)
    method.setup(person)
    there = Stage(method.eval(), person)
    assert there.deep and there.frame(2).shape == (48, 48, 3)
    front = seen_from((0.0, 0.0, 0.7), (0.0, 1.0, 0.0, 0.0), 0.5, (40, 60))
    depth = there.frame(2, front, size=(40, 60), depth=True)
    assert depth[0, 0].tolist() == [0, 0, 0] and depth.max() == 255 and depth[20, 30, 0] > depth[12, 30, 0]  # a ball: nearest in its middle
    assert (there.frame(2, front, size=(40, 60), scene=False)[0, 0] == round(viewer.GREY * 255)).all()
    viser = ModuleType("viser")
    viser.ViserServer = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "viser", viser)
    shown = Viewer(there)
    until(lambda: len(shown.server.sent) == 1)
    assert shown.depth is not None
    shown.depth.value = True
    until(lambda: len(shown.server.sent) == 2)
    shown.close()
    assert np.array_equal(shown.server.sent[1][:, 12:60], there.frame(0, depth=True))


def test_without_viser_it_says_what_to_install(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(InputError, match=r"vivavoce\[viewer\]"):
        Viewer(stage)


def save(method: Method, folder: Path, name: str) -> None:
    """As train leaves a run."""
    save_file({k: v.contiguous() for k, v in method.state_dict().items()}, folder / "model.safetensors")
    about = {"method": name, "preset": "tiny", "speech": method.speech, "config": dataclasses.asdict(method.config)}
    (folder / "config.json").write_text(json.dumps(about))


def test_a_run_becomes_a_ply_and_another_family_is_refused(stage: Stage, tmp_path: Path) -> None:
    method = stage.method
    assert isinstance(method, EgsTalker)
    save(method, tmp_path, "egs_talker")
    count = viewer.export(tmp_path, tmp_path / "head.ply")
    assert count == len(method.avatar.gaussians)
    means = ply.read(tmp_path / "head.ply")["means"]
    assert torch.allclose(means, method.avatar.gaussians.means.detach(), atol=1e-6)
    motion = registry.create("speech_motion", "tiny")
    save(motion, tmp_path, "speech_motion")
    with pytest.raises(InputError, match="no Gaussians"):
        viewer.export(tmp_path, tmp_path / "no.ply")


@pytest.mark.parametrize("name", ["egs_talker", "embed_talk", "gaussian_talker", "talking_gaussian"])
def test_the_head_at_rest_has_every_gaussian(name: str) -> None:
    torch.manual_seed(0)
    method = registry.create(name, "tiny")
    assert isinstance(method, viewer.Layered)
    with torch.no_grad():
        head = method.rest()
    count = sum(len(v) for k, v in method.state_dict().items() if k.endswith(".logits") or k == "logits")  # type: ignore[attr-defined]
    assert all(part.shape[:2] == (1, count) for part in head)
    assert {f.name for f in dataclasses.fields(method.config)} >= {"steady", "perceptual", "shut"}  # type: ignore[attr-defined]
