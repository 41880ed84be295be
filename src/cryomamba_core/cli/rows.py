"""A job as the progress display shows it, and how its events change it."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from attrs import define

from cryomamba_core.cli import wording
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.jobs import JobState

if TYPE_CHECKING:
    from cryomamba_core.cli.boards import Board
    from cryomamba_core.errors import ErrorInfo
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobProgress, JobRecord
    from cryomamba_core.previews import Preview


@define(kw_only=True, eq=False)
class Row:
    """One job, or a file that has none yet.

    Attributes
    ----------
    name
        What people call it.
    state
        A `JobState`, or ``waiting``, ``uploading``, ``fetching`` or ``refused``.
    job_id
        Empty before it is known.
    position
        How many jobs run first, while it is queued.
    progress, reported_at
        The newest report, and when it came (monotonic seconds).
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
    progress: JobProgress | None = None
    reported_at: float = 0.0
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
        return not self.ended and self.state not in ("waiting", JobState.QUEUED)

    @property
    def seconds_left(self) -> float | None:
        """Expected time to the end, counted down since the last report."""
        if self.ended or self.progress is None or self.progress.eta_seconds is None:
            return None
        return max(0.0, self.progress.eta_seconds - (time.monotonic() - self.reported_at))

    @property
    def stage(self) -> str:
        """What is being done, e.g. ``segmenting 98/245 tiles``."""
        if self.state == JobState.QUEUED and self.position:
            return f"after {wording.plural(self.position, 'job')}"
        if not self.active:
            return ""
        if self.progress is None:
            return "starting" if self.state == JobState.RUNNING else ""
        progress = self.progress
        counted = f" {progress.done}/{progress.total} {progress.unit}" if progress.total else ""
        return f"{progress.stage}{counted}"

    @property
    def preview_text(self) -> str:
        """The newest preview in words, e.g. ``preview 3: 42 % of the volume``."""
        return f"preview {self.preview}: {wording.percent(self.covered)} of the volume" if self.preview else ""

    def take_record(self, record: JobRecord) -> None:
        """Take over what the engine's record says."""
        self.job_id, self.state, self.position = record.id, str(record.state), record.queue_position
        self.error = record.error
        if record.progress is not None and self.progress is None:
            self.take_progress(record.progress)
        if record.started_at and record.finished_at:
            self.seconds = (record.finished_at - record.started_at).total_seconds()

    def take_progress(self, progress: JobProgress) -> None:
        """Take over a report."""
        self.progress, self.reported_at = progress, time.monotonic()

    def take_event(self, event: JobEvent) -> None:
        """Take over what an event says; the job's end is left to its record."""
        match event:
            case StateChanged(state=state) if not state.ended:
                self.state = str(state)
                if state is JobState.QUEUED:
                    self.progress = None
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
            before = row.state
            row.take_event(event)
            if row.state == before == JobState.QUEUED:
                row.position = None
            board.changed(row)
    record = await session.job(row.job_id)
    row.take_record(record)
    return record
