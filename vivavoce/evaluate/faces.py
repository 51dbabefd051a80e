"""What the faces of one stream of frames do over time, against those of the original, a frame at a time.

Of each frame a few scalars are kept (opening of lips and eyes), of the last frames the points: a minute is 36 kB.
"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from torch import Tensor

from vivavoce.face.landmarker import Face
from vivavoce.metrics.av import drift
from vivavoce.metrics.lmd import EYES, FACE, MOUTH, lmd, lvd
from vivavoce.metrics.mouth import Trembling, blendshape_error, blinks, eye_openness, following, silence_motion
from vivavoce.prepare import sync
from vivavoce.types import FPS, InputError

CROP, MARGIN = 256, 1.6  # px of the crops of M-LMD and F-LMD; their side over the longest side of the box of the 68 points
FEW = 3  # frames with a face that a correlation needs
NONE = float("nan")


class Means:
    """Means of named numbers, taken in one at a time."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: float, count: int = 1) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + count

    def of(self, name: str) -> float:
        """NaN when nothing came."""
        return self.sums[name] / self.counts[name] if self.counts.get(name) else NONE


class Track:
    """One stream's faces. `add` takes them in order, with the original's of the same frame; `joined`: the frame follows the last one."""

    def __init__(self) -> None:
        self.opening, self.gap, self.eyes, self.height = (array("f") for _ in range(4))
        self.means, self.trembling, self.lost = Means(), Trembling(), 0
        self.last: tuple[Tensor, Tensor] | None = None

    def add(self, face: Face | None, real: Face | None, joined: bool) -> None:
        if face is None or not joined:
            self.trembling.cut()
            self.last = None
        if face is None:
            self.lost += 1
            for series in (self.opening, self.gap, self.eyes, self.height):
                series.append(NONE)
            return
        points = torch.as_tensor(face.landmarks68)[None]
        self.trembling.add(points)
        self.opening.append(face.mouth_open)
        self.gap.append(float(sync.opening(face.points[None])[0]))
        self.eyes.append(float(eye_openness(torch.as_tensor(face.points)[None])))
        self.height.append(float((points[0].amax(0) - points[0].amin(0)).max()))
        if real is None:
            self.last = None
            return
        true = torch.as_tensor(real.landmarks68)[None]
        for name, part in (("lmd", MOUTH), ("lmd_eyes", EYES), ("face", FACE)):
            self.means.add(name, float(lmd(points, true, part)))
        shapes = (torch.from_numpy(np.asarray(f.blendshapes, np.float32))[None] for f in (face, real))
        self.means.add("blendshapes", float(blendshape_error(*shapes)))
        if self.last is not None:
            before, before_true = self.last
            self.means.add("lvd", float(lvd(torch.cat([before, points]), torch.cat([before_true, true]))))
        self.last = points, true

    def figures(self, original: Track, bands: np.ndarray | None, speaking: Tensor | None) -> dict[str, float]:
        """Everything but pictures' figures, NaN where there is too little. `bands` [T,24] and `speaking` [T] bool: of the sound."""
        mine, true = (torch.tensor(t.opening.tolist()) for t in (self, original))
        both = torch.isfinite(mine) & torch.isfinite(true)
        side = MARGIN * float(np.nanmedian(original.height)) if np.isfinite(original.height).any() else NONE
        out = {name: self.means.of(name) for name in ("lmd", "lmd_eyes", "lvd", "blendshapes")}
        out["m_lmd"], out["f_lmd"] = (self.means.of(name) * CROP / side for name in ("lmd", "face"))
        out["mouth"] = following(mine[both], true[both]) if int(both.sum()) >= FEW else NONE
        out["blinks"] = 60 * blinks(held(self.eyes)) if len(self.eyes) >= FPS and self.lost < len(self.eyes) else NONE
        out["jitter"] = self.trembling.value()
        out["lost"] = float(self.lost)
        out["silence"] = out["av"] = out["drift"] = NONE
        if speaking is not None and len(mine) > 1 and self.lost < len(mine):
            out["silence"] = silence_motion(held(self.opening), speaking)
        if bands is not None:
            lips = np.asarray(self.gap, np.float64)
            found, out["drift"] = sync.offset(bands, lips), drift(bands, lips)
            if found is not None and found.confidence >= sync.SURE:
                out["av"] = 1000 * found.offset
        return out


def held(series: array[float]) -> Tensor:  # [T]
    """Where a face was lost, what was last seen."""
    values = np.asarray(series, np.float32)
    seen = np.isfinite(values)
    if not seen.any():
        raise InputError("eval", "no face in any frame", "look at the frames that were made")
    last = np.maximum.accumulate(np.where(seen, np.arange(len(values)), -1))
    return torch.from_numpy(values[np.where(last < 0, int(seen.argmax()), last)])
