"""Open a media file and say what is in it; every way in which that can fail, told in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import numpy as np

from vivavoce.media.colour import converted
from vivavoce.types import FPS, InputError

MOST_PIXELS = 100_000_000  # a picture of more is an attack or a mistake
CONVERT = "convert it first, for example: ffmpeg -i IN OUT.mp4"
PLAYLISTS = {"hls", "concat", "dash", "ffconcat", "rtsp", "sdp", "tty", "lavfi"}  # these open other files, or draw text

Stream = Any  # av.VideoStream or av.AudioStream


@dataclass(frozen=True)
class Info:
    """What a file holds. Fields of video are empty (size (0, 0), rate 0) for sound alone, fields of sound None without sound."""

    path: Path
    duration: float  # s, of the video; of the sound where there is no video
    size: tuple[int, int]  # height, width as shown: turned, with square pixels
    rate: float  # frames a second, mean
    frames: int  # about how many frames `vivavoce.media.frames` will give at 25 a second; the truth is known after decoding
    turned: bool  # the file asks for a rotation or a mirror image
    video_codec: str | None
    audio_codec: str | None
    audio_rate: int | None  # samples a second
    channels: int | None
    audio_duration: float | None  # s


@contextmanager
def opened(path: str | Path) -> Iterator[av.container.InputContainer]:
    """An open container. Raises InputError for whatever cannot be one."""
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file", "check the name")
    if path.is_dir():
        raise InputError(path, "is a folder, not a media file", "name the file in it")
    if not path.is_file():
        raise InputError(path, "is a pipe or a device, not a file", "write it into a file first")
    try:
        if path.stat().st_size == 0:
            raise InputError(path, "is empty (0 bytes)", "copy or download it again")
        with open(path, "rb"):
            pass
        # a play list must not make us open other files or addresses
        container = av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except PermissionError as e:
        raise InputError(path, "may not be read", "change its permissions") from e
    except (av.error.FFmpegError, OSError, ValueError) as e:
        if getattr(e, "errno", None) in (errno.ENOMEM, errno.EMFILE):
            raise
        raise InputError(path, f"not video or sound, or damaged ({_cause(e)})", CONVERT) from e
    with container:
        if set(container.format.name.split(",")) & PLAYLISTS:
            raise InputError(path, f"a play list or text ({container.format.name}), not video or sound", CONVERT)
        yield container


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".").lower() or type(error).__name__


def video_stream(container: av.container.InputContainer) -> Stream | None:
    """The first stream of moving pictures (a cover picture is none), told to use every core."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover and stream.codec_context is not None:  # None: a kind that nobody here can decode
            limit(container.name, stream.codec_context.width, stream.codec_context.height)
            stream.thread_type = "AUTO"
            return stream
    return None


def audio_stream(container: av.container.InputContainer) -> Stream | None:
    """The stream of sound that a player would choose."""
    return container.streams.best("audio")


def limit(path: object, width: int, height: int) -> None:
    """Raises InputError for a picture too large to be meant."""
    if width * height > MOST_PIXELS:
        raise InputError(path, f"{width} x {height} pixels is more than {MOST_PIXELS // 1_000_000} million", "make it smaller first")


def origin(container: av.container.InputContainer) -> Fraction:
    """Time zero of the file, s: the first frame of the video, or the first sample where there is none."""
    stream = video_stream(container) or audio_stream(container)
    if stream is None or stream.start_time is None or stream.time_base is None:
        return Fraction(0)
    return Fraction(stream.start_time * stream.time_base)


@dataclass(frozen=True)
class Turn:
    """How decoded pixels become the picture that is meant: scaled to square pixels, transposed, mirrored."""

    width: int  # px, decoded and scaled, before transposing
    height: int
    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as shown."""
        return (self.width, self.height) if self.transpose else (self.height, self.width)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:  # -> uint8 [H,W,3]
        image = converted(frame, "rgb24", width=self.width, height=self.height).to_ndarray()
        if self.transpose:
            image = image.transpose(1, 0, 2)
        image = image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return np.ascontiguousarray(image)


def turn(frame: av.VideoFrame, stream: Stream) -> Turn:
    """From the first frame: its display matrix (phones turn the picture here, and some mirror it) and the shape of its pixels."""
    limit(stream.container.name, frame.width, frame.height)
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if aspect and abs(float(aspect) - 1) > 0.01 and 0.1 < float(aspect) < 10:
        width = max(2, round(width * float(aspect)))
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Turn(width, height)
    # rows of the matrix act on row vectors: x' = a x + c y, y' = b x + d y (y down), 16.16 fixed point
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Turn(width, height, transpose=True, flip_x=c < 0, flip_y=b < 0)
    return Turn(width, height, flip_x=a < 0, flip_y=d < 0)


def decoded(container: av.container.InputContainer, stream: Stream) -> Iterator[Any]:
    """Every frame of a stream that can be decoded, in order of presentation; damaged packets are left out, a cut end ends it.

    Raises InputError when nothing can be decoded.
    """
    any_yet = False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file ends in the middle, or what follows cannot be read
            packet = None
        try:
            found = stream.decode(packet)
        except av.error.FFmpegError:
            found = []
        for frame in found:
            any_yet = True
            yield frame
        if packet is None or (packet.dts is None and packet.size == 0):  # the empty packet at the end flushes the decoder
            break
    if not any_yet:
        raise InputError(container.name, f"no {stream.type} could be decoded; the file is damaged or cut short", CONVERT)


def duration(stream: Stream, container: av.container.InputContainer) -> float:
    """Seconds a stream lasts by the file's header; 0 where it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def probe(path: str | Path) -> Info:
    """What a file holds. Raises InputError when it is no media file, has neither video nor sound, or cannot be decoded."""
    with opened(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        if video is None and audio is None:
            raise InputError(path, "neither video nor sound in it", CONVERT)
        size, rate, seconds, turned = (0, 0), 0.0, 0.0, False
        if video is not None:
            how = turn(next(decoded(container, video)), video)
            size, turned = how.size, how.transpose or how.flip_x or how.flip_y
            rate = float(video.average_rate or video.guessed_rate or 0)
            seconds = duration(video, container)
        heard = duration(audio, container) if audio is not None else None
        return Info(
            path=Path(path),
            duration=seconds if video is not None else heard or 0.0,
            size=size,
            rate=rate,
            frames=round(seconds * FPS),
            turned=turned,
            video_codec=video.codec_context.name if video is not None else None,
            audio_codec=audio.codec_context.name if audio is not None else None,
            audio_rate=audio.codec_context.sample_rate if audio is not None else None,
            channels=audio.codec_context.channels if audio is not None else None,
            audio_duration=heard,
        )
