"""Small films made for tests: every frame carries its number, sound starts and beeps where it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TICK = Fraction(1, 90_000)  # s, time base of the films
BITS = 8  # of the frame's number, in squares of SIDE px along the top
SIDE = 8


def numbered(number: int, height: int = 48, width: int = 64) -> np.ndarray:  # -> uint8 [H,W,3]
    """A grey picture with its number in black and white squares."""
    image = np.full((height, width, 3), 110, np.uint8)
    for bit in range(BITS):
        image[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 if number >> bit & 1 else 0
    return image


def number(image: np.ndarray) -> int:
    """The number `numbered` wrote."""
    squares = [image[2 : SIDE - 2, bit * SIDE + 2 : (bit + 1) * SIDE - 2].mean() > 128 for bit in range(BITS)]
    return sum(1 << bit for bit, on in enumerate(squares) if on)


def tone(seconds: float, rate: int, beep: float = 0.0, channels: int = 1, level: float = 0.5) -> np.ndarray:  # -> [channels,n]
    """1 kHz from `beep` s on, silence before."""
    time = np.arange(round(seconds * rate)) / rate
    wave = level * np.cos(2 * np.pi * 1000 * (time - beep)) * (time >= beep - 1e-9)
    return np.repeat(wave[None].astype(np.float32), channels, 0)


def film(
    path: Path,
    images: Sequence[np.ndarray] = (),
    times: Sequence[float] = (),
    sound: np.ndarray | None = None,
    sound_rate: int = 44_100,
    sound_at: float = 0.0,
    layout: str = "mono",
    codec: str = "libx264",
    audio_codec: str = "aac",
    pix_fmt: str = "yuv420p",
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    movflags: str = "",
    gop: int = 12,
    last: float = 0.04,
) -> Path:
    """Write pictures at their times (s) and sound [channels,n] from `sound_at` s on; the last picture stays for `last` s."""
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as out:
        video: Any = None
        if len(images):
            video = out.add_stream(codec, rate=25, options={"crf": "12", "preset": "ultrafast", "g": str(gop)})
            video.height, video.width = images[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = TICK
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if matrix is not None:
                video.set_display_matrix(matrix)
        if sound is not None:
            track: Any = out.add_stream(audio_codec, rate=sound_rate, layout=layout)
        packets, lasting = [], {}
        ends = [*times[1:], *[t + last for t in times[-1:]]]
        for image, time, end in zip(images, times, ends, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / TICK), TICK
            lasting[frame.pts] = round((end - time) / TICK)
            packets += video.encode(frame)
        packets += video.encode(None) if video is not None else []
        for packet in packets:
            packet.duration = lasting[packet.pts]
        if sound is not None:
            packets += _encoded(track, sound, sound_rate, sound_at, layout)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)
    return path


def _encoded(track: Any, sound: np.ndarray, rate: int, at: float, layout: str) -> list[Any]:
    form = track.codec_context.format.name
    values = sound if form == "fltp" else (sound * 32767).astype(np.int16).T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format=form, layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(at * rate)
    return [*track.encode(frame), *track.encode(None)]


def steady(path: Path, rate: float = 25.0, seconds: float = 2.0, **more: Any) -> Path:
    """A film of numbered frames at a constant rate."""
    count = round(seconds * rate)
    return film(path, [numbered(k) for k in range(count)], [k / rate for k in range(count)], last=1 / rate, **more)
