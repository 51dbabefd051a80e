"""What a user may choose for a person folder, and what is refused before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

from vivavoce import assets
from vivavoce.face import morphable_bfm
from vivavoce.speech import names as encoders
from vivavoce.types import InputError

TRACKERS = ("mesh", "bfm", "ict")
PARSERS = ("permissive", "bisenet")
SMALLEST, LARGEST = 64, 4096  # px, side of the frames


def check(tracker: str | None, speech: Sequence[str] | None, size: int | None, parser: str | None = None) -> None:
    """Raises InputError for an option that no step could follow."""
    if tracker is not None:
        require(tracker)
    if parser is not None and parser not in PARSERS:
        raise InputError(f"--parser {parser}", "no such parser", f"choose from: {', '.join(PARSERS)}")
    if parser == "bisenet" and assets.commercial_only():
        raise InputError(
            "--parser bisenet", f"its terms exclude commercial use ({assets.asset('face_parsing').license})", "choose permissive"
        )
    for name in [speech] if isinstance(speech, str) else speech or ():
        if name not in encoders():
            raise InputError(f"--speech {name}", "no such speech encoder", f"choose from: {', '.join(encoders())}")
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise InputError(f"--size {size}", "is not a size for frames", f"choose from {SMALLEST} to {LARGEST} px")


def require(tracker: str) -> None:
    """Raises InputError for a tracker that is not there or whose files cannot be had: asked before anything is made."""
    if tracker not in TRACKERS:
        raise InputError(f"--tracker {tracker}", "no such tracker", f"choose from: {', '.join(TRACKERS)}")
    if tracker == "bfm":
        morphable_bfm.files()
