"""How still the trackers hold a still head, and how long they take.

    python benchmarks/tracking.py [VIDEO ...] [--trackers mesh ict bfm] [--frames 250]

Jitter: 95th percentile of the motion of the tracked mesh in the picture from one frame to the next, px; of the points that do not
move with the expression ("pose") and of the whole mesh with its expression ("mesh"). Beside each the same of per-frame fitting: the same
tracker on the same landmarks without its smoothing in time, and of the landmarks themselves. On a made-up head that keeps still under
landmarks with 0.5 px of noise, and on the stillest second of each video. `ict` wants ICT-FaceKit (fetched when it is not here);
`bfm` runs on a small made-up model in the files of the Basel Face Model, on the made-up head alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.models import film, take, write_bfm
from vivavoce.face import mesh, morphable_bfm, morphable_ict, pose, smooth
from vivavoce.face.fit_video import fit_video
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.face.morphable import Morphable, dense
from vivavoce.face.regions import MESH, STILL
from vivavoce.face.track import Track, track
from vivavoce.media import frames

SECOND, NOISE = 25, 0.5
Tracker = Callable[[Tensor, tuple[int, int]], Track]


@contextmanager
def unsteady() -> Iterator[None]:
    """Every frame by itself: the trackers' smoother hands back what it is given."""
    before = smooth.steady
    smooth.steady = lambda values, found, cuts=None, noise=None: values  # type: ignore[assignment]
    try:
        yield
    finally:
        smooth.steady = before


def jitter(points: Tensor) -> float:  # [T,P,2] px -> px
    """95th percentile of the way a point goes in one frame."""
    return float((points[1:] - points[:-1]).norm(dim=-1).flatten().quantile(0.95))


def stillest(points: Tensor) -> slice:  # [T,478,3] px
    """The second in which the landmarks of the upper face move the least."""
    still = points[:, list(STILL), :2]
    step = torch.nn.functional.avg_pool1d(still.transpose(0, 2).flatten(0, 1), 5, 1).reshape(2, len(STILL), -1).diff(dim=2)
    moved = step.square().sum(0).sqrt().median(0).values.unfold(0, SECOND - 1, 1).sum(1)
    first = int(moved.argmin()) + 2
    return slice(first, first + SECOND)


def row(name: str, tracker: Tracker, points: Tensor, size: tuple[int, int], part: slice) -> str:
    """One line of the table."""
    begun = time.perf_counter()
    ours = tracker(points, size)
    seconds = time.perf_counter() - begun
    with unsteady():
        single = tracker(points, size)
    figures = []
    for found in (ours, single):
        whole = pose.project(found.camera, found.deformed)[part]
        rigid = pose.project(found.camera, found.vertices)[part][:, list(STILL)]
        figures += [jitter(rigid), jitter(whole)]
    raw = jitter(points[part, :MESH, :2])
    error = float(ours.error.nanmedian())
    pose_ratio, mesh_ratio = figures[0] / figures[2], figures[1] / figures[3]
    return (
        f"| {name} | {figures[0]:.3f} | {figures[2]:.3f} | {pose_ratio:.2f} | {figures[1]:.3f} | {figures[3]:.3f} | {mesh_ratio:.2f} "
        f"| {raw:.2f} | {error:.2f} | {ours.focal:.0f} | {1000 * seconds / len(points):.1f} |"
    )


def model_tracker(model: Morphable) -> Tracker:
    def run(points: Tensor, size: tuple[int, int]) -> Track:
        return fit_video(model, points.__getitem__, torch.ones(len(points), dtype=torch.bool), size)[0]

    return run


def mesh_tracker(points: Tensor, size: tuple[int, int]) -> Track:
    return track(points, torch.ones(len(points), dtype=torch.bool), size)


def still_head(model: Morphable, count: int) -> Tensor:  # -> [T,478,3] px
    """Landmarks of a head of this model that does not move at all, with noise."""
    columns = dense(model)
    shot = film(model, 1, 0.0, turning=0.0)
    clean = pose.project(shot.camera, shot.vertices)[:, columns]
    near = -shot.vertices[:, columns, 2:] * 1198 / 0.9
    seen = torch.cat([clean, near - near.mean()], 2).expand(count, -1, -1)
    seen = seen + torch.randn(seen.shape, generator=torch.Generator().manual_seed(1)) * torch.tensor([NOISE, NOISE, 3.0])
    return torch.cat([seen, seen[:, :10]], 1)


def recorded(video: str, count: int) -> tuple[Tensor, tuple[int, int]]:
    """Landmarks of the frames of a video, up to the first without a face."""
    landmarker, previous, rows, size = Landmarker(), None, [], (0, 0)
    for frame in itertools.islice(frames(video), count):
        picture = (frame.permute(1, 2, 0) * 255 + 0.5).byte().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
        previous, size = landmarker.follow(picture, previous), (picture.shape[0], picture.shape[1])
        if not isinstance(previous, Face):
            break
        rows.append(torch.from_numpy(previous.points))
    return torch.stack(rows).float(), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--trackers", nargs="+", default=["mesh", "ict", "bfm"], choices=["mesh", "ict", "bfm"])
    parser.add_argument("--frames", type=int, default=250)
    asked = parser.parse_args()
    trackers: dict[str, Tracker] = {"mesh": mesh_tracker} if "mesh" in asked.trackers else {}
    heads: dict[str, Morphable] = {}
    if "ict" in asked.trackers:
        heads["ict"] = morphable_ict.load()
    if "bfm" in asked.trackers:
        mesh.vertices()  # read before the catalogue is narrowed to the small model
        kept = {k: os.environ.get(k) for k in ("VIVAVOCE_ASSETS", "VIVAVOCE_OFFLINE")}
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            write_bfm(Path(folder))
            take(patch, Path(folder))
            heads["bfm"] = morphable_bfm.load()
        assert kept == {k: os.environ.get(k) for k in kept}
    trackers |= {name: model_tracker(model) for name, model in heads.items()}
    print("| | pose, px | alone | ratio | mesh, px | alone | ratio | landmarks, px | error, px | focal, px | ms a frame |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, tracker in trackers.items():
        head = heads.get(name) or next(iter(heads.values()))
        points = still_head(head, asked.frames)
        print(row(f"still head, {name}", tracker, points, (512, 512), slice(0, None)), flush=True)
    for video in asked.videos:
        points, size = recorded(video, asked.frames)
        part = stillest(points)
        for name, tracker in trackers.items():
            if name != "bfm":
                print(row(f"{Path(video).stem} {part.start}-{part.stop}, {name}", tracker, points, size, part), flush=True)


if __name__ == "__main__":
    main()
