"""One attempt at a job: its worker is started or found again, followed, and its end recorded.

Whatever moment the engine is killed at, the store and the job directory say what to do:

1. The store says running, ``job.json`` is of an earlier attempt: no worker was started yet.
2. ``job.json`` is of this attempt, no handle is recorded: the executor looks for a worker.
3. The handle is recorded: the executor tells whether the worker lives; its events say the rest.
4. The worker has ended: its last event is acted on again, which does no harm if it was before.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import trio
from attrs import frozen

from cryomamba_core.errors import CryoMambaError, ErrorInfo, StorageError, StorageFull, WorkerDied
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress
from cryomamba_core.interfaces import Executor, Resources, Storage, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.jobs import JobRecord, JobState
from cryomamba_core.plugins import Registry
from cryomamba_core.settings import Settings
from cryomamba_server.engine.intake import check_path
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.publishing import manifest_versions, publish
from cryomamba_server.engine.records import Work
from cryomamba_server.engine.wakeups import wait_briefly

log = logging.getLogger(__name__)

#: Seconds between two looks into a job directory.
FOLLOW_INTERVAL = 0.1
#: Seconds that a thread waits for a worker's end at a time.
WAIT_SECONDS = 1.0
#: Seconds that a worker has from the order to cancel, or from its last event, to its end.
CANCEL_GRACE = 15.0
#: Seconds between asking a worker to end and forcing it.
KILL_GRACE = 5.0
#: A disk with less room than this cannot have taken a worker's last words.
FULL_BYTES = 64 << 10
#: How much of ``worker.log`` is quoted when a worker has died: lines, and characters.
LAST_LINES, LAST_CHARACTERS = 3, 400


class Supervision:
    """Sees one attempt through to its end.

    Parameters
    ----------
    ledger
        Where everything is recorded.
    executors, executor
        Those that an earlier worker may run in, and the one that new workers run in.
    storage
        Takes the artifacts.
    settings
        The settings of this process.
    work
        The job, active.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        executors: Registry[Executor],
        executor: Executor,
        storage: Storage,
        settings: Settings,
        work: Work,
    ) -> None:
        self._ledger = ledger
        self._executors = executors
        self._executor = executor
        self._storage = storage
        self._settings = settings
        self._work = work
        self._directory = JobDirectory(settings.jobs_dir / work.id)
        self._held = ExitStack()
        self._handle: WorkerHandle | None = work.handle
        self._handle_recorded = work.handle is not None
        self._offset = 0
        self._pending: list[JobEvent] = []
        self._end: JobEvent | None = None
        self._exit: WorkerExit | None = None
        self._lost = ""

    async def run(self) -> None:
        """Start a worker and stay until the job has left this attempt.

        If it is cancelled, the worker goes on, and the next engine finds it.
        """
        await self._see_through(self._launch, _Once(trio.TASK_STATUS_IGNORED))

    async def recover(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take over from another engine; started once the record is true. Cancelled as `run`."""
        await self._see_through(self._find_or_launch, _Once(task_status))

    # The first step says whether there is a worker, or what one has left, to follow.

    async def _see_through(self, begin: Callable[[], Awaitable[bool]], started: _Once) -> None:
        try:
            if await begin():
                await self._follow(started)
            await self._conclude()
        except Exception as error:  # noqa: BLE001  # a plugin's fault must end the job, not the engine
            await self._give_up(error)
        finally:
            self._held.close()
            started()

    async def _find_or_launch(self) -> bool:
        if await self._find():
            return True
        if self._work.cancel_requested:
            return False
        return await self._launch()

    async def _find(self) -> bool:
        """Look for the worker of an earlier engine; False if none was started."""
        if self._handle is None:
            if not await trio.to_thread.run_sync(self._was_begun):
                return False
            self._handle = await trio.to_thread.run_sync(self._executor.find, self._directory.path)
            if self._handle is None:
                look = await trio.to_thread.run_sync(self._look)
                self._take(look)
                if look.beat is None and not self._offset:
                    return False
            await self._record_handle()
        else:
            self._executor = self._executors.get(self._handle.executor)
            if not await trio.to_thread.run_sync(self._executor.reattach, self._handle):
                self._exit = WorkerExit(code=None, reason="it ended while no engine was running")
        if self._work.cancel_requested:
            self._order_cancel()
        return True

    def _was_begun(self) -> bool:
        try:
            return self._directory.spec().attempt == self._work.record.attempt
        except StorageError:
            return False

    async def _launch(self) -> bool:
        with trio.CancelScope(shield=True):
            resources = Resources(
                device=self._work.device,
                threads=self._settings.threads,
                environment={"CRYOMAMBA_DATA_DIR": str(self._settings.data_dir)},
            )
            source = await self._source()
            await trio.to_thread.run_sync(self._prepare, source)
            self._handle = await trio.to_thread.run_sync(self._executor.start, self._directory.path, resources)
            await self._record_handle()
            if self._work.cancel_requested:
                self._order_cancel()
        return True

    async def _source(self) -> Path:
        """Where the worker finds the tomogram; held until the attempt is over."""
        source = self._work.record.config.source
        if source.file_id is None:
            return check_path(source.path or "").path
        stored = await self._ledger.call(self._ledger.store.file, source.file_id, owner=self._work.record.owner)
        return await trio.to_thread.run_sync(self._held.enter_context, self._storage.localize(stored.key))

    def _prepare(self, path: Path) -> None:
        spec = JobSpec(
            job_id=self._work.id,
            config=self._work.record.config,
            source=str(path),
            source_name=self._work.source_name,
            grid=self._work.grid,
            device=self._work.device,
            threads=self._settings.threads,
            attempt=self._work.record.attempt,
        )
        self._directory.begin_attempt(spec)

    async def _record_handle(self) -> None:
        if self._handle is None or self._handle_recorded:
            return
        try:
            work = await self._ledger.call(
                self._ledger.store.set_handle, self._work.id, self._work.record.attempt, self._handle
            )
        except StorageError as error:
            log.warning("the worker of job %s cannot be recorded yet: %s", self._work.id, error)
            return
        self._handle_recorded = True
        self._work = work or self._work

    async def _follow(self, started: _Once) -> None:
        """Take in what the worker says until it has ended."""
        ended = trio.Event()
        patience = _Patience(self._settings.stale_seconds)
        async with trio.open_nursery() as nursery:
            if self._exit is not None:
                ended.set()
            elif self._handle is not None:
                nursery.start_soon(self._await_end, self._handle, ended)
            while True:
                over = ended.is_set()
                look = await trio.to_thread.run_sync(self._look)
                self._take(look)
                await self._record_handle()
                await self._advance()
                if over:
                    break
                started()
                self._lost = patience.lost(look, ordered=look.cancel_ordered or self._end is not None)
                if self._lost:
                    await self._stop_worker()
                    ended.set()
                await wait_briefly(ended, FOLLOW_INTERVAL)
            nursery.cancel_scope.cancel()

    async def _await_end(self, handle: WorkerHandle, ended: trio.Event) -> None:
        while self._exit is None:
            self._exit = await trio.to_thread.run_sync(
                self._executor.wait, handle, WAIT_SECONDS, abandon_on_cancel=True
            )
        ended.set()

    def _look(self) -> _Look:
        """Read what is new in the job directory."""
        events = list(self._directory.events(self._offset))
        return _Look(
            events=tuple(event for event, _ in events),
            offset=events[-1][1] if events else self._offset,
            beat=self._directory.last_beat(),
            cancel_ordered=self._directory.cancel_ordered,
        )

    def _take(self, look: _Look) -> None:
        self._offset = look.offset
        for event in look.events:
            if isinstance(event, Progress | PreviewReady):
                self._pending.append(event)
            elif isinstance(event, Completed | Failed) or event.state is JobState.CANCELED:
                self._end = event

    async def _advance(self) -> None:
        if not self._pending:
            return
        before, store = self._work, self._ledger.store
        try:
            work = await self._ledger.call(store.advance, before.id, before.record.attempt, self._pending)
        except StorageError as error:
            log.warning("the progress of job %s cannot be recorded yet: %s", before.id, error)
            return
        self._pending = []
        if work is not None and work.record.state is not before.record.state:
            self._ledger.changed(work.record)
        self._ledger.heard(before.id)
        self._work = work or before

    async def _conclude(self) -> None:
        """Record how it ended, after everything that the record promises is true."""
        job_id, attempt, store = self._work.id, self._work.record.attempt, self._ledger.store
        end = self._end
        record: JobRecord | None
        if isinstance(end, Completed):
            versions = await trio.to_thread.run_sync(self._publish, end)
            record = await self._ledger.persist(store.complete, job_id, attempt, end.artifacts, versions)
        elif isinstance(end, Failed):
            await trio.to_thread.run_sync(self._directory.clear_artifacts)
            record = await self._ledger.persist(store.fail, job_id, attempt, end.error)
        elif end is not None or self._work.cancel_requested or self._directory.cancel_ordered:
            await self._stop_worker()
            await trio.to_thread.run_sync(clear, self._directory)
            record = await self._ledger.persist(store.cancel, job_id, attempt)
        else:
            record = await self._lose_worker()
        if record is not None:
            self._ledger.changed(record)

    def _publish(self, end: Completed) -> dict[str, str]:
        versions = manifest_versions(self._directory)
        publish(self._storage, self._directory, self._work.id, end.artifacts)
        clear(self._directory, preview=False)
        return versions

    async def _lose_worker(self) -> JobRecord | None:
        await self._stop_worker()
        if await trio.to_thread.run_sync(self._is_full):
            return await self._run_out_of_space()
        attempt, before = self._work.record.attempt, self._work.attempts_before
        most = self._settings.max_attempts
        how = self._lost or (self._exit.reason if self._exit else "") or "it ended"
        words = await trio.to_thread.run_sync(last_words, self._directory.log_path)
        quoted = f"; its last words were: {words}" if words else ""
        error = WorkerDied(
            f"worker {attempt - before} of {most} was lost: {how}{quoted}",
            hint=f"see {self._directory.log_path}, then retry with: cryomamba jobs retry {self._work.id}",
        )
        record = await self._ledger.persist(
            self._ledger.store.lose, self._work.id, attempt, ErrorInfo.of(error), max_attempts=most
        )
        if record is not None and record.state is JobState.CANCELED:
            await trio.to_thread.run_sync(clear, self._directory)
        return record

    def _is_full(self) -> bool:
        return shutil.disk_usage(self._directory.path).free < FULL_BYTES

    async def _run_out_of_space(self) -> JobRecord | None:
        """Fail a job whose worker could not even say that the disk is full; the store needs room to say it."""
        await trio.to_thread.run_sync(clear, self._directory)
        error = StorageFull(
            f"the disk of {self._directory.path} is full, and the worker was lost", hint="free some space, then retry"
        )
        return await self._ledger.persist(
            self._ledger.store.fail, self._work.id, self._work.record.attempt, ErrorInfo.of(error)
        )

    async def _give_up(self, error: BaseException) -> None:
        """End a job whose supervision met an error: no worker may go on with it."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, CryoMambaError | OSError):
            log.error("job %s cannot go on: %s", self._work.id, error)
        else:
            log.error("job %s cannot go on", self._work.id, exc_info=error)
        try:
            await self._stop_worker()
            await trio.to_thread.run_sync(self._directory.clear_artifacts)
        except Exception:
            log.exception("the worker of job %s may still be there", self._work.id)
        record = await self._ledger.persist(
            self._ledger.store.fail, self._work.id, self._work.record.attempt, ErrorInfo.of(error)
        )
        if record is not None:
            self._ledger.changed(record)

    async def _stop_worker(self) -> None:
        """End the worker, and what it started and left behind."""
        if self._handle is not None:
            await trio.to_thread.run_sync(self._executor.cancel, self._handle, KILL_GRACE)

    def _order_cancel(self) -> None:
        order_cancel(self._directory)


def order_cancel(directory: JobDirectory) -> None:
    """Order the worker of a job to stop, if it has been given a directory by now."""
    try:
        directory.order_cancel()
    except FileNotFoundError:
        log.debug("%s is not there yet: the order is in the store", directory.path)


def clear(directory: JobDirectory, *, preview: bool = True) -> None:
    """Remove everything that only a worker needs, half-written files included.

    Parameters
    ----------
    directory
        The job's, without a worker.
    preview
        Whether the preview goes too.
    """
    directory.clear_labels()
    directory.clear_artifacts()
    for partial in (*directory.path.glob("*.partial"), *directory.path.glob(".*.partial")):
        partial.unlink(missing_ok=True)
    if preview:
        (directory.path / "preview.bin").unlink(missing_ok=True)


def last_words(path: Path) -> str:
    """The last lines of a log, in one line; empty if there are none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4 * LAST_CHARACTERS))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:]


@frozen(kw_only=True)
class _Look:
    """What a job directory says: new events, where the next begin, the last beat (s), and the order."""

    events: tuple[JobEvent, ...]
    offset: int
    beat: float | None
    cancel_ordered: bool


class _Patience:
    """Measures by the monotonic clock how long a worker is silent, or late to end.

    The heartbeat's own time only shows that it beat again: a clock that is set, or a computer that
    slept, makes no worker stale.
    """

    def __init__(self, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._beat: float | None = None
        self._beaten_at = trio.current_time()
        self._ordered_at: float | None = None

    def lost(self, look: _Look, *, ordered: bool) -> str:
        """Why the worker is to be ended by force; empty while it is not."""
        now = trio.current_time()
        if look.beat != self._beat or look.events:
            self._beat, self._beaten_at = look.beat, now
        if ordered and self._ordered_at is None:
            self._ordered_at = now
        if now - self._beaten_at > self._stale_seconds:
            return f"it gave no sign of life for {self._stale_seconds:g} s"
        if self._ordered_at is not None and now - self._ordered_at > CANCEL_GRACE:
            return f"it did not end within {CANCEL_GRACE:g} s"
        return ""


class _Once:
    """Reports that a task has started, the first time it is called."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status: trio.TaskStatus[None] | None = task_status

    def __call__(self) -> None:
        if self._task_status is not None:
            self._task_status.started()
            self._task_status = None
