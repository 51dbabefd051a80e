"""The command line: verb -> function; one file a verb, and nothing else. The only part that prints."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from vivavoce import __version__, files
from vivavoce.cli import assets, doctor, evaluate, export, help, listing, prepare, ranges, run, serve, train, view
from vivavoce.cli.screen import err, out
from vivavoce.cli.words import parse
from vivavoce.types import InputError

PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EEXIST,
)  # no fault of ours, wherever it shows

GOES_ON = ("prepare", "train")  # these keep what is done

VERBS: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "prepare": (prepare.Prepare, prepare.do),
    "train": (train.Train, train.do),
    "run": (run.Run, run.do),
    "eval": (evaluate.Eval, evaluate.do),
    "list": (listing.List, listing.do),
    "assets": (assets.Assets, assets.do),
    "export": (export.Export, export.do),
    "doctor": (doctor.Doctor, doctor.do),
    "view": (view.View, view.do),
    "serve": (serve.Serve, serve.do),
}


def overview() -> str:
    """The verbs with the first line of each."""
    lines = [f"  {verb:<8} {(kind.__doc__ or '').splitlines()[0]}" for verb, (kind, _) in VERBS.items()]
    return "\n".join(["usage: vivavoce VERB ... (vivavoce VERB --help tells more)", "", *lines])


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb. Exit code 0: done; 2: bad input, told in one line; 1: a fault of ours, with the path of a report."""
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help", "help"):
        out.print(overview(), highlight=False)
        return 0 if words else 2
    if words[0] in ("--version", "-V", "version"):
        out.print(__version__, highlight=False)
        return 0
    logging.basicConfig(format="vivavoce: %(message)s", level=logging.WARNING)
    try:
        return _dispatch(words[0], words[1:])
    except KeyboardInterrupt:
        err.print("vivavoce: stopped" + ("; the same command goes on where it was" if words[0] in GOES_ON else ""))
        return 130
    except BrokenPipeError:  # whoever reads the output has read enough: `vivavoce list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tells of it at its end
        return 141
    except SystemExit as stop:  # tyro has printed its help
        return int(stop.code or 0) if isinstance(stop.code, int | None) else 2
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """One line: what is wrong with the input, or where the report of a fault of ours lies. The exit code."""
    if isinstance(error, OSError) and files.full(error):
        error = InputError(error.filename or "the disk", "is full", "make room and run the same command again")
    if isinstance(error, OSError) and error.errno in PLACE and error.filename:
        error = InputError(error.filename, (error.strerror or "cannot be used").lower(), "choose another place or name")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        error = InputError("memory", "there is too little of it for this", "choose a smaller --size, or for training a smaller --batch")
    if isinstance(error, InputError):
        err.print(f"vivavoce: {' '.join(str(error).split())}", style="red")
        return 2
    with tempfile.NamedTemporaryFile("w", prefix="vivavoce-", suffix=".log", delete=False) as log:
        log.writelines(traceback.format_exception(error))
    err.print(f"vivavoce: a fault of ours ({type(error).__name__}: {error}); details: {log.name}", style="red")
    return 1


def _dispatch(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb.lower(), [*VERBS, "--help", "--version"], 1)
        raise InputError(verb, "no such verb", f"did you mean {near[0]}?" if near else f"choose from: {', '.join(VERBS)}")
    kind, act = VERBS[verb]
    if verb == "train" and (method := help.wanted(words)):
        help.show(method, words)
        return 0
    if verb == "train":  # the method's own settings follow: its Config is parsed from what is left
        options, rest = parse(kind, words, f"vivavoce {verb}", more=True)
        ranges.check(options, ranges.VERBS[verb])
        return int(act(options, rest) or 0)
    options = parse(kind, words, f"vivavoce {verb}")
    ranges.check(options, ranges.VERBS.get(verb, {}))
    return int(act(options) or 0)
