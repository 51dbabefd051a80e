"""Pictures in and out: whatever Pillow reads becomes RGB of 8 bits, the way it is meant to be seen."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vivavoce import files
from vivavoce.media.probe import limit
from vivavoce.types import InputError

# Pillow warns of large pictures on its own scale; here `limit` refuses them
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

QUALITY = 95  # of JPEG
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}  # a picture by its name, be it damaged or not there
FILMS = {"MPEG", "FLI"}  # what Pillow knows of moving pictures


def is_picture(path: str | Path) -> bool:
    """Whether a file is a picture and no film: by its ending, or by what is in it (.avif, .jfif, no ending at all)."""
    if Path(path).suffix.lower() in ENDINGS or not Path(path).is_file():
        return Path(path).suffix.lower() in ENDINGS
    try:
        with Image.open(path) as image:
            return image.format not in FILMS
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return False


def read_image(path: str | Path) -> np.ndarray:  # -> uint8 [H,W,3]
    """A picture as RGB: turned as EXIF says, transparency on white, 16 bits, grey, palette and CMYK converted; the first of a film.

    Raises:
        InputError: no such file, not a picture, damaged or cut short, or more than 100 million pixels.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file", "check the name")
    if not path.is_file():  # a folder, or a pipe that would be waited for
        raise InputError(path, "is not a picture", "give a JPEG or PNG file")
    try:
        with Image.open(path) as image:
            limit(path, *image.size)
            return _rgb(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, IsADirectoryError) as e:
        raise InputError(path, "is not a picture", "give a JPEG or PNG file") from e
    except PermissionError as e:
        raise InputError(path, "may not be read", "change its permissions") from e
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:  # Pillow's kinds for damaged files
        raise InputError(path, f"a damaged picture ({str(e).splitlines()[0] if str(e) else type(e).__name__})", "save it again") from e


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # 16 bits and more of grey, which convert() would clip
        values = np.asarray(image, np.float64)
        top = values.max(initial=0.0)
        most = 1.0 if image.mode == "F" and top <= 1 else 255.0 if top <= 255 and image.mode != "I;16" else 65535.0
        grey = (np.clip(values / most, 0, 1) * 255 + 0.5).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return np.array(image.convert("RGB"))


def _memory() -> IO[bytes]:
    """A file in memory. Into one with a descriptor Pillow codes without the interpreter's lock, so that threads code side by side; but
    a limit on the length of files cuts that one off too, which Pillow does not notice."""
    if hasattr(os, "memfd_create"):
        import resource

        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY:
            return os.fdopen(os.memfd_create("picture"), "w+b")
    return io.BytesIO()


def coded(image: Image.Image, kind: str, **wishes: Any) -> bytes:
    """A picture as the bytes of a file of that kind; `wishes` are Pillow's."""
    with _memory() as whole:
        image.save(whole, kind, **wishes)
        whole.seek(0)
        return whole.read()


def write_image(path: str | Path, image: Tensor | np.ndarray, effort: int = 6) -> None:
    """Write a picture, whole or not at all; the kind follows the ending (.jpg, .png, ...).

    Args:
        path: where to; its folder is made.
        image: [3,H,W] or [4,H,W] float in 0..1 (Tensor), or uint8 [H,W,3] or [H,W,4] (array).
        effort: 0 to 9, of PNG: more makes the same picture a smaller file, and takes longer; up to 1 only runs of one colour are sought.
    Raises:
        InputError: an unknown ending, or a place that cannot be written.
    """
    path = Path(path)
    try:
        kind = Image.registered_extensions()[path.suffix.lower()]
        search = zlib.Z_RLE if effort <= 1 else zlib.Z_DEFAULT_STRATEGY
        wishes = dict(quality=QUALITY, subsampling=0, compress_level=effort, compress_type=search)  # each kind heeds its own
        data = coded(Image.fromarray(pixels(image)), kind, **wishes)  # whole: Pillow takes a full disk's short write for success
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as part:
            part.write_bytes(data)
    except KeyError as e:
        raise InputError(path, "unknown kind of picture", "name it .png or .jpg") from e
    except (OSError, ValueError) as e:
        cause = getattr(e, "strerror", None) or str(e)
        remedy = "make room and run the same command again" if files.full(e) else "choose another place, or an ending such as .png"
        raise InputError(path, f"cannot be written ({cause})", remedy) from e


def pixels(image: Tensor | np.ndarray) -> np.ndarray:  # [...,C,H,W] 0..1 or uint8 [...,H,W,C] -> uint8 [...,H,W,C]
    """Colours rounded to 8 bits, channels last."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ValueError(f"an array of pictures is uint8, not {image.dtype}")
        return image
    if image.dtype == torch.uint8:
        return image.cpu().numpy()
    return shades(image).cpu().numpy()


def shades(image: Tensor) -> Tensor:  # [...,C,H,W] 0..1 -> uint8 [...,H,W,C]
    """`pixels`, where the picture is."""
    scaled = image.detach().clamp(0, 1).mul_(255).add_(0.5).to(torch.uint8)  # in the one copy that clamp makes; NaN becomes 0
    return torch.stack(scaled.unbind(-3), -1)  # twice as quick as a permuted copy on a CPU
