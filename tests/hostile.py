"""Files that users really have, and files that nobody should: made here with PyAV, Pillow and plain bytes, never with our own writers."""

from __future__ import annotations

import json
import struct
import wave
import zlib
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image
from skimage.data import astronaut

RATE = 16_000


@cache
def portrait(height: int = 256, width: int = 256) -> np.ndarray:  # -> uint8 [H,W,3]
    """The astronaut's head and shoulders (public domain)."""
    return np.asarray(Image.fromarray(astronaut()[0:256, 96:352]).resize((width, height), Image.Resampling.LANCZOS))


def picture(path: Path, image: np.ndarray | None = None, mode: str = "RGB", turn: int = 0) -> Path:
    """A picture file; `turn` is an EXIF orientation (6: a phone held upright)."""
    made = Image.fromarray(portrait() if image is None else image).convert(mode)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    made.save(path, exif=exif)
    return path


def babble(seconds: float, rate: int = RATE) -> np.ndarray:  # -> float [n] in -1..1
    """A voice-like sound: a buzzing tone whose loudness goes as syllables do."""
    time = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 12))
    return 0.3 * buzz * np.clip(np.sin(2 * np.pi * 4 * time), 0, 1)


def wav(path: Path, seconds: float = 0.4, rate: int = RATE, channels: int = 1, silent: bool = False) -> Path:
    sound = babble(seconds, rate) * (not silent)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((sound * 32767).astype("<i2"), channels).tobytes())
    return path


def float_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """A WAV of 32-bit floats, which may hold what no sound can be."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, rate, rate * 4, 4, 32, b"data", len(data))
    path.write_bytes(head + data)
    return path


def sound(path: Path, codec: str, layout: str, rate: int, seconds: float = 0.4) -> Path:
    """Sound in any codec and channel layout."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        count = len(av.AudioLayout(layout).channels)
        samples = np.repeat(babble(seconds, rate).astype(np.float32)[None], count, axis=0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [frame, None]:
            for packet in stream.encode(piece):
                container.mux(packet)
    return path


def video(
    path: Path,
    frames: Sequence[np.ndarray] | int = 25,
    rate: int = 25,
    times: Sequence[int] | None = None,
    with_sound: bool = True,
    codec: str = "libx264",
) -> Path:
    """A film of the given frames (or of that many astronauts, drifting a little); `times`, in milliseconds, makes it of variable rate."""
    images = [np.roll(portrait(), k % 5, 1) for k in range(frames)] if isinstance(frames, int) else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        even = stream.height % 2 == 0 and stream.width % 2 == 0
        stream.pix_fmt = "yuv420p" if even else "yuv444p"
        clock = Fraction(1, 1000) if times else Fraction(1, rate)  # the container may choose another one for the stream
        stream.time_base = stream.codec_context.time_base = clock
        voice = container.add_stream("aac", rate=RATE) if with_sound else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = times[number] if times else number
            frame.time_base = clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            seconds = max(0.1, times[-1] / 1000 if times else len(images) / rate)
            samples = (babble(seconds) * 32767).astype(np.int16)[None]
            said = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            said.sample_rate, said.pts = RATE, 0
            for packet in [*voice.encode(said), *voice.encode(None)]:
                container.mux(packet)
    return path


def cut(path: Path, share: float) -> Path:
    """The first part of a file, as a broken download leaves it."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def scratched(path: Path) -> Path:
    """A file with a hole of noise in its middle."""
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    noise = np.random.default_rng(0).integers(0, 256, len(data) // 8, dtype=np.uint8)
    data[start : start + len(noise)] = noise.tobytes()
    path.write_bytes(data)
    return path


def bomb(path: Path, width: int = 60_000, height: int = 60_000) -> Path:
    """A PNG of a few hundred bytes that says it is 3.6 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b""))
    return path


def run_folder(path: Path, config: str | dict[str, object] | None = None, weights: bytes | None = None) -> Path:
    """A folder that looks like a trained run."""
    path.mkdir()
    if config is not None:
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights is not None:
        (path / "model.safetensors").write_bytes(weights)
    return path
