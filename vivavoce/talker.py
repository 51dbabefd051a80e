"""Audio in, frames out: source + speech encoder + optional Generator + Renderer.

There is one path from audio to frames. A file is a stream of one chunk; the live page, the benchmark and the evaluation
hand in smaller ones and get the same frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vivavoce import heap
from vivavoce.controls import Scene, Staging, smoothed
from vivavoce.method import Generator, Method, Renderer
from vivavoce.nn.together import settle
from vivavoce.speech import Encoder, Windows
from vivavoce.types import HOP, RATE, STEPS, Clip, InputError, Motion, Source, mirror

MADE = frozenset({"speech", "motion", "audio"})  # Clip fields that come from the audio, not from the source
TRIM = 5  # frames between two looks for free memory: a millisecond a frame, for a peak that does not wander
APART = 2.0  # s between two, for all Talkers of a GPU together: on it frames lie elsewhere
Paste = Callable[[Tensor, Tensor], Tensor]  # frames [T,3,h,w], rows of the source [T] -> full pictures [T,3,H,W]


class _Ear:
    """One listener: an encoder's stream cut into windows, with the rows not yet used.

    Of a listener that reads the speech of single rows only, the sound between them is heard in one go, when the next such row is due;
    the others come when their own sound was there to hear, and are zeros.
    """

    def __init__(self, encoder: Encoder, window: tuple[int, int], every: int = 1) -> None:
        self.encoder, self.state, self.every = encoder, encoder.start(), every
        self.windows = Windows(*window, encoder.dim)
        self.late = encoder.lookahead * RATE // 1000 + window[1] * HOP // STEPS  # samples after a row's first that it waits for
        self.pieces, self.samples = list[Tensor](), 0  # waiting to be heard; all that came
        self.rows, self.taken = torch.zeros(0, sum(window), encoder.dim), 0  # heard and not yet taken; taken, heard or not

    def push(self, samples: Tensor, last: bool) -> int:
        """Take samples; returns how many rows are waiting."""
        self.pieces.append(samples)
        self.samples += len(samples)
        if last or self.every == 1 or self._due() * HOP + self.late <= self.samples:
            samples = self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)
            self.pieces.clear()
            steps, self.state = self.encoder.push(samples, self.state, last)
            skipped = max(0, self.taken - self.windows.frames)
            rows = self.windows.push(steps, last)[skipped:]
            self.rows = torch.cat([self.rows, rows]) if len(self.rows) else rows
        there = 0 if last else min(self._due(), (self.samples - self.late) // HOP + 1)
        return max(self.windows.frames, there) - self.taken

    def _due(self) -> int:
        """The first row not heard whose speech is read."""
        return -(-self.windows.frames // self.every) * self.every

    def take(self, count: int) -> Tensor:  # -> [count,W,D]
        self.taken += count
        out, self.rows = self.rows[:count], self.rows[count:]
        return out if len(out) == count else torch.cat([out, out.new_zeros(count - len(out), *self.rows.shape[1:])])


class Talker:
    """Speaks for a source.

    Args:
        renderer: draws the frames; its weights decide the device.
        source: rows (camera, eyes, ...) that the renderer reads beside the audio; played to and fro for as long as needed.
        encoders: speech encoders by name, those that renderer and generator hear.
        generator: speech -> Motion, required when the renderer needs motion.
        paste: puts the rendered rows back into full pictures.
        block: rows rendered at once, at most; 0: 2 on a CPU, where more are no faster and take more memory, else 8.
        scene: head pose, eyes, background and smoothness as a user wishes them; by itself all as in the source.
    Raises:
        InputError: something the renderer needs is made by nobody, the motion spaces differ, or a wish cannot be had.
    """

    def __init__(
        self,
        renderer: Renderer,
        source: Source,
        encoders: dict[str, Encoder],
        generator: Generator | None = None,
        paste: Paste | None = None,
        block: int = 0,
        scene: Scene | None = None,
    ) -> None:
        self.renderer, self.source, self.encoders, self.generator = renderer, source, encoders, generator
        for method in self._methods():
            if method.training:  # others may be speaking with it already, and a change of mode throws away what was made ready
                method.eval()
        self.paste, self.scene = paste, scene or Scene()
        self.seconds = {"hear": 0.0, "move": 0.0, "render": 0.0}  # time spent since construction, by stage
        self.device = next((p.device for p in renderer.parameters()), torch.device("cpu"))
        self._check()
        self.staging = Staging(self.scene, self.renderer, source, self.generator)
        self.block = 1 if self.staging.single else block or (2 if self.device.type == "cpu" else 8)
        first = source.clip([0], renderer.source_needs) if renderer.source_needs else Clip()
        with torch.no_grad():
            self.identity = renderer.encode(first.to(self.device))
        portrays = generator is not None and generator.space == "blendshapes"  # its own face at rest is where such motion begins
        self.first = source.clip([0], {"units"}) if portrays else first

    def _check(self) -> None:
        name = type(self.renderer).__name__
        if "motion" in self.renderer.needs:
            if self.generator is None:
                made = f"a generator of {self.renderer.space!r}" if self.renderer.space else "one"
                raise InputError(name, "it needs motion and no generator was given", f"add --generator with {made}: vivavoce list")
            if self.generator.space != self.renderer.space:
                spaces = f"the generator makes {self.generator.space!r}, the renderer reads {self.renderer.space!r}"
                raise InputError(name, f"motion spaces differ: {spaces}", "choose a generator of that space: vivavoce list")
        for listener in self._listeners():
            if listener.speech not in self.encoders:
                raise InputError(name, f"it hears {listener.speech!r} and no such encoder is loaded", "see: vivavoce doctor")

    def _methods(self) -> list[Method]:
        return [self.renderer] if self.generator is None else [self.renderer, self.generator]

    def _listeners(self) -> list[Method]:
        return [m for m in self._methods() if "speech" in m.needs]

    @property
    def lookahead(self) -> float:
        """How much later than its sound a frame comes, in milliseconds, without computing time."""
        waits = [self.encoders[m.speech].lookahead + 20 * m.window[1] for m in self._listeners()]
        return max(waits, default=0)

    def again(self, source: Source, paste: Paste | None = None) -> Talker:
        """Another Talker with the same methods and encoders, which are not copied, for a source of its own."""
        return Talker(self.renderer, source, self.encoders, self.generator, paste, self.block, self.scene)

    def stream(self, chunks: Iterable[Tensor], skip: Callable[[], bool] | None = None) -> Iterator[Tensor]:
        """Frames [m,3,H,W], m <= block, for a stream of audio at 16 kHz, [n] or [n,640] each, as soon as each is final;
        ceil(samples / 640) frames in total. `skip` is asked before rows are drawn: those that come too late come as [m,0,0,0]."""
        ears = {id(m): _Ear(self.encoders[m.speech], m.window, m.every if isinstance(m, Generator) else 1) for m in self._listeners()}
        with self._stage("move"):
            state: Any = self.generator.start(self.first) if self.generator is not None else None
        done, before = 0, dict[str, Tensor]()
        for samples, last in _with_last(chunks):
            with self._stage("hear"):
                ready = min((ear.push(samples.reshape(-1), last) for ear in ears.values()), default=0)
            while ready:
                count = min(self.block, ready)
                heard = {key: ear.take(count) for key, ear in ears.items()}
                motion: Motion | None = None
                if self.generator is not None:
                    speech = heard.get(id(self.generator))
                    with self._stage("move"):
                        motion, state = self.generator.generate(Clip(speech=speech), state)
                with self._stage("render"):
                    if skip is not None and skip():
                        frames = torch.zeros(count, 0, 0, 0)
                    else:
                        frames = self._render(done, count, heard.get(id(self.renderer)), motion, before)
                yield frames
                del frames  # not to be kept while the next are made
                done, ready = done + count, ready - count
                if done % TRIM < count:
                    heap.trim(APART if self.device.type == "cuda" else 0.0)

    def __call__(self, audio: Tensor) -> Tensor:  # [N] -> [T,3,H,W]
        """All frames of a recording, in memory: a stream of one chunk."""
        return torch.cat(list(self.stream([audio])))

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        """Timed, and without gradients (torch.no_grad around `stream` itself would keep the last frames)."""
        begun = time.perf_counter()
        with torch.no_grad():
            yield
        settle(self.device)  # a kernel still running belongs to its stage
        self.seconds[stage] += time.perf_counter() - begun

    def _render(self, start: int, count: int, speech: Tensor | None, motion: Motion | None, before: dict[str, Tensor]) -> Tensor:
        """The next frames; `before` holds the stream's last conditions, where they are smoothed."""
        frame = torch.arange(start, start + count)
        wanted = self.renderer.needs - MADE
        rows = mirror(frame, len(self.source)) if wanted or self.paste is not None else frame
        clip = self.source.clip(rows, wanted) if wanted else Clip()
        clip, motion = self.staging(clip, frame, motion)
        if self.scene.smooth_lips:
            if speech is not None:
                speech, before["speech"] = smoothed(speech, before.get("speech"))
            if motion is not None:
                expression, before["motion"] = smoothed(motion.expression, before.get("motion"))
                motion = replace(motion, expression=expression)
        clip = replace(clip, speech=speech, motion=motion)
        stays = {name: getattr(clip, name) for name in self.renderer.moves}
        frames = self.renderer.render(self.identity, replace(replace(clip, **dict.fromkeys(stays)).to(self.device), **stays))
        return self.paste(frames, rows) if self.paste is not None else frames


def _with_last(chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each chunk, and after them an empty one marked last: a live stream does not know its end beforehand."""
    for chunk in chunks:
        yield chunk, False
    yield torch.zeros(0), True
