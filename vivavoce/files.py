"""Files that are there whole or not at all, and how a disk says that it takes no more."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vivavoce.types import InputError

PART = ".part-"  # prefix of a file that is not whole yet: hidden from the globs of older tools, and the ending stays what writers go by
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def full(error: BaseException) -> bool:
    """Whether this is a full disk, a quota or a file system's limit. Errors of PyAV have the same numbers."""
    return getattr(error, "errno", None) in FULL


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another path in the same folder: it becomes `path` when the block ends well and is gone when it does not. Whoever reads
    meanwhile, or after a kill, sees what was there before."""
    part = path.with_name(PART + path.name)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def written(path: Path, remedy: str = "free some space or choose another --out") -> Iterator[Path]:
    """As `whole`, for what the user asked for: its folder is made, and an OSError becomes an InputError with this remedy."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            yield part
    except OSError as error:
        raise InputError(path, f"cannot be written ({error.strerror or error})", remedy) from error
