"""Frames at 25 a second and samples at 16,000 a second, by time stamp, from any file, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from vivavoce.media.probe import CONVERT, Turn, audio_stream, decoded, duration, opened, origin, turn, video_stream
from vivavoce.types import FPS, HOP, RATE, InputError

LONGEST_GAP = 60.0  # s without a frame or sample; more means broken time stamps
DOWNMIX = {"rematrix_maxval": "1.0"}  # weights of a downmix add up to one: stereo of one voice is not louder than mono
LATEST = 3600.0  # s the sound may start after the video
SLACK = 0.02  # s a sound's time stamps may wander (coarse time bases round them) before it is moved


def frames(path: str | Path, rate: float = FPS, start: float = 0.0) -> Iterator[np.ndarray]:
    """Frames of a video, uint8 [H,W,3]: `undrawn`, each drawn."""
    for make in undrawn(path, rate, start):
        yield make()


def undrawn(path: str | Path, rate: float = FPS, start: float = 0.0) -> Iterator[Callable[[], np.ndarray]]:
    """Frames of a video at a constant rate, as shown (turned, square pixels).

    Frame k stands for the time from k / rate to (k + 1) / rate and is the picture on screen in the middle of it: where the
    rates agree nothing is lost or doubled even if the time stamps jitter, and elsewhere no delay is added on the mean.
    A gap in the time stamps repeats the picture; a damaged or cut file gives what can be decoded.

    Args:
        path: any video; a picture is a video of one frame.
        rate: frames a second.
        start: s from where on; the file is wound there, not decoded up to there.
    Yields:
        what makes the picture, uint8 [H,W,3], RGB, every one the size of the first: in any thread, once or not at all (the
        colours take half of the time).
    Raises:
        InputError: no such file, not a video, nothing that can be decoded, or time stamps that jump by more than a minute.
    """
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise InputError(path, "no video in it", "give a file with moving pictures")
        zero, usual = float(origin(container)), 1.0 / float(stream.average_rate or stream.guessed_rate or FPS)
        how: Turn | None = None
        held: av.VideoFrame | None = None
        number = first = round(start * rate)
        if first:
            with suppress(av.error.FFmpegError):  # a file that cannot be wound is decoded up to there after all
                container.seek(int((zero + first / rate) / stream.time_base), stream=stream)
        start = 0.0
        for frame in decoded(container, stream):
            how = how or turn(frame, stream)
            now = frame.time - zero if frame.time is not None else start + usual
            if held is None:
                held, start = frame, now
                usual = _lasting(frame, usual)
                continue
            if now - start > LONGEST_GAP:
                raise InputError(path, f"time stamps jump by {now - start:.0f} s", CONVERT)
            yield from (shown := _shown(held, how, number, now, rate))
            number += len(shown)
            held, start, usual = frame, max(now, start), _lasting(frame, usual)
        assert how is not None and held is not None  # `decoded` raises when nothing comes
        yield from (shown := _shown(held, how, number, start + usual, rate))
        if number + len(shown) == 0 and not first:  # shorter than half a frame: still one
            yield partial(how, held)


def glimpses(path: str | Path, count: int) -> Iterator[np.ndarray]:  # uint8 [H,W,3] each
    """Pictures spread over a video, about `count`, without decoding all of it: the key frames next to even places.

    Where there are too few key frames (or the file cannot be wound) the video is decoded after all. Raises InputError as `frames` does.
    """
    seen: set[int | None] = set()
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise InputError(path, "no video in it", "give a file with moving pictures")
        stream.thread_type = "SLICE"  # frame threads would decode far ahead of the one picture wanted
        start, length = float(origin(container)), duration(stream, container)
        how: Turn | None = None
        for k in range(count):
            try:
                if k:
                    container.seek(int((start + length * k / count) / stream.time_base), stream=stream)
                frame = next(decoded(container, stream))
            except (av.error.FFmpegError, InputError):
                break
            if frame.pts not in seen:
                seen.add(frame.pts)
                how = how or turn(frame, stream)
                yield how(frame)
    if len(seen) < count / 3:
        every = max(1, int(length * FPS) // count)
        for k, image in enumerate(frames(path)):
            if k % every == every // 2:
                yield image


def _lasting(frame: av.VideoFrame, usual: float) -> float:
    """Seconds the frame stays, were it the last: what it says itself, else the usual."""
    seconds = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
    return seconds if 0 < seconds < 1 else usual


def _shown(frame: av.VideoFrame, how: Turn, number: int, until: float, rate: float) -> list[Callable[[], np.ndarray]]:
    """The frames, from `number` on, whose middle comes before `until`: this picture, so many times."""
    count = max(0, int(np.ceil(until * rate - 0.5 - 1e-6)) - number)
    return [partial(how, frame)] if count == 1 else [partial(np.asarray, how(frame))] * count if count else []


def sound(path: str | Path, rate: int = RATE, layout: str = "mono") -> Iterator[np.ndarray]:
    """Samples from time zero (the first frame of the video, or the first sample where there is none).

    Sound that starts late is led by silence, sound that starts before the video is cut; gaps become silence.

    Args:
        path: any sound, or a video with sound; any rate and channels (5.1 is mixed down with the usual weights).
        rate: samples a second.
        layout: "mono" or "stereo".
    Yields:
        float32 [channels, n], pieces of any length.
    Raises:
        InputError: no such file, not sound, no sound in it, or nothing that can be decoded.
    """
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(path, "no sound in it", "give a file with sound")
        track = _Track(path, float(origin(container)), rate, layout)
        for frame in decoded(container, stream):
            yield from track.push(frame)
        yield from track.end()


class _Track:
    """Puts decoded sound at the place its time stamps say. Between gaps, samples follow each other and stamps are not asked."""

    def __init__(self, path: str | Path, zero: float, rate: int, layout: str) -> None:
        self.path, self.zero, self.rate, self.layout = path, zero, rate, layout
        self.given = 0  # samples handed out
        self.owed = 0  # samples to leave out, of sound before time zero or sound that is there twice
        self.due = 0.0  # s, when the next decoded frame should start
        self.resampler: av.AudioResampler | None = None
        self.kind: Any = None

    def push(self, frame: av.AudioFrame) -> list[np.ndarray]:
        """What becomes known with this frame."""
        at = frame.time - self.zero if frame.time is not None else self.due
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        out: list[np.ndarray] = []
        if self.resampler is None or kind != self.kind or abs(at - self.due) > SLACK:
            out = self.end()
            gap = round(at * self.rate) - self.given
            if gap > (LONGEST_GAP if self.given else LATEST) * self.rate:
                raise InputError(self.path, f"time stamps of the sound jump by {gap / self.rate:.0f} s", CONVERT)
            if gap > 0:
                out.append(np.zeros((2 if self.layout == "stereo" else 1, gap), np.float32))
                self.given += gap
            self.owed, self.kind = max(0, -gap), kind
            self.resampler = av.AudioResampler("fltp", self.layout, self.rate, options=DOWNMIX)
        self.due = at + frame.samples / frame.sample_rate
        frame.pts = None  # the place is known here; the resampler is not to stretch or fill
        try:
            return out + self._cut(self.resampler.resample(frame))
        except av.error.FFmpegError as error:  # hundreds of channels, gigahertz
            cause = f"sound of {frame.layout.nb_channels} channels at {frame.sample_rate} Hz cannot be used"
            raise InputError(self.path, cause, CONVERT) from error

    def end(self) -> list[np.ndarray]:
        """What the resampler still holds."""
        held = [] if self.resampler is None else self.resampler.resample(None)
        self.resampler = None
        return self._cut(held)

    def _cut(self, made: list[av.AudioFrame]) -> list[np.ndarray]:
        out = []
        for frame in made:
            piece = np.nan_to_num(frame.to_ndarray(), nan=0.0, posinf=1.0, neginf=-1.0)
            cut = min(self.owed, piece.shape[1])
            self.owed -= cut
            self.given += piece.shape[1] - cut
            if piece.shape[1] > cut:
                out.append(piece[:, cut:])
        return out


def audio(path: str | Path, rate: int = RATE) -> Tensor:  # -> [N]
    """A whole recording: float32, mono, from time zero on. See `sound`."""
    pieces = [p[0] for p in sound(path, rate)]
    return torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, np.float32))


def audio_chunks(path: str | Path, frames: int = FPS) -> Iterator[Tensor]:  # -> [n*640] each
    """A recording in pieces of that many frames; the last is filled up with silence to whole frames. See `sound`."""
    size, kept, count = frames * HOP, [np.zeros(0, np.float32)], 0
    for piece in sound(path):
        kept.append(piece[0])
        count += piece.shape[1]
        if count >= size:
            joined = np.concatenate(kept)
            whole = count // size * size
            for at in range(0, whole, size):
                yield torch.from_numpy(joined[at : at + size].copy())
            kept, count = [joined[whole:]], count - whole
    rest = np.concatenate(kept)
    if len(rest):
        yield torch.from_numpy(np.pad(rest, (0, -len(rest) % HOP)))
