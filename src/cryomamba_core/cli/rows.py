"""A job as the progress display shows it, and how its events change it."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from attrs import define

from cryomamba_core import wording
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.jobs import JobState

if TYPE_CHECKING:
    from cryomamba_core.cli.boards import Board
    from cryomamba_core.errors import ErrorInfo
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobProgress, JobRecord
    from cryomamba_core.previews import Preview

#: The state of a job that could not be stopped, or of which nobody knows whether it was queued.
UNKNOWN = "unknown"
#: Seconds without a report after which a transfer is taken to have stalled.
CALM = 10.0


@define(kw_only=True, eq=False)
class Row:
    """One job, or a file that has none yet.

    Attributes
    ----------
    name
        What people call it.
    state
        A `JobState`, or ``waiting``, ``uploading``, ``fetching``, ``joining``, ``stopping``, ``refused`` or
        ``unknown``.
    job_id
        Empty before it is known.
    position, starts_in, placed_at
        How many jobs run first, while it is queued, the expected seconds to its start, and when that
        was said (monotonic seconds).
    progress, reported_at
        The newest report, and when it came (monotonic seconds).
    rate
        Bytes a second, while files are sent or fetched.
    note
        What else is to be said of the stage.
    preview, covered
        Number of the newest preview, and the part of the volume that it shows, 0 to 1.
    seconds
        How long the work took.
    error
        Why there is no result.
    result
        The result in a few words.
    """

    name: str
    state: str = "waiting"
    job_id: str = ""
    position: int | None = None
    starts_in: float | None = None
    placed_at: float = 0.0
    progress: JobProgress | None = None
    reported_at: float = 0.0
    rate: float | None = None
    note: str = ""
    preview: int = 0
    covered: float = 0.0
    seconds: float | None = None
    error: ErrorInfo | None = None
    result: str = ""

    @property
    def fraction(self) -> float:
        """Done part, 0 to 1."""
        if self.state == JobState.COMPLETED:
            return 1.0
        return self.progress.fraction if self.progress else 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELED, "refused")

    @property
    def active(self) -> bool:
        """Whether something happens now."""
        return not self.ended and self.state not in ("waiting", UNKNOWN, JobState.QUEUED)

    @property
    def seconds_left(self) -> float | None:
        """Expected time to the end, counted down since the last report."""
        if self.ended or self.stalled or self.progress is None or self.progress.eta_seconds is None:
            return None
        return max(0.0, self.progress.eta_seconds - (time.monotonic() - self.reported_at))

    @property
    def stalled(self) -> bool:
        """Whether so little comes of late that the last rate says nothing any more."""
        return self.rate is not None and time.monotonic() - self.reported_at > CALM

    @property
    def place(self) -> str:
        """Where it stands in the queue, counted down since that was said."""
        if self.state != JobState.QUEUED:
            return ""
        passed = time.monotonic() - self.placed_at
        return wording.place(self.position, None if self.starts_in is None else self.starts_in - passed)

    @property
    def stage(self) -> str:
        """What is being done, e.g. ``segmenting 98/245 tiles``."""
        if not self.active:
            return self.place
        if self.progress is None:
            return "starting" if self.state == JobState.RUNNING else ""
        progress = self.progress
        counted = f" {progress.done}/{progress.total} {progress.unit}" if progress.total else ""
        rate = f", {wording.rate(self.rate)}" if self.rate and not self.stalled else ""
        return f"{progress.stage}{counted}{rate}"

    @property
    def preview_text(self) -> str:
        """The newest preview in words, e.g. ``preview 3: 42 % of the volume``."""
        return f"preview {self.preview}: {wording.percent(self.covered)} of the volume" if self.preview else ""

    def take_record(self, record: JobRecord) -> None:
        """Take over what the engine's record says."""
        self.job_id, self.state = record.id, str(record.state)
        self.take_place(record)
        self.error = record.error
        if record.progress is not None and self.progress is None:
            self.take_progress(record.progress)
        if record.started_at and record.finished_at:
            self.seconds = (record.finished_at - record.started_at).total_seconds()

    def take_place(self, record: JobRecord) -> None:
        """Take over where the engine's record says that it stands in the queue."""
        self.position, self.starts_in = record.queue_position, record.starts_in_seconds
        self.placed_at = time.monotonic()

    def take_progress(self, progress: JobProgress) -> None:
        """Take over a report."""
        self.progress, self.reported_at = progress, time.monotonic()

    def take_event(self, event: JobEvent) -> None:
        """Take over what an event says; the job's end is left to its record."""
        match event:
            case StateChanged(state=state) if not state.ended:
                if state is JobState.QUEUED and self.state != state:  # its worker was lost
                    self.progress = self.position = self.starts_in = None
                self.state = str(state)
            case Progress(progress=progress):
                self.take_progress(progress)
            case PreviewReady(preview=preview) if preview is not None:
                self.preview, self.covered = preview.sequence, covered_fraction(preview)
            case Completed() | Failed() | _:
                pass


def covered_fraction(preview: Preview) -> float:
    """The part of the volume, 0 to 1, that a preview covers."""
    fraction = 1.0
    for start, stop, size in zip(preview.covered.start, preview.covered.stop, preview.grid.shape, strict=True):
        last_block = stop > (size - 1) * preview.factor
        fraction *= ((size * preview.factor if last_block else stop) - start) / (size * preview.factor)
    return fraction


async def follow(session: Session, row: Row, board: Board) -> JobRecord:
    """Keep `row` up to date until its job has ended, and return the record."""
    async with aclosing(session.events(row.job_id)) as events:  # type: ignore[type-var]  # generators, all of them
        async for event in events:
            row.take_event(event)
            board.changed(row)
    record = await session.job(row.job_id)
    row.take_record(record)
    return record
