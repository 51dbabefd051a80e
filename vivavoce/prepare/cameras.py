"""Task 9: the cameras of both splits, `transforms_train.json` and `transforms_val.json`, as every repository of the lineage reads them.

`focal_len`, `cx`, `cy`, and for each frame with a face in a kept shot `img_id`, `aud_id` (both the true frame number, so that nothing
drifts when frames are left out) and `transform_matrix` (camera to world, OpenGL axes, metres). The first 10/11 of these
train, the rest is never trained on.
"""

from __future__ import annotations

import json

import torch

from vivavoce.face import pose
from vivavoce.prepare import Folder, Progress, Step
from vivavoce.types import InputError

FILES = ("transforms_train.json", "transforms_val.json")


def run(folder: Folder, progress: Progress) -> None:
    """Both files, from the tracker's poses."""
    height, width = folder.size
    table = torch.load(folder.file("track_params.pt"), map_location="cpu", weights_only=True)
    center = torch.tensor([width / 2, height / 2])
    camera = pose.camera_from_lineage(table["euler"].float(), table["trans"].float(), table["focal"].float(), center)
    matrices = pose.transform_from_camera(camera)
    good = [int(k) for k in folder.kept.nonzero()[0]]
    split = folder.split
    for name, rows in zip(FILES, ([k for k in good if k < split], [k for k in good if k >= split]), strict=True):
        frames = [{"img_id": k, "aud_id": k, "transform_matrix": matrices[k].tolist()} for k in rows]
        content = {"focal_len": float(table["focal"]), "cx": width / 2, "cy": height / 2, "frames": frames}
        with folder.whole(name) as part:
            part.write_text(json.dumps(content))
    progress(1, 1)


def verify(folder: Folder) -> None:
    """Both files, every frame to learn from in exactly one of them."""
    remedy = f"run: vivavoce prepare {folder.path} --only cameras"
    numbers: list[int] = []
    for name in FILES:
        path = folder.file(name)
        try:
            frames = json.loads(path.read_text())["frames"]
            numbers += [int(f["img_id"]) for f in frames]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(path, f"missing or not a transforms file ({type(error).__name__})", remedy) from error
        if not frames:
            raise InputError(path, "no frame with a face in this part of the video", "use a longer video that shows the face to its end")
    if sorted(numbers) != [int(k) for k in folder.kept.nonzero()[0]]:
        raise InputError(folder.file(FILES[0]), "its frames are not those with a face in a kept shot", remedy)


STEP = Step("cameras", 9, 1, ("landmarks", "shots", "tracking"), FILES, run, verify)
