"""Motion as the numbers that a network makes: relative to the same person at rest, each divided by its deviation.

A frame's numbers are its expression's, then rotation 3, translation 3, scale 1. In the space "blendshapes" the expression is told in
roots (`blendshapes.curve`) less those of the shut mouth, with speakers who open theirs widely or little brought nearer to the usual;
in any other space less its mean over the stretch. The pose is told less its median over the stretch: what is made can be added to
any source's own, and cannot run away from it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.face import blendshapes, resting
from vivavoce.face.regions import BLENDSHAPES
from vivavoce.types import Motion

RIGID = 7  # rotation 3, translation 3, scale 1: after the expression in a frame
EQUAL = (0.5, 2.0)  # how much a speaker's movement is lessened or enlarged
LEAST = 1e-3  # deviation of a number that hardly moves
# Seed 003's 20 of 63 key point coordinates and their weights in its loss; of the rigid numbers pitch, yaw, roll, x, y.
SEED = (4, 6, 7, 22, 33, 34, 40, 43, 45, 46, 48, 51, 52, 53, 57, 58, 59, 60, 61, 62)
SEED_WEIGHTS = (1, 1, 1, 1, 2, 3, 1, 1, 2, 3, 2, 1, 1, 1, 1, 2, 1, 1, 3, 1)
LIPS = (6, 12, 14, 17, 19, 20)  # LivePortrait's key points of the mouth, among 21
OWN_WAY = ("eyeBlink", "eyeLook")  # scores that no voice moves: blinks and looks are made elsewhere


class MotionCode(nn.Module):
    """Args:
    space: motion space. expression: E, its numbers. chosen: "all", or "seed" for the 25 that seed 003 makes.
    """

    rest: Tensor
    deviation: Tensor
    opening: Tensor
    chosen: Tensor
    weight: Tensor
    mouth: Tensor
    other: Tensor
    sign: Tensor

    def __init__(self, space: str, expression: int, chosen: str) -> None:
        super().__init__()
        self.faces, total = space == "blendshapes", expression + RIGID
        self.register_buffer("rest", torch.zeros(expression))  # of a shut mouth
        self.register_buffer("deviation", torch.ones(total))
        self.register_buffer("opening", torch.tensor(0.002))  # metres: median of `resting.opening` over the speakers
        some, mouth = [*range(total)], [*range(expression)]
        weight = torch.ones(total)
        if chosen == "seed":
            some = [*SEED, *range(expression, expression + 5)]
            weight = torch.tensor([*SEED_WEIGHTS, *[1] * 5]).float()
        elif self.faces:
            some = [k for k in some if k >= expression or not BLENDSHAPES[k].startswith(OWN_WAY)]
            weight, mouth = weight[some], [*blendshapes.MOUTH]
        if space == "keypoints":
            mouth = [3 * point + axis for point in LIPS for axis in range(3)]
        voiced = torch.zeros(expression)
        voiced[mouth] = 1
        self.register_buffer("chosen", torch.tensor(some), persistent=False)  # [M]
        self.register_buffer("weight", weight, persistent=False)  # [M] in the loss
        self.register_buffer("mouth", voiced, persistent=False)  # [E] 1 where the voice moves
        swap, sign = [*range(total)], torch.ones(total)
        if self.faces:
            swap[:expression] = blendshapes.exchange()[1].tolist()
            sign[[expression + k for k in (1, 2, 3)]] = -1  # yaw, roll, x
        self.register_buffer("other", torch.tensor(swap), persistent=False)  # [E+7] of a mirrored face
        self.register_buffer("sign", sign, persistent=False)

    @property
    def numbers(self) -> int:
        """M, numbers a frame that a network makes."""
        return len(self.chosen)

    def fit(self, motion: Motion, length: int) -> None:
        """What people do in stretches of `length` rows: the usual rest, the usual opening, the deviations."""
        if self.faces:
            units = motion.expression.reshape(-1, length, motion.expression.shape[1])
            rests = resting.rest(units)
            self.rest = resting.usual(rests[:, 0])
            opening = resting.opening(blendshapes.curve(units) - rests)
            self.opening = opening[opening >= min(blendshapes.SHUT, float(opening.max()))].median()
        self.deviation = self._moves(motion, length)[0].flatten(0, 1).std(0).clamp(min=LEAST)

    def encode(self, motion: Motion, length: int, mirrored: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[C*length] rows -> [C,length,M], and the face at rest [C,E]; where `mirrored` [C] is 1, left and right change places."""
        moves, rest = self._moves(motion, length)
        if mirrored is not None and self.faces:
            flip = mirrored[:, None].bool()
            moves = torch.where(flip[..., None], (moves * self.sign)[..., self.other], moves)
            rest = torch.where(flip, rest[:, self.other[: rest.shape[1]]], rest)
        return (moves / self.deviation)[..., self.chosen], rest

    def decode(self, code: Tensor) -> Tensor:  # [...,M] -> [...,E+7]
        """Movement; 0 where none is made."""
        whole = code.new_zeros(*code.shape[:-1], len(self.deviation))
        return whole.index_copy(-1, self.chosen, code) * self.deviation

    def gap(self, code: Tensor, rest: Tensor) -> Tensor:  # [B,L,M], [B,E] -> [B,L] metres
        """How far the lips are apart (blendshapes)."""
        faces = resting.scores(rest[:, None] + self.decode(code)[..., : rest.shape[1]])
        return blendshapes.load().to(code.device).gap(faces).mean(-1)

    def _moves(self, motion: Motion, length: int) -> tuple[Tensor, Tensor]:  # -> [C,length,E+7], [C,E]
        expression, rigid = (v.unflatten(0, (-1, length)) for v in (motion.expression, _rigid(motion)))
        rigid = rigid - rigid.median(1, keepdim=True).values
        if not self.faces:
            rest = expression.mean(1, keepdim=True)
            return torch.cat([expression - rest, rigid], -1), rest[:, 0]
        rest = resting.rest(expression)
        moves = blendshapes.curve(expression) - rest
        equal = (self.opening / resting.opening(moves).clamp(min=1e-5)).clamp(*EQUAL)
        moves = moves * torch.where(self.mouth > 0, equal, 1)
        return torch.cat([moves, rigid], -1), rest[:, 0]


def _rigid(motion: Motion) -> Tensor:  # -> [T,7]
    return torch.cat([motion.rotation, motion.translation, motion.scale], -1)
