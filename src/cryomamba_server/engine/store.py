"""The job store: what must survive the process. Each method is one transaction.

All methods block. One thread at a time may use a store; several processes may use one database.
A change of an active job names the attempt that it speaks of and is dropped, returning None, if the
job has moved on: whoever comes late changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from attrs import evolve, frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import (
    ErrorInfo,
    IdempotencyConflict,
    IllegalTransition,
    TooManyJobs,
    UnknownJob,
    UnknownObject,
)
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.files import FileRecord
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import WorkerHandle
from cryomamba_core.jobs import JobRecord, JobState, check_transition
from cryomamba_core.wire import dump_json
from cryomamba_server.engine import records, removals
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.queue import Waiting, fair_order, helpful_slots, read_queue
from cryomamba_server.engine.records import StoredFile, Work
from cryomamba_server.engine.removals import Removal
from cryomamba_server.engine.schema import events, files, jobs

ACTIVE = tuple(state.value for state in JobState if state.active)

#: How many jobs of one owner may wait: more than anybody submits in a day, and few enough to be put in order at once.
MOST_QUEUED = 1000


@frozen(kw_only=True)
class News:
    """What a listener that has heard everything up to some number has still to hear.

    Attributes
    ----------
    events
        In order.
    ended
        Whether nothing follows them, unless the job is retried.
    """

    events: tuple[JobEvent, ...]
    ended: bool


class JobStore:
    """Jobs, their events and the files that were sent.

    Parameters
    ----------
    database
        Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    # What users ask for.

    def add_job(
        self,
        record: JobRecord,
        grid: VoxelGrid,
        source_name: str,
        *,
        source_root: str | None = None,
        idempotency_key: str | None = None,
        request_digest: str | None = None,
    ) -> JobRecord:
        """Queue a new job, or return the one that came with the same key; raises as `find_job`.

        Raises
        ------
        UnknownObject
            If the file that it names is not there, or not any more.
        TooManyJobs
            If `MOST_QUEUED` of its owner wait.
        """
        with self._writing() as connection:
            known = self._find(connection, record.owner, idempotency_key, request_digest)
            if known is not None:
                return known
            self._require_place(connection, record.owner)
            order = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(jobs.c.queue_order), 0))) or 0
            values = records.job_values(record, grid, source_name, source_root)
            values |= {
                "queue_order": order + 1,
                "idempotency_key": idempotency_key,
                "request_digest": request_digest,
                "last_seq": 1,
            }
            connection.execute(jobs.insert().values(values))
            file_id = record.config.source.file_id
            if file_id is not None:
                used = files.update().where(files.c.id == file_id, files.c.owner == record.owner)
                if not connection.execute(used.values(last_used_at=values["created_at"])).rowcount:
                    raise _unknown_file(file_id)  # it was removed while the job was looked at
            queued = StateChanged(seq=1, at=record.created_at, state=JobState.QUEUED, attempt=0)
            self._insert(connection, record.id, 0, queued)
            return self._record(connection, self._row(connection, record.id))

    def find_job(self, owner: str, idempotency_key: str, request_digest: str) -> JobRecord | None:
        """The job that came with a key; raises `IdempotencyConflict` if that was another request."""
        with self._reading() as connection:
            return self._find(connection, owner, idempotency_key, request_digest)

    def job(self, job_id: str, *, owner: str | None = None) -> JobRecord:
        """A record; raises `UnknownJob`, also for a job of another owner than the one named."""
        with self._reading() as connection:
            return self._record(connection, self._row(connection, job_id, owner))

    def jobs(self, *, owner: str | None = None, limit: int = 100, before: str | None = None) -> list[JobRecord]:
        """The newest jobs first, at most `limit`, only those older than the job `before`."""
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if before is not None:
            query = query.where(jobs.c.id < before)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
            queued = any(row["state"] == JobState.QUEUED for row in rows)
            positions = self._positions(connection) if queued else {}
            return [records.job_record(row, positions.get(row["id"])) for row in rows]

    def next_position(self, owner: str) -> int:
        """How many jobs would run before one that `owner` queues now."""
        with self._reading() as connection:
            waiting, served = read_queue(connection)
        last = max((job.order for job in waiting), default=0) + 1
        order = fair_order([*waiting, Waiting(job_id="", owner=owner, order=last)], served)
        return next(place for place, job in enumerate(order) if not job.job_id)

    def request_cancel(self, job_id: str, *, owner: str | None = None) -> tuple[JobRecord, bool]:
        """Cancel a queued job at once; note for an active one that it is to stop; leave an ended one.

        Returns
        -------
        record, canceled
            The job as it is now, and whether this call canceled it.
        """
        with self._writing() as connection:
            row = self._row(connection, job_id, owner)
            state = JobState(row["state"])
            if state is JobState.QUEUED:
                return self._cancel(connection, row), True
            if state.active:
                row = self._update(connection, job_id, cancel_requested=True)
            return self._record(connection, row), False

    def retry(self, job_id: str, *, owner: str | None = None) -> JobRecord:
        """Queue a failed or canceled job again, behind all others; raises `IllegalTransition` or `TooManyJobs`."""
        with self._writing() as connection:
            row = self._row(connection, job_id, owner)
            state = JobState(row["state"])
            if not state.ended:
                raise IllegalTransition(f"a job that is {state} cannot be retried", hint="wait for its end")
            self._require_place(connection, row["owner"])
            removals.forget(connection, Removal.WORK, job_id)
            order = connection.scalar(sa.select(sa.func.max(jobs.c.queue_order)))
            row = self._move(
                connection,
                row,
                JobState.QUEUED,
                StateChanged(
                    seq=0, at=records.now(), state=JobState.QUEUED, attempt=row["attempt"], reason="asked to retry"
                ),
                attempts_before=row["attempt"],
                queue_order=(order or 0) + 1,
                cancel_requested=False,
                progress=None,
                error=None,
                artifacts="[]",
                versions="{}",
                started_at=None,
                finished_at=None,
            )
            return self._record(connection, row)

    def events_behind(self, job_id: str, *, after: int, owner: str | None = None) -> News:
        """The events behind number `after`; raises `UnknownJob`."""
        query = sa.select(events).where(events.c.job_id == job_id, events.c.seq > after).order_by(events.c.seq)
        with self._reading() as connection:
            row = self._row(connection, job_id, owner)
            found = connection.execute(query).mappings().all() if row["last_seq"] > after else ()
        return News(events=tuple(map(records.job_event, found)), ended=JobState(row["state"]).ended)

    # What the scheduler does.

    def queued(self) -> bool:
        """Whether a job waits."""
        query = sa.select(jobs.c.id).where(jobs.c.state == JobState.QUEUED.value).limit(1)
        with self._reading() as connection:
            return connection.scalar(query) is not None

    def active(self) -> list[Work]:
        """Jobs that a worker should be at."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(jobs).where(jobs.c.state.in_(ACTIVE))).mappings().all()
            return [records.work(row) for row in rows]

    def claim(self, device: str, *, further: Sequence[str] = ()) -> Work | None:
        """Give the next queued job the slot `device`: it is running then, with a new attempt.

        One of several shards also gets those of `further`, free slots, that are of use to it.
        """
        with self._writing() as connection:
            waiting, served = read_queue(connection)
            order = fair_order(waiting, served)
            if not order:
                return None
            row = self._row(connection, order[0].job_id)
            slots = (device, *helpful_slots(device, further, shards=records.work(row).record.config.shards))
            attempt, at = row["attempt"] + 1, records.now()
            row = self._move(
                connection,
                row,
                JobState.RUNNING,
                StateChanged(seq=0, at=at, state=JobState.RUNNING, attempt=attempt),
                attempt=attempt,
                served=max(served.values(), default=0) + 1,
                device=records.SEPARATOR.join(slots),
                executor=None,
                token=None,
                worker_seq=0,
                progress=None,
                started_at=at.isoformat(),
            )
            return records.work(row)

    def set_handle(self, job_id: str, attempt: int, handle: WorkerHandle) -> Work | None:
        """Record the worker of an attempt."""
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            if row is None:
                return None
            row = self._update(connection, job_id, executor=handle.executor, token=handle.token)
            return records.work(row)

    def advance(self, job_id: str, attempt: int, heard: Sequence[JobEvent]) -> Work | None:
        """Take in progress and previews of an attempt's worker; what is known already is skipped.

        Of several progress reports only the newest is kept, and so for previews. The first preview
        of an attempt makes the job `JobState.PREVIEWING`.
        """
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            if row is None:
                return None
            fresh = [event for event in heard if event.seq > row["worker_seq"]]
            newest = {event.type: event.seq for event in fresh}
            for event in fresh:
                if not isinstance(event, Progress | PreviewReady) or newest[event.type] != event.seq:
                    continue
                if isinstance(event, PreviewReady) and row["state"] == JobState.RUNNING:
                    previewing = StateChanged(seq=0, at=event.at, state=JobState.PREVIEWING, attempt=attempt)
                    row = self._move(connection, row, JobState.PREVIEWING, previewing)
                row = self._replace(connection, row, event)
            if fresh:
                row = self._update(connection, job_id, worker_seq=fresh[-1].seq)
            return records.work(row)

    def complete(
        self, job_id: str, attempt: int, artifacts: Sequence[Artifact], versions: dict[str, str]
    ) -> JobRecord | None:
        """End an active job whose artifacts are durable; what only its worker needed is to be removed."""
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            if row is None:
                return None
            at = records.now()
            row = self._move(
                connection,
                row,
                JobState.COMPLETED,
                Completed(seq=0, at=at, artifacts=tuple(artifacts)),
                artifacts=f"[{','.join(dump_json(artifact) for artifact in artifacts)}]",
                versions=dump_json(versions),
                finished_at=at.isoformat(),
                **_NO_WORKER,
            )
            removals.note(connection, Removal.WORK, [job_id])
            return self._record(connection, row)

    def uncleared(self) -> list[str]:
        """Completed and canceled jobs of which there may still be something that only a worker needed."""
        with self._reading() as connection:
            return removals.noted(connection, Removal.WORK)

    def cleared(self, job_id: str) -> None:
        """Note that what only a worker needed is gone."""
        with self._writing() as connection:
            removals.forget(connection, Removal.WORK, job_id)

    def fail(self, job_id: str, attempt: int, error: ErrorInfo) -> JobRecord | None:
        """End an active job that could not do its work."""
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            return None if row is None else self._fail(connection, row, error)

    def cancel(self, job_id: str, attempt: int) -> JobRecord | None:
        """End an active job whose worker has stopped on order."""
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            return None if row is None else self._cancel(connection, row)

    def lose(self, job_id: str, attempt: int, error: ErrorInfo, *, max_attempts: int) -> JobRecord | None:
        """Deal with a lost worker.

        The job is canceled if that was asked for, fails if `max_attempts` workers are lost since a
        user queued it, and is else queued again at its old place.
        """
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            if row is None:
                return None
            if row["cancel_requested"]:
                return self._cancel(connection, row)
            if attempt - row["attempts_before"] >= max_attempts:
                return self._fail(connection, row, error)
            queued = StateChanged(seq=0, at=records.now(), state=JobState.QUEUED, attempt=attempt, reason=error.message)
            row = self._move(connection, row, JobState.QUEUED, queued, progress=None, started_at=None, **_NO_WORKER)
            return self._record(connection, row)

    def put_back(self, job_id: str, attempt: int, reason: str) -> JobRecord | None:
        """Queue an active job again, at its old place, for which no worker could be started.

        It does not count among its attempts. The job is canceled if that was asked for.
        """
        with self._writing() as connection:
            row = self._active_row(connection, job_id, attempt)
            if row is None:
                return None
            if row["cancel_requested"]:
                return self._cancel(connection, row)
            queued = StateChanged(seq=0, at=records.now(), state=JobState.QUEUED, attempt=attempt, reason=reason)
            values = {"attempts_before": row["attempts_before"] + 1, "progress": None, "started_at": None}
            return self._record(
                connection, self._move(connection, row, JobState.QUEUED, queued, **values, **_NO_WORKER)
            )

    # Files that were sent.

    def file(self, file_id: str, *, owner: str | None = None) -> StoredFile:
        """A file; raises `UnknownObject`, also for one that only other owners have sent."""
        query = sa.select(files).where(files.c.id == file_id)
        if owner is not None:
            query = query.where(files.c.owner == owner)
        with self._reading() as connection:
            row = connection.execute(query.limit(1)).mappings().first()
        if row is None:
            raise _unknown_file(file_id)
        return records.stored_file(row)

    def add_file(self, record: FileRecord, key: str, *, owner: str) -> FileRecord:
        """Note a file that the storage has; the same content of the same owner stays where it was noted first.

        It counts as used now, and the copy is removed unless somebody else has it.
        """
        with self._writing() as connection:
            same = sa.and_(files.c.id == record.id, files.c.owner == owner)
            row = connection.execute(sa.select(files).where(same)).mappings().first()
            if row is not None:
                connection.execute(files.update().where(same).values(last_used_at=records.now().isoformat()))
                if row["key"] != key:
                    removals.note(connection, Removal.CONTENT, [key])
                return records.stored_file(row).record
            values = {
                "id": record.id,
                "owner": owner,
                "name": record.name,
                "size": record.size,
                "sha256": record.sha256,
                "key": key,
                "created_at": record.created_at.isoformat(),
            }
            connection.execute(files.insert().values(values))
            return record

    def _row(self, connection: sa.Connection, job_id: str, owner: str | None = None) -> sa.RowMapping:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
        if row is None or (owner is not None and row["owner"] != owner):
            raise UnknownJob(f"no job has the id {job_id}", hint="see the list with: cryomamba jobs list")
        return row

    def _active_row(self, connection: sa.Connection, job_id: str, attempt: int) -> sa.RowMapping | None:
        row = self._row(connection, job_id)
        return row if row["state"] in ACTIVE and row["attempt"] == attempt else None

    def _require_place(self, connection: sa.Connection, owner: str) -> None:
        waiting = sa.select(sa.func.count()).where(jobs.c.owner == owner, jobs.c.state == JobState.QUEUED.value)
        if (connection.scalar(waiting) or 0) >= MOST_QUEUED:
            raise TooManyJobs(
                f"{MOST_QUEUED} of your jobs are waiting, and no more may",
                hint="wait until some have run, or cancel some",
            )

    def _find(
        self, connection: sa.Connection, owner: str, idempotency_key: str | None, request_digest: str | None
    ) -> JobRecord | None:
        if idempotency_key is None:
            return None
        query = sa.select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == idempotency_key)
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        if row["request_digest"] != request_digest:
            raise IdempotencyConflict(
                f"the idempotency key {idempotency_key!r} came with another request before",
                hint="use a new key for each new job",
            )
        return self._record(connection, row)

    def _record(self, connection: sa.Connection, row: sa.RowMapping) -> JobRecord:
        queued = row["state"] == JobState.QUEUED
        return records.job_record(row, self._positions(connection).get(row["id"]) if queued else None)

    def _positions(self, connection: sa.Connection) -> dict[str, int]:
        return {job.job_id: place for place, job in enumerate(fair_order(*read_queue(connection)))}

    def _fail(self, connection: sa.Connection, row: sa.RowMapping, error: ErrorInfo) -> JobRecord:
        at = records.now()
        failed = Failed(seq=0, at=at, error=error)
        values = {"error": dump_json(error), "finished_at": at.isoformat(), **_NO_WORKER}
        return self._record(connection, self._move(connection, row, JobState.FAILED, failed, **values))

    def _cancel(self, connection: sa.Connection, row: sa.RowMapping) -> JobRecord:
        at = records.now()
        canceled = StateChanged(seq=0, at=at, state=JobState.CANCELED, attempt=row["attempt"])
        row = self._move(connection, row, JobState.CANCELED, canceled, finished_at=at.isoformat(), **_NO_WORKER)
        removals.note(connection, Removal.WORK, [row["id"]])
        return self._record(connection, row)

    def _move(
        self, connection: sa.Connection, row: sa.RowMapping, state: JobState, event: JobEvent, **values: Any
    ) -> sa.RowMapping:
        """Enter a state: the row and the event that says so."""
        check_transition(JobState(row["state"]), state)
        seq = row["last_seq"] + 1
        self._insert(connection, row["id"], values.get("attempt", row["attempt"]), evolve(event, seq=seq))
        return self._update(connection, row["id"], state=state.value, last_seq=seq, **values)

    def _replace(self, connection: sa.Connection, row: sa.RowMapping, event: Progress | PreviewReady) -> sa.RowMapping:
        """Let a worker's event take the place of the last one of its kind."""
        seq = row["last_seq"] + 1
        values: dict[str, Any] = {"last_seq": seq}
        if isinstance(event, Progress):
            values["progress"] = dump_json(event.progress)
            kept: JobEvent = evolve(event, seq=seq)
        else:
            kept = evolve(event, seq=seq, preview=None)
        connection.execute(events.delete().where(events.c.job_id == row["id"], events.c.type == event.type))
        self._insert(connection, row["id"], row["attempt"], kept, worker_seq=event.seq)
        return self._update(connection, row["id"], **values)

    def _insert(
        self, connection: sa.Connection, job_id: str, attempt: int, event: JobEvent, *, worker_seq: int | None = None
    ) -> None:
        values = {
            "job_id": job_id,
            "seq": event.seq,
            "attempt": attempt,
            "worker_seq": worker_seq,
            "type": event.type,
            "body": dump_json(event, JobEvent),
        }
        connection.execute(events.insert().values(values))

    def _update(self, connection: sa.Connection, job_id: str, **values: Any) -> sa.RowMapping:
        connection.execute(jobs.update().where(jobs.c.id == job_id).values(values))
        return self._row(connection, job_id)


def _unknown_file(file_id: str) -> UnknownObject:
    return UnknownObject(f"no file has the id {file_id}", hint="send it first")


_NO_WORKER: dict[str, Any] = {"device": None, "executor": None, "token": None}
