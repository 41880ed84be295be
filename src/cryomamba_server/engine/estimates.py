"""When waiting jobs will start, judged by what running jobs say and by how long such jobs took before."""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Iterable, Mapping
from datetime import datetime

import sqlalchemy as sa
from attrs import frozen

from cryomamba_core.events import Progress
from cryomamba_core.jobs import JobState
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.queue import Waiting, fair_order, read_queue
from cryomamba_server.engine.records import job_event, now
from cryomamba_server.engine.schema import events, jobs

#: How many completed jobs say how fast jobs are.
HISTORY = 100
#: Seconds for which an estimate is good enough: it costs a look at every waiting job.
GOOD_FOR = 1.0

ACTIVE = tuple(state.value for state in JobState if state.active)

#: Runner and model.
Kind = tuple[str, str]


@frozen(kw_only=True)
class Outlook:
    """What is expected at some moment; what is not known is left out.

    Attributes
    ----------
    paces
        Kind of job → seconds for each voxel.
    remaining
        For each active job, seconds to its end, or None.
    waiting, served
        As for `fair_order`.
    durations
        Waiting job → seconds that it will take.
    """

    paces: Mapping[Kind, float]
    remaining: tuple[float | None, ...]
    waiting: tuple[Waiting, ...]
    served: Mapping[str, int]
    durations: Mapping[str, float]

    def starts(self, slots: int, *, newcomer: str | None = None) -> dict[str, float | None]:
        """Waiting job → seconds to its start, or None; the job of a `newcomer`, an owner, has the empty id."""
        waiting = list(self.waiting)
        if newcomer is not None:
            last = max((job.order for job in waiting), default=0) + 1
            waiting.append(Waiting(job_id="", owner=newcomer, order=last))
        order = [job.job_id for job in fair_order(waiting, self.served)]
        found = start_times(slots, self.remaining, [self.durations.get(job_id) for job_id in order])
        return dict(zip(order, found, strict=True))


class Estimates:
    """Estimates from the job store. All methods block, in the store's thread.

    Parameters
    ----------
    database
        The job store's.
    slots
        How many jobs run at a time.
    """

    def __init__(self, database: Database, *, slots: int) -> None:
        self._database = database
        self._slots = slots
        self._starts: dict[str, float | None] = {}
        self._made_at = -math.inf

    def starts(self, wanted: Iterable[str]) -> dict[str, float | None]:
        """Waiting job → seconds to its start, None if that is not known, at least for those that are `wanted`."""
        if time.monotonic() - self._made_at > GOOD_FOR or not self._starts.keys() >= set(wanted):
            self._starts = self._look().starts(self._slots)
            self._made_at = time.monotonic()
        return self._starts

    def newcomer(self, owner: str, *, runner: str, model: str, voxels: int) -> tuple[float | None, float | None]:
        """Of a job that `owner` would queue now, seconds to its start, and seconds that it would take."""
        outlook = self._look()
        pace = outlook.paces.get((runner, model))
        start = outlook.starts(self._slots, newcomer=owner).get("")
        return start, None if pace is None else pace * voxels

    def _look(self) -> Outlook:
        with self._database.reading() as connection:
            waiting, served = read_queue(connection)
            done = connection.execute(_COMPLETED).mappings().all()
            active = connection.execute(_RUNNING).mappings().all()
            queued = connection.execute(_QUEUED).mappings().all() if waiting else ()
        paces = _paces(done)
        return Outlook(
            paces=paces,
            remaining=tuple(_remaining(row, paces) for row in active),
            waiting=tuple(waiting),
            served=served,
            durations={row["id"]: paces[_kind(row)] * _voxels(row) for row in queued if _kind(row) in paces},
        )


def start_times(slots: int, remaining: Iterable[float | None], durations: Iterable[float | None]) -> list[float | None]:
    """When waiting jobs start if each takes the first slot that becomes free.

    Parameters
    ----------
    slots
        How many jobs run at a time.
    remaining
        For each active job, seconds to its end, None if that is not known.
    durations
        For each waiting job, in the order of their turns, seconds that it will take, or None.

    Returns
    -------
    starts
        For each waiting job, seconds to its start, None if that is not known.
    """
    ends = [math.inf if each is None else max(0.0, each) for each in remaining]
    free = sorted(ends + [0.0] * (slots - len(ends)))
    surplus = len(free) - slots  # more jobs than slots: the settings have changed, so those that end first free none
    free = free[surplus:] if surplus > 0 else free
    starts: list[float | None] = []
    for duration in durations:
        if not free:
            starts.append(None)
            continue
        start = heapq.heappop(free)
        starts.append(None if math.isinf(start) else start)
        heapq.heappush(free, math.inf if duration is None else start + duration)
    return starts


_COMPLETED = (
    sa.select(jobs.c.config, jobs.c.grid, jobs.c.started_at, jobs.c.finished_at)
    .where(jobs.c.state == JobState.COMPLETED.value)
    .order_by(jobs.c.id.desc())
    .limit(HISTORY)
)
_RUNNING = (
    sa.select(jobs.c.config, jobs.c.grid, jobs.c.started_at, events.c.body)
    .outerjoin(
        events,
        sa.and_(events.c.job_id == jobs.c.id, events.c.type == Progress.type, events.c.attempt == jobs.c.attempt),
    )
    .where(jobs.c.state.in_(ACTIVE))
)
_QUEUED = sa.select(jobs.c.id, jobs.c.config, jobs.c.grid).where(jobs.c.state == JobState.QUEUED.value)


def _paces(done: Iterable[sa.RowMapping]) -> dict[Kind, float]:
    seconds: dict[Kind, float] = {}
    voxels: dict[Kind, int] = {}
    for row in done:
        kind = _kind(row)
        taken = datetime.fromisoformat(row["finished_at"]) - datetime.fromisoformat(row["started_at"])
        seconds[kind] = seconds.get(kind, 0.0) + taken.total_seconds()
        voxels[kind] = voxels.get(kind, 0) + _voxels(row)
    return {kind: seconds[kind] / voxels[kind] for kind in seconds}


def _remaining(row: sa.RowMapping, paces: Mapping[Kind, float]) -> float | None:
    """Seconds to the end of an active job: as it says itself, or else as such jobs took before."""
    if row["body"] is not None:
        report = job_event(row)
        assert isinstance(report, Progress)
        if report.progress.eta_seconds is not None:
            return max(0.0, report.progress.eta_seconds - (now() - report.at).total_seconds())
    pace = paces.get(_kind(row))
    if pace is None:
        return None
    elapsed = (now() - datetime.fromisoformat(row["started_at"])).total_seconds()
    return max(0.0, pace * _voxels(row) - elapsed)


def _kind(row: sa.RowMapping) -> Kind:
    config = json.loads(row["config"])
    return config["runner"], config["model"]


def _voxels(row: sa.RowMapping) -> int:
    return math.prod(json.loads(row["grid"])["shape"])
