"""A table with what it depends on, for people on standard error and, if wanted, as a Markdown file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from attrs import field, frozen

from rig import machine


def _command() -> str:
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_shown(sys.argv[1:])])


def _shown(words: Sequence[str]) -> list[str]:
    """The arguments but ``--write FILE``, which says nothing of the figures."""
    if "--write" not in words:
        return list(words)
    place = words.index("--write")
    return [*words[:place], *words[place + 2 :]]


@frozen(kw_only=True)
class Sheet:
    """One table.

    Attributes
    ----------
    title
        What was measured.
    columns, rows
        Of the table.
    notes
        Sentences below it.
    device
        What ran, but for the CPU.
    busy
        How many processors other programs kept busy when the first run began.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(factory=list)
    notes: list[str] = field(factory=list)
    device: str = "cpu"
    busy: float = field(factory=machine.busy)

    def markdown(self) -> str:
        """The table as Markdown, between what it depends on and the notes."""
        facts = [f"`{_command()}`, {datetime.now(UTC):%Y-%m-%d}", machine.described(), machine.versions()]
        if self.device != "cpu":
            facts.insert(1, machine.card(self.device))
        told = [f"# {self.title}", "", f"{'. '.join(facts)}."]
        if self.busy > machine.BUSY:
            told += ["", f"Other programs kept {self.busy:.1f} processors busy: of times, only ratios mean something."]
        told += ["", _row(self.columns), _row(["---", *["---:"] * (len(self.columns) - 1)])]
        told += [_row(row) for row in self.rows]
        told += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(told) + "\n"

    def show(self, path: Path | None = None) -> None:
        """Print it, and write it to `path`."""
        print(self.markdown(), file=sys.stderr)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.markdown(), encoding="utf-8")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int = 3) -> str:
    """A number for a cell, to so many significant digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
