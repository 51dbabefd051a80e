"""What the pictures say of pose and expression, for face models with a texture: the photometric stage of `fit`.

The skin's albedo is the model's texture (100 numbers for a person), lit by nine spherical harmonics a frame and colour. At some
thousand vertices that nothing hides (`render.mesh` tells) the colour of the picture is compared with the lit albedo; its slope there
says where the vertex should move (Lucas and Kanade 1981). That gives normal equations in the unknowns of `fit`, which adds them to those
of the landmarks. Light and texture are linear, hence solved and not descended to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from vivavoce.face import pose
from vivavoce.face.fit import Extra, Fitter, Person, State
from vivavoce.face.morphable import normals
from vivavoce.render import mesh as draw

SAMPLES = 3000  # vertices compared
WIDE = 110.0  # px: pictures are reduced until the face is as wide as this: a sample then stands for about a pixel
FACE = 1.6  # distances of the outer corners of the eyes in the width of a face
NOISE = 0.04  # of white: what a lit albedo is off by
WORTH = 150.0  # landmarks that all samples of a frame together count as: their errors go together
HUBER = 1.345
SLACK = 0.008  # metres: depth that a slanted cheek gains within a pixel of the reduced picture
FACING = 0.25  # cosine of the steepest slant that is used
FRAMES = 24  # that the texture is learned from
ROUNDS = 4  # of light and texture in turn


def harmonics(normal: Tensor) -> Tensor:  # [...,3] -> [...,9]
    """The first nine real spherical harmonics, without their constants (Ramamoorthi and Hanrahan 2001)."""
    x, y, z = normal.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], -1)


@dataclass
class Seen:
    """Some frames as the samples see them."""

    pictures: Tensor  # [T,9,h,w] reduced RGB, its slope along x and along y, a reduced pixel
    reduce: int  # px of a frame in a reduced one
    basis: Tensor  # [T,S,9] harmonics of the normals
    there: Tensor  # [T,S] bool, seen and not too slanted

    def read(self, places: Tensor) -> Tensor:  # [T,S,2] px of the frame -> [T,S,9]
        height, width = self.pictures.shape[2:]
        grid = places / self.reduce / places.new_tensor([width / 2, height / 2]) - 1
        return grid_sample(self.pictures, grid[:, :, None], align_corners=False, padding_mode="border")[..., 0].transpose(1, 2)


class Skin:
    """A person's albedo at the samples, and the equations that follow from it."""

    def __init__(self, fitter: Fitter, person: Person) -> None:
        model = fitter.model
        assert model.colour is not None and model.texture is not None
        self.fitter, self.person = fitter, person
        self.rows = torch.linspace(0, len(model.mean) - 1, min(SAMPLES, len(model.mean)), device=model.mean.device).long()
        self.rest = model.shape(person.identity)
        self.expression = model.expression[:, self.rows]  # [E,S,3]
        self.albedo = model.colour[self.rows]  # [S,3]
        self.reduce = max(1, round(FACE * fitter.eyes / WIDE))

    @classmethod
    def learn(cls, fitter: Fitter, person: Person, state: State, numbers: Tensor, pictures: Callable[[Tensor], Tensor]) -> Skin:
        """The person's texture from key frames.

        Args:
            state: of the key frames. numbers: [N] their numbers. pictures: reads frames, [N] -> [N,3,H,W] in 0..1.
        """
        skin = cls(fitter, person)
        some = torch.linspace(0, len(numbers) - 1, min(FRAMES, len(numbers))).long()
        frames, few = pictures(numbers[some]).to(person.focal.device), state[some.to(person.focal.device)]
        seen = skin.look(frames, few)
        colours = seen.read(skin.places(few)[1])[..., :3]
        texture = fitter.model.texture
        assert texture is not None
        table, start = texture[:, skin.rows], skin.albedo  # [X,S,3], [S,3]
        count = len(table)
        for _ in range(ROUNDS):
            shade = seen.basis @ skin.light(seen, colours)  # [T,S,3]
            error = colours - shade * skin.albedo
            weight = seen.there[..., None] * (HUBER * NOISE / error.abs().clamp(min=1e-6)).clamp(max=1)
            # Light is the same for all shapes of the texture, so that sums over frames come first.
            gram = torch.einsum("xsc,sc,ysc->xy", table, (weight * shade.square()).sum(0), table)
            pull = torch.einsum("xsc,sc->x", table, (weight * shade * (colours - shade * start)).sum(0))
            hold = NOISE**2 * (weight[..., 0].sum() / WORTH).clamp(min=1)
            skin.albedo = start + torch.einsum("x,xsc->sc", torch.linalg.solve(gram + hold * torch.eye(count).to(gram), pull), table)
        return skin

    def places(self, state: State) -> tuple[Tensor, Tensor]:
        """The samples in head space [T,S,3], metres, and in the picture [T,S,2], px."""
        places = self.rest[self.rows] + torch.einsum("te,esc->tsc", state.expression, self.expression)
        camera = pose.camera_from_pose(state.rotation, state.translation, self.person.focal, self.fitter.center)
        return places, pose.project(camera, places)

    def look(self, frames: Tensor, state: State) -> Seen:  # [T,3,H,W]
        """Reduce the pictures, find which samples are seen, and their normals."""
        model, reduce = self.fitter.model, self.reduce
        small = avg_pool2d(frames, reduce)
        slope_y, slope_x = torch.gradient(small, dim=(2, 3))
        shape = self.rest + torch.einsum("te,evc->tvc", state.expression, model.expression)
        placed = shape @ state.rotation.transpose(1, 2) + state.translation[:, None]
        normal = normals(placed, model.triangles)[:, self.rows]
        flat = placed[..., :2] / -placed[..., 2:] * self.person.focal * placed.new_tensor([1.0, -1.0]) + self.fitter.center
        target = torch.cat([flat / reduce, -placed[..., 2:]], -1)
        height, width = small.shape[2:]
        seen = draw.visible(target, model.triangles, (height, width), SLACK)[:, self.rows]
        sight = -torch.nn.functional.normalize(placed[:, self.rows], dim=-1)
        there = seen & ((normal * sight).sum(-1) > FACING)
        return Seen(torch.cat([small, slope_x, slope_y], 1), reduce, harmonics(normal), there)

    def light(self, seen: Seen, colours: Tensor) -> Tensor:  # [T,S,3] -> [T,9,3]
        """The light of each frame, given the albedo."""
        lit = seen.basis[:, :, None] * self.albedo[..., None] * seen.there[..., None, None]  # [T,S,3,9]
        gram = torch.einsum("tsci,tscj->tcij", lit, lit)
        gram = gram + 1e-3 * gram.diagonal(dim1=2, dim2=3).mean(-1)[..., None, None] * torch.eye(9).to(gram)
        return torch.linalg.solve(gram, torch.einsum("tsci,tsc->tci", lit, colours)[..., None])[..., 0].transpose(1, 2)

    def extra(self, frames: Tensor, state: State) -> Extra:  # [T,3,H,W]
        """The equations of some frames, for `Fitter.frames`; visibility and light are those of the given state."""
        seen = self.look(frames, state)
        colours = seen.read(self.places(state)[1])[..., :3]
        lit = (seen.basis @ self.light(seen, colours)) * self.albedo
        worth = WORTH / NOISE**2 / seen.there.sum(1).clamp(min=SAMPLES // 10)[:, None]  # a head that is hardly seen says little

        def equations(state: State) -> tuple[Tensor, Tensor, Tensor]:
            places, flat = self.places(state)
            read = seen.read(flat)
            error = lit - read[..., :3]
            length = error.norm(dim=-1)
            limit = HUBER * NOISE
            robust = (limit / length.clamp(min=1e-9)).clamp(max=1) * seen.there * worth
            cost = (seen.there * worth * torch.where(length > limit, limit * (2 * length - limit), length.square())).sum(1)
            slope = torch.stack([read[..., 3:6], read[..., 6:]], -1) / self.reduce  # [T,S,3 colours,2] a px
            inner = (slope.transpose(2, 3) @ slope) * robust[..., None, None]  # [T,S,2,2]
            pull = (slope.transpose(2, 3) @ error[..., None])[..., 0] * robust[..., None]  # [T,S,2]
            jacobian = self._jacobian(state, places)  # [T,S,2,6+E]
            small = 1e-6 * inner.diagonal(dim1=2, dim2=3).sum(-1).clamp(min=1e-9)  # a sample without texture is no matter
            half = torch.linalg.cholesky(inner + small[..., None, None] * torch.eye(2).to(inner)).transpose(2, 3)
            whole = (half @ jacobian).flatten(1, 2)
            return whole.transpose(1, 2) @ whole, torch.einsum("tsik,tsi->tk", jacobian, pull), cost

        return equations

    def _jacobian(self, state: State, places: Tensor) -> Tensor:  # [T,S,3] -> [T,S,2,6+E] px
        """Change of the samples' places in the picture with pose and expression."""
        turned = places @ state.rotation.transpose(1, 2)
        slope = pose.slopes(turned + state.translation[:, None], self.person.focal)
        moves = torch.einsum("tsij,esj->tsie", slope @ state.rotation[:, None], self.expression)
        return torch.cat([-slope @ pose.cross_matrix(turned), slope, moves], -1)
