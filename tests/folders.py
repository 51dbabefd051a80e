"""The made-up person written as a folder of the AD-NeRF lineage, lossless."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.synthetic import SyntheticPerson
from vivavoce.face.pose import transform_from_camera
from vivavoce.face.regions import colours_from_labels
from vivavoce.media import write_image


def lineage_folder(place: Path, size: int, count: int, gap: int = -1, train: int = 8) -> Path:
    """Frames, plate, torso, parsing, cameras and speech features; frame `gap` has a number but no camera."""
    made = SyntheticPerson(size, count)
    clip = made.clip(slice(None), {"frames", "torso", "labels", "camera"})
    assert clip.frames is not None and clip.torso is not None and clip.labels is not None and clip.camera is not None
    colours = colours_from_labels(clip.labels)
    for i in range(count):
        write_image(place / "ori_imgs" / f"{i}.png", clip.frames[i])
        write_image(place / "gt_imgs" / f"{i}.png", clip.frames[i])
        write_image(place / "torso_imgs" / f"{i}.png", clip.torso[i])
        write_image(place / "parsing" / f"{i}.png", colours[i].permute(1, 2, 0).numpy())
    write_image(place / "bc.jpg", made.background)
    np.save(place / "aud_whisper.npy", torch.arange(count * 2 * 3).reshape(count, 2, 3).numpy().astype(np.float16))
    matrices = transform_from_camera(clip.camera)
    for split, rows in (("train", range(train)), ("val", range(train, count))):
        frames = [{"img_id": i, "aud_id": i, "transform_matrix": matrices[i].tolist()} for i in rows if i != gap]
        table = {"focal_len": float(clip.camera.focal[0, 0]), "cx": size / 2, "cy": size / 2, "frames": frames}
        (place / f"transforms_{split}.json").write_text(json.dumps(table))
    return place
