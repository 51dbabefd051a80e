"""Write a video with sound in a constant-memory stream, whole or not at all."""

from __future__ import annotations

import itertools
import os
import wave
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
import numpy as np
from torch import Tensor

from vivavoce import files
from vivavoce.media.colour import converted
from vivavoce.media.decode import sound
from vivavoce.media.image import pixels
from vivavoce.media.probe import audio_stream, opened
from vivavoce.types import FPS, RATE, InputError

KINDS = (".mp4", ".m4v", ".mov", ".mkv")
AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000}
BT709 = 1  # the number of ITU-R BT.709 in every colour field of H.264
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "18", "preset": "veryfast"},
    "h264_nvenc": {"cq": "19", "preset": "p4", "rc": "vbr"},
}


class Writer:
    """A video file that is written frame by frame; H.264 (4:2:0, BT.709) and AAC.

    Use it in a `with` block: the file appears under its name when the block ends well, and not at all when it does not.
    An odd height or width is made even by repeating the last row or column, as the 4:2:0 format needs. Sound is written as
    far as the frames reach.

    Args:
        path: .mp4, .m4v, .mov or .mkv.
        size: height and width of the frames, px.
        rate: frames a second of the file.
        audio: a file whose sound is taken over at its own rate (mono or stereo), an iterable of mono samples
            ([n] float32 at 16 kHz), or None for a silent film.
        source_rate: frames a second of what `write` gets, when that is not `rate`: frames are repeated or left out.
        encoder: "libx264", or "h264_nvenc" where the GPU has it (libx264 takes over where not).
        about: words kept in the file, by the container's names (title, comment, description, date, ...).
    Raises:
        InputError: a place that cannot be written, a full disk, an unknown ending, no frame written, unusable sound.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        rate: float = FPS,
        audio: str | Path | Iterable[Tensor] | None = None,
        *,
        source_rate: float | None = None,
        encoder: str = "libx264",
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.size, self.rate = Path(path), size, Fraction(rate).limit_denominator(1001)
        self.step = Fraction(source_rate or rate).limit_denominator(1001) / self.rate  # frames given for one frame of the file
        self.taken = 0  # frames given
        self.frames = 0  # frames in the file
        self.part = self.path.with_name(files.PART + self.path.name)
        if self.path.suffix.lower() not in KINDS:
            raise InputError(self.path, f"cannot write {self.path.suffix or 'a file without an ending'}", f"use one of: {' '.join(KINDS)}")
        if min(size) < 1 or max(size) > 16384:
            raise InputError(self.path, f"cannot encode {size[1]} x {size[0]} pixels", "choose another size")
        self.pieces, self.pitch, layout = _source(audio)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.claim = _claimed(self.part, self.path)
        except OSError as e:
            raise self._failed(e) from e
        try:
            self.container = av.open(str(self.part), "w", options={"movflags": "+faststart"} if self.path.suffix != ".mkv" else {})
        except (OSError, av.error.FFmpegError) as e:
            self.part.unlink(missing_ok=True)
            raise self._failed(e) from e
        try:
            self.container.metadata.update(about or {})
            self.video = self._video(encoder)
            self.sound: Any = None
            if self.pieces is not None:
                self.sound = self.container.add_stream("aac", rate=self.pitch, layout=layout)
                self.sound.codec_context.bit_rate = 96_000 * (2 if layout == "stereo" else 1)
        except BaseException:
            self._drop()
            raise
        self.layout, self.samples = layout, 0
        self.rest: np.ndarray | None = None  # [channels,n] of a piece of sound that reaches past the last picture

    def _video(self, encoder: str) -> Any:
        height, width = (s + s % 2 for s in self.size)
        if encoder != "libx264" and not _usable(encoder, width, height):
            encoder = "libx264"
        stream: Any = self.container.add_stream(encoder, rate=self.rate, options=ENCODERS.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.rate
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = 1  # limited, what players expect
        return stream

    def __enter__(self) -> Self:
        return self

    def write(self, frames: Tensor | np.ndarray) -> None:
        """Append frames: [T,3,H,W] float in 0..1, or uint8 [T,H,W,3]; one frame may come without T."""
        images = pixels(frames)
        images = images[None] if images.ndim == 3 else images
        if images.shape[1:3] != self.size:
            raise ValueError(f"the frames are {images.shape[1:3]}, the file is {self.size}")
        for image in images:
            self.taken += 1
            while (Fraction(2 * self.frames + 1, 2) * self.step) < self.taken:  # the middle of the file's frame falls into this one
                self._frame(image)

    def _frame(self, image: np.ndarray) -> None:
        height, width = self.size
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = converted(frame, "yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = self.frames, 1 / self.rate
        self._mux(self.video, frame)
        self.frames += 1
        self._hear(int(self.frames / self.rate * self.pitch))

    def _hear(self, until: int) -> None:
        """Encode sound up to that many samples, so that it lies beside its pictures in the file."""
        while self.pieces is not None and self.samples < until:
            piece = self.rest if self.rest is not None else next(self.pieces, None)
            if piece is None:
                self.pieces = None
                return
            room = until - self.samples
            self.rest = piece[:, room:] if piece.shape[1] > room else None
            piece = np.ascontiguousarray(piece[:, :room], dtype=np.float32)
            if piece.shape[1] == 0:
                continue
            frame = av.AudioFrame.from_ndarray(np.clip(piece, -1, 1), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.pitch, self.samples, Fraction(1, self.pitch)
            self.samples += piece.shape[1]
            self._mux(self.sound, frame)

    def _mux(self, stream: Any, frame: Any) -> None:
        try:
            for packet in stream.encode(frame):
                self.container.mux(packet)
        except (OSError, av.error.FFmpegError) as e:
            raise self._failed(e) from e

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._drop()
            return
        try:
            if not self.frames:
                raise InputError(self.path, "no frame to write", "the source or the sound is empty")
            for stream in (self.video, self.sound):
                if stream is not None:
                    self._mux(stream, None)
            self.container.close()
            os.replace(self.part, self.path)
        except (OSError, av.error.FFmpegError) as e:
            raise self._failed(e) from e
        finally:
            self._drop()

    def _failed(self, error: Exception) -> InputError:
        if files.full(error):
            return InputError(self.path, "the disk is full", "make room, or write elsewhere with --out")
        return InputError(self.path, f"cannot be written ({getattr(error, 'strerror', None) or error})", "choose another place or size")

    def _drop(self) -> None:
        """Close and remove what is not whole; nothing to do after a good end."""
        try:
            self.container.close()
        except (OSError, av.error.FFmpegError):  # the disk is still full; the file goes anyway
            pass
        finally:
            self.part.unlink(missing_ok=True)
            if self.claim is not None:
                self.claim.close()


def _claimed(part: Path, path: Path) -> BinaryIO | None:
    """The file that grows, open and locked: two runs that wrote it at once would both end well, with one damaged film. The system
    lets go of the lock when the process ends, however it ends. Windows, where an open file cannot be renamed, does without.

    Raises InputError when it is taken.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = open(part, "ab")  # noqa: SIM115 (open as long as the film is written)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise InputError(path, "another run is writing this film", "wait until it has ended, or choose another --out") from error
    except OSError:  # a file system without locks
        pass
    return handle


def _source(audio: str | Path | Iterable[Tensor] | None) -> tuple[Iterator[np.ndarray] | None, int, str]:
    """Pieces of sound [channels,n], their rate, their layout."""
    if audio is None:
        return None, RATE, "mono"
    if not isinstance(audio, str | Path):
        return (np.asarray(piece.detach().cpu().numpy(), np.float32)[None] for piece in audio), RATE, "mono"
    with opened(audio) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(audio, "no sound in it", "give a file with sound")
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    pitch, layout = (rate if rate in AAC_RATES else 48_000), "mono" if channels == 1 else "stereo"
    pieces = sound(audio, pitch, layout)
    first = next(pieces, None)  # sound that cannot be decoded is told now, not at the end of the work
    return (iter(()) if first is None else itertools.chain([first], pieces)), pitch, layout


def _usable(encoder: str, width: int, height: int) -> bool:
    """Whether this machine can encode with it: many GPUs (A100, H100, H200) have no video encoder."""
    if encoder not in ENCODERS:
        raise InputError(encoder, "no such video encoder", f"choose from: {', '.join(ENCODERS)}")
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.width, context.height, context.pix_fmt, context.time_base = width, height, "yuv420p", Fraction(1, FPS)
        context.open()
    except (av.error.FFmpegError, ValueError, OSError):
        return False
    return True


def write_audio(path: str | Path, pieces: Iterable[Tensor], rate: int = RATE) -> int:
    """Write mono PCM16 wav from pieces [n] float32 in -1..1, whole or not at all; gives the number of samples."""
    path = Path(path)
    count = 0
    try:
        with files.whole(path) as part, wave.open(str(part), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            for piece in pieces:
                values = (piece.detach().cpu().clamp(-1, 1) * 32767).round().numpy().astype("<i2")
                file.writeframes(values.tobytes())
                count += len(values)
    except OSError as e:
        cause = "the disk is full" if files.full(e) else f"cannot be written ({e.strerror})"
        raise InputError(path, cause, "make room or choose another place") from e
    return count
