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
from vivavoce.speech import vad
from vivavoce.types import Clip, Motion

RIGID = 7  # rotation 3, translation 3, scale 1: after the expression in a frame
EQUAL = (0.5, 2.0)  # how much a speaker's movement is lessened or enlarged
EARLY = 3  # frames: mouths open before they sound and shut after
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

    @property
    def spoken(self) -> Tensor:  # [M]
        """1 for the numbers that the voice moves, else 0."""
        return torch.cat([self.mouth, self.mouth.new_zeros(RIGID)])[self.chosen]

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


def training_windows(
    clip: Clip, code: MotionCode, length: int, context: int, size: int, identity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # -> [B,size,2,D], [B,size], [B,size,M], [B,I]
    """Windows to train on: features, whether there is a voice, motion, and whose it is.

    Args:
        clip: chunks of `length` consecutive rows (fewer: one chunk), over each of which a face's rest is measured; `speech` holds a
            row's own two steps, or as well those of `context` rows before it and more.
        size: rows of a window; as many windows as fit are cut from each chunk, beginning at random.
        identity: numbers of the clip's `points` that tell whose motion it is, after the face at rest; 0: none, and half of the
            chunks are mirrored.
    """
    assert clip.speech is not None and clip.motion is not None and clip.audio is not None
    length = min(length, len(clip.speech))
    chunks, count = len(clip.speech) // length, length // size
    begin = int(torch.randint(length - count * size + 1, ()))

    def cut(rows: Tensor) -> Tensor:  # [C*length,...] -> [B,size,...]
        parts = rows[: chunks * length].unflatten(0, (chunks, length))[:, begin : begin + count * size]
        return parts.unflatten(1, (count, size)).flatten(0, 1)

    mirrored = (torch.rand(chunks, device=clip.speech.device) < 0.5) & (identity == 0)  # points are not mirrored
    data, rest = code.encode(clip.motion[: chunks * length], length, mirrored)
    points = clip.points if identity and clip.points is not None else rest.new_zeros(chunks * length, 0)
    whose = torch.cat([rest, points.flatten(1)[: chunks * length : length]], 1).repeat_interleave(count, 0)
    own = clip.speech if clip.speech.shape[1] == 2 else clip.speech[:, 2 * context : 2 * context + 2]
    return cut(own), cut(vad.around(clip.audio, EARLY)), cut(data.flatten(0, 1)), whose


def _rigid(motion: Motion) -> Tensor:  # -> [T,7]
    return torch.cat([motion.rotation, motion.translation, motion.scale], -1)
