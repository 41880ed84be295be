"""Where queued jobs stand: asked for now and then, for all of them together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from cryomamba_core.jobs import JobState

if TYPE_CHECKING:
    from cryomamba_core.cli.boards import Board
    from cryomamba_core.cli.rows import Row
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobRecord

log = logging.getLogger(__name__)

#: Seconds between two questions: a server allows one request a second for everything.
INTERVAL = 20.0
#: Jobs in one answer at most, and those more than our own that may have come in between.
MOST, OTHERS = 500, 20


async def keep_places(session: Session, rows: Sequence[Row], board: Board) -> None:
    """Tell rows of queued jobs how many jobs run first, and when they may start, until cancelled."""
    while True:
        await trio.sleep(INTERVAL)
        waiting = {row.job_id: row for row in rows if row.job_id and row.state == JobState.QUEUED}
        if not waiting:
            continue
        try:
            records = await _records(session, rows, min(waiting), alone=len(waiting) == 1)
        except Exception as error:  # noqa: BLE001  # it is a convenience: the jobs are followed all the same
            log.debug("the queue cannot be seen: %s", error)
            continue
        for record in records:
            row = waiting.get(record.id)
            if row is not None and row.state == record.state == JobState.QUEUED:
                row.take_place(record)
                board.changed(row)


async def _records(session: Session, rows: Sequence[Row], first: str, *, alone: bool) -> Sequence[JobRecord]:
    """Records of the jobs from the one with the id `first` on, which sorts by time, by one request."""
    if alone:
        return [await session.job(first)]
    ours = sum(row.job_id >= first for row in rows if row.job_id)
    return await session.jobs(limit=min(MOST, ours + OTHERS))
