"""The table as one page, `eval.html`, with everything inside the file: figures, strips of truth, made and difference, films."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vivavoce.evaluate.block import Block, Row
from vivavoce.evaluate.columns import VERSIONS, Column, shown
from vivavoce.evaluate.pictures import FILM, fitted
from vivavoce.evaluate.result import FRAMES, Result
from vivavoce.media import read_image

STRIP = 480  # px, height of a strip of three rows
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;padding:0 1.5em;max-width:1900px}
h1{font-size:1.5em;margin:0}h2{font-size:1.15em;margin:2em 0 .2em}h3{font-size:1em;margin:1.6em 0 .4em}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{text-align:right;padding:.25em .6em;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;vertical-align:bottom;white-space:normal}table{font-size:.88em}td:first-child,th:first-child,.word{text-align:left}
tr.truth{background:var(--soft)}.best{font-weight:700;color:#059669}.facts,figcaption{opacity:.8;font-size:.9em}
figure{margin:.4em 0 1em;display:inline-block;vertical-align:top}img,video{max-width:100%;display:block}
nav a{margin-right:1em}dl{columns:2;font-size:.9em}dt{font-weight:600}dd{margin:0 0 .3em}
"""


Overview = tuple[str, list[str], list[list[str]]]  # what it says, heads, rows


def page(blocks: Sequence[Block], results: Sequence[Result], notes: Sequence[str], overview: Overview | None = None) -> str:
    """The whole page; pictures and films of results that have them beside their eval.json."""
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"]
    parts += [f"<title>vivavoce eval</title><style>{STYLE}</style><h1>Figures on held-out frames</h1>"]
    parts += ["<p class=facts>Rows of one table compare; rows of two do not.</p>"]
    if overview is not None:
        parts.append(_overview(*overview))
    parts += [_table(block) for block in blocks]
    parts += ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    parts += [_pictures(result) for result in results]
    columns = {c.key: c for block in blocks for c in block.columns()}
    parts += ["<h2>Columns</h2><dl>", *(f"<dt>{escape(c.title)}</dt><dd>{escape(c.what)}</dd>" for c in columns.values()), "</dl></html>"]
    return "\n".join(parts) + "\n"


def _overview(said: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr{' class=truth' if not k else ''}>{line}</tr>" for k, line in enumerate(lines))
    return f"<h2>All</h2><p class=facts>{escape(said)}</p><div class=wide><table><tr>{top}</tr>{body}</table></div>"


def _table(block: Block) -> str:
    columns = block.columns()
    heads = "".join(f"<th title='{escape(c.what, quote=True)}'>{escape(c.title)}{ARROWS[c.better]}</th>" for c in columns)
    rows = "".join(_row(block, row, columns) for row in block.rows)
    return (
        f"<h2>{escape(block.person)}: {escape(block.version)}</h2><p class=facts>{escape(VERSIONS[block.version])}; "
        f"{escape(str(block.protocol))}</p><div class=wide><table><tr><th>method</th>{heads}<th class=word>reads</th>"
        f"<th class=word>weights</th></tr>{rows}</table></div>"
    )


def _row(block: Block, row: Row, columns: Sequence[Column]) -> str:
    cells = [f"<td>{escape(row.title)}</td>"]
    for column in columns:
        text, best = shown(column, row.figures.get(column.key)), block.best(column)
        good = text and row.result is not None and best is not None and text == shown(column, best)
        cells.append(f"<td class=best>{text}</td>" if good else f"<td>{text}</td>")
    words = (" ".join(row.result.reads), row.result.weights) if row.result else ("", "")
    cells += [f"<td class=word>{escape(w)}</td>" for w in words]
    return f"<tr{' class=truth' if row.result is None else ''}>{''.join(cells)}</tr>"


def _pictures(result: Result) -> str:
    strip, film = result.place / FRAMES, result.place / FILM
    shows = []
    if strip.is_file():
        shows.append(f"<figure><img src='{_strip(strip)}' alt=''><figcaption>original, made, difference times three</figcaption></figure>")
    if film.is_file():
        data = base64.b64encode(film.read_bytes()).decode("ascii")
        video = f"<video controls loop src='data:video/mp4;base64,{data}'></video>"
        shows.append(f"<figure>{video}<figcaption>original left, made right</figcaption></figure>")
    said = "" if shows else "<p class=facts>no pictures beside its eval.json</p>"
    facts = f"{result.person}; {result.protocol}; weights {result.weights}; {result.machine}; {result.date}"
    return f"<h3>{escape(result.title)} on {escape(result.person)}</h3><p class=facts>{escape(facts)}</p>{said}{''.join(shows)}"


def _strip(path: Path) -> str:
    whole = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(fitted(read_image(path), STRIP))).save(whole, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(whole.getbuffer()).decode("ascii")
