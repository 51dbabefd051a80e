"""The one convention of head pose, its conversions, and a pose solver.

Head and camera space both have OpenGL axes: x to the right of the picture, y up, z toward the viewer; metres. A point v of
the head is at `R v + t` in camera space; what is visible has z < 0. `Motion.rotation` holds (pitch, yaw, roll) in rad and

    R = Rx(pitch) Ry(yaw) Rz(roll), each a right-handed rotation about its axis

    pitch > 0   the chin goes down and the nose points down (a nod)
    yaw > 0     the nose points to the right side of the picture (to the person's own left)
    roll > 0    the top of the head leans to the left side of the picture (counter-clockwise for the viewer)

The AD-NeRF lineage's `track_params.pt` has the same order, pitch and yaw, and the opposite roll: written column by column, its
matrices about x and y are right-handed and the one about z is not. Its `trans` is in decimetres, `Motion.translation` in metres.
Only `Camera` has OpenCV axes (y down, z forward); its world is head space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.types import Camera, Motion

LINEAGE = 10.0  # lineage units (decimetres: BFM micrometres / 1e5) in a metre
FLIP = (1.0, -1.0, -1.0)  # OpenGL axes <-> OpenCV axes
ROLL = (1.0, 1.0, -1.0)  # Euler angles of the lineage <-> ours
HUBER = 1.345  # residuals beyond this many standard deviations count linearly (95 % efficiency on Gaussian noise)
CHUNK = 256  # frames solved at once: the Jacobian of 256 x 468 points is 6 MB


def matrix_from_euler(rotation: Tensor) -> Tensor:  # [...,3] rad -> [...,3,3]
    """R = Rx(pitch) Ry(yaw) Rz(roll). Differentiable."""
    (cx, cy, cz), (sx, sy, sz) = rotation.cos().unbind(-1), rotation.sin().unbind(-1)
    rows = [
        torch.stack([cy * cz, -cy * sz, sy], -1),
        torch.stack([cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy], -1),
        torch.stack([sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy], -1),
    ]
    return torch.stack(rows, -2)


def euler_from_matrix(matrix: Tensor) -> Tensor:  # [...,3,3] -> [...,3] rad
    """(pitch, yaw, roll) with |yaw| <= pi/2. Differentiable away from |yaw| = pi/2."""
    yaw = torch.asin(matrix[..., 0, 2].clamp(-1, 1))
    pitch = torch.atan2(-matrix[..., 1, 2], matrix[..., 2, 2])
    roll = torch.atan2(-matrix[..., 0, 1], matrix[..., 0, 0])
    return torch.stack([pitch, yaw, roll], -1)


def cross_matrix(vector: Tensor) -> Tensor:  # [...,3] -> [...,3,3]
    """K with K w = vector x w."""
    x, y, z = vector.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*vector.shape, 3)


def matrix_from_axis(vector: Tensor) -> Tensor:  # [...,3] rad -> [...,3,3]
    """Rotation about the vector's direction by its length (Rodrigues). Differentiable at 0 as well."""
    square = vector.square().sum(-1)[..., None, None]
    small = square < 1e-8
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1 - square / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    cross = cross_matrix(vector)
    return torch.eye(3).to(vector) + first * cross + second * (cross @ cross)


def axis_from_matrix(matrix: Tensor) -> Tensor:  # [...,3,3] -> [...,3] rad
    """Inverse of `matrix_from_axis` for angles below pi."""
    skew = torch.stack(
        [matrix[..., 2, 1] - matrix[..., 1, 2], matrix[..., 0, 2] - matrix[..., 2, 0], matrix[..., 1, 0] - matrix[..., 0, 1]], -1
    )
    sine = skew.norm(dim=-1, keepdim=True) / 2
    cosine = (matrix.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    angle = torch.atan2(sine, cosine)
    return skew / 2 * torch.where(sine > 1e-6, angle / sine.clamp(min=1e-6), torch.ones_like(angle))


def camera_from_pose(rotation: Tensor, translation: Tensor, focal: Tensor, center: Tensor) -> Camera:
    """Camera that sees a head at `R v + t`.

    Args:
        rotation: [T,3,3]. translation: [T,3] metres. focal: px, scalar, [T] or [T,2]. center: [2] or [T,2] px.
    """
    rows = len(rotation)
    flip = torch.tensor(FLIP).to(rotation)
    back = rotation.transpose(-1, -2)
    pose = torch.zeros(rows, 4, 4).to(rotation)
    pose[:, :3, :3] = back * flip
    pose[:, :3, 3] = -(back @ translation[..., None])[..., 0]
    pose[:, 3, 3] = 1
    wide = focal if focal.ndim == 2 else focal.reshape(-1, 1)
    return Camera(pose, wide.to(rotation).expand(rows, 2), center.to(rotation).expand(rows, 2))


def pose_from_camera(camera: Camera) -> tuple[Tensor, Tensor]:  # -> [T,3,3], [T,3] metres
    """Inverse of `camera_from_pose`: rotation and translation of the head in camera space (OpenGL axes)."""
    flip = torch.tensor(FLIP).to(camera.pose)
    rotation = (camera.pose[:, :3, :3] * flip).transpose(-1, -2)
    return rotation, -(rotation @ camera.pose[:, :3, 3:])[..., 0]


def camera_from_motion(motion: Motion, focal: Tensor, center: Tensor) -> Camera:
    """Camera of a moving head. A head of scale s at t looks like one of scale 1 at t / s, so the scale goes into the distance."""
    return camera_from_pose(matrix_from_euler(motion.rotation), motion.translation / motion.scale, focal, center)


def motion_from_camera(camera: Camera) -> Motion:
    """Pose part of a Motion: scale 1 and no expression ([T,0])."""
    rotation, translation = pose_from_camera(camera)
    ones = translation.new_ones(len(translation), 1)
    return Motion(euler_from_matrix(rotation), translation, ones, translation.new_zeros(len(translation), 0))


def camera_from_lineage(euler: Tensor, trans: Tensor, focal: Tensor, center: Tensor) -> Camera:
    """`track_params.pt` (euler [T,3] rad, trans [T,3] decimetres, focal [1] px; center [2] = width / 2, height / 2) -> Camera."""
    return camera_from_pose(matrix_from_euler(euler * euler.new_tensor(ROLL)), trans / LINEAGE, focal, center)


def lineage_from_camera(camera: Camera) -> tuple[Tensor, Tensor]:  # -> euler [T,3] rad, trans [T,3] decimetres
    """Camera -> the pose entries of `track_params.pt`."""
    rotation, translation = pose_from_camera(camera)
    return euler_from_matrix(rotation) * rotation.new_tensor(ROLL), translation * LINEAGE


def camera_from_transform(matrix: Tensor, focal: Tensor, center: Tensor) -> Camera:
    """`transform_matrix` of `transforms_*.json` -> Camera: camera-to-world, OpenGL axes, metres.

    Args:
        matrix: [T,4,4]. focal: px, scalar, [T] or [T,2]. center: [2] or [T,2] px.
    """
    back = matrix[:, :3, :3].transpose(-1, -2)
    return camera_from_pose(back, -(back @ matrix[:, :3, 3:])[..., 0], focal, center)


def transform_from_camera(camera: Camera) -> Tensor:  # -> [T,4,4]
    """Camera -> `transform_matrix`."""
    matrix = camera.pose.clone()
    matrix[:, :3, :3] *= torch.tensor(FLIP).to(matrix)
    return matrix


def project(camera: Camera, points: Tensor) -> Tensor:  # [P,3] or [T,P,3] metres, head space -> [T,P,2] px
    """Where points of the head are seen. Differentiable."""
    seen = (points - camera.pose[:, None, :3, 3]) @ camera.pose[:, :3, :3]
    return seen[..., :2] / seen[..., 2:] * camera.focal[:, None] + camera.center[:, None]


def slopes(place: Tensor, focal: Tensor) -> Tensor:  # [T,P,3] metres in camera space, px that fit [T,P,2] -> [T,P,2,3]
    """Change of a point's place in the picture with its place in camera space, px a metre."""
    depth = -place[..., 2].clamp(max=-1e-3)
    scale = focal / depth[..., None] * place.new_tensor([1.0, -1.0])
    slope = torch.zeros(*place.shape[:2], 2, 3).to(place)
    slope[..., 0, 0], slope[..., 1, 1] = scale[..., 0], scale[..., 1]
    slope[..., 2] = place[..., :2] * scale / depth[..., None]
    return slope


def place(points: Tensor, mesh: Tensor, rotation: Tensor, away: Tensor, focal: Tensor, center: Tensor, weights: Tensor) -> Tensor:
    """Where the head's origin is seen when its rotation and distance are known: robust weighted least squares.

    Args:
        points: [T,P,2] px. mesh: [P,3] or [T,P,3] metres. rotation: [T,3,3]. away: [T,1] metres. focal: px. center: [2] px.
        weights: [P].
    Returns:
        [T,2]: x and y of the origin's place in camera space, a unit away.
    """
    turned = mesh @ rotation.transpose(1, 2)
    rays = (points - center) / focal * points.new_tensor([1.0, -1.0])
    off = rays * (away - turned[..., 2])[..., None] - turned[..., :2]  # metres: what each point says the origin's x, y are
    length = (off - off.median(1, keepdim=True).values).norm(dim=-1)
    usual = length.median(1, keepdim=True).values.clamp(min=1e-9)
    trust = (weights / (1 + (length / (3 * usual)).square()))[..., None]
    spot: Tensor = (off * trust).sum(1) / trust.sum(1) / away
    return spot


def upright(points: Tensor, weights: Tensor, mesh: Tensor, focal: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Pose under weak perspective, in closed form: the start of `solve`.

    Args:
        points: [T,P,2] px. weights: [T,P]. mesh: [T,P,3] metres. focal: [T,2] px. center: [T,2] px.
    Returns:
        [T,3,3], [T,3] metres.
    """
    share = (weights / weights.sum(1, keepdim=True).clamp(min=1e-12))[..., None]
    seen = (points - center[:, None]) / focal[:, None] * points.new_tensor([1.0, -1.0])
    middle, heart = (share * seen).sum(1), (share * mesh).sum(1)
    far, near = seen - middle[:, None], mesh - heart[:, None]
    gram = near.transpose(1, 2) @ (share * near)
    gram = gram + 1e-6 * gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(3).to(gram)
    linear = torch.linalg.solve(gram, near.transpose(1, 2) @ (share * far)).transpose(1, 2)  # [T,2,3]
    left, spread, right = torch.linalg.svd(linear, full_matrices=False)
    two = left @ right
    rotation = torch.cat([two, torch.linalg.cross(two[:, :1], two[:, 1:])], 1)
    depth = 1 / spread.mean(1).clamp(min=1e-6)
    heart_at = torch.cat([middle * depth[:, None], -depth[:, None]], 1)
    return rotation, heart_at - (rotation @ heart[..., None])[..., 0]


def _normal(
    points: Tensor, weights: Tensor, mesh: Tensor, focal: Tensor, center: Tensor, rotation: Tensor, translation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # -> [T,6,6], [T,6], robust cost [T]
    """Normal equations of the reprojection error in (rotation about the head's origin, translation)."""
    turned = rotation @ mesh.transpose(1, 2)  # [T,3,P]: rows of points, so that no product is of small matrices
    place = turned + translation[:, :, None]
    depth = -place[:, 2].clamp(max=-1e-3)
    scale = focal[:, :, None] * points.new_tensor([[1.0], [-1.0]]) / depth[:, None]
    seen = place[:, :2] * scale
    error = (points - center[:, None]).transpose(1, 2) - seen
    length = error.norm(dim=1)
    used = torch.where(weights > 0, length, torch.nan)
    limit = HUBER * 0.85 * used.nanmedian(1, keepdim=True).values.nan_to_num().clamp(min=1e-4)  # 0.85: Rayleigh median -> sigma
    robust = (limit / length.clamp(min=1e-9)).clamp(max=1) * weights
    cost = (weights * torch.where(length > limit, limit * (2 * length - limit), length.square())).sum(1)
    (x, y, z), (a, b), (c, d), none = turned.unbind(1), scale.unbind(1), (seen / depth[:, None]).unbind(1), torch.zeros_like(depth)
    across = torch.stack([c * y, a * z - c * x, -a * y, a, none, c], 1)  # [T,6,P]: change of each point's x in the picture
    down = torch.stack([d * y - b * z, -d * x, b * x, none, b, d], 1)
    first, second = across * robust[:, None], down * robust[:, None]
    pull = first @ error[:, 0, :, None] + second @ error[:, 1, :, None]
    return first @ across.transpose(1, 2) + second @ down.transpose(1, 2), pull[..., 0], cost


def solve(
    points: Tensor,
    mesh: Tensor,
    focal: Tensor,
    center: Tensor,
    weights: Tensor | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    steps: int = 12,
) -> tuple[Tensor, Tensor]:
    """Head pose of every frame from points and the mesh they lie on: damped Gauss-Newton with Huber weights, all frames at once.

    Args:
        points: [T,P,2] px. mesh: [P,3] or [T,P,3] metres, head space. focal: px, scalar, [T] or [T,2]. center: [2] or [T,2] px.
        weights: [P] or [T,P], 0 = not used; default: all the same. start: (R [T,3,3], t [T,3]), default: weak perspective.
    Returns:
        R [T,3,3], t [T,3] metres, in the dtype of `points`.
    """
    rows = len(points)
    wide = (focal if focal.ndim == 2 else focal.reshape(-1, 1)).to(points).expand(rows, 2)
    middle = center.to(points).expand(rows, 2)
    shape = mesh.to(points).expand(rows, -1, -1)
    use = torch.ones(points.shape[:2]).to(points) if weights is None else weights.to(points).expand(points.shape[:2])
    out = []
    for k in range(0, rows, CHUNK):
        part = slice(k, k + CHUNK)
        data = (points[part], use[part], shape[part], wide[part], middle[part])
        first = upright(*data) if start is None else (start[0][part].to(points), start[1][part].to(points))
        out.append(_descend(data, *first, steps))
    return torch.cat([r for r, _ in out]), torch.cat([t for _, t in out])


def _descend(
    data: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], rotation: Tensor, translation: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt steps; a frame whose cost would grow keeps its pose and is damped more."""
    damping = torch.full((len(rotation), 1, 1), 1e-6).to(rotation)
    hessian, slope, cost = _normal(*data, rotation, translation)
    for _ in range(steps):
        diagonal = torch.diag_embed(hessian.diagonal(dim1=1, dim2=2).clamp(min=1e-9))
        step = torch.linalg.solve(hessian + damping * diagonal, slope[..., None])[..., 0]
        turned, moved = matrix_from_axis(step[:, :3]) @ rotation, translation + step[:, 3:]
        new_hessian, new_slope, new_cost = _normal(*data, turned, moved)
        good = new_cost <= cost * 1.0001  # the Huber limit moves with the residuals, so costs are compared loosely
        pick = good[:, None, None]
        rotation, translation = torch.where(pick, turned, rotation), torch.where(good[:, None], moved, translation)
        hessian, slope = torch.where(pick, new_hessian, hessian), torch.where(good[:, None], new_slope, slope)
        cost = torch.where(good, new_cost, cost)
        damping = torch.where(pick, damping / 4, damping * 16).clamp(1e-9, 1e6)
        if float(step.abs().max()) < 1e-7:
            break
    return rotation, translation
