"""Bytes on their way to the engine or back, as the progress display shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cryomamba_core.jobs import JobProgress
from cryomamba_core.rates import RateMeter

if TYPE_CHECKING:
    from cryomamba_core.cli.rows import Row

#: Seconds between two reports that are shown.
INTERVAL = 0.1
#: Bytes of the unit in which transfers are counted.
MB = 1_000_000


class Transfer:
    """Tells a row how far it is, how fast, and how long it will take.

    Parameters
    ----------
    row
        Of the file, or of a job's files together.
    stage
        What is done, e.g. ``uploading``.
    changed
        Called when the row says something else.
    after
        Seconds before which nothing is said: what is done by then needs no word.
    """

    def __init__(self, row: Row, stage: str, changed: Callable[[], None], *, after: float = 0.0) -> None:
        self._row = row
        self._stage = stage
        self._changed = changed
        self._meter = RateMeter(shortest=INTERVAL)
        self._from = time.monotonic() + after
        self._shown = -INTERVAL

    def report(self, done: int, total: int) -> None:
        """Take in how many bytes are done by now."""
        self._meter.add(done)
        now = time.monotonic()
        if now < self._from or (now - self._shown < INTERVAL and done < total):
            return
        self._shown = now
        rate = self._meter.rate
        self._row.rate = rate
        self._row.take_progress(
            JobProgress(
                stage=self._stage,
                done=done // MB,
                total=total // MB,
                unit="MB",
                fraction=done / total if total else 1.0,
                eta_seconds=(total - done) / rate if rate else None,
            )
        )
        self._changed()

    def end(self) -> None:
        """Clear the row for what comes next."""
        self._row.progress, self._row.rate, self._row.note = None, None, ""
