"""Identity: cosine between embeddings of a face network, made against real. The network is part of the figure's name.

SFace (Apache-2.0) is the default, for its weights may be used by everyone; tables in papers take ArcFace, whose weights are for
research alone. The two do not compare.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce import assets
from vivavoce.metrics.checked import checked
from vivavoce.types import InputError

SIDE = 112  # px
# Where eyes, nose and corners of the mouth lie in the aligned picture, for a viewer from left to right (ArcFace's template).
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


class Network(NamedTuple):
    asset: str
    center: float  # what is taken from grey levels 0..255 ...
    scale: float  # ... and what they are then divided by


NETWORKS = {"sface": Network("sface", 0.0, 1.0), "arcface": Network("arcface", 127.5, 127.5)}


class Identity:
    """Faces -> embeddings. Raises InputError for an unknown network, without onnxruntime, or when the weights cannot be had."""

    def __init__(self, name: str = "sface") -> None:
        if name not in NETWORKS:
            raise InputError(f"CSIM {name}", "no such network", f"choose from: {', '.join(NETWORKS)}")
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("CSIM", f"onnxruntime is not installed ({error})", "run: pip install 'vivavoce[metrics]'") from error
        self.name, self.network = name, NETWORKS[name]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work between two faces
        self.session: Any = onnxruntime.InferenceSession(str(assets.fetch(self.network.asset)), options, ["CPUExecutionProvider"])

    def __call__(self, frames: Tensor, landmarks: Tensor) -> Tensor:  # [T,3,H,W] in 0..1, [T,68,2] px -> [T,D]
        """Embeddings of length 1."""
        checked("CSIM", frames, landmarks)
        faces = (aligned(frames, landmarks) * 255 - self.network.center) / self.network.scale
        entry = self.session.get_inputs()[0].name
        rows = [self.session.run(None, {entry: face[None].float().cpu().numpy()})[0][0] for face in faces]
        return functional.normalize(torch.stack([torch.from_numpy(r) for r in rows]), dim=1)


def csim(made: Tensor, real: Tensor) -> Tensor:  # [T,D] x2 -> [T]
    """Cosine of embeddings, row by row."""
    checked("CSIM", made, real)
    return functional.cosine_similarity(made, real)


def aligned(frames: Tensor, landmarks: Tensor) -> Tensor:  # [T,3,H,W], [T,68,2] px -> [T,3,112,112]
    """Faces turned, scaled and moved so that five points lie where the networks expect them (Umeyama 1991: least squares)."""
    where = torch.tensor(TEMPLATE).to(landmarks)
    groups = (range(36, 42), range(42, 48), (30,), (48,), (54,))
    points = torch.stack([landmarks[:, list(g)].mean(1) for g in groups], 1)  # [T,5,2]
    target, source = where - where.mean(0), points - points.mean(1, keepdim=True)
    # complex numbers: a similarity without mirror is a multiplication, found in closed form; here template -> picture
    a, b = torch.view_as_complex(target.contiguous()), torch.view_as_complex(source.contiguous())
    factor = (a.conj() * b).sum(1) / (a.abs() ** 2).sum()
    line = torch.arange(SIDE, dtype=landmarks.dtype, device=landmarks.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1) - where.mean(0)  # [112,112,2]
    moved = torch.view_as_real(torch.view_as_complex(grid.contiguous()) * factor[:, None, None]) + points.mean(1)[:, None, None]
    size = torch.tensor([frames.shape[-1], frames.shape[-2]]).to(moved)
    return functional.grid_sample(frames, (2 * moved + 1) / size - 1, padding_mode="zeros", align_corners=False)
