"""The head of a trained run as a mesh in files: what `vivavoce export RUN --layout glb` and `obj` do."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vivavoce.types import Camera, InputError


def centred(camera: Camera) -> tuple[Tensor, Tensor]:  # -> [T,3,3], [T,3] metres
    """Turn and place of the head before the camera, about its middle place: a viewer looks at the origin."""
    from vivavoce.face.pose import pose_from_camera

    rotation, place = pose_from_camera(camera)
    return rotation, place - place.mean(0)


def write(run: Path, kind: str, out: Path | None, split: str, frames: int, texture: int) -> tuple[Path, float]:
    """`head.glb`, or `obj/%d.obj` with `skin.png`, in `out` (the folder `mesh` of the run by itself).

    Args:
        kind: "glb" or "obj". split: whose first `frames` rows are written. texture: side of the texture, px.
    Returns:
        the folder, and the largest distance of a vertex from where it should be, metres.
    Raises:
        InputError: no run of a method that draws a mesh, or the place cannot be written.
    """
    from vivavoce.data.person import Person
    from vivavoce.media import write_image
    from vivavoce.media.mesh_file import write_glb, write_obj
    from vivavoce.train import load_run

    method, about = load_run(run)
    film = getattr(method, "film", None)
    if film is None or "folder" not in about:
        raise InputError(run, f"{about['method']} draws no mesh", "give a run of dyntet")
    person = Person(about["folder"], about.get("size"), split, method.speech or "whisper", method.window, space=method.space)
    clip = person.clip(slice(0, max(1, frames)), {"camera", "motion", "eyes"})
    assert clip.camera is not None
    vertices, faces, flat, picture = film(clip, texture)
    place = Path(out) if out is not None else run / "mesh"
    try:
        (place / "obj" if kind == "obj" else place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(place, f"cannot be made ({error.strerror or error})", "choose another --out") from error
    if kind == "glb":
        return place, write_glb(place / "head.glb", vertices, faces, flat, picture, centred(clip.camera))
    write_image(place / "obj" / "skin.png", picture)
    numbers = clip.index if clip.index is not None else torch.arange(len(vertices))
    for number, row in zip(numbers.tolist(), vertices, strict=True):
        write_obj(place / "obj" / f"{number}.obj", row, faces, flat, "skin.png")
    return place, 0.0
