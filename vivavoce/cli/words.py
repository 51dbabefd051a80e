"""The words of a command line -> a dataclass of options; what is misspelt is told in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from vivavoce.types import InputError

# Help reads better with a word for what goes there than with tyro's `{None}|PATH`.
Video = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Folders = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")]
Data = Annotated[str, tyro.conf.arg(metavar="NAME:PATH")]
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...")]
File = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Place = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
Word = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


def parse(kind: Any, words: Sequence[str], prog: str, more: bool = False, default: Any = None, beside: tuple[Any, ...] = ()) -> Any:
    """Options of a verb or a method from the words of the command line; with `more`, also the words left over.

    `default`: settings to start from. `beside`: dataclasses whose options may also have been meant by a misspelt one.

    Raises InputError, in one line, for what tyro would answer with a box.
    """
    wanted = {"-h", "--help"} & set(words)
    if not more and not wanted:
        spelled((kind, *beside), words, prog)
    settings: dict[str, Any] = {"return_unknown_args": True} if more else {}
    if default is not None:
        settings["default"] = default
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return tyro.cli(kind, args=list(words), prog=prog, **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(prog, _cause(said.getvalue(), words), f"see: {prog} --help") from None


# tyro's box in either alphabet, the colours that it has on a terminal, its title, and what it says in a programmer's words
COLOUR, EDGE = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"^[╭╰+][─-]+ ?|[─-]*[╮╯+]$|^[│|]|[│|]$")
HEAD = re.compile(r"^(Parsing error|Value error|Missing argument|Required options|Invalid choice|Unrecognized options) ")
PLAINER = (
    (r" (For full|Argument) helptext.*", ""),
    (r"^Error parsing (\S+): .*invalid literal for int\(\) with base 10: ('.*')$", r"\1 wants a whole number, not \2"),
    (r"^Error parsing (\S+): .*could not convert string to float: ('.*')$", r"\1 wants a number, not \2"),
    (r"^Missing value for argument '(\S+)'\..*", r"nothing is given for \1"),
    (r"^Unrecognized options: (.*)$", r"too many words: \1"),
    (r"^Missing from .*?:", "missing:"),
    (r"^missing: ([A-Z]+) ((?!.*--).*?)( \(required\))?$", r"missing: \1 (\2)"),
    (r"^invalid choice '(.*?)' for argument '(\S+?)'\. Expected one of \((.*?),?\)\.?$", r"\2 cannot be \1; choose from: \3"),
    (r" \(required\)", ""),
)


def _cause(said: str, words: Sequence[str]) -> str:
    """What tyro tells in a box, as one line."""
    lines = [EDGE.sub("", line.strip()).strip() for line in COLOUR.sub("", said).splitlines()]
    text = HEAD.sub("", " ".join(line for line in lines if line.strip("─-")))
    for pattern, plain in PLAINER:
        text = re.sub(pattern, plain, text)
    dashed = [word for word in words if word.startswith("-") and Path(word).exists()]
    return f"{text}: write ./{dashed[0]} for the file of that name" if dashed else text


def option(name: str) -> str:
    """A field's name as one writes it on the command line."""
    return "--" + name.replace("_", "-")


def spelled(kinds: Sequence[Any], words: Sequence[str], prog: str) -> None:
    """Raises InputError for an option that none of `kinds` has, naming the nearest that one has."""
    known = {"--help"}
    for field in (f for kind in kinds for f in dataclasses.fields(kind)):
        known |= {option(field.name)} | ({option(f"no_{field.name}")} if isinstance(field.default, bool) else set())
    for word in words:
        asked = word.partition("=")[0].replace("_", "-")
        if asked.startswith("--") and asked != "--" and asked not in known:
            near = difflib.get_close_matches(asked, known, 1)
            other = f"for the file of that name write ./{word}" if Path(word).exists() else f"see: {prog} --help"
            raise InputError(f"{prog} {asked}", "no such option", f"did you mean {near[0]}?" if near else other)
