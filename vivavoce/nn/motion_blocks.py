"""Blocks of motion that a denoising network makes from speech, for any number of streams: a block is a function of one row of numbers.

On a GPU all evaluations of a block are one CUDA graph, and blocks that several live sessions ask for at the same moment are one batch:
a thousand small kernels, which would take a CPU longer to start than the block is. What is told of a block comes back to the CPU,
where what is done with single frames costs a tenth.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vivavoce.diffusion import Diffusion, Flow
from vivavoce.face import idle, resting
from vivavoce.nn.dit import MotionTransformer, SpeechFrames
from vivavoce.nn.graphs import URGENT, Graphs, Packing
from vivavoce.nn.motion_code import MotionCode
from vivavoce.nn.together import Rows
from vivavoce.types import Motion

FARTHEST = 4.0  # most deviations that is kept of a number made
MOST = 16  # streams whose blocks are one batch


@dataclass(frozen=True)
class State:
    """What a stream carries from row to row, on the CPU."""

    rest: Tensor  # [E] of the source
    mouth: Tensor  # [E] 1 where the voice moves
    identity: Tensor  # [I]
    previous: Tensor  # [context,M]
    before: Tensor  # [ahead,M] what was made of the next block's first rows
    moves: Tensor  # [block,E+7] of the block that the frame is in
    free: Tensor  # [block] voice gate
    sway: Tensor  # [block,6] of the idle head: rad, metres
    frame: int = 0
    gate: float = 0.0  # the slowed voice gate where the block begins
    after: float = 0.0  # and where it ends
    shown: Motion | None = None  # the block's rows on the source's face
    asked: tuple[Any, ...] = ()  # the settings that they are shown with, which may change while a face speaks


class Blocks:
    """Args:
    listen, model, code: of the method; followed, not copied.
    process: that the model was trained for. unit: the network's time in it.
    config: the method's settings.
    """

    def __init__(
        self, listen: SpeechFrames, model: MotionTransformer, code: MotionCode, process: Flow | Diffusion, unit: float, config: Any
    ) -> None:
        self.listen, self.model, self.code, self.process, self.unit, self.config = listen, model, code, process, unit, config
        c, m = config, code.numbers
        speech = (2 * (c.context + c.block + c.ahead), c.speech_dim)
        before = {"previous": (c.context, m), "before": (c.ahead, m)}
        self.asked = Packing(
            {"speech": speech, "noise": (c.block + c.ahead, m), "identity": (c.expression + c.identity,), "begun": (1,), **before}
        )
        self.told = Packing({"moves": (c.block, len(code.deviation)), "free": (c.block,), **before})
        self.quick: dict[Hashable, Rows] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy has its own graphs."""
        return self.__dict__ | {"quick": {}}

    def start(self, rest: Tensor, points: Tensor) -> State:  # [E], [I]
        """Of a stream whose source is this at rest."""
        c, rest = self.config, rest.cpu()
        nothing, still = rest.new_zeros(1, sum(self.told.sizes)), rest.new_zeros(c.block, 6)
        return State(rest, self.code.mouth.cpu(), torch.cat([rest, points.to(rest)]), *self._parts(nothing), still)

    def next(self, speech: Tensor, state: State) -> State:  # [W,D]
        """The block that begins at the state's frame, cross-faded with what was made of its first rows before."""
        c = self.config
        frames = torch.arange(state.frame, state.frame + c.block + c.ahead)
        parts = {"speech": speech.to(state.rest), "noise": idle.normal(frames, self.code.numbers, int(c.seed)), "identity": state.identity}
        parts |= {"begun": state.rest.new_tensor([state.frame > 0]), "previous": state.previous, "before": state.before}
        previous, before, moves, free = self._parts(self._told(self.asked.pack(parts, 1)))
        sway = torch.cat(idle.sway(frames[: c.block], int(c.seed)), 1)
        return replace(state, previous=previous, before=before, moves=moves, free=free, sway=sway, gate=state.after, shown=None)

    def _parts(self, told: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [1,n]
        """Previous, before, moves, free of a State."""
        parts = {name: part[0] for name, part in self.told.parts(told).items()}
        return parts["previous"], parts["before"], parts["moves"], parts["free"]

    def rehearse(self, most: int) -> None:
        """Makes ready for so many streams, so that nothing is recorded while somebody waits."""
        device = self.code.rest.device
        if device.type == "cuda":
            for power in range((min(most, MOST) - 1).bit_length() + 1):  # batches are filled up to powers of two
                self._rows().work(torch.zeros(1 << power, sum(self.asked.sizes)))

    def _told(self, asked: Tensor) -> Tensor:  # [1,N] -> [1,n], both on the CPU
        device = self.code.rest.device
        if device.type != "cuda" or torch.is_grad_enabled() or self.model.training:
            return self.made(asked.to(device)).cpu()
        return self._rows()(asked)

    def _rows(self) -> Rows:
        """For the weights where they are now, and for settings as they are now: a graph knows no others."""
        c = self.config
        weights = (*self.listen.parameters(), *self.listen.buffers(), *self.model.parameters(), *self.code.buffers())
        key = (c.evaluations, c.begin, c.guidance, c.temperature, c.mouth_temperature, *(w.data_ptr() for w in weights))
        if (rows := self.quick.get(key)) is None:
            rows = Rows(Graphs(self.made, self.code.rest.device, priority=URGENT, fetch=True), MOST, filled=True)
            self.quick = {key: rows}
        return rows

    def made(self, asked: Tensor) -> Tensor:  # [B,N] -> [B,n]
        """A block of each stream."""
        c, parts = self.config, self.asked.parts(asked)
        steps, previous = parts["speech"].unflatten(1, (-1, 2)), parts["previous"]  # [B,L,2,D], [B,context,M]
        count, length = steps.shape[:2]
        audio, logit = self.listen(steps)
        given, begun = (torch.arange(length, device=steps.device) < c.context).expand(count, -1), parts["begun"] > 0
        seen = ~given | begun
        warmth = c.temperature + (c.mouth_temperature - c.temperature) * self.code.spoken

        def network(noisy: Tensor, time: Tensor) -> Tensor:
            whole = torch.cat([previous, noisy], 1)
            return self.model.guided(whole, audio, self.unit * time, parts["identity"], given, seen, c.guidance)[:, c.context :]

        begin: Any = {} if isinstance(self.process, Flow) else {"start": c.begin or None}
        rows = self.process.sample(network, warmth * parts["noise"], c.evaluations, **begin).clamp(-FARTHEST, FARTHEST)
        share = (torch.arange(1, c.ahead + 1, device=rows.device) / (c.ahead + 1))[:, None]
        first = rows[:, : c.ahead]
        faded = torch.where(begun[..., None], torch.lerp(parts["before"], first, share), first)
        rows = torch.cat([faded, rows[:, c.ahead :]], 1)
        new = rows[:, : c.block]
        told = {"moves": self.code.decode(new), "free": resting.free(logit[:, c.context : c.context + c.block])}
        told |= {"previous": torch.cat([previous, new], 1)[:, c.block :], "before": rows[:, c.block :]}
        return self.told.pack(told, count)
