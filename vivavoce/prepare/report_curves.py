"""Curves of the report as SVG, written by hand: a few kilobytes each, no script, and drawn by every browser."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from vivavoce.types import FPS

Rows = NDArray[np.float64]

WIDTH, HEIGHT = 920, 150  # px of a plot with its labels
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22  # px around the curves
POINTS = 900  # of a curve at most: of more, the lowest and highest of each group are kept
COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea")


def thinned(values: Rows) -> tuple[Rows, Rows]:  # [T] -> positions [n], values [n]
    """A curve of so many points that looks like all of them."""
    count = len(values)
    places = np.arange(count, dtype=np.float64)
    group = -(-2 * count // POINTS)
    if group <= 2:
        return places, values
    keep: set[int] = set()
    for first in range(0, count, group):
        part = values[first : first + group]
        if np.isfinite(part).any():
            keep |= {first + int(np.nanargmin(part)), first + int(np.nanargmax(part))}
        else:
            keep.add(first)
    rows = np.array(sorted(keep))
    return places[rows], values[rows]


def path(x: Rows, y: Rows) -> str:  # [n] px each -> the `d` of an SVG path; gaps where y is NaN
    """Straight lines through the points that are known."""
    out, pen = [], False
    for a, b in zip(x.tolist(), y.tolist()):
        if not np.isfinite(b):
            pen = False
            continue
        out.append(f"{'L' if pen else 'M'}{a:.1f} {b:.1f}")
        pen = True
    return "".join(out)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values."""
    span = max(high - low, 1e-9)
    step = 10 ** np.floor(np.log10(span / most))
    step *= next(f for f in (1, 2, 5, 10) if span / (step * f) <= most)
    return [float(v) + 0.0 for v in np.arange(np.ceil(low / step) * step, high + step * 1e-6, step)]


def plot(
    curves: dict[str, Rows],
    label: str,
    limits: tuple[float, float],
    start: float = 0.0,
    spacing: float = 1 / FPS,
    across: str = "s",
    shaded: Sequence[tuple[float, float]] = (),
    marks: Sequence[float] = (),
) -> str:
    """Curves over one axis.

    Args:
        curves: name -> [T]; NaN is a gap. label: of the vertical axis, with its unit. limits: lowest and highest value shown.
        start, spacing: of the horizontal axis, in the unit `across`. shaded: stretches of it, in grey. marks: upright lines.
    """
    count = max(len(v) for v in curves.values())
    low, high = limits
    end = start + max(count - 1, 1) * spacing

    def right(value: float) -> float:
        return LEFT + (value - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return TOP + (high - value) / max(high - low, 1e-9) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for a, b in shaded:
        parts.append(
            f'<rect class="out" x="{right(a):.1f}" y="{TOP}" width="{max(right(b) - right(a), 1):.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        )
    for value in ticks(low, high, 4):
        parts.append(f'<path class="grid" d="M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{down(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in (v for v in ticks(start, end, 10) if right(v) < WIDTH - RIGHT - 30):
        parts.append(f'<text x="{right(value):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(across)}</text>')
    for mark in marks:
        parts.append(f'<path class="mark" d="M{right(mark):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        places, kept = thinned(np.clip(values, low, high))
        x = LEFT + places * spacing / (end - start) * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - kept) / max(high - low, 1e-9) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<path class="curve" stroke="{colour}" d="{path(x, y)}"><title>{escape(name)}</title></path>')
    parts.append("</svg>")
    names = " ".join(f'<span style="color:{c}">&#9644; {escape(n)}</span>' for n, c in zip(curves, COLOURS, strict=False))
    return f"<figure>{''.join(parts)}<figcaption>{escape(label)} &nbsp; {names}</figcaption></figure>"
