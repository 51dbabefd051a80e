"""Decode and encode video, sound and pictures; the only place that knows codecs (PyAV, which brings its own FFmpeg, and Pillow).

Inside vivavoce there is one clock: 25 frames a second, 16,000 samples a second, time zero = the first frame of the video.
Everything is brought onto it here, by time stamp, and never held in memory as a whole unless the caller asks for that.
"""

from vivavoce.media.decode import audio, audio_chunks, frames, glimpses, sound, undrawn
from vivavoce.media.encode import Writer, write_audio
from vivavoce.media.image import coded, is_picture, pixels, read_image, shades, write_image
from vivavoce.media.probe import Info, probe

__all__ = [
    "Info", "Writer", "audio", "audio_chunks", "coded", "frames", "glimpses", "is_picture", "pixels", "probe", "read_image", "shades",
    "sound", "undrawn", "write_audio", "write_image",
]  # fmt: skip
