"""One engine that fits any linear face model to the landmarks of a video: the trackers `bfm` and `ict`.

Unknown for the whole video: identity, focal length, and how far each landmark lies beside its vertex in this person. Unknown in
each frame: pose and expression. Everything is one least-squares problem, solved by Gauss-Newton: the frames share it in chunks (each
has its own 6 + E unknowns, all solved at once), and what they say together of the shared unknowns is gathered by the Schur
complement of the frames' own. The lineage finds the same minimum with some thousand steps of Adam.

Landmarks: 51 of the 68, the 8 + 8 of the outline (on whichever candidate is outermost in the picture), and with less weight the rest
of the dense mesh. Where the model has a texture, `fit_colour` adds what the pictures say. Size, distance and focal length cannot
all be seen by one camera: identities are Gaussian, and the distance has the prior of `track`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vivavoce.face import pose
from vivavoce.face.morphable import Morphable, dense
from vivavoce.face.regions import LANDMARKS_68, MESH, OVAL
from vivavoce.face.track import SPREAD

CONTOUR = (*LANDMARKS_68[:8], *LANDMARKS_68[9:17])  # mesh points of the outline, left and right in the picture; the chin is fixed
NOISE, LEAST = 0.02, 0.006  # of the distance of the eyes: what a landmark is off by, before it was measured and at least
OTHER, OUTLINE, RIM = 0.2, 0.3, 0.05  # weights of a dense point, an outline point, a point on the rim of the dense mesh; the 51: 1
BESIDE = 0.002  # metres: how far a landmark of a person lies beside its vertex
SHARE = 0.35  # standard deviation of a bounded expression
WORTH = 8.0  # frames that all the frames of a video are worth for what they share: their errors are alike
HUBER = 1.345  # residuals beyond this many NOISE count linearly
ALIKE = 15.0  # landmarks that count as one where the focal length is concerned: neighbours err together, and in depth most of all
FARTHEST = 0.3  # that the logarithm of the focal length goes in one step
CHUNK = 48  # frames solved at once: their Jacobian is 16 MB
ROUNDS = 10  # of frames and shared unknowns in turn

Extra = Callable[["State"], tuple[Tensor, Tensor, Tensor]]  # what else is known of frames -> normal matrix, slope, cost


@dataclass
class Person:
    """What is the same in all frames."""

    identity: Tensor  # [I] standard deviations
    focal: Tensor  # [] px
    beside: Tensor  # [468,3] metres, landmark - vertex


@dataclass
class State:
    """What each frame has of its own."""

    rotation: Tensor  # [T,3,3]
    translation: Tensor  # [T,3] metres
    expression: Tensor  # [T,E]

    def __getitem__(self, rows: slice | Tensor) -> State:
        return State(self.rotation[rows], self.translation[rows], self.expression[rows])

    def moved(self, step: Tensor) -> State:  # [T,6+E]
        """After a step of the solver: a turn about the head's origin, a shift, a change of expression."""
        turned = pose.matrix_from_axis(step[:, :3]) @ self.rotation
        return State(turned, self.translation + step[:, 3:6], self.expression + step[:, 6:])


def joined(parts: list[State]) -> State:
    """One state of several."""
    return State(*(torch.cat([getattr(p, k) for p in parts]) for k in ("rotation", "translation", "expression")))


class Fitter:
    """The least-squares problem of one model and one camera.

    `usual` is the focal length, px, at which the head would be `track.DISTANCE` away: the middle of its prior; 0 = it is known.
    """

    def __init__(self, model: Morphable, center: Tensor, eyes: float, usual: float = 0.0) -> None:
        """`center`: [2] px. `eyes`: px, distance of the outer corners, median over the video."""
        self.model, self.center, self.eyes, self.usual, self.noise = model, center, eyes, usual, NOISE * eyes
        device = model.mean.device
        self.dense = dense(model).to(device)
        weights = torch.full((MESH,), OTHER)
        weights[list(OVAL)] = RIM
        weights[list(LANDMARKS_68[:17])] = 0.0
        weights[list(LANDMARKS_68[17:])] = 1.0
        weights[LANDMARKS_68[8]] = OUTLINE  # the chin, which no outline hides
        self.used = weights.nonzero()[:, 0].to(device)
        self.weights = torch.cat([weights[weights > 0], torch.full((len(CONTOUR),), OUTLINE)]).to(device)
        self.candidates = torch.cat([model.left, model.right])  # [16,C]
        self.sides = torch.tensor([-1.0] * 8 + [1.0] * 8, device=device)
        self.rows = torch.cat([self.dense[self.used], self.candidates.flatten()])
        self.mean, self.identity, self.expression = model.at(self.rows)  # [P,3], [I,P,3], [E,P,3]

    def start(self, points: Tensor, person: Person) -> State:  # [T,478,3] px
        """Pose of the resting face, no expression."""
        seen = self.observed(points)[:, : len(self.used)]
        rotation, translation = pose.solve(
            seen, self._rest(person)[: len(self.used)], person.focal, self.center, self.weights[: len(self.used)], steps=8
        )
        return State(rotation, translation, seen.new_zeros(len(points), len(self.expression)))

    def observed(self, points: Tensor) -> Tensor:  # [T,478,2 or 3] -> [T,L,2] px
        """The landmarks used, the outline last."""
        columns = torch.cat([self.used, torch.tensor(CONTOUR, device=points.device)])
        return points[:, columns, :2]

    def _rest(self, person: Person) -> Tensor:  # -> [P,3]
        rest = self.mean + torch.einsum("i,ipc->pc", person.identity, self.identity)
        return torch.cat([rest[: len(self.used)] + person.beside[self.used], rest[len(self.used) :]])

    def look(self, state: State, person: Person) -> tuple[Tensor, Tensor, Tensor]:
        """Where the landmarks are in head space and in the picture: rows [T,L] of the table, [T,L,3] metres, [T,L,2] px."""
        places = self._rest(person) + torch.einsum("te,epc->tpc", state.expression, self.expression)
        camera = pose.camera_from_pose(state.rotation, state.translation, person.focal, self.center)
        fixed, (count, many) = len(self.used), self.candidates.shape
        outer = pose.project(camera, places[:, fixed:])[..., 0].reshape(-1, count, many)
        best = (outer * self.sides[:, None]).argmax(2) + torch.arange(count, device=outer.device) * many + fixed
        rows = torch.cat([torch.arange(fixed, device=outer.device).expand(len(places), -1), best], 1)
        chosen = places.gather(1, rows[..., None].expand(-1, -1, 3))
        return rows, chosen, pose.project(camera, chosen)

    def _slopes(self, table: Tensor, rows: Tensor, turned: Tensor) -> Tensor:  # [K,P,3], [T,L], [T,L,2,3] -> [T,L,2,K]
        """Change of the picture with coefficients: the rows that all frames share in one product."""
        fixed = len(self.used)
        first = torch.einsum("tlij,klj->tlik", turned[:, :fixed], table[:, :fixed])
        last = torch.einsum("tlij,ktlj->tlik", turned[:, fixed:], table[:, rows[:, fixed:]])
        return torch.cat([first, last], 1)

    def equations(
        self, points: Tensor, state: State, person: Person, shared: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [T,L,2] px -> Jacobian [T,2L,6+E(+I+1)], error [T,2L], weight [T,2L], cost [T]
        """Errors of the landmarks and how they change, in units of the noise, robustly weighted."""
        rows, places, seen = self.look(state, person)
        turned = places @ state.rotation.transpose(1, 2)
        slope = pose.slopes(turned + state.translation[:, None], person.focal)
        moved = (slope.flatten(1, 2) @ state.rotation).view_as(slope)
        turning = torch.linalg.cross(turned[:, :, None].expand_as(slope), slope)
        columns = [turning, slope, self._slopes(self.expression, rows, moved)]
        if shared:
            columns += [self._slopes(self.identity, rows, moved), (seen - self.center)[..., None]]
        error = (points - seen) / self.noise
        length = error.norm(dim=-1)
        weight = self.weights * (HUBER / length.clamp(min=1e-9)).clamp(max=1)
        cost = (self.weights * torch.where(length > HUBER, HUBER * (2 * length - HUBER), length.square())).sum(1)
        jacobian = (torch.cat(columns, -1) / self.noise).flatten(1, 2)
        return jacobian, error.flatten(1), weight.repeat_interleave(2, 1), cost

    def add_prior(self, expression: Tensor, matrix: Tensor, slope: Tensor) -> Tensor:
        """Bring in what expressions are like before a picture was seen.

        A bounded expression that stands at 0 or 1 and is drawn outwards is taken out of the equations (projected Newton).

        Args:
            expression: [T,E]. matrix: [T,N,N], slope: [T,N], changed in place: 6 of the pose, E of the expression, then any.
        Returns:
            [T], cost.
        """
        own = slice(6, 6 + expression.shape[1])
        precision = SHARE**-2 if self.model.bounded else 1.0
        matrix.diagonal(dim1=1, dim2=2)[:, own] += precision
        slope[:, own] -= precision * expression
        if self.model.bounded:
            pull = slope[:, own]
            held = torch.zeros_like(slope, dtype=torch.bool)
            held[:, own] = ((expression <= 0) & (pull < 0)) | ((expression >= 1) & (pull > 0))
            slope.masked_fill_(held, 0.0)
            matrix.masked_fill_(held[:, :, None] | held[:, None], 0.0)
            matrix.diagonal(dim1=1, dim2=2).masked_fill_(held, 1.0)
        return precision * expression.square().sum(1)

    def normal(
        self, points: Tensor, state: State, person: Person, extra: Extra | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:  # -> [T,6+E,6+E], [T,6+E], [T]
        """Normal equations of the frames' own unknowns, and the cost."""
        jacobian, error, weight, cost = self.equations(points, state, person)
        weighted = (jacobian * weight[..., None]).transpose(1, 2)
        matrix, slope = weighted @ jacobian, (weighted @ error[..., None])[..., 0]
        if extra is not None:
            more = extra(state)
            matrix, slope, cost = matrix + more[0], slope + more[1], cost + more[2]
        return matrix, slope, cost + self.add_prior(state.expression, matrix, slope)

    def frames(self, points: Tensor, state: State, person: Person, steps: int, extra: Extra | None = None) -> tuple[State, Tensor]:
        """Pose and expression of some frames (Levenberg-Marquardt; a frame that would get worse keeps what it has).

        Args:
            points: [T,L,2] px, of `observed`.
        Returns:
            The state, and the normal matrix [T,6+E,6+E] there.
        """
        damping = torch.full((len(points), 1, 1), 1e-4).to(points)
        matrix, slope, cost = self.normal(points, state, person, extra)
        for _ in range(steps):
            trial = state.moved(solved(matrix, slope[..., None], damping)[..., 0])
            if self.model.bounded:
                trial.expression = trial.expression.clamp(0, 1)
            new = self.normal(points, trial, person, extra)
            good = new[2] <= cost * 1.0001
            pick = good[:, None, None]
            state = State(
                torch.where(pick, trial.rotation, state.rotation),
                torch.where(good[:, None], trial.translation, state.translation),
                torch.where(good[:, None], trial.expression, state.expression),
            )
            matrix, slope = torch.where(pick, new[0], matrix), torch.where(good[:, None], new[1], slope)
            cost = torch.where(good, new[2], cost)
            damping = torch.where(pick, damping / 8, damping * 16).clamp(1e-6, 1e4)
        return state, matrix

    def share(self, points: Tensor, state: State, person: Person) -> tuple[Person, State]:  # [T,L,2] px
        """One step of what all frames share; their own unknowns follow it."""
        own, count = 6 + len(self.expression), len(self.identity) + 1
        matrix, slope, follow = points.new_zeros(count, count), points.new_zeros(count), []
        for k in range(0, len(points), CHUNK):
            part = slice(k, k + CHUNK)
            jacobian, error, weight, _ = self.equations(points[part], state[part], person, shared=True)
            weighted = (jacobian * weight[..., None]).transpose(1, 2)
            all_of, pulls = weighted @ jacobian, (weighted @ error[..., None])[..., 0]
            self.add_prior(state.expression[part], all_of, pulls)
            cross = all_of[:, :own, own:]
            freed = solved(all_of[:, :own, :own], torch.cat([cross, pulls[:, :own, None]], 2), torch.tensor(1e-6).to(points))
            matrix += (all_of[:, own:, own:] - cross.transpose(1, 2) @ freed[..., :-1]).sum(0)
            slope += (pulls[:, own:] - (cross.transpose(1, 2) @ freed[..., -1:])[..., 0]).sum(0)
            follow.append(freed)
        worth = len(points) / min(len(points), WORTH)
        usual = (person.focal / self.usual).log() if self.usual else torch.zeros(())
        hold = worth * torch.cat([torch.ones(count - 1), torch.tensor([ALIKE * SPREAD**-2 if self.usual else 1e12])]).to(points)
        pull = slope - hold * torch.cat([person.identity, usual.to(points)[None]])
        step = torch.linalg.solve(matrix + torch.diag(hold), pull)
        step = step * (FARTHEST / step[-1].abs().clamp(min=FARTHEST))
        moved = state.moved(torch.cat([f[..., -1] - f[..., :-1] @ step for f in follow]))
        if self.model.bounded:
            moved.expression = moved.expression.clamp(0, 1)
        return replace(person, identity=person.identity + step[:-1], focal=person.focal * step[-1].exp()), moved

    def set_beside(self, points: Tensor, state: State, person: Person) -> Person:  # [T,L,2] px
        """How far each landmark lies beside its vertex: what all frames leave over, held near 0."""
        fixed, flat = len(self.used), points.new_tensor([1.0, -1.0])
        matrix, pull = points.new_zeros(fixed, 3, 3), points.new_zeros(fixed, 3)
        for k in range(0, len(points), CHUNK):
            part = slice(k, k + CHUNK)
            _, places, seen = self.look(state[part], person)
            place = places[:, :fixed] @ state.rotation[part].transpose(1, 2) + state.translation[part][:, None]
            scale = person.focal / -place[..., 2:] / self.noise  # across the line of sight only
            across = state.rotation[part][:, None, :2] * scale[..., None]  # [T,F,2,3]
            error = (points[part, :fixed] - seen[:, :fixed]) * flat / self.noise
            weight = (HUBER / error.norm(dim=-1).clamp(min=1e-9)).clamp(max=1)[..., None, None]
            matrix += (weight * across.transpose(2, 3) @ across).sum(0)
            pull += (weight[..., 0] * (across.transpose(2, 3) @ error[..., None])[..., 0]).sum(0)
        hold = len(points) / min(len(points), WORTH) / BESIDE**2
        beside = person.beside.clone()
        step = torch.linalg.solve(matrix + hold * torch.eye(3).to(points), (pull - hold * beside[self.used])[..., None])
        beside[self.used] += step[..., 0]
        return replace(person, beside=beside)

    def learn(self, points: Tensor, person: Person) -> tuple[Person, State]:
        """Identity and the rest of the person from key frames.

        Args:
            points: [T,478,3] px.
        Returns:
            The person, and the frames' state.
        """
        seen = self.observed(points)
        state = self.start(points, person)
        for turn in range(ROUNDS):
            state = self.chunked(seen, state, person, 2)
            person, state = self.share(seen, state, person)
            if turn >= ROUNDS // 2:
                person = self.set_beside(seen, state, person)
                self.noise = self._noise(self.errors(seen, state, person))
        return person, self.chunked(seen, state, person, 2)

    def errors(self, seen: Tensor, state: State, person: Person) -> Tensor:  # [T,L,2] px -> [T,L] px
        """How far each landmark lies from where the model has it."""
        parts = [slice(k, k + CHUNK) for k in range(0, len(seen), CHUNK)]
        return torch.cat([(self.look(state[p], person)[2] - seen[p]).norm(dim=-1) for p in parts])

    def _noise(self, errors: Tensor) -> float:  # [T,L] px -> px
        """Standard deviation of a coordinate, from the median length of the errors of those landmarks that count fully."""
        return max(LEAST * self.eyes, 0.85 * float(errors[:, self.weights == 1].median()))

    def chunked(self, seen: Tensor, state: State, person: Person, steps: int) -> State:
        """`frames`, chunk by chunk."""
        return joined([self.frames(seen[k : k + CHUNK], state[k : k + CHUNK], person, steps)[0] for k in range(0, len(seen), CHUNK)])


def solved(matrix: Tensor, right: Tensor, damping: Tensor) -> Tensor:  # [T,N,N], [T,N,M], scalar or [T,1,1] -> [T,N,M]
    """Solution of damped normal equations; each unknown is first brought to its own scale, as single precision needs it."""
    scale = matrix.diagonal(dim1=1, dim2=2).clamp(min=1e-9).rsqrt()
    scaled = matrix * scale[:, :, None] * scale[:, None] + damping * torch.eye(matrix.shape[1]).to(matrix)
    solution: Tensor = torch.linalg.solve(scaled, right * scale[..., None]) * scale[..., None]
    return solution
