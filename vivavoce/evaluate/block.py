"""Results side by side: blocks of rows that compare, one a person, protocol and version, the ground truth first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vivavoce.evaluate.columns import COSTS, FIGURES, VERSIONS, Column
from vivavoce.evaluate.result import Figures, Result
from vivavoce.evaluate.subject import Protocol

TRUTH = "ground truth"
LIPS = frozenset({"lmd", "m_lmd", "f_lmd", "lvd", "mouth", "blendshapes"})  # who is told the lips has no merit in these


@dataclass(frozen=True)
class Row:
    """One line of a block."""

    title: str
    figures: Figures  # of every column
    result: Result | None  # None: the ground truth


@dataclass(frozen=True)
class Block:
    """Rows that compare: one person, one protocol, one version."""

    person: str
    protocol: Protocol
    version: str
    rows: list[Row]

    def columns(self) -> list[Column]:
        """Those in which somebody has a figure."""
        return [c for c in (*FIGURES, *COSTS) if any(r.figures.get(c.key) is not None for r in self.rows)]

    def best(self, column: Column) -> float | None:
        """The best figure among the methods that compare, None where there is no better or nothing to choose from."""
        results = [r.result for r in self.rows if r.result is not None]
        heard = column.key in LIPS and not all(r.told for r in results)
        having = [r for r in self.rows if r.result is not None and not (heard and r.result.told)]
        values = [v for r in having if (v := r.figures.get(column.key)) is not None]
        return (max if column.better > 0 else min)(values) if column.better and len(values) > 1 else None


def blocks(results: Sequence[Result]) -> list[Block]:
    """Rows grouped so that those of a block compare."""
    groups: dict[tuple[str, Protocol], list[Result]] = {}
    for result in results:
        groups.setdefault((result.person, result.protocol), []).append(result)
    out = []
    for (person, protocol), members in groups.items():
        for version in VERSIONS:
            having = [r for r in members if version in r.made]
            if having:
                n: Figures = {"frames": float(protocol.count)}
                rows = [Row(TRUTH, {**having[0].truth[version], **n}, None)]
                rows += [Row(r.title, {**r.made[version], **r.costs, **n}, r) for r in having]
                out.append(Block(person, protocol, version, rows))
    return out
