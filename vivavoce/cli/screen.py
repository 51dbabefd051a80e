"""What the command line shows: tables, progress bars, lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

# no markup: a file may be called "me [final].mp4", and `pip install 'vivavoce[serve]'` is to be read whole
out = Console(soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 240  # a table in a file or a pipe need not be narrow


def grid(first: str, *heads: str) -> Table:
    """An empty table in which nothing is cut; the first column stays on one line, for it is what one types next."""
    return Table(Column(first, no_wrap=True, overflow="fold"), *(Column(head, overflow="fold") for head in heads), box=SIMPLE_HEAD)


def said(text: str, colour: str) -> Text:
    """A word of a table in a colour."""
    return Text(text, colour)


def bar(label: str) -> tuple[Progress, Callable[..., None]]:
    """A progress bar and the function that moves it: (done, total, *anything)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=err, disable=not err.is_terminal)
    task = progress.add_task(label, total=None, note="")

    def move(done: int, total: int, *rest: Any) -> None:
        note = " ".join(f"{k} {v:.4f}" for k, v in rest[0].items()) if rest and isinstance(rest[0], dict) else ""
        progress.update(task, completed=done, total=total, note=note[:60])

    return progress, move
