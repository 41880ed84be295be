"""Tables as all commands draw them: quiet, without lines, and whole when they go to a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from cryomamba_core.jobs import JobState

STATE_STYLES = {
    "completed": "green",
    "failed": "bold red",
    "refused": "bold red",
    "canceled": "yellow",
    "running": "cyan",
    "previewing": "cyan",
    "fetching": "cyan",
    "joining": "cyan",
    "stopping": "yellow",
    "unknown": "yellow",
    "uploading": "cyan",
    "queued": "dim",
    "waiting": "dim",
}


def new_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in `right` hold numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def new_form() -> Table:
    """An empty table of names and values."""
    from rich.table import Table

    form = Table.grid(padding=(0, 2))
    form.add_column(style="dim", no_wrap=True)
    form.add_column(overflow="fold")
    return form


def state_text(state: JobState | str) -> Text:
    """A state in its colour."""
    from rich.text import Text

    return Text(str(state), style=STATE_STYLES.get(str(state), ""))
