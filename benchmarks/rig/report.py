"""What a benchmark prints: a table for people on standard error, one JSON document on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from attrs import asdict, frozen


@frozen(kw_only=True)
class Figure:
    """One line.

    Attributes
    ----------
    name, unit
        What was measured.
    value
        The measurement.
    least, most
        What it must reach, and what it must stay below.
    """

    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def missed(self) -> bool:
        """Whether a limit is not kept."""
        return (self.least is not None and self.value < self.least) or (
            self.most is not None and self.value >= self.most
        )

    @property
    def limit(self) -> str:
        """The limit, as it is shown."""
        if self.least is not None:
            return f"≥ {self.least:,.4g}"
        return "" if self.most is None else f"< {self.most:,.4g}"


def report(title: str, figures: Sequence[Figure], **details: Any) -> int:
    """Print everything, and return the exit status: 1 if a limit is not kept."""
    print(title, file=sys.stderr)
    for figure in figures:
        said = "  missed" if figure.missed else ""
        print(f"  {figure.name:58} {figure.value:10,.4g} {figure.unit:5} {figure.limit:>12}{said}", file=sys.stderr)
    document = {"title": title, "figures": [{**asdict(figure), "missed": figure.missed} for figure in figures]}
    print(json.dumps({**document, **details}, ensure_ascii=False))
    return int(any(figure.missed for figure in figures))
