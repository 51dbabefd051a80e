"""Results as tables: csv, markdown, and the page and workbook of the same rows."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from vivavoce.evaluate import page, workbook
from vivavoce.evaluate.block import TRUTH, Block, Row, blocks
from vivavoce.evaluate.columns import BY_KEY, COSTS, FIGURES, PASTED, PLATE, SYNTHESISED, VERSIONS, Column, shown
from vivavoce.evaluate.pictures import sheets
from vivavoce.evaluate.result import Figures, Result
from vivavoce.evaluate.subject import PORTRAIT, Protocol
from vivavoce.files import written
from vivavoce.types import InputError

log = logging.getLogger(__name__)


def compare(entries: Sequence[tuple[str, str, Protocol]]) -> None:
    """Raises InputError when protocols of one person differ: (label, person, protocol) each."""
    first: dict[str, tuple[str, Protocol]] = {}
    for label, person, protocol in entries:
        other, theirs = first.setdefault(person, (label, protocol))
        if words := theirs.against(protocol):
            size = f"--size {min(max(theirs.height, theirs.width), max(protocol.height, protocol.width))} to judge all at one size, or "
            remedy = f"add {size if 'size' in words else ''}--apart for a table each"
            raise InputError(f"{other} and {label}", f"{words} on {person} differ ({theirs}; {protocol}): figures do not compare", remedy)


def notes(results: Sequence[Result], missed: Sequence[str] = ()) -> list[str]:
    """What a reader must know: who is not in the table, why figures are blank, and where rows compare roughly only."""
    out: dict[str, None] = dict.fromkeys(f"not in the table: {line}" for line in missed)
    for result in results:
        reasons: dict[str, list[str]] = {}
        for key, why in result.notes.items():
            if key in BY_KEY:
                reasons.setdefault(why, []).append(BY_KEY[key].title)
        out |= dict.fromkeys(f"{', '.join(titles)}: {why}" for why, titles in reasons.items())
    told = [r.name for r in results if r.told]
    if told:
        words = "the lips are told, by what was measured on the test video, not heard: LMD, LVD and mouth r do not compare with others'"
        out[f"{', '.join(dict.fromkeys(told))}: {words}"] = None
    driven = [r.name for r in results if r.driver]
    if driven:
        words = "the face is moved by what the generator after + heard in the sound; the head's pose is the test video's"
        out[f"{', '.join(dict.fromkeys(driven))}: {words}"] = None
    out |= dict.fromkeys(f"{r.name}: has learnt {r.learnt}, and is judged on {r.person}" for r in results if r.learnt)
    portraits = [r.name for r in results if r.family == PORTRAIT]
    if portraits:
        words = "has learnt nobody and speaks from the first of these frames: the fewer and the stiller they are, the better it looks"
        out[f"{', '.join(dict.fromkeys(portraits))}: {words}"] = None
    dubbed = [r.name for r in results if "frames" in r.reads]
    if dubbed:
        out[f"{', '.join(dict.fromkeys(dubbed))}: draws into the true frame, so only the pasted version is there"] = None
    for person in dict.fromkeys(r.person for r in results):
        mine = [r for r in results if r.person == person]
        if len({r.prepared for r in mine}) > 1:
            values = [v for r in mine if (v := r.truth.get(SYNTHESISED, {}).get("psnr")) is not None]
            apart = f"; their ground truth is {max(values) - min(values):.2f} dB apart" if values else ""
            out[f"{person}: judged on folders that were prepared in different ways{apart}"] = None
    out["ground truth: the plate against the original; against itself, where figures of pictures are blank"] = None
    where: dict[str, dict[str, None]] = {}
    for r in results:
        where.setdefault(r.machine, {})[r.name] = None
    on = (f"on {machine}" if len(where) == 1 else f"{', '.join(names)} on {machine}" for machine, names in where.items())
    out["frames/s: drawing alone, " + "; ".join(on)] = None
    return list(out)


def markdown(results: Sequence[Result], said: Sequence[str]) -> str:
    """Of several people all methods in one table first; a summary of each as docs/benchmarks.md has it; then every block in full; notes."""
    lines = list[str]()
    if len({r.person for r in results}) > 1:
        heads, rows = overview(results)
        lines += [OVERVIEW, "", *_table(heads, rows), ""]
    for person, protocol in dict.fromkeys((r.person, r.protocol) for r in results):
        members = [r for r in results if (r.person, r.protocol) == (person, protocol)]
        lines += [f"**{person}**, {protocol}", "", *_table(SUMMARY, _summary(members)), ""]
    for block in blocks(results):
        columns = block.columns()
        lines += [f"**{block.person}**, {block.version}, {block.protocol}: {VERSIONS[block.version]}", ""]
        heads = ["method", *(c.title for c in columns), "reads", "weights"]
        lines += [*_table(heads, [_cells(block, row, columns) for row in block.rows]), ""]
    return "\n".join([*lines, *(f"* {note}" for note in said), ""])


OVERVIEW = (
    "PSNR dB / LPIPS of the whole frame against the plate and the original, and pasted; LMD px / mouth r; "
    "the figures of one person compare, those of two do not"
)


def overview(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """All methods x people: heads, and a row a method (and protocol, where somebody was judged under several), the ground truth first."""
    people = list(dict.fromkeys(r.person for r in results))
    kinds = ("plate", "original", "pasted", "LMD / r")
    heads = ["method, preset", "lips", *(f"{person}, {kind}" for person in people for kind in kinds), "frames/s"]
    groups: dict[tuple[str, str, int], dict[str, Result]] = {}
    for r in results:
        nth = next(k for k in range(len(results)) if r.person not in groups.get((r.name, r.preset, k), {}))
        groups.setdefault((r.name, r.preset, nth), {})[r.person] = r
    truths = {person: next((r.truth for r in results if r.person == person and SYNTHESISED in r.truth), {}) for person in people}
    rows = [[TRUTH, "", *(cell for person in people for cell in _short(truths[person])), ""]]
    for by in groups.values():
        titles, some = list(dict.fromkeys(r.title for r in by.values())), next(iter(by.values()))
        name = titles[0] if len(titles) == 1 else ", ".join(part for part in (some.name, some.preset) if part)
        cells = [cell for person in people for cell in _short(by[person].made if person in by else {})]
        rows.append([name, "told" if some.told else "heard", *cells, shown(BY_KEY["fps"], some.costs.get("fps"))])
    return heads, rows


def _short(figures: dict[str, Figures]) -> list[str]:
    own = SYNTHESISED if SYNTHESISED in figures else PASTED
    pairs = (*((version, ("psnr", "lpips")) for version in (PLATE, SYNTHESISED, PASTED)), (own, ("lmd", "mouth")))
    return [_joined(figures, version, *keys) for version, keys in pairs]


def _joined(figures: dict[str, Figures], version: str, *keys: str) -> str:
    values = [shown(BY_KEY[k], v) for k in keys if (v := figures.get(version, {}).get(k)) is not None]
    return " / ".join(values)


SUMMARY = (
    "method, preset", "size", "synthesised, plate PSNR / SSIM / LPIPS", "synthesised, original", "pasted PSNR / LPIPS", "LMD px", "mouth r",
    "training", "model MB", "frames/s", "weights", "machine", "date",
)  # fmt: skip


def _summary(members: Sequence[Result]) -> list[list[str]]:
    protocol = members[0].protocol
    size = str(max(protocol.width, protocol.height))
    whole = next((r for r in members if SYNTHESISED in r.truth), members[0])
    rows = [[TRUTH, size, *_quality(whole.truth), *[""] * 6]]
    for r in members:
        minutes = r.costs.get("minutes")
        spent = "" if minutes is None else f"{60 * minutes:.0f} s" if minutes < 5 else f"{minutes:.1f} min"
        weighs, rate = (shown(BY_KEY[k], r.costs.get(k)) for k in ("megabytes", "fps"))
        rows.append([r.title, size, *_quality(r.made), spent, weighs, rate, r.weights, r.machine, r.date])
    return rows


def _quality(figures: dict[str, Figures]) -> list[str]:
    own = SYNTHESISED if SYNTHESISED in figures else PASTED
    looks = ("psnr", "ssim", "lpips")
    pairs = ((PLATE, looks), (SYNTHESISED, looks), (PASTED, ("psnr", "lpips")), (own, ("lmd",)), (own, ("mouth",)))
    return [_joined(figures, version, *keys) for version, keys in pairs]


def _cells(block: Block, row: Row, columns: Sequence[Column]) -> list[str]:
    cells = [row.title]
    for column in columns:
        text = shown(column, row.figures.get(column.key))
        best = block.best(column)
        cells.append(f"**{text}**" if text and row.result is not None and best is not None and text == shown(column, best) else text)
    return [*cells, " ".join(row.result.reads) if row.result else "", row.result.weights if row.result else ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def flat(results: Sequence[Result]) -> tuple[list[str], list[list[str | float | None]]]:
    """Heads and rows of the whole table, for csv and workbook: every column, blank or not."""
    heads = ["person", "version", "protocol", "method", "preset", "family", "weights", "reads", "lips"]
    heads += [c.title for c in (*FIGURES, *COSTS)] + ["machine", "date", "prepared"]
    rows = list[list[str | float | None]]()
    for block in blocks(results):
        for row in block.rows:
            r, numbers = row.result, [row.figures.get(c.key) for c in (*FIGURES, *COSTS)]
            name = [block.person, block.version, str(block.protocol), row.title if r is None else r.label]
            about, where = [""] * 5, [""] * 3
            if r is not None:
                about = [r.preset, r.family, r.weights, " ".join(r.reads), "told" if r.told else "heard"]
                where = [r.machine, r.date, r.prepared]
            rows.append([*name, *about, *numbers, *where])
    return heads, rows


def write(
    results: Sequence[Result], out: str | Path, apart: bool = False, pictures: bool = False, missed: Sequence[str] = ()
) -> list[Path]:
    """Write eval.csv, eval.md, eval.html, with openpyxl eval.xlsx, and with `pictures` a sheet for each person. Gives what was written.

    `missed`: a line about each who is not in the table.
    Raises InputError when protocols of one person differ and `apart` does not allow it, or when the disk says no.
    """
    if not apart:
        compare([(r.label, r.person, r.protocol) for r in results])
    out = Path(out)
    heads, rows = flat(results)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *[["" if v is None else v for v in row] for row in rows]])
    said = notes(results, missed)
    table = overview(results) if len({r.person for r in results}) > 1 else None
    made = {"eval.csv": text.getvalue(), "eval.md": markdown(results, said)}
    made["eval.html"] = page.page(blocks(results), results, said, None if table is None else (OVERVIEW, *table))
    remedy = "make room or choose another --out"
    for name, content in made.items():
        with written(out / name, remedy) as part:
            part.write_text(content, "utf-8", newline="")
    paths = [out / name for name in made]
    try:
        with written(out / "eval.xlsx", remedy) as part:
            part.write_bytes(workbook.workbook(heads, rows, blocks(results), said))
        paths.append(out / "eval.xlsx")
    except InputError as error:
        log.warning("eval.xlsx is left out: %s", error)
    return paths + (sheets(results, out) if pictures else [])
