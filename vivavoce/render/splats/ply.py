"""A head as a .ply file that public splat viewers open: the property names and activations of Kerbl et al.'s reference files.

Colours become the constant spherical harmonic, opacities logits, scales logarithms. Axes are OpenCV's (y down, z away from the viewer
of a face), as in files made from photographs, so that a head stands upright there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vivavoce.files import written
from vivavoce.types import InputError

HARMONIC = 0.28209479177387814  # of degree 0: 1 / (2 sqrt(pi))
NAMES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
FLIP = (1.0, -1.0, -1.0)  # OpenGL axes <-> OpenCV axes: half a turn about x


def write(path: Path, means: Tensor, quaternions: Tensor, scales: Tensor, opacities: Tensor, colours: Tensor) -> None:
    """Args: [N,3] metres in head space; [N,4] wxyz; [N,3] metres; [N] in 0..1; [N,3] RGB in 0..1, a little beyond allowed."""
    flip = means.new_tensor(FLIP)
    w, x, y, z = functional.normalize(quaternions, dim=1).unbind(1)
    turned = torch.stack([-x, w, -z, y], 1)  # half a turn about x, after the Gaussian's own
    logits = torch.logit(opacities.clamp(1e-6, 1 - 1e-6))[:, None]
    parts = [means * flip, torch.zeros_like(means), (colours - 0.5) / HARMONIC, logits, scales.clamp_min(1e-9).log(), turned]
    table = torch.cat(parts, 1).detach().cpu().numpy().astype("<f4")
    head = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *(f"property float {n}" for n in NAMES),
        "end_header\n",
    ]
    with written(path, "free some space or choose another place") as part:
        part.write_bytes("\n".join(head).encode("ascii") + table.tobytes())


def read(path: Path) -> dict[str, Tensor]:
    """means, quaternions, scales, opacities and colours of a file as `write` makes it; harmonics of higher degree are left out.

    Raises InputError when it is no binary .ply of Gaussians.
    """
    data = path.read_bytes()
    text, mark, body = data.partition(b"end_header\n")
    lines = text.decode("ascii", "replace").splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property")]
    count = next((int(line.split()[-1]) for line in lines if line.startswith("element vertex")), 0)
    binary = "format binary_little_endian 1.0" in lines and all(line.split()[1] == "float" for line in lines if line.startswith("property"))
    if not mark or not binary or set(NAMES) - {"nx", "ny", "nz"} - set(names) or len(body) < 4 * count * len(names):
        raise InputError(path, "no binary .ply of Gaussians", "give one written by: vivavoce view RUN --ply FILE")
    table = torch.from_numpy(np.frombuffer(body, "<f4", count * len(names)).reshape(count, len(names)).copy())

    def columns(*wanted: str) -> Tensor:
        return table[:, [names.index(name) for name in wanted]]

    w, x, y, z = columns("rot_0", "rot_1", "rot_2", "rot_3").unbind(1)
    return {
        "means": columns("x", "y", "z") * torch.tensor(FLIP),
        "quaternions": torch.stack([x, -w, z, -y], 1),
        "scales": columns("scale_0", "scale_1", "scale_2").exp(),
        "opacities": columns("opacity")[:, 0].sigmoid(),
        "colours": columns("f_dc_0", "f_dc_1", "f_dc_2") * HARMONIC + 0.5,
    }
