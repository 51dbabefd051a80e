"""The table as eval.xlsx: every figure as a number, and DynTet's five metrics on a sheet of their own. Needs openpyxl."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from typing import Any

from vivavoce.evaluate.block import Block
from vivavoce.evaluate.columns import FIGURES
from vivavoce.types import InputError

DYNTET = {"psnr": "PSNR", "lpips": "LPIPS", "lmd": "LMD mouth", "lmd_eyes": "LMD eye", "csim": "identity cosine"}


def workbook(heads: Sequence[str], rows: Sequence[Sequence[str | float | None]], blocks: Sequence[Block], notes: Sequence[str]) -> bytes:
    """The file. Raises InputError without openpyxl."""
    try:
        openpyxl: Any = importlib.import_module("openpyxl")
    except ImportError as error:
        raise InputError("eval.xlsx", f"openpyxl is not installed ({error})", "run: pip install 'vivavoce[metrics]'") from error
    book = openpyxl.Workbook()
    _sheet(book.active, "figures", heads, rows)
    short = [
        [b.person, b.version, row.title, *(row.figures.get(k) for k in DYNTET), float(b.protocol.count)] for b in blocks for row in b.rows
    ]
    _sheet(book.create_sheet(), "DynTet", ["person", "version", "method", *DYNTET.values(), "N"], short)
    said = [[f"{c.title}: {c.what}"] for c in FIGURES]
    _sheet(book.create_sheet(), "notes", ["what the figures are"], [*said, *[[note] for note in notes]])
    whole = io.BytesIO()
    book.save(whole)
    return whole.getvalue()


def _sheet(sheet: Any, title: str, heads: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
    sheet.title = title
    for row in [list(heads), *rows]:
        sheet.append([None if v == "" else f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for v in row])
    for cell in sheet[1]:
        cell.style = "Headline 4"
    sheet.freeze_panes = "A2"
    for k, head in enumerate(heads):
        wide = max([len(head), *(len(str(row[k])) for row in rows if isinstance(row[k], str))])
        sheet.column_dimensions[sheet.cell(1, k + 1).column_letter].width = min(wide + 2, 60)
