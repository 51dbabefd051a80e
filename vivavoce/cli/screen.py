"""What the command line shows: tables, progress bars, lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def grid(first: str, *heads: str) -> Table:
    """An empty table; the first column is never cut, for it is what one types next."""
    return Table(Column(first, no_wrap=True, overflow="fold"), *heads, box=SIMPLE_HEAD)


def bar(label: str) -> tuple[Progress, Callable[..., None]]:
    """A progress bar and the function that moves it: (done, total, *anything)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=err, disable=not err.is_terminal)
    task = progress.add_task(label, total=None, note="")

    def move(done: int, total: int, *rest: Any) -> None:
        note = " ".join(f"{k} {v:.4f}" for k, v in rest[0].items()) if rest and isinstance(rest[0], dict) else ""
        progress.update(task, completed=done, total=total, note=note[:60])

    return progress, move
