"""Speed of the face landmarker, and how far it lies from MediaPipe's own, in one run on the same frames.

    python benchmarks/faces.py VIDEO [VIDEO ...] [--frames 100] [--threads 1] [--mediapipe PYTHON]

PYTHON is the interpreter of another environment with mediapipe >= 1.0 and numpy in it (it cannot be installed beside this
package's NumPy in every version); without it only our own figures are printed.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vivavoce import assets
from vivavoce.face.landmarker import Face, Landmarker
from vivavoce.media import frames

PEER = """
import pickle, sys, time
import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

pictures = pickle.load(open(sys.argv[1], "rb"))
answers = {}
for mode in ("IMAGE", "VIDEO"):
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=sys.argv[2]), output_face_blendshapes=True, running_mode=vision.RunningMode[mode]
    )
    landmarker, taken, found = vision.FaceLandmarker.create_from_options(options), [], []
    for number, picture in enumerate(pictures):
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=picture)
        begun = time.perf_counter()
        seen = landmarker.detect(image) if mode == "IMAGE" else landmarker.detect_for_video(image, number * 40)
        taken.append(time.perf_counter() - begun)
        height, width = picture.shape[:2]
        points = [[(p.x * width, p.y * height) for p in face] for face in seen.face_landmarks[:1]]
        found.append((np.array(points), np.array([[b.score for b in face] for face in seen.face_blendshapes[:1]])))
    answers[mode] = (taken, found)
pickle.dump(answers, open(sys.argv[3], "wb"))
"""


def timed(work: Callable[[Any], Any], pictures: list[np.ndarray]) -> tuple[list[float], list[Any]]:
    """Seconds and answer of each picture."""
    taken, made = [], []
    for picture in pictures:
        begun = time.perf_counter()
        made.append(work(picture))
        taken.append(time.perf_counter() - begun)
    return taken, made


def shown(taken: list[float]) -> str:
    return f"{min(taken) * 1e3:5.2f} best {np.median(taken) * 1e3:5.2f} median ms"


def peer(python: str, pictures: list[np.ndarray]) -> dict[str, Any]:
    """What the mediapipe of another environment says of the same pictures."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "pictures", Path(folder) / "answers"
        given.write_bytes(pickle.dumps(pictures))
        subprocess.run([python, "-c", PEER, str(given), str(assets.path("face_landmarker")), str(made)], check=True, capture_output=True)
        answers: dict[str, Any] = pickle.loads(made.read_bytes())
        return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mediapipe", default="")
    asked = parser.parse_args()
    landmarker = Landmarker(most=1, threads=asked.threads)
    for video in asked.videos:
        pictures = [np.ascontiguousarray(f) for f in itertools.islice(frames(video), asked.frames)]
        whole, found = timed(landmarker, pictures)
        kept: list[Face | None] = [None]

        def step(picture: np.ndarray, kept: list[Face | None] = kept) -> None:
            kept[0] = landmarker.follow(picture, kept[0])

        following, _ = timed(step, pictures)
        print(f"{video.name} {pictures[0].shape[1]}x{pictures[0].shape[0]}, {len(pictures)} frames, {sum(map(bool, found))} with a face")
        print(f"  ours       detect {shown(whole)}   follow {shown(following)}")
        if asked.mediapipe:
            theirs = peer(asked.mediapipe, pictures)
            print(f"  mediapipe  detect {shown(theirs['IMAGE'][0])}   follow {shown(theirs['VIDEO'][0])}")
            both = [(f[0], p[0], s[0]) for f, (p, s) in zip(found, theirs["IMAGE"][1], strict=True) if f and len(p)]
            away = [np.linalg.norm(f.points[:, :2] - p, axis=1).mean() / np.linalg.norm(p[33] - p[263]) for f, p, _ in both]
            off = [np.abs(f.blendshapes - s).mean() for f, _, s in both]
            print(f"  apart      points {np.mean(away) * 100:.2f} % of eye distance, scores {np.mean(off):.4f}, over {len(both)} frames")


if __name__ == "__main__":
    main()
