"""Tables that are read off the code, so that they cannot contradict it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from rows_from_code import TABLES
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def setup(app: Sphinx) -> dict[str, Any]:
    """Add one directive for each table."""
    for name, rows in TABLES.items():
        app.add_directive(name, type("Table", (_Table,), {"rows": staticmethod(rows)}))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _Table(SphinxDirective):
    @staticmethod
    def rows() -> Iterable[Sequence[str]]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Build the table; cells are reStructuredText of one line."""
        head, *body = self.rows()
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
        group += nodes.thead("", self._row(head))
        group += nodes.tbody("", *(self._row(row) for row in body))
        return [nodes.table("", group)]

    def _row(self, cells: Sequence[str]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            row += nodes.entry("", self._paragraph(cell))
        return row

    def _paragraph(self, text: str) -> nodes.paragraph:
        paragraph = nodes.paragraph()
        for piece in re.split(r"(``.+?``|`[\w.]+`)", text):
            bare = piece.strip("`")
            paragraph += nodes.literal("", bare) if piece.startswith("`") else nodes.Text(bare)
        return paragraph
