"""Progress on the screen: a live table on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import trio

from cryomamba_core.cli import wording
from cryomamba_core.cli.tables import STATE_STYLES, state_text
from cryomamba_core.jobs import JobState

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from cryomamba_core.cli.rows import Row

#: Seconds between two drawings of the live table.
REFRESH = 0.125
#: A plain line is written each time that this part of a job is done.
STEP = 0.1
#: Lines of the terminal that are left to other things.
_MARGIN = 5
_BAR_WIDTH = 24


class Board(ABC):
    """Where rows are shown while they change."""

    @abstractmethod
    def changed(self, row: Row) -> None:
        """Something about `row` is different."""

    @abstractmethod
    def say(self, sentence: str) -> None:
        """Show a sentence that stays."""

    @abstractmethod
    async def tick(self) -> None:
        """Keep clocks running until cancelled."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027  # only a live table has to tidy up
        """Leave the screen tidy."""


@contextmanager
def open_board(console: Console, rows: Sequence[Row]) -> Iterator[Board]:
    """The board that fits the console."""
    board: Board = LiveBoard(console, rows) if console.is_terminal else LineBoard(console)
    with board:
        yield board


class LineBoard(Board):
    """For pipes and log files: a line when something happens, and at every tenth of a job."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[Row, tuple[str, int, int]] = {}

    def changed(self, row: Row) -> None:
        """Print what is worth a line."""
        state, step, shown = self._told.get(row, ("waiting", -1, -1))
        new_step, covered = int(row.fraction / STEP + 1e-9), int(row.covered / STEP + 1e-9)
        if row.state != state:
            if row.state != JobState.PREVIEWING:
                self._line(row, self._state(row))
            if not row.active:
                new_step = covered = -1
        elif row.active and row.progress is not None and new_step > step:
            left = f", {wording.duration(row.seconds_left)} left" if row.seconds_left is not None else ""
            self._line(row, f"{wording.percent(row.fraction)}, {row.stage}{left}")
        else:
            new_step = step
        if row.active and row.preview and covered > shown:
            self._line(row, row.preview_text)
        else:
            covered = shown
        self._told[row] = (row.state, new_step, covered)

    def say(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(sentence)

    async def tick(self) -> None:
        """Nothing moves between two lines."""
        await trio.sleep_forever()

    def _line(self, row: Row, what: str) -> None:
        self._console.print(f"{row.name}: {what}")

    def _state(self, row: Row) -> str:
        if row.error is not None:
            return f"{row.state} [{row.error.code}]"
        if row.state == JobState.QUEUED:
            return f"queued as job {row.job_id}"
        if row.state == JobState.COMPLETED:
            return f"completed in {wording.duration(row.seconds)}" + (f", {row.result}" if row.result else "")
        return row.state


class LiveBoard(Board):
    """For terminals: one line for each file, those that move first."""

    def __init__(self, console: Console, rows: Sequence[Row]) -> None:
        from rich.live import Live

        self._console = console
        self._rows = rows
        self._live = Live(
            console=console, auto_refresh=False, transient=True, get_renderable=self._table, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, row: Row) -> None:
        """The next tick draws it."""

    def say(self, sentence: str) -> None:
        """Print above the table."""
        self._console.print(sentence)

    async def tick(self) -> None:
        """Draw the table a few times a second."""
        while True:
            self._live.refresh()
            await trio.sleep(REFRESH)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        shown, hidden = choose_rows(self._rows, max(1, self._console.size.height - _MARGIN))
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for row in shown:
            table.add_row(Text(row.name, overflow="ellipsis"), state_text(row.state), _rest(row))
        whole = Table.grid()
        whole.add_row(table)
        if hidden:
            whole.add_row(Text(f"… and {wording.plural(hidden, 'more file')}", style="dim"))
        if len(self._rows) > 1:
            whole.add_row(_tally(self._rows))
        return whole


def choose_rows(rows: Sequence[Row], room: int) -> tuple[list[Row], int]:
    """The rows that fit, in their own order, and how many are left out.

    What moves comes first, then what failed, what is next, and what ended last.
    """
    if len(rows) <= room:
        return list(rows), 0
    numbered = list(enumerate(rows))

    def weight(entry: tuple[int, Row]) -> tuple[int, int]:
        index, row = entry
        if row.active:
            return 0, index
        if row.error is not None:
            return 1, -index
        return (3, -index) if row.ended else (2, index)

    kept = sorted(sorted(numbered, key=weight)[:room], key=lambda entry: entry[0])
    return [row for _, row in kept], len(rows) - len(kept)


def _rest(row: Row) -> RenderableType:
    """What stands beside name and state."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if row.error is not None:
        return Text(row.error.message, style="red", overflow="ellipsis")
    if row.state == JobState.COMPLETED:
        return Text(f"{wording.duration(row.seconds)}  {row.result}", style="dim", overflow="ellipsis")
    if not row.active:
        return Text(row.stage, style="dim")
    words = Text(row.stage, overflow="ellipsis")
    if row.seconds_left is not None:
        words.append(f"  {wording.duration(row.seconds_left)} left", style="cyan")
    if row.preview_text:
        words.append(f"  {row.preview_text}", style="dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=_BAR_WIDTH)
    grid.add_column(width=len("100 %"), justify="right")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(
        total=1.0, completed=row.fraction, width=_BAR_WIDTH, complete_style="cyan", finished_style="green"
    )
    grid.add_row(bar, wording.percent(row.fraction), words)
    return grid


def _tally(rows: Sequence[Row]) -> Text:
    from rich.text import Text

    counts: dict[str, int] = {}
    for row in rows:
        group = row.state if row.ended else "under way" if row.active else "waiting"
        counts[group] = counts.get(group, 0) + 1
    order = ("completed", "failed", "refused", "canceled", "under way", "waiting")
    text = Text()
    for group in order:
        if group in counts:
            text.append(" · " if text else "", style="dim")
            text.append(f"{counts[group]:,} {group}", style=STATE_STYLES.get(group, "dim"))
    return text
