"""A trained head in the browser: turned by the mouse, its eyes shut and its speech wound to and fro by sliders.

`Stage` makes the picture of any moment from any side and knows nothing of browsers; `serve` puts it behind viser (an extra).
Pictures are drawn here and sent as JPEG, so that a phone can show what it could not draw.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivavoce import speech
from vivavoce.data.person import Person
from vivavoce.face import regions
from vivavoce.media import audio
from vivavoce.nn.avatar import Drawn, Moved
from vivavoce.nn.radiance import Layers, Radiance
from vivavoce.render.splats import ply
from vivavoce.speech import Windows
from vivavoce.talker import MADE
from vivavoce.train import load_run
from vivavoce.types import FPS, Camera, Clip, InputError, Source, mirror

GREY = 0.25  # behind a head without its torso
BLINKS = tuple(regions.BLENDSHAPES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight"))
FRONT = 0.7  # metres from which a viewer first looks at the head


@runtime_checkable
class Layered(Protocol):
    """A method whose head can be drawn apart from what is behind it."""

    needs: frozenset[str]
    speech: str
    space: str
    window: tuple[int, int]

    def encode(self, source: Clip) -> Any: ...
    def layers(self, identity: Any, clip: Clip, size: tuple[int, int]) -> Drawn | Layers: ...


@runtime_checkable
class Splatted(Protocol):
    """A method whose head is Gaussians."""

    def layers(self, identity: Any, clip: Clip, size: tuple[int, int]) -> Drawn: ...
    def rest(self) -> Moved: ...


class Stage:
    """Pictures of one head.

    Attributes:
        deep: whether it knows how far away its head is.
    Args:
        method: of the Gaussian or radiance-field family. source: its rows (pose, eyes).
        heard: [T,W,D] windows of speech, or None for the source's own.
    """

    def __init__(self, method: Layered, source: Source, heard: Tensor | None = None) -> None:
        self.method, self.source, self.heard = method, source, heard
        self.device = next(p.device for p in method.parameters())  # type: ignore[attr-defined]
        self.length = len(heard) if heard is not None else len(source)
        with torch.no_grad():
            self.identity = method.encode(Clip())
        self.deep = isinstance(getattr(method, "room", None), Radiance)

    @torch.no_grad()
    def frame(
        self,
        row: int,
        camera: Camera | None = None,
        blink: float | None = None,
        size: tuple[int, int] | None = None,
        scene: bool = True,
        depth: bool = False,
    ) -> NDArray[np.uint8]:  # -> [H,W,3]
        """The picture of a row.

        Args:
            row: 25 a second. camera: one row; None: where the film's was. blink: 0 open to 1 shut; None: as in the film.
            size: H, W; None: as trained. scene: with torso and background, else before grey. depth: how near the head is, not its colours.
        """
        at = mirror(torch.tensor([row % self.length]), len(self.source))
        clip = self.source.clip(at, self.method.needs - (MADE if self.heard is not None else set()))
        if self.heard is not None:
            clip = replace(clip, speech=self.heard[row % self.length][None])
        if blink is not None and clip.eyes is not None:
            clip = replace(clip, eyes=torch.full_like(clip.eyes, 1 - blink))
        if blink is not None and clip.units is not None:
            units = clip.units.clone()
            units[:, list(BLINKS)] = blink
            clip = replace(clip, units=units)
        if camera is not None:
            clip = replace(clip, camera=camera)
        drawn = self.method.layers(self.identity, clip.to(self.device), size or self.source.size)
        picture = drawn.frames
        if depth and isinstance(drawn, Layers):
            picture = shaded(drawn.depth, drawn.alpha)
        elif not scene:
            picture = picture + (1 - drawn.alpha[:, None]) * (GREY - drawn.scene)
        return (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def shaded(depth: Tensor, alpha: Tensor) -> Tensor:  # [T,H,W] metres, [T,H,W] -> [T,3,H,W]
    """The nearest point white, the farthest dark, nothing black."""
    there = alpha > 0.5
    if not there.any():
        return torch.zeros_like(depth)[:, None].expand(-1, 3, -1, -1)
    near, far = depth[there].min(), depth[there].max()
    light = 1 - 0.85 * (depth - near) / (far - near).clamp_min(1e-6)
    return torch.where(there, light, 0.0)[:, None].expand(-1, 3, -1, -1)


def load(run: Path, sound: Path | None = None, size: int = 0, device: str = "cpu") -> Stage:
    """The stage of a trained run, hearing a recording or its film's own speech. Raises InputError for another family's run."""
    method, about = load_run(run, device)
    if not isinstance(method, Layered):
        remedy = "give a run of the Gaussian or radiance-field family: vivavoce list"
        raise InputError(run, f"{about['method']} has no head that can be drawn apart", remedy)
    if sound is not None and not method.speech:
        raise InputError(
            run, f"{about['method']} is driven by motion and hears nothing", "make a film of it: vivavoce run RUN --audio FILE"
        )
    heard_by, space = method.speech or "whisper", {"space": method.space} if method.space else {}
    person = Person(about.get("folder", ""), size or about.get("size"), "all", heard_by, method.window, device=device, **space)
    heard = None
    if sound is not None:
        encoder = speech.load(method.speech, device)
        steps, _ = encoder.push(audio(sound), encoder.start(), last=True)
        heard = Windows(*method.window, encoder.dim).push(steps, last=True)
    return Stage(method, person, heard)


@torch.no_grad()
def export(run: Path, out: Path) -> int:
    """Write the head at rest as a .ply for splat viewers; the number of Gaussians. Raises InputError for another family's run."""
    method, about = load_run(run)
    if not isinstance(method, Splatted):
        raise InputError(run, f"{about['method']} has no Gaussians", "give a run of the Gaussian family: vivavoce list")
    head = method.rest()
    ply.write(out, *(part[0] for part in head))
    return len(head.means[0])


def seen_from(position: Any, turn: Any, fov: float, size: tuple[int, int]) -> Camera:
    """A browser's camera: place [3] metres, wxyz world from camera (OpenCV axes), vertical angle of view in rad; size H, W."""
    w, x, y, z = (float(v) for v in turn)
    rotation = torch.tensor([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, torch.tensor([float(v) for v in position])
    focal = size[0] / 2 / np.tan(fov / 2)
    return Camera(pose[None], torch.full((1, 2), float(focal)), torch.tensor([[size[1] / 2, size[0] / 2]]))


def widened(picture: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:  # [H,W,3] -> [h,w,3], w/h = aspect
    """With grey on two sides, so that a browser that stretches it to its window shows it as it is."""
    height, width = picture.shape[:2]
    across, down = max(round(height * aspect) - width, 0), max(round(width / aspect) - height, 0)
    room = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return np.pad(picture, room, constant_values=round(GREY * 255))


class Viewer:
    """A viser server that shows a stage until `close`.

    Attributes:
        server: viser's. `frames`: pictures sent so far.
    Raises:
        InputError: viser is not installed, or the port is taken.
    """

    def __init__(self, stage: Stage, host: str = "127.0.0.1", port: int = 8080) -> None:
        try:
            import viser
        except ImportError as error:
            raise InputError("viser", "is not installed", "run: pip install 'vivavoce[viewer]'") from error
        self.stage, self.frames, self.open = stage, 0, True
        self.server = viser.ViserServer(host=host, port=port, verbose=False)
        self.server.scene.set_up_direction("+y")
        gui = self.server.gui
        self.row = gui.add_slider("frame", min=0, max=stage.length - 1, step=1, initial_value=0)
        self.play = gui.add_checkbox("play", initial_value=False)
        self.own_eyes = gui.add_checkbox("eyes as in the film", initial_value=True)
        self.blink = gui.add_slider("eyes shut", min=0.0, max=1.0, step=0.01, initial_value=0.0)
        self.film = gui.add_checkbox("camera of the film", initial_value=True)
        self.scene = gui.add_checkbox("torso and background", initial_value=True)
        self.depth = gui.add_checkbox("depth", initial_value=False) if stage.deep else None
        self.height = gui.add_slider("height, px", min=128, max=1024, step=64, initial_value=min(1024, max(128, stage.source.size[0])))
        every = (self.row, self.own_eyes, self.blink, self.film, self.scene, self.depth, self.height)
        self.controls = [handle for handle in every if handle is not None]  # a change of one of them is drawn anew
        self.server.on_client_connect(self._placed)
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def _placed(self, client: Any) -> None:
        """A new visitor looks at the face from the front."""
        client.camera.position = (0.0, 0.0, FRONT)
        client.camera.look_at = (0.0, 0.0, 0.0)
        client.camera.fov = 0.6

    def picture(self, camera: Any) -> NDArray[np.uint8]:
        """What a visitor with this camera (position, wxyz, fov, aspect) sees now."""
        blink = None if self.own_eyes.value else float(self.blink.value)
        row, scene, depth = int(self.row.value), bool(self.scene.value), self.depth is not None and bool(self.depth.value)
        if self.film.value:
            return widened(self.stage.frame(row, None, blink, None, scene, depth), float(camera.aspect))
        height = int(self.height.value)
        size = (height, max(16, min(2048, round(height * float(camera.aspect)))))
        seen = seen_from(camera.position, camera.wxyz, float(camera.fov), size)
        return self.stage.frame(row, seen, blink, size, scene, depth)

    def _loop(self) -> None:
        shown: dict[int, tuple[Any, ...]] = {}
        while self.open:
            begun, busy = time.perf_counter(), False
            for number, client in self.server.get_clients().items():
                camera = client.camera
                switches = tuple(handle.value for handle in self.controls)
                state = (*switches, *map(float, camera.wxyz), *map(float, camera.position), float(camera.fov), float(camera.aspect))
                if shown.get(number) != state:
                    client.scene.set_background_image(self.picture(camera), format="jpeg", jpeg_quality=85)
                    shown[number], busy = state, True
                    self.frames += 1
            if self.play.value:
                self.row.value = (int(self.row.value) + 1) % self.stage.length
            wait = 1 / FPS - (time.perf_counter() - begun)
            if wait > 0 and (self.play.value or not busy):
                time.sleep(wait)

    def close(self) -> None:
        """Stop drawing and serving."""
        self.open = False
        self.thread.join(timeout=10)
        self.server.stop()
