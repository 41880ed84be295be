"""What a worker tells the engine: numbered events and a beating heart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType

from attrs import evolve

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobProgress, JobState
from cryomamba_core.previews import Preview

log = logging.getLogger(__name__)

#: Seconds between two progress events of one stage.
PROGRESS_INTERVAL = 0.5

#: Seconds between two beats of the heart.
BEAT_INTERVAL = 2.0

#: Part of the whole job at which each stage begins and ends, as measured on the demo.
STAGES: dict[str, tuple[float, float]] = {
    "inspecting": (0.0, 0.02),
    "segmenting": (0.02, 0.94),
    "measuring": (0.94, 0.97),
    "exporting": (0.97, 1.0),
}


class EventLog:
    """Writes the events of one attempt; any thread may call it.

    Parameters
    ----------
    directory
        The job's.
    attempt
        Counts the workers.
    clock
        Tells seconds that only go on.
    """

    def __init__(self, directory: JobDirectory, attempt: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._attempt = attempt
        self._clock = clock
        self._lock = threading.Lock()
        self._seq = 0
        self._ended = False
        self._stage = ""
        self._stage_started = 0.0
        self._first_done = 0
        self._last_progress = 0.0
        self._fraction = 0.0
        self._afterwards = 0.0
        self._held: JobProgress | None = None
        self._previews = 0

    def state(self, state: JobState, reason: str = "") -> None:
        """Say that the job entered a state."""
        with self._lock:
            event = StateChanged(seq=self._next(), at=_now(), state=state, attempt=self._attempt, reason=reason)
            self._append(event, last=state.ended)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """Say how far a stage is; if the last word was a moment ago, and this is neither end, `catch_up` says it."""
        with self._lock:
            now = self._clock()
            fresh = stage != self._stage
            if fresh:
                self._stage, self._stage_started, self._first_done = stage, now, done
            start, stop = STAGES[stage]
            within = min(1.0, done / total) if total else 1.0
            self._fraction = max(self._fraction, start + (stop - start) * within)
            self._held = JobProgress(
                stage=stage,
                done=done,
                total=total,
                unit=unit,
                fraction=self._fraction,
                eta_seconds=self._eta(now, stage, done, total),
            )
            if fresh or done >= total or self._due(now):
                self._say_progress(now)

    def expect_afterwards(self, seconds: float) -> None:
        """Take in how long a job is likely to take from the last of its labels on."""
        with self._lock:
            self._afterwards = seconds

    def catch_up(self) -> None:
        """Say how far the stage is if `progress` has not, once the last word is old enough; for the heart's thread.

        What cannot be written is left out: the job itself fails for it when it has more to say.
        """
        with self._lock:
            now = self._clock()
            if self._held is None or not self._due(now):
                return
            try:
                self._say_progress(now)
            except OSError as error:
                log.warning("progress cannot be written: %s", error)

    def _due(self, now: float) -> bool:
        return now - self._last_progress >= PROGRESS_INTERVAL

    def _say_progress(self, now: float) -> None:
        progress, self._held = self._held, None
        if progress is not None:
            self._last_progress = now
            self._append(Progress(seq=self._next(), at=_now(), progress=progress))

    def _eta(self, now: float, stage: str, done: int, total: int) -> float | None:
        """Time left, from the pace of this stage, and from what is known of those that follow."""
        achieved = done - self._first_done
        if stage == "inspecting" or achieved <= 0:
            return None
        seconds = (now - self._stage_started) / achieved
        if stage == "segmenting":  # its pace is that of a model, and those that follow are as long with any
            return seconds * (total - done) + self._afterwards
        start, stop = STAGES[stage]
        return seconds * (total - done) + seconds * total * (1.0 - stop) / (stop - start)

    def preview(self, preview: Preview) -> None:
        """Lay a preview into the job directory and announce it; a job does not fail for want of one."""
        self._previews += 1
        preview = evolve(preview, sequence=self._previews)
        try:
            self._directory.write_preview(preview)
        except OSError as error:
            log.warning("preview %d cannot be written: %s", preview.sequence, error)
            return
        with self._lock:
            self._append(PreviewReady(seq=self._next(), at=_now()))

    def completed(self, artifacts: tuple[Artifact, ...]) -> None:
        """Say that the job is done."""
        with self._lock:
            self._append(Completed(seq=self._next(), at=_now(), artifacts=artifacts), last=True)

    def failed(self, error: ErrorInfo) -> None:
        """Say that the job failed."""
        with self._lock:
            self._append(Failed(seq=self._next(), at=_now(), error=error), last=True)

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _append(self, event: JobEvent, *, last: bool = False) -> None:
        """Write an event, unless the last one was written; the lock is held."""
        if not self._ended:
            self._directory.append_event(event)
            self._ended = last


def _now() -> datetime:
    return datetime.now(UTC)


class Heart:
    """Beats in a thread of its own for as long as the context lasts, and lets progress that was held back be said.

    Parameters
    ----------
    directory
        The job's.
    log
        Of the attempt.
    """

    def __init__(self, directory: JobDirectory, log: EventLog) -> None:
        self._directory = directory
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def _beat(self) -> None:
        beaten = time.monotonic()
        while not self._stop.wait(PROGRESS_INTERVAL):
            self._log.catch_up()
            if time.monotonic() - beaten >= BEAT_INTERVAL:
                try:
                    self._directory.beat()
                except OSError as error:  # the next may be possible
                    log.warning("the heart missed a beat: %s", error)
                beaten = time.monotonic()

    def __enter__(self) -> Heart:
        self._directory.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
