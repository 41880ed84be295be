"""What a worker tells the engine: numbered events and a beating heart."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from types import TracebackType

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
    """Writes the events of one attempt.

    Parameters
    ----------
    directory
        The job's.
    attempt
        Counts the workers.
    """

    def __init__(self, directory: JobDirectory, attempt: int) -> None:
        self._directory = directory
        self._attempt = attempt
        self._seq = 0
        self._stage = ""
        self._stage_started = 0.0
        self._first_done = 0
        self._last_progress = 0.0
        self._fraction = 0.0

    def state(self, state: JobState, reason: str = "") -> None:
        """Say that the job entered a state."""
        self._append(StateChanged(seq=self._next(), at=_now(), state=state, attempt=self._attempt, reason=reason))

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """Say how far a stage is; left out if the last word was a moment ago, except at both ends."""
        now = time.monotonic()
        fresh = stage != self._stage
        if fresh:
            self._stage, self._stage_started, self._first_done = stage, now, done
        if not fresh and done < total and now - self._last_progress < PROGRESS_INTERVAL:
            return
        self._last_progress = now
        start, stop = STAGES[stage]
        within = min(1.0, done / total) if total else 1.0
        self._fraction = max(self._fraction, start + (stop - start) * within)
        progress = JobProgress(
            stage=stage,
            done=done,
            total=total,
            unit=unit,
            fraction=self._fraction,
            eta_seconds=self._eta(now, stage, done, total),
        )
        self._append(Progress(seq=self._next(), at=_now(), progress=progress))

    def _eta(self, now: float, stage: str, done: int, total: int) -> float | None:
        """Time left, from the pace of this stage and its part of the whole."""
        achieved = done - self._first_done
        if stage == "inspecting" or achieved <= 0:
            return None
        seconds = (now - self._stage_started) / achieved
        start, stop = STAGES[stage]
        return seconds * (total - done) + seconds * total * (1.0 - stop) / (stop - start)

    def preview(self, preview: Preview) -> None:
        """Lay a preview into the job directory and announce it; a job does not fail for want of one."""
        try:
            self._directory.write_preview(preview)
        except OSError as error:
            log.warning("preview %d cannot be written: %s", preview.sequence, error)
            return
        self._append(PreviewReady(seq=self._next(), at=_now()))

    def completed(self, artifacts: tuple[Artifact, ...]) -> None:
        """Say that the job is done."""
        self._append(Completed(seq=self._next(), at=_now(), artifacts=artifacts))

    def failed(self, error: ErrorInfo) -> None:
        """Say that the job failed."""
        self._append(Failed(seq=self._next(), at=_now(), error=error))

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _append(self, event: JobEvent) -> None:
        self._directory.append_event(event)


def _now() -> datetime:
    return datetime.now(UTC)


class Heart:
    """Beats in a thread of its own for as long as the context lasts."""

    def __init__(self, directory: JobDirectory) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_INTERVAL):
            self._directory.beat()

    def __enter__(self) -> Heart:
        self._directory.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
