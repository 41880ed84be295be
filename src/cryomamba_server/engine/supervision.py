"""One attempt at a job: its worker is started or found again, followed, and its end recorded.

Whatever moment the engine is killed at, the store and the job directory say what to do:

1. The store says running, ``job.json`` is of an earlier attempt: no worker was started yet.
2. ``job.json`` is of this attempt, no handle is recorded: the executor looks for a worker.
3. The handle is recorded: the executor tells whether the worker lives; its events say the rest.
4. The worker has ended: its last event is acted on again, which does no harm if it was before.

A trouble that passes, such as a want of descriptors, changes nothing: what failed is tried again, and a job for
which no worker could be started waits again. A slot is given back when nothing is left of its worker.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from cryomamba_core.errors import CryoMambaError, ErrorInfo, StorageError, StorageFull, WorkerDied
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress
from cryomamba_core.interfaces import Executor, Resources, Storage, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.jobs import JobRecord, JobState
from cryomamba_core.plugins import Registry
from cryomamba_core.settings import Settings
from cryomamba_server.engine.allowed_paths import AllowedPaths, any_path
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.leftovers import clear, clear_ended, order_cancel
from cryomamba_server.engine.looking import Look, Patience, last_words, look_into
from cryomamba_server.engine.publishing import manifest_versions, publish, whole_results
from cryomamba_server.engine.records import Work
from cryomamba_server.engine.troubles import FOR_EVER, anything, insist, may_pass
from cryomamba_server.engine.wakeups import wait_briefly

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Seconds between two looks into a job directory, and while somebody listens to the job: a look takes 0.3 ms.
FOLLOW_INTERVAL, LISTENED_INTERVAL = 0.1, 0.02
#: Seconds that a thread waits for a worker's end at a time.
WAIT_SECONDS = 1.0
#: Seconds between asking a worker to end and forcing it.
KILL_GRACE = 5.0
#: A disk with less room than this cannot have taken a worker's last words.
FULL_BYTES = 64 << 10
#: What is known of the end of a worker that an earlier engine has started.
ENDED_UNSEEN = "it ended while no engine was running"


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
    paths
        Which files may be opened in place.
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
        paths: AllowedPaths,
        settings: Settings,
        work: Work,
    ) -> None:
        self._ledger = ledger
        self._executors = executors
        self._executor = executor
        self._storage = storage
        self._paths = paths
        self._settings = settings
        self._work = work
        self._directory = JobDirectory(settings.jobs_dir / work.id)
        self._held = ExitStack()
        self._handle: WorkerHandle | None = work.handle
        self._handle_recorded = work.handle is not None
        self._may_run = False
        self._put_off: Exception | None = None
        self._started = _Once(trio.TASK_STATUS_IGNORED)
        self._offset = 0
        self._pending: list[JobEvent] = []
        self._end: JobEvent | None = None
        self._exit: WorkerExit | None = None
        self._lost = ""

    async def run(self) -> bool:
        """Start a worker and stay until the job has left this attempt.

        If it is cancelled, the worker goes on, and the next engine finds it.

        Returns
        -------
        started
            Whether there was a worker; if none could be started for now, the job waits again.
        """
        return await self._see_through(self._launch)

    async def recover(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> bool:
        """Take over from another engine; started once the record is true. Cancelled and returns as `run`."""
        self._started = _Once(task_status)
        return await self._see_through(self._find_or_launch)

    # The first step says whether there is a worker, or what one has left, to follow.

    async def _see_through(self, begin: Callable[[], Awaitable[bool]]) -> bool:
        try:
            if await begin():
                await self._follow()
            await self._conclude()
        except Exception as error:  # noqa: BLE001  # a plugin's fault must end the job, not the engine
            await self._give_up(error)
        finally:
            self._held.close()
            self._started()
        return self._put_off is None

    async def _insist(self, call: Callable[..., T], /, *args: object) -> T:
        """Call in a thread until no trouble is left that passes."""
        what = f"job {self._work.id} has to wait"
        return await insist(call, *args, what=what, on_trouble=self._started)

    async def _tidy(self, call: Callable[[JobDirectory], None]) -> None:
        """Remove what is of no more use; that it cannot be removed changes nothing of how the job ends."""
        try:
            await self._insist(call, self._directory)
        except OSError as error:
            log.warning("something of job %s cannot be removed: %s", self._work.id, error)

    async def _find_or_launch(self) -> bool:
        if await self._find():
            return True
        if self._work.cancel_requested:
            return False
        return await self._launch()

    async def _find(self) -> bool:
        """Look for the worker of an earlier engine; False if none was started."""
        if self._handle is None:
            self._may_run = True
            self._may_run = await self._insist(self._was_begun)
            if not self._may_run:
                return False
            self._handle = await self._insist(self._executor.find, self._directory.path)
            if self._handle is None:
                look = await self._look()
                if look.beat is None and not self._offset:
                    return False
                self._exit = WorkerExit(code=None, reason=ENDED_UNSEEN)
            await self._record_handle()
        else:
            self._executor = self._executors.get(self._handle.executor)
            if not await self._insist(self._executor.reattach, self._handle):
                self._exit = WorkerExit(code=None, reason=ENDED_UNSEEN)
        if self._work.cancel_requested:
            await self._insist(order_cancel, self._directory)
        return True

    def _was_begun(self) -> bool:
        try:
            return self._directory.spec().attempt == self._work.record.attempt
        except StorageError as error:
            if may_pass(error):
                raise
            return False

    async def _launch(self) -> bool:
        if self._work.record.attempt > 1:
            self._end = await self._insist(whole_results, self._directory)
            if self._end is not None:  # of an attempt whose results found no room in the storage
                return False
        try:
            with trio.CancelScope(shield=True):
                await self._start_worker()
                await self._record_handle()
        except Exception as error:
            if not may_pass(error):
                raise
            if self._handle is None and self._may_run:  # perhaps it runs, and only that could not be told
                self._handle = await self._insist(self._executor.find, self._directory.path)
            if self._handle is None:
                self._put_off = error
                return False
            await self._record_handle()
        if self._work.cancel_requested:
            await self._insist(order_cancel, self._directory)
        return True

    async def _start_worker(self) -> None:
        resources = Resources(
            device=self._work.device,
            threads=self._settings.threads,
            environment={"CRYOMAMBA_DATA_DIR": str(self._settings.data_dir)},
        )
        source = await self._source()
        await trio.to_thread.run_sync(self._prepare, source)
        self._may_run = True
        self._handle = await trio.to_thread.run_sync(self._executor.start, self._directory.path, resources)

    async def _source(self) -> Path:
        """Where the worker finds the tomogram; held until the attempt is over."""
        source = self._work.record.config.source
        if source.file_id is None:
            return any_path(source.path or "").path
        stored = await self._ledger.call(self._ledger.store.file, source.file_id, owner=self._work.record.owner)
        return await trio.to_thread.run_sync(self._held.enter_context, self._storage.localize(stored.key))

    def _prepare(self, path: Path) -> None:
        root = self._work.source_root
        if root is not None:
            self._paths.require_still(root)
        spec = JobSpec(
            job_id=self._work.id,
            config=self._work.record.config,
            source=str(path),
            source_root=root,
            source_name=self._work.source_name,
            grid=self._work.grid,
            device=self._work.device,
            devices=self._work.devices,
            executor=self._executor.name,
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

    async def _follow(self) -> None:
        """Take in what the worker says until it has ended."""
        ended = trio.Event()
        patience = Patience(self._settings.stale_seconds)
        async with trio.open_nursery() as nursery:
            self._watch(nursery, ended)
            while True:
                over, before = ended.is_set(), trio.current_time()
                look = await self._look()
                if self._work.cancel_requested and not look.cancel_ordered:
                    await self._insist(order_cancel, self._directory)
                patience.excuse(trio.current_time() - before)
                await self._record_handle()
                await self._advance()
                if over and await self._is_gone():
                    break
                if over:
                    await trio.sleep(FOLLOW_INTERVAL)
                    ended = trio.Event()
                    self._watch(nursery, ended)
                self._started()
                self._lost = patience.lost(look, ordered=look.cancel_ordered or self._end is not None)
                if self._lost:
                    await self._stop_worker()
                    ended.set()
                listened = self._ledger.wakeups.awaited(self._work.id)
                await wait_briefly(ended, LISTENED_INTERVAL if listened else FOLLOW_INTERVAL)
            nursery.cancel_scope.cancel()

    def _watch(self, nursery: trio.Nursery, ended: trio.Event) -> None:
        """Have `ended` set when the worker has ended."""
        if self._exit is not None:
            ended.set()
        elif self._handle is not None:
            nursery.start_soon(self._await_end, self._handle, ended)

    async def _await_end(self, handle: WorkerHandle, ended: trio.Event) -> None:
        def wait() -> WorkerExit | None:
            return self._executor.wait(handle, WAIT_SECONDS)

        while self._exit is None:
            try:
                self._exit = await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
            except Exception as error:
                if not may_pass(error):
                    raise
                await trio.sleep(WAIT_SECONDS)
        ended.set()

    async def _is_gone(self) -> bool:
        """Make sure of the worker's end: its executor may only have failed to see it."""
        if self._handle is None or self._lost:
            return True
        if await self._insist(self._executor.reattach, self._handle):
            self._exit = None
            return False
        return True

    async def _look(self) -> Look:
        """Take in what is new in the job directory."""
        look = await self._insist(look_into, self._directory, self._offset)
        self._offset = look.offset
        for event in look.events:
            if isinstance(event, Progress | PreviewReady):
                self._pending.append(event)
            elif isinstance(event, Completed | Failed) or event.state is JobState.CANCELED:
                self._end = event
        return look

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
        self._work = work or before
        self._ledger.advanced(self._work.record)

    async def _conclude(self) -> None:
        """Record how it ended, after everything that the record promises is true."""
        job_id, attempt, store = self._work.id, self._work.record.attempt, self._ledger.store
        end = self._end
        record: JobRecord | None
        if self._put_off is not None:
            log.warning("job %s waits again, no worker can be started for it: %s", job_id, self._put_off)
            record = await self._ledger.persist(store.put_back, job_id, attempt, "no worker could be started for now")
        elif isinstance(end, Completed):
            record = await self._complete(end)
        elif isinstance(end, Failed):
            await self._stop_worker()  # it may have been unable to end those of its shards
            await self._tidy(JobDirectory.clear_artifacts)
            record = await self._ledger.persist(store.fail, job_id, attempt, end.error)
        elif end is not None or self._work.cancel_requested or await self._insist(self._is_to_stop):
            await self._stop_worker()
            await self._tidy(clear)
            record = await self._ledger.persist(store.cancel, job_id, attempt)
        else:
            record = await self._lose_worker()
        if record is None:
            return
        self._ledger.changed(record)
        if record.state in (JobState.COMPLETED, JobState.CANCELED):
            # not before: whoever comes after a crash publishes again
            with trio.CancelScope(shield=True):
                await clear_ended(self._ledger, self._directory, job_id, preview=record.state is JobState.CANCELED)

    async def _complete(self, end: Completed) -> JobRecord | None:
        """Publish the results; where there is no room for them, they stay for a retry, which does nothing else."""
        job_id, attempt, store = self._work.id, self._work.record.attempt, self._ledger.store
        try:
            versions = await self._insist(self._publish, end)
        except StorageFull as error:
            told = ErrorInfo.of(
                StorageFull(error.message, hint="free some space, then retry: nothing is computed anew")
            )
            return await self._ledger.persist(store.fail, job_id, attempt, told)
        return await self._ledger.persist(store.complete, job_id, attempt, end.artifacts, versions)

    def _is_to_stop(self) -> bool:
        return self._directory.cancel_ordered

    def _publish(self, end: Completed) -> dict[str, str]:
        versions = manifest_versions(self._directory)
        publish(self._storage, self._directory, self._work.id, end.artifacts)
        return versions

    async def _lose_worker(self) -> JobRecord | None:
        await self._stop_worker()
        if await self._insist(self._is_full):
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
        return await self._ledger.persist(
            self._ledger.store.lose, self._work.id, attempt, ErrorInfo.of(error), max_attempts=most
        )

    def _is_full(self) -> bool:
        return shutil.disk_usage(self._directory.path).free < FULL_BYTES

    async def _run_out_of_space(self) -> JobRecord | None:
        """Fail a job whose worker could not even say that the disk is full; the store needs room to say it."""
        await self._tidy(clear)
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
        await self._stop_worker()
        await self._tidy(JobDirectory.clear_artifacts)
        record = await self._ledger.persist(
            self._ledger.store.fail, self._work.id, self._work.record.attempt, _told(error)
        )
        if record is not None:
            self._ledger.changed(record)

    async def _stop_worker(self) -> None:
        """End the worker, and what it started and left behind.

        However long it takes, nothing is left of it when this returns: until then its slot is not free.
        """
        until_done = partial(
            insist, what=f"the worker of job {self._work.id} is not ended yet", worth=anything, patience=FOR_EVER
        )
        if self._handle is None and self._may_run:
            self._handle = await until_done(self._executor.find, self._directory.path)
        if self._handle is not None and self._handle.executor == self._executor.name:
            await until_done(self._executor.cancel, self._handle, KILL_GRACE)


def _told(error: BaseException) -> ErrorInfo:
    """What users are told of an error: the operating system's own words name folders of the server."""
    if isinstance(error, OSError) and error.errno is not None and ErrorInfo.of(error).code == "internal/fault":
        words = os.strerror(error.errno).lower()
        error = StorageError(f"the job's files could not be used: {words}", hint="the server's log says more")
    return ErrorInfo.of(error)


class _Once:
    """Reports that a task has started, the first time it is called."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status: trio.TaskStatus[None] | None = task_status

    def __call__(self) -> None:
        if self._task_status is not None:
            self._task_status.started()
            self._task_status = None
