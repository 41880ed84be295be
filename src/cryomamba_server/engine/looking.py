"""What an engine sees of a worker: its job directory, its silence, its last words."""

from __future__ import annotations

from pathlib import Path

import trio
from attrs import frozen

from cryomamba_core.events import JobEvent
from cryomamba_core.job_directory import JobDirectory

#: Seconds that a worker has from the order to cancel, or from its last event, to its end.
CANCEL_GRACE = 15.0
#: How much of ``worker.log`` is quoted when a worker has died: lines, and characters.
LAST_LINES, LAST_CHARACTERS = 3, 400


@frozen(kw_only=True)
class Look:
    """What a job directory says: new events, where the next begin, the last beat (s), and the order."""

    events: tuple[JobEvent, ...]
    offset: int
    beat: float | None
    cancel_ordered: bool


def look_into(directory: JobDirectory, offset: int) -> Look:
    """Read what is new in a job directory: its events from byte `offset` on. Blocks."""
    events = list(directory.events(offset))
    return Look(
        events=tuple(event for event, _ in events),
        offset=events[-1][1] if events else offset,
        beat=directory.last_beat(),
        cancel_ordered=directory.cancel_ordered,
    )


class Patience:
    """Measures by the monotonic clock how long a worker is silent, or late to end.

    The heartbeat's own time only shows that it beat again: a clock that is set, or a computer that
    slept, makes no worker stale.
    """

    def __init__(self, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._beat: float | None = None
        self._beaten_at = trio.current_time()
        self._ordered_at: float | None = None

    def lost(self, look: Look, *, ordered: bool) -> str:
        """Why the worker is to be ended by force; empty while it is not."""
        now = trio.current_time()
        if look.beat != self._beat or look.events:
            self._beat, self._beaten_at = look.beat, now
        if ordered and self._ordered_at is None:
            self._ordered_at = now
        if now - self._beaten_at > self._stale_seconds:
            return f"it gave no sign of life for {self._stale_seconds:g} s"
        if self._ordered_at is not None and now - self._ordered_at > CANCEL_GRACE:
            return f"it did not end within {CANCEL_GRACE:g} s"
        return ""

    def excuse(self, seconds: float) -> None:
        """Leave out a time in which nobody could look."""
        self._beaten_at += seconds
        if self._ordered_at is not None:
            self._ordered_at += seconds


def last_words(path: Path) -> str:
    """The last lines of a log, in one line; empty if there are none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4 * LAST_CHARACTERS))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:]
