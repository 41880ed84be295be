"""What happens to a job, in order, as listeners hear it."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from attrs import frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.jobs import JobProgress, JobState
from cryomamba_core.previews import Preview


@frozen(kw_only=True)
class StateChanged:
    """The job entered a state.

    Attributes
    ----------
    seq
        Number of the event within its job, from 1; also that of the other events.
    at
        When (UTC); also that of the other events.
    state
        The new state.
    attempt
        The worker that is at it.
    reason
        Why, where it is not plain; else empty.
    """

    type: ClassVar[str] = "state"

    seq: int
    at: datetime
    state: JobState
    attempt: int
    reason: str = ""


@frozen(kw_only=True)
class Progress:
    """The worker is further on; `progress` says how far."""

    type: ClassVar[str] = "progress"

    seq: int
    at: datetime
    progress: JobProgress


@frozen(kw_only=True)
class PreviewReady:
    """There is a newer preview.

    `preview` is None in the job directory's event file (the newest lies beside it) and where a
    newer one has taken its place before the event was delivered.
    """

    type: ClassVar[str] = "preview"

    seq: int
    at: datetime
    preview: Preview | None = None


@frozen(kw_only=True)
class Completed:
    """The job is done; nothing follows."""

    type: ClassVar[str] = "completed"

    seq: int
    at: datetime
    artifacts: tuple[Artifact, ...]


@frozen(kw_only=True)
class Failed:
    """The job failed; nothing follows unless it is retried."""

    type: ClassVar[str] = "error"

    seq: int
    at: datetime
    error: ErrorInfo


#: What a listener of a job hears.
JobEvent = StateChanged | Progress | PreviewReady | Completed | Failed
