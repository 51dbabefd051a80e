"""The `mesh` tracker: 478 landmarks of every frame -> one person's head mesh, one focal length, a pose and an expression a frame.

A vertex p of frame t is seen at  pi_f(R_t (M_p + sum_k c_tk B_kp) + t_t).  M starts as the canonical face, B is found in what
a rigid head leaves over (principal directions of the residuals, with rigid motion taken out), so that speech moves c and not
the pose. Everything is a least-squares solve: poses by Gauss-Newton (`pose.solve`), M vertex by vertex (3 x 3), c by projection.

Two things a single camera cannot tell are fixed by priors, stated here. Size: the mean mesh is aligned to the canonical face
(similarity over the still points), so lengths are metres of a standard head. Focal length: a nearly still head hardly shows
it, so candidates are scored by reprojection error plus a log-normal prior on the distance of head and camera.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivavoce.face import mesh as canonical_mesh
from vivavoce.face import pose
from vivavoce.face.regions import EYE_LEFT, EYE_RIGHT, LIPS_INNER, LIPS_OUTER, MESH, STILL
from vivavoce.face.smooth import heading, steady_rows, tremor
from vivavoce.turns import one_thread_each
from vivavoce.types import Camera, InputError

DISTANCE, SPREAD = 1.0, 0.5  # prior of the distance head - camera: median, metres, and standard deviation of its log
GRID = np.geomspace(0.35, 3.2, 14)  # metres: distances whose focal lengths are tried
CHUNK = 256  # frames followed at once: memory does not grow with the video
KEYS = 160  # frames that shape, focal length and expressions are learned from
EXPRESSIONS = 20  # K, directions of expression
RIDGE = 0.004  # metres: how far a vertex of a person lies from the canonical face (standard deviation, after the shared scale)
LOPSIDED = 0.0015  # metres: the same between the left and the right half
DEPTH = 0.15  # weight of the landmarks' own depth against their x and y
JUMP, JUMP_AROUND = 0.05, 2  # eye distances in one frame that may be a cut; frames on each side it is compared with
SPEECH = 1e-3  # weight in the pose of a vertex that speech moves the most


Reader = Callable[[Tensor], Tensor]  # numbers of frames [N] -> landmarks [N,478,3] px


@dataclass
class Track:
    """What the tracker found. Head space is that of `face/mesh.py`; pose convention of `face/pose.py`."""

    rotation: Tensor  # [T,3] rad: pitch, yaw, roll
    translation: Tensor  # [T,3] metres
    focal: float  # px
    center: Tensor  # [2] px
    vertices: Tensor  # [468,3] metres, mean head
    basis: Tensor  # [K,468,3] metres a unit of expression
    expression: Tensor  # [T,K]; of the mesh tracker, each column with a standard deviation of about 1
    found: Tensor  # [T] bool; the other rows are interpolated
    error: Tensor  # [T] px, root mean square over the face, of the smoothed pose with expression; NaN where not found
    shots: Tensor  # [T] bool, True where a new shot begins

    @property
    def camera(self) -> Camera:
        """One row a frame."""
        focal = torch.tensor([self.focal])
        return pose.camera_from_pose(pose.matrix_from_euler(self.rotation), self.translation, focal, self.center)

    @property
    def deformed(self) -> Tensor:  # [T,468,3] metres
        """The mesh of every frame, in head space."""
        return self.vertices + torch.einsum("tk,kpc->tpc", self.expression, self.basis)


def stillness() -> Tensor:  # [468]
    """How much each vertex tells of the rigid pose, before anything was seen: 1 on forehead, temples and nose bridge, near 0 on
    lips and jaw, small on lids and brows. Falls off with the distance from the points of `regions.STILL`."""
    shape = torch.from_numpy(canonical_mesh.vertices())
    away = torch.cdist(shape, shape[list(STILL)]).amin(1)
    weight = torch.exp(-(away / 0.02).square()).clamp(min=0.02)
    below = shape[:, 1] - shape[2, 1]  # height over the base of the nose
    weight = weight * torch.sigmoid(below / 0.006).clamp(min=SPEECH)
    corners = {33, 133, 362, 263}  # do not move with a blink
    weight[[p for p in (*EYE_LEFT, *EYE_RIGHT) if p not in corners]] = 0.05
    weight[[*LIPS_INNER, *LIPS_OUTER]] = SPEECH
    return weight


def mirrored() -> Tensor:  # [468] int64
    """The vertex opposite to each one; the canonical mesh is exactly symmetric."""
    shape = torch.from_numpy(canonical_mesh.vertices())
    opposite: Tensor = torch.cdist(shape * torch.tensor([-1.0, 1.0, 1.0]), shape).argmin(1)
    return opposite


def aligned(shape: Tensor, target: Tensor, weights: Tensor) -> Tensor:  # [P,3], [P,3], [P] -> [P,3]
    """`shape` moved, turned and scaled onto `target` (weighted Procrustes)."""
    share = (weights / weights.sum())[:, None]
    middle, heart = (share * shape).sum(0), (share * target).sum(0)
    a, b = shape - middle, target - heart
    left, spread, right = torch.linalg.svd((share * b).T @ a)
    sign = torch.ones(3)
    sign[2] = torch.sign(torch.linalg.det(left @ right))
    scale = (spread * sign).sum() / (share * a.square()).sum()
    placed: Tensor = scale * a @ (left * sign @ right).T + heart
    return placed


class _Fit:
    """The unknowns of some frames while they are being found."""

    def __init__(self, points: Tensor, center: Tensor, focal: float) -> None:
        self.points, self.center, self.focal = points, center, torch.tensor([focal])  # [T,468,3] px
        self.canonical = torch.from_numpy(canonical_mesh.vertices())
        self.opposite = mirrored()
        self.weights = stillness()
        self.shape = self.canonical.clone()
        self.offsets: Tensor | None = None  # [T,468,3] metres, expression
        self.rotation, self.translation = torch.zeros(0, 3, 3), torch.zeros(0, 3)

    def on(self, points: Tensor) -> _Fit:
        """The same person in other frames: mesh and weights kept."""
        other = _Fit(points, self.center, float(self.focal))
        other.shape, other.weights = self.shape, self.weights
        return other

    def poses(self, steps: int = 10) -> None:
        mesh = self.shape if self.offsets is None else self.shape + self.offsets
        start = (self.rotation, self.translation) if len(self.rotation) else None
        self.rotation, self.translation = pose.solve(self.points[..., :2], mesh, self.focal, self.center, self.weights, start, steps)

    def residual(self) -> tuple[Tensor, Tensor]:  # -> [T,P,3] metres in head space, [T,1] metres a pixel
        """What the mean mesh leaves unexplained, carried back to the depth of each vertex and turned into head space."""
        turned = self.shape @ self.rotation.transpose(1, 2)
        place = turned + self.translation[:, None]
        depth = -place[..., 2]
        size = depth / self.focal  # metres a pixel
        away = (self.points[..., :2] - self.center) * size[..., None] * torch.tensor([1.0, -1.0]) - place[..., :2]
        # the landmarks' depth is relative and to the picture's scale: compare it after removing its mean over the still points
        share = self.weights / self.weights.sum()
        near = -self.points[..., 2] * size - turned[..., 2]
        near = near - (near * share).sum(1, keepdim=True)
        return torch.cat([away, near[..., None]], -1) @ self.rotation, size

    def reshape(self, times: int = 2) -> None:
        """The mean mesh from all frames: each vertex by itself, held by the canonical face and by its mirror image."""
        flip = torch.tensor([-1.0, 1.0, 1.0])
        for _ in range(times):
            residual, size = self.residual()
            if self.offsets is not None:
                residual = residual - self.offsets
            trust = torch.diag(torch.tensor([1.0, 1.0, DEPTH**2]))
            seen = self.rotation.transpose(1, 2) @ trust @ self.rotation  # [T,3,3] information, head space
            noise = float(size.median()) ** 2  # one pixel
            gram = seen.sum(0) / noise
            pull = torch.einsum("tij,tpj->pi", seen, residual) / noise
            change = self.shape - self.canonical
            even = (change + change[self.opposite] * flip) / 2
            ridge, half = len(self.points) ** 0.5 / RIDGE**2, len(self.points) ** 0.5 / LOPSIDED**2
            hold = (ridge + half) * torch.eye(3)
            step = torch.linalg.solve(gram + hold, (pull - ridge * change - half * (change - even)).T).T
            self.shape = aligned(self.shape + step, self.canonical, self.weights)

    def reweigh(self) -> None:
        """Vertices that the rigid head explains badly (in this person) tell less of its pose."""
        residual, _ = self.residual()
        spread = residual[..., :2].square().sum(-1).median(0).values.sqrt()
        usual = spread[self.weights > 0.5].median().clamp(min=1e-6)
        self.weights = stillness() / (1 + (spread / (2 * usual)).square())

    def error(self) -> Tensor:  # [T,P] px
        camera = pose.camera_from_pose(self.rotation, self.translation, self.focal, self.center)
        mesh = self.shape if self.offsets is None else self.shape + self.offsets
        away: Tensor = (pose.project(camera, mesh) - self.points[..., :2]).norm(dim=-1)
        return away


def expressions(residual: Tensor, shape: Tensor, weights: Tensor, count: int, noise: float) -> Tensor:
    """Principal directions of what a rigid head leaves over, free of rigid motion.

    Args:
        residual: [T,P,3] metres. shape: [P,3] mean mesh. weights: [P] of the pose. count: K at most. noise: metres, of a coordinate.
    Returns:
        [K,P,3], scaled to one standard deviation of their coefficient: those that stand out of what noise alone would make.
    """
    moving = residual - residual.mean(0)
    rigid = torch.cat([pose.cross_matrix(shape).transpose(1, 2), torch.eye(3).expand(len(shape), 3, 3)], 2)  # [P,3,6]
    flat = rigid.flatten(0, 1)
    heavy = flat * weights.repeat_interleave(3)[:, None]
    moving = moving.flatten(1)
    moving = moving - moving @ heavy @ torch.linalg.pinv(flat.T @ heavy) @ flat.T
    trust = torch.tensor([1.0, 1.0, DEPTH])
    _, spread, directions = torch.linalg.svd((moving.reshape(-1, *shape.shape) * trust).flatten(1), full_matrices=False)
    edge = max(noise, 1e-7) * ((3 * len(shape)) ** 0.5 + len(residual) ** 0.5)  # largest singular value of noise (Marchenko, Pastur)
    keep = min(count, int((spread > edge).sum()))
    scaled: Tensor = directions[:keep] * (spread[:keep, None] / max(len(residual) - 1, 1) ** 0.5)
    return scaled.reshape(keep, *shape.shape) / trust


def coefficients(residual: Tensor, basis: Tensor, noise: float) -> Tensor:  # [T,P,3], [K,P,3], metres -> [T,K]
    """Most probable coefficients (unit Gaussian prior, the given noise across the line of sight)."""
    flat = (basis * torch.tensor([1.0, 1.0, DEPTH**2])).flatten(1)
    gram = flat @ basis.flatten(1).T + noise**2 * torch.eye(len(flat))
    found: Tensor = torch.linalg.solve(gram, flat @ residual.flatten(1).T).T
    return found


def key_frames(still: Tensor, rows: Tensor, count: int) -> Tensor:  # [T,S,2] px, [N] int64 -> [<=count] int64, numbers of frames
    """Frames that differ in pose: half evenly in time, half those farthest from the median in a crude measure of turning."""
    found = len(rows)
    even = torch.linspace(0, found - 1, min(count // 2, found)).long()
    right, left, tip = (still[rows, STILL.index(p)] for p in (33, 263, 5))
    wide = (right - left).norm(dim=1).clamp(min=1e-6)
    turn = (tip - (right + left) / 2) / wide[:, None]  # the nose against the eyes moves with yaw and pitch
    far = (turn - turn.median(0).values).abs().sum(1).argsort(descending=True)
    limit = int(0.05 * found)  # beyond this lie the failures of the landmarks
    chosen: Tensor = rows[torch.cat([even, far[limit : limit + count // 2]]).unique()]
    return chosen


def focal_of(points: Tensor, center: Tensor) -> float:  # [T,468,3] px
    """Focal length in px: reprojection error after fitting the mesh for each candidate, and the prior of the distance."""
    scale = scale_of(points, center)
    candidates = GRID * scale
    few = points[:: max(1, len(points) // 40)]
    costs = []
    for focal in candidates:
        fit = _Fit(few, center, float(focal))
        for _ in range(3):
            fit.poses(6)
            fit.reshape(1)
        costs.append(float((fit.error().square() * fit.weights).sum() / fit.weights.sum() / len(few)))
    cost = np.array(costs)
    # Errors of neighbouring points and frames go together: each frame counts as two measurements, not as hundreds.
    chance = 2 * len(few) * cost / (2 * cost.min()) + (np.log(GRID / DISTANCE) / SPREAD) ** 2 / 2
    best = int(chance.argmin())
    if 0 < best < len(GRID) - 1:  # the minimum of the parabola through three neighbours
        a, b, c = chance[best - 1 : best + 2]
        best_at = best + 0.5 * (a - c) / (a - 2 * b + c)
        return float(np.exp(np.interp(best_at, np.arange(len(GRID)), np.log(candidates))))
    return float(candidates[best])


def scale_of(points: Tensor, center: Tensor) -> float:  # [T,468,3] px
    """Pixels a metre at the head, median over frames, seen from far away."""
    shape, weights = torch.from_numpy(canonical_mesh.vertices()), stillness()
    rows, far = len(points), 1e5  # px: a focal length so long that perspective does not matter
    middle = center.expand(rows, 2)
    _, place = pose.upright(points[..., :2], weights.expand(rows, -1), shape.expand(rows, -1, -1), torch.full((rows, 2), far), middle)
    return far / float(-place[:, 2].median())


def shots_of(still: Tensor, found: Tensor) -> Tensor:  # [T,S,2] px, [T] -> [T] bool
    """True where a new shot begins: the face jumps by a twentieth of the eyes' distance or more in one frame, many times what it
    moves in the frames around. A quick turn takes several frames, each about as far as the next."""
    shots = torch.zeros(len(still), dtype=torch.bool)
    rows = found.nonzero()[:, 0]
    if len(rows) < 3:
        return shots
    spots = still[rows]
    wide = (spots[:, STILL.index(33)] - spots[:, STILL.index(263)]).norm(dim=1).clamp(min=1e-6)
    moved = (spots[1:] - spots[:-1]).norm(dim=-1).median(1).values / wide[1:]
    near = torch.nn.functional.pad(moved, (JUMP_AROUND, JUMP_AROUND)).unfold(0, 2 * JUMP_AROUND + 1, 1).clone()
    near[:, JUMP_AROUND] = 0
    close = rows[1:] - rows[:-1] == 1
    shots[rows[1:][close & (moved > JUMP) & (moved > 4 * near.amax(1))]] = True
    return shots


@one_thread_each()  # many small solves: a second thread gains nothing, and costs thirty times the whole on a busy machine
def track(
    points: Tensor | Reader,
    found: Tensor,
    size: tuple[int, int],
    focal: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    threads: int = 1,
) -> Track:
    """Track a head through all its frames.

    Args:
        points: [T,478,3] px (z grows away from the viewer, in px too), or a function that reads rows of that from a file; rows
            without a face hold any number.
        found: [T] bool. size: height and width of the frames. focal: px when it is known, None = find it.
        progress: called with frames done and to do. threads: that follow the head, each through other frames, with 30 MB each.
    Raises:
        InputError: fewer than two frames with a face.
    """
    height, width = size
    read: Reader = points.__getitem__ if isinstance(points, Tensor) else points
    rows = found.nonzero()[:, 0]
    if len(rows) < 2:
        raise InputError("tracking", f"{len(rows)} frames with a face", "give a video in which a face is seen")
    center = torch.tensor([width / 2, height / 2])
    still = torch.zeros(len(found), len(STILL), 2)
    for part in rows.split(CHUNK):
        still[part] = read(part)[:, list(STILL), :2].float()
    keys = read(key_frames(still, rows, KEYS))[:, :MESH].float()
    fit = _Fit(keys, center, focal if focal is not None else focal_of(keys, center))
    shaking = tremor(still, found)
    basis = _learn(fit, shaking)
    pieces, parts = [], rows.split(CHUNK)
    with ThreadPoolExecutor(threads) as pool:
        for part, piece in zip(parts, pool.map(lambda part: _follow(fit, basis, read(part)[:, :MESH].float()), parts)):
            pieces.append(piece)
            progress(int(part[-1]) + 1, len(found))
    rotation, translation, expression = (torch.cat(p) for p in zip(*pieces))
    return _steadied(fit, basis, (rotation, translation, expression), read, found, (shots_of(still, found), shaking))


def _learn(fit: _Fit, shaking: float) -> Tensor:  # px -> [K,P,3]
    """Alternate poses, mesh and expression directions on the key frames. `shaking`: noise of the landmarks."""
    basis = torch.zeros(0, MESH, 3)
    for turn in range(5):
        fit.poses()
        if turn == 1:
            fit.reweigh()
        fit.reshape()
        residual, size = fit.residual()
        if turn >= 2 and len(fit.points) > 3:
            basis = expressions(residual, fit.shape, fit.weights, EXPRESSIONS, shaking * float(size.median()))
            mean = residual.mean(0)
            fit.offsets = torch.einsum("tk,kpc->tpc", coefficients(residual - mean, basis, float(size.median())), basis)
    return basis


def _follow(learned: _Fit, basis: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pose and expression of some frames, the mesh being known: [T,3,3], [T,3], [T,K]."""
    fit = learned.on(points)
    expression = torch.zeros(len(points), len(basis))
    for _ in range(3):
        fit.poses()
        residual, size = fit.residual()
        expression = coefficients(residual, basis, float(size.median()))
        fit.offsets = torch.einsum("tk,kpc->tpc", expression, basis)
    return fit.rotation, fit.translation, expression


def _steadied(
    fit: _Fit, basis: Tensor, solved: tuple[Tensor, Tensor, Tensor], read: Reader, found: Tensor, known: tuple[Tensor, float]
) -> Track:
    """Smooth rotation and distance, place the head again under them, smooth its place in the picture, then find and smooth the
    expression that is left for this pose. `known`: [T] where shots begin, px of noise in the landmarks."""
    rotation, translation, expression = solved
    rows, (shots, shaking) = found.nonzero()[:, 0].split(CHUNK), known
    rotation, away = heading(rotation, translation, found, shots)
    spots = []
    for part, c in zip(rows, expression.split(CHUNK)):
        shape = fit.shape + torch.einsum("tk,kpc->tpc", c, basis)
        spots.append(pose.place(read(part)[:, :MESH, :2].float(), shape, rotation[part], away[part], fit.focal, fit.center, fit.weights))
    translation = torch.cat([steady_rows(torch.cat(spots), found, shots) * away, -away], 1)
    # A coefficient is an average over the mesh: so much of the landmarks' noise is left in it. Speech is quicker than what `steady`
    # would tell from noise by itself.
    metre = shaking * float(away.median()) / float(fit.focal)
    left = metre / basis[..., :2].flatten(1).norm(dim=1).clamp(min=1e-9)
    fresh = []
    for part in rows:
        piece = fit.on(read(part)[:, :MESH].float())
        piece.rotation, piece.translation = rotation[part], translation[part]
        residual, size = piece.residual()
        fresh.append(coefficients(residual, basis, float(size.median())))
    expression = steady_rows(torch.cat(fresh), found, shots, left)
    camera, error = pose.camera_from_pose(rotation, translation, fit.focal, fit.center), torch.full((len(found),), torch.nan)
    for part in rows:
        seen = pose.project(camera[part], fit.shape + torch.einsum("tk,kpc->tpc", expression[part], basis))
        error[part] = (seen - read(part)[:, :MESH, :2].float()).square().sum(-1).mean(1).sqrt()
    euler = pose.euler_from_matrix(rotation)
    return Track(euler, translation, float(fit.focal), fit.center, fit.shape, basis, expression, found.clone(), error, shots)
