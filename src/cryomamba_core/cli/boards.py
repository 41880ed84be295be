"""Progress on the screen: a live table on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import trio
from attrs import define

from cryomamba_core import wording
from cryomamba_core.cli.tables import STATE_STYLES, state_text
from cryomamba_core.cli.waits import Wait
from cryomamba_core.jobs import JobState

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from cryomamba_core.cli.rows import Row
    from cryomamba_core.errors import ErrorInfo
    from cryomamba_core.interfaces import Session

#: Seconds between two drawings of the live table.
REFRESH = 0.125
#: A plain line is written each time that this part of a job is done.
STEP = 0.1
#: Seconds between two looks of a board of lines for an engine that has gone silent.
LOOK = 0.5
#: Lines of the terminal that are left to other things.
_MARGIN = 6
#: Columns between two columns of the table, and the most that names take of its width.
_GAP, _NAMES = 2, 0.4
#: Room beside name and state → width of the bar: words come first.
_BARS = ((90, 24), (60, 12))


class Board(ABC):
    """Where rows are shown while they change."""

    def __init__(self) -> None:
        self.wait = Wait()

    def waiting(self, why: ErrorInfo | None) -> None:
        """Take over what a session says of its engine."""
        self.wait.take(why)

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


def board_for(console: Console, rows: Sequence[Row]) -> Board:
    """The board that fits the console."""
    return LiveBoard(console, rows) if console.is_terminal else LineBoard(console)


@contextmanager
def open_board(console: Console, rows: Sequence[Row], session: Session) -> Iterator[Board]:
    """The board that fits the console; it also shows when the engine of `session` is waited for."""
    board = board_for(console, rows)
    session.on_waiting = board.waiting
    with board:
        yield board


@define
class _Told:
    """What a board of lines has printed of a row: steps are tenths of the job and of the volume."""

    state: str = "waiting"
    step: int = -1
    covered: int = -1
    note: str = ""
    placed: bool = False
    next: bool = False


class LineBoard(Board):
    """For pipes and log files: a line when something happens, and at every tenth of a job."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._told: dict[Row, _Told] = {}
        self._told_silence = False
        self._told_restraint = False

    def changed(self, row: Row) -> None:
        """Print what is worth a line."""
        told = self._told.setdefault(row, _Told())
        step, covered = int(row.fraction / STEP + 1e-9), int(row.covered / STEP + 1e-9)
        if row.state != told.state:
            if row.state != JobState.PREVIEWING:
                self._line(row, self._state(row))
            told.step, told.placed, told.next = step, False, False
            if not row.active:
                told.step = told.covered = -1
        elif row.active and row.progress is not None and step > told.step:
            left = f", {wording.duration(row.seconds_left)} left" if row.seconds_left is not None else ""
            self._line(row, f"{wording.percent(row.fraction)}, {row.stage}{left}")
            told.step = step
        if row.note and row.note != told.note:
            self._line(row, row.note)
        if row.active and row.preview and covered > told.covered:
            self._line(row, row.preview_text)
            told.covered = covered
        self._tell_place(row, told)
        told.state, told.note = row.state, row.note

    def waiting(self, why: ErrorInfo | None) -> None:
        """Say that the engine is there again, if something else was said."""
        super().waiting(why)
        if self._told_silence and not self.wait.silent:
            self._told_silence = False
            self.say("the server answers again")

    def say(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(sentence)

    async def tick(self) -> None:
        """Nothing moves between two lines, but an engine may be silent for too long."""
        while True:
            await trio.sleep(LOOK)
            if self.wait.silent and not self._told_silence:
                self._told_silence = True
                self.say(self.wait.words)
            elif self.wait.noticed and not self.wait.silent and not self._told_restraint:
                self._told_restraint = True  # it may come and go: once is enough
                self.say(self.wait.words)

    def _tell_place(self, row: Row, told: _Told) -> None:
        """Print where a row stands in the queue, once, and again when it has become the next."""
        about_to_run = row.position == 0 and row.starts_in is None
        if not row.place or (about_to_run and not told.placed):
            return
        if not told.placed or (row.position == 0 and not told.next):
            self._line(row, row.place)
            told.placed, told.next = True, row.position == 0

    def _line(self, row: Row, what: str) -> None:
        self._console.print(wording.one_line(f"{row.name}: {what}"))

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

        super().__init__()
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
        names = [Text(wording.one_line(row.name), overflow="ellipsis") for row in shown]
        longest = max((name.cell_len for name in names), default=0)
        # half a name is of no use to anybody, so a state keeps its room and a name what it needs, within reason
        name_width = min(longest, max(12, int(self._console.width * _NAMES)))
        state_width = max((len(row.state) for row in shown), default=0)
        room = max(1, self._console.width - name_width - state_width - 2 * _GAP)
        table = Table.grid(padding=(0, _GAP, 0, 0))
        for width in (name_width, state_width, room):
            table.add_column(no_wrap=True, overflow="ellipsis", width=width)
        for name, row in zip(names, shown, strict=True):
            table.add_row(name, state_text(row.state), _rest(row, self.wait, room))
        whole = Table.grid()
        whole.add_row(table)
        if hidden:
            whole.add_row(Text(f"… and {wording.plural(hidden, 'more file')}", style="dim"))
        if len(self._rows) > 1:
            whole.add_row(_tally(self._rows))
        if self.wait.noticed and not self.wait.silent:
            whole.add_row(Text(self.wait.timed_words, style="yellow"))
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


def _rest(row: Row, wait: Wait, room: int) -> RenderableType:
    """What stands beside name and state, in so many columns."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if row.error is not None:
        return Text(wording.one_line(row.error.message), style="red", overflow="ellipsis")
    if row.state == JobState.COMPLETED:
        said = wording.one_line(f"{wording.duration(row.seconds)}  {row.result}")
        return Text(said, style="dim", overflow="ellipsis")
    if wait.silent and not row.ended and row.state != "waiting":
        return Text(wording.one_line(wait.timed_words), style="yellow", overflow="ellipsis")
    if not row.active:
        return Text(row.stage, style="dim", overflow="ellipsis")
    words = Text(wording.one_line(row.stage), overflow="ellipsis")
    if row.seconds_left is not None:
        words.append(f"  {wording.duration(row.seconds_left)} left", style="cyan")
    for more in filter(None, (row.note, row.preview_text)):
        words.append(f"  {more}", style="dim")
    percent = f"{wording.percent(row.fraction):>5}"
    width = next((width for least, width in _BARS if room >= least), 0)
    if not width:
        return Text.assemble(percent, "  ", words, overflow="ellipsis")
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for column in (width, len(percent), room - width - len(percent) - 2 * _GAP):
        grid.add_column(no_wrap=True, overflow="ellipsis", width=column)
    bar = ProgressBar(total=1.0, completed=row.fraction, width=width, complete_style="cyan", finished_style="green")
    grid.add_row(bar, percent, words)
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
