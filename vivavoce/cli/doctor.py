"""vivavoce doctor."""

from __future__ import annotations

from dataclasses import dataclass

from vivavoce.cli.screen import grid, out, said


@dataclass
class Doctor:
    """What works on this machine and what to do about the rest."""


def do(o: Doctor) -> int:
    from vivavoce.doctor import examine

    findings = examine()
    table = grid("area", "", "finding", "what to do")
    for f in findings:
        table.add_row(f.area, said("ok", "green") if f.ok else said("no", "red"), f.text, f.remedy)
    out.print(table)
    return 0
