"""A job as this desktop knows it, and how records and events change it."""

from __future__ import annotations

import time
from pathlib import Path

import trio
from attrs import define, evolve, field

from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.jobs import JobProgress, JobRecord, JobState
from cryomamba_core.previews import Preview
from cryomamba_gui.desk.orders import command_line
from cryomamba_gui.desk.proofs import is_local

#: Characters of an id that name a job that has no name.
SHORT = 8
#: In which order the states of an attempt follow each other; after it the job is queued again, or has ended before.
STATES = (
    JobState.RUNNING,
    JobState.PREVIEWING,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELED,
    JobState.QUEUED,
)


@define(kw_only=True, eq=False)
class JobItem:
    """One job of one engine.

    Attributes
    ----------
    record
        What the engine says of it, and what its events have said since.
    url
        Address of the engine.
    data_dir
        Of the engine of this computer.
    folder
        Where its files are kept on this computer; it need not be there yet.
    path
        The tomogram on this computer; None where it is not known.
    started_here
        Whether this desktop has queued it.
    progress, progress_at
        The newest report of the worker, and when it came (monotonic seconds).
    placed_at
        When its place in the queue was said (monotonic seconds).
    preview
        The newest preview, as it came; None before the first, and once the results are there.
    reachable
        Whether the window is connected with its engine, and that has not said that it does not know it.
    gone
        Whether its engine has said that it does not know it any more.
    stale
        Whether its engine does not answer, so that what is known may be old.
    kept
        Whether something of it is kept in its folder.
    stopping
        Whether it was told to stop and has not ended.
    last_seq
        Number of the last event that was heard.
    version
        Counts what was heard of it, so that an older answer is known for what it is.
    fetching
        Held while its results are fetched.
    """

    record: JobRecord
    url: str
    data_dir: Path
    folder: Path
    path: Path | None = None
    started_here: bool = False
    progress: JobProgress | None = None
    progress_at: float = 0.0
    placed_at: float = 0.0
    preview: Preview | None = None
    reachable: bool = False
    gone: bool = False
    stale: bool = False
    kept: bool = False
    stopping: bool = False
    last_seq: int = 0
    version: int = 0
    fetching: trio.Lock = field(factory=trio.Lock)

    @property
    def id(self) -> str:
        """The engine's name for it."""
        return self.record.id

    @property
    def state(self) -> JobState:
        """Where it stands, as far as is known."""
        return self.record.state

    @property
    def name(self) -> str:
        """What people call it."""
        return self.record.config.label or (self.path.name if self.path else self.id[:SHORT])

    @property
    def fraction(self) -> float:
        """Done part, 0 to 1."""
        if self.state is JobState.COMPLETED:
            return 1.0
        return self.progress.fraction if self.progress else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Expected time to the end, counted down since the last report; None while it is not known."""
        if not self.state.active or self.stale or self.progress is None or self.progress.eta_seconds is None:
            return None
        return max(0.0, self.progress.eta_seconds - (time.monotonic() - self.progress_at))

    @property
    def queue_position(self) -> int | None:
        """How many jobs run first, while it is queued."""
        return self.record.queue_position if self.state is JobState.QUEUED else None

    @property
    def starts_in_seconds(self) -> float | None:
        """Expected time to its start, counted down since that was said; None while it is not known."""
        starts_in = self.record.starts_in_seconds
        if self.state is not JobState.QUEUED or starts_in is None:
            return None
        return max(0.0, starts_in - (time.monotonic() - self.placed_at))

    @property
    def command(self) -> str:
        """The command that asks for the same, without a secret."""
        return command_line(self.record.config, path=self.path, url=self.url, data_dir=self.data_dir)

    def take_record(self, record: JobRecord) -> None:
        """Take over what the engine says."""
        self.version += 1
        self.record, self.placed_at = record, time.monotonic()
        if record.progress is not None and record.progress != self.progress:
            self._take_progress(record.progress)
        if record.state is JobState.QUEUED:
            self.progress = self.preview = None
        self.stopping = self.stopping and not record.state.ended
        if self.path is None and record.config.source.path is not None and is_local(self.url):
            self.path = Path(record.config.source.path)

    def take_event(self, event: JobEvent) -> bool:
        """Take over what an event says; whether there is a new preview."""
        self.version += 1
        self.last_seq = event.seq
        match event:
            case StateChanged():
                self._take_state(event)
            case Progress(progress=progress) if self.state.active:
                self._take_progress(progress)
            case PreviewReady(preview=preview) if preview is not None and self.state.active:
                self.preview = preview
                return True
            case Completed() | Failed() | _:
                pass  # the record, which is asked for then, says more
        return False

    def _take_state(self, event: StateChanged) -> None:
        if event.state.ended or _order(event) <= _order(self.record):
            return
        changes: dict[str, object] = {"state": event.state, "attempt": event.attempt}
        if event.state is JobState.QUEUED:  # its worker was lost, or somebody wants it again
            self.progress = self.preview = None
            changes.update(progress=None, error=None, started_at=None, finished_at=None)
        if event.state is JobState.RUNNING:
            changes.update(started_at=event.at, queue_position=None, starts_in_seconds=None)
        self.record = evolve(self.record, **changes)  # type: ignore[arg-type]  # the names are those of its fields

    def _take_progress(self, progress: JobProgress) -> None:
        self.progress, self.progress_at = progress, time.monotonic()


def _order(said: JobRecord | StateChanged) -> tuple[int, int]:
    """Later states of a job are larger: what is heard again from the beginning must not set it back."""
    return said.attempt, STATES.index(said.state)
