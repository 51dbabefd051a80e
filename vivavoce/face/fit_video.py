"""A face model fitted to a whole video: the trackers `bfm` and `ict`, with the result of the `mesh` tracker.

Identity and focal length from key frames; then every frame by itself, chunk by chunk; then the pose is smoothed as the mesh tracker's
is, the expression follows the change (the mean of its conditional distribution, pose and expression having been found together), and
is smoothed in its turn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vivavoce.face import pose
from vivavoce.face.fit import Fitter, Person, State, joined
from vivavoce.face.fit_colour import Skin
from vivavoce.face.morphable import Morphable
from vivavoce.face.regions import MESH, STILL
from vivavoce.face.smooth import heading, steady_rows, tremor
from vivavoce.face.track import DISTANCE, Reader, Track, key_frames, scale_of, shots_of
from vivavoce.types import InputError

Pictures = Callable[[Tensor], Tensor]  # numbers of frames [N] -> [N,3,H,W] RGB in 0..1
CHUNK, FRAMES = 48, 12  # frames at once: of landmarks, of pictures (whose Jacobian is 25 MB)
KEYS = 96  # frames to learn from
STEPS, REFINE = 5, 3  # in each frame: with the landmarks alone, with the pictures


def fit_video(
    model: Morphable,
    read: Reader,
    found: Tensor,
    size: tuple[int, int],
    focal: float | None = None,
    pictures: Pictures | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Track, Tensor]:
    """Track a head through all its frames with a face model, on the model's device.

    Args:
        read: reads rows of landmarks [N,478,3] px; those without a face hold any number.
        found: [T] bool. size: height and width of the frames. focal: px when it is known, None = find it.
        pictures: reads frames; with it, a model that has a texture is fitted to the pictures as well.
    Returns:
        The track (its mesh is that of the 468 landmarks, its expressions the model's), and the identity [I].
    Raises:
        InputError: fewer than two frames with a face.
    """
    rows = found.nonzero()[:, 0]
    if len(rows) < 2:
        raise InputError("tracking", f"{len(rows)} frames with a face", "give a video in which a face is seen")
    device = model.mean.device
    center = torch.tensor([size[1] / 2, size[0] / 2])
    still = torch.cat([read(part)[:, list(STILL), :2].float() for part in rows.split(CHUNK)])
    every = torch.zeros(len(found), len(STILL), 2)
    every[rows] = still
    eyes = float((still[:, STILL.index(33)] - still[:, STILL.index(263)]).norm(dim=1).median())
    numbers = key_frames(every, rows, KEYS)
    keys = read(numbers).float()
    usual = 0.0 if focal is not None else DISTANCE * scale_of(keys[:, :MESH], center)
    fitter = Fitter(model, center.to(device), eyes, usual)
    person, state = fitter.learn(keys.to(device), nobody(model, focal or usual))
    skin = None
    if pictures is not None and model.texture is not None:
        skin = Skin.learn(fitter, person, state, numbers, pictures)
    parts, follow, known = [], [], torch.zeros(len(model.expression), len(model.expression))
    for part in rows.split(CHUNK if skin is None else FRAMES):
        seen = read(part).float().to(device)
        state, matrix = fitter.frames(fitter.observed(seen), fitter.start(seen, person), person, STEPS)
        if skin is not None and pictures is not None:
            extra = skin.extra(pictures(part).to(device), state)
            state, matrix = fitter.frames(fitter.observed(seen), state, person, REFINE, extra)
        parts.append(State(state.rotation.cpu(), state.translation.cpu(), state.expression.cpu()))
        follow.append(torch.linalg.solve(matrix[:, 6:, 6:], matrix[:, 6:, :6]).half().cpu())
        known += matrix[:, 6:, 6:].sum(0).cpu() / len(rows)
        progress(int(part[-1]) + 1, len(found))
    known *= (fitter.noise / tremor(every, found)) ** 2
    track = _steadied(fitter, person, joined(parts), torch.cat(follow), known, read, found, shots_of(every, found))
    return track, person.identity.cpu()


def nobody(model: Morphable, focal: float) -> Person:
    """The mean person."""
    device = model.mean.device
    return Person(torch.zeros(len(model.identity), device=device), torch.tensor(focal, device=device), torch.zeros(MESH, 3, device=device))


def _steadied(
    fitter: Fitter, person: Person, solved: State, follow: Tensor, known: Tensor, read: Reader, found: Tensor, shots: Tensor
) -> Track:
    """Smooth pose and expression, fill the gaps.

    Args:
        follow: [N,E,6], change of the expression against that of the pose. known: [E,E], information of a frame on its expression.
    """
    model, rows = fitter.model, found.nonzero()[:, 0]
    center, focal = fitter.center.cpu(), float(person.focal)
    rotation, away = heading(solved.rotation, solved.translation, found, shots)
    mesh = (model.shape(person.identity)[fitter.dense] + person.beside).cpu()
    basis = model.expression[:, fitter.dense].cpu()
    weights = torch.zeros(MESH).index_copy(0, fitter.used.cpu(), fitter.weights[: len(fitter.used)].cpu())
    spots = []
    for part, c in zip(rows.split(CHUNK), solved.expression.split(CHUNK)):
        shape = mesh + torch.einsum("te,epc->tpc", c, basis)
        spots.append(pose.place(read(part)[:, :MESH, :2].float(), shape, rotation[part], away[part], person.focal.cpu(), center, weights))
    translation = torch.cat([steady_rows(torch.cat(spots), found, shots) * away, -away], 1)
    turn = pose.axis_from_matrix(rotation[rows] @ solved.rotation.transpose(1, 2))
    moved = torch.cat([turn, translation[rows] - solved.translation], 1)
    # What the landmarks tell well must not be smoothed like what they hardly tell: along the axes of the information all have noise 1.
    sure, axes = torch.linalg.eigh(known)
    axes = axes * sure.clamp(min=1e-6).sqrt()
    raw = (solved.expression - (follow.float() @ moved[..., None])[..., 0]) @ axes
    expression = torch.linalg.solve(axes.T, steady_rows(raw, found, shots, torch.ones(len(sure))).T).T
    if model.bounded:
        expression = expression.clamp(0, 1)
    error = torch.full((len(found),), torch.nan)
    camera = pose.camera_from_pose(rotation, translation, torch.tensor([focal]), center)
    for part, c in zip(rows.split(CHUNK), expression[rows].split(CHUNK)):
        shape = mesh + torch.einsum("te,epc->tpc", c, basis)
        away_from = pose.project(camera[part], shape) - read(part)[:, :MESH, :2].float()
        error[part] = away_from[:, fitter.used.cpu()].square().sum(-1).mean(1).sqrt()
    euler = pose.euler_from_matrix(rotation)
    return Track(euler, translation, focal, center, mesh, basis, expression, found.clone(), error, shots)
