"""Jobs on the wire: ``/v1/jobs``. A request is a `JobConfig`; this is the answer."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from attrs import evolve, field, frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.jobs import JobConfig, JobProgress, JobRecord, JobState


@frozen(kw_only=True)
class JobView:
    """A job as a client sees it; the attributes of `JobRecord` are described there.

    Attributes
    ----------
    job_id
        The record's id.
    eta_seconds
        Expected time to the job's end, in seconds; None while it is not known.
    starts_in_seconds
        Expected time to the start of a queued job, in seconds; None while it is not known.
    artifacts
        With signed addresses, for a completed job.
    """

    job_id: str
    owner: str
    state: JobState
    config: JobConfig
    progress: JobProgress | None
    queue_position: int | None
    eta_seconds: float | None
    starts_in_seconds: float | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: ErrorInfo | None
    artifacts: tuple[Artifact, ...]
    versions: dict[str, str] = field(factory=dict)

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """Show a record."""
        return cls(
            job_id=record.id,
            owner=record.owner,
            state=record.state,
            config=record.config,
            progress=record.progress,
            queue_position=record.queue_position,
            eta_seconds=record.eta_seconds,
            starts_in_seconds=record.starts_in_seconds,
            attempt=record.attempt,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            error=record.error,
            artifacts=record.artifacts,
            versions=record.versions,
        )

    def record(self) -> JobRecord:
        """The record that is shown."""
        return JobRecord(
            id=self.job_id,
            owner=self.owner,
            state=self.state,
            config=self.config,
            progress=self.progress,
            queue_position=self.queue_position,
            starts_in_seconds=self.starts_in_seconds,
            attempt=self.attempt,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            error=self.error,
            artifacts=self.artifacts,
            versions=self.versions,
        )

    def with_artifacts(self, artifacts: tuple[Artifact, ...]) -> Self:
        """The same with other artifacts, e.g. with their addresses."""
        return evolve(self, artifacts=artifacts)


@frozen(kw_only=True)
class JobPage:
    """Some of the caller's jobs, the newest first.

    Attributes
    ----------
    jobs
        The page.
    next_before
        What to give as ``before`` for the next page; None on the last.
    """

    jobs: tuple[JobView, ...]
    next_before: str | None
