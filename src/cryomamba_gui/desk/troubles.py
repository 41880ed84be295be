"""What went wrong, to be shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import field, frozen
from psygnal import EmitLoopError, Signal

from cryomamba_core.errors import ErrorInfo
from cryomamba_gui.desk.words import all_errors, details_of

if TYPE_CHECKING:
    from cryomamba_gui.desk.journal import Journal

#: Troubles that are kept.
MOST = 200


@frozen(kw_only=True, eq=False)
class Trouble:
    """Something that went wrong.

    Attributes
    ----------
    error
        What, and what one can do about it.
    what
        What was being attempted, as a clause, e.g. ``sending a.mrc``.
    at
        When (UTC).
    details
        Where it came from, for whoever is to mend it; without secrets.
    """

    error: ErrorInfo
    what: str
    at: datetime = field(factory=lambda: datetime.now(UTC))
    details: str = field(default="", repr=False)


class Troubles:
    """All of them, the newest last.

    Parameters
    ----------
    journal
        Hears of each.
    """

    #: There is one more.
    raised = Signal(Trouble)
    #: There are others than before.
    changed = Signal()

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._kept: deque[Trouble] = deque(maxlen=MOST)

    @property
    def items(self) -> tuple[Trouble, ...]:
        """Those that were not dismissed, the newest last."""
        return tuple(self._kept)

    def report(self, error: BaseException | ErrorInfo, *, what: str) -> Trouble:
        """Take in an error that was met while `what` was attempted; never raises."""
        if isinstance(error, EmitLoopError) and error.__cause__ is not None:
            error = error.__cause__  # what a listener raised, not that it is one
        if isinstance(error, ErrorInfo):
            trouble = Trouble(error=error, what=what)
        else:
            trouble = Trouble(error=ErrorInfo.of(error), what=what, details=details_of(error))
        self._kept.append(trouble)
        self._journal.note("error", f"{what}: [{trouble.error.code}] {trouble.error.message}")
        try:
            self.raised.emit(trouble)
            self.changed.emit()
        except EmitLoopError as failure:
            self._journal.note("error", f"a trouble cannot be shown: {failure.__cause__!r}")
        return trouble

    @contextmanager
    def catching(self, what: str) -> Iterator[None]:
        """Take in what the block raises, errors of a group one by one; cancellations go on."""
        errors: list[Exception] = []
        try:
            with all_errors() as errors:
                yield
        finally:
            for error in errors:
                self.report(error, what=what)

    def dismiss(self, trouble: Trouble) -> None:
        """Keep it no longer."""
        if trouble in self._kept:
            self._kept.remove(trouble)
            self.changed.emit()

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self.changed.emit()
