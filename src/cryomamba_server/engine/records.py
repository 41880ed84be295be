"""Rows of the job store as values of the vocabulary, and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.events import JobEvent
from cryomamba_core.files import FileRecord
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import WorkerHandle
from cryomamba_core.jobs import JobConfig, JobProgress, JobRecord, JobState
from cryomamba_core.wire import dump_json, from_plain, load_json

#: Between the slots of a job: an engine refuses slots whose names have one.
SEPARATOR = ","


@frozen(kw_only=True)
class Work:
    """A job as the engine runs it.

    Attributes
    ----------
    record
        The record, without its queue position.
    grid
        Grid of the source, as it was when the job was accepted.
    source_name
        The source's file name as its owner knows it.
    source_root
        The allowed folder below which the source was named by its path; None for a file that was sent, and for a job
        of an engine that opens any path.
    devices
        The slots that the job has, one unless shards run on several; none for a job that is not active.
    handle
        The worker; None before it is started and recorded.
    worker_seq
        Number of the last event of this attempt's worker that is in the store.
    last_seq
        Number of the job's last event.
    attempts_before
        Workers that were started before the user's last retry.
    cancel_requested
        Whether the job is to stop.
    """

    record: JobRecord
    grid: VoxelGrid
    source_name: str
    source_root: str | None
    devices: tuple[str, ...]
    handle: WorkerHandle | None
    worker_seq: int
    last_seq: int
    attempts_before: int
    cancel_requested: bool

    @property
    def device(self) -> str:
        """Where the worker runs."""
        return self.devices[0] if self.devices else ""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id


@frozen(kw_only=True)
class StoredFile:
    """A file that was sent, and the key under which the storage has it."""

    record: FileRecord
    key: str


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def job_values(record: JobRecord, grid: VoxelGrid, source_name: str, source_root: str | None) -> dict[str, Any]:
    """The columns of a new job that come from its record."""
    return {
        "id": record.id,
        "owner": record.owner,
        "state": record.state.value,
        "config": dump_json(record.config),
        "grid": dump_json(grid),
        "source_name": source_name,
        "source_root": source_root,
        "created_at": record.created_at.isoformat(),
        "artifacts": "[]",
        "versions": "{}",
        "attempt": 0,
        "attempts_before": 0,
        "worker_seq": 0,
        "last_seq": 0,
        "cancel_requested": False,
        "served": 0,
    }


def job_record(row: sa.RowMapping, queue_position: int | None = None) -> JobRecord:
    """A row of ``jobs`` as users see it."""
    return JobRecord(
        id=row["id"],
        owner=row["owner"],
        state=JobState(row["state"]),
        config=load_json(row["config"], JobConfig),
        progress=load_json(row["progress"], JobProgress) if row["progress"] else None,
        queue_position=queue_position,
        attempt=row["attempt"],
        created_at=datetime.fromisoformat(row["created_at"]),
        started_at=_time(row["started_at"]),
        finished_at=_time(row["finished_at"]),
        error=load_json(row["error"], ErrorInfo) if row["error"] else None,
        artifacts=tuple(from_plain(plain, Artifact) for plain in json.loads(row["artifacts"])),
        versions=json.loads(row["versions"]),
    )


def work(row: sa.RowMapping) -> Work:
    """A row of ``jobs`` as the engine runs it."""
    handle = WorkerHandle(executor=row["executor"], token=row["token"]) if row["executor"] else None
    return Work(
        record=job_record(row),
        grid=load_json(row["grid"], VoxelGrid),
        source_name=row["source_name"],
        source_root=row["source_root"],
        devices=tuple(row["device"].split(SEPARATOR)) if row["device"] else (),
        handle=handle,
        worker_seq=row["worker_seq"],
        last_seq=row["last_seq"],
        attempts_before=row["attempts_before"],
        cancel_requested=row["cancel_requested"],
    )


def job_event(row: sa.RowMapping) -> JobEvent:
    """A row of ``events``."""
    event: JobEvent = load_json(row["body"], JobEvent)  # type: ignore[arg-type]  # a union is no type[T]
    return event


def stored_file(row: sa.RowMapping) -> StoredFile:
    """A row of ``files``."""
    return StoredFile(
        record=FileRecord(
            id=row["id"],
            name=row["name"],
            size=row["size"],
            sha256=row["sha256"],
            created_at=datetime.fromisoformat(row["created_at"]),
        ),
        key=row["key"],
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
