"""Who schedules, and which job gets a slot next."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio
from filelock import FileLock, Timeout

from cryomamba_core.errors import CryoMambaError
from cryomamba_server.engine.ledger import QUEUE, Ledger
from cryomamba_server.engine.leftovers import clear_left
from cryomamba_server.engine.log_context import JOB_ID
from cryomamba_server.engine.records import Work
from cryomamba_server.engine.supervision import Supervision
from cryomamba_server.engine.troubles import may_pass
from cryomamba_server.engine.wakeups import wait_briefly

log = logging.getLogger(__name__)

#: Whoever holds a lock on this file of the data directory schedules; the kernel frees it with the process.
LOCK_NAME = "scheduler.lock"
#: Seconds between two tries to become the scheduler.
LOCK_INTERVAL = 0.5
#: Seconds between two looks for jobs that another process has queued.
QUEUE_INTERVAL = 0.25
#: Seconds that a slot rests after no worker could be started in it.
REST_SECONDS = 5.0


class Scheduler:
    """Gives queued jobs their slots, as soon as no other process of the data directory does.

    Parameters
    ----------
    ledger
        The job store.
    data_dir, jobs_dir
        The data directory, and the job directories in it.
    slots
        Devices, one for each job that may run at the same time.
    supervise
        Makes the supervision of an active job.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        data_dir: Path,
        jobs_dir: Path,
        slots: Sequence[str],
        supervise: Callable[[Work], Supervision],
    ) -> None:
        self._ledger = ledger
        self._jobs_dir = jobs_dir
        self._lock = FileLock(data_dir / LOCK_NAME, thread_local=False)
        self._slots = tuple(slots)
        self._supervise = supervise
        self._busy: Counter[str] = Counter()
        self._attempts: dict[str, trio.Lock] = {}
        self.leads = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Schedule until cancelled.

        Started once the records are true: every job that is said to be active is followed, by this
        process or by the one that schedules. If it is cancelled, workers go on.
        """
        waiting = False
        while not self._acquire():
            if not waiting:
                task_status.started()
                waiting = True
            await trio.sleep(LOCK_INTERVAL)
        try:
            self.leads = True
            await self._lead(trio.TASK_STATUS_IGNORED if waiting else task_status)
        finally:
            self.leads = False
            self._lock.release()

    def _acquire(self) -> bool:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            if not may_pass(error):
                raise
            log.warning("whether another process schedules cannot be told yet: %s", error)
            return False
        return True

    async def _lead(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as recovering:
                for work in await self._ledger.persist(self._ledger.store.active):
                    log.info("job %s is taken over from an engine that has left", work.id)
                    self._busy.update(work.devices)
                    recovering.start_soon(nursery.start, self._recover, work)
            task_status.started()
            nursery.start_soon(clear_left, self._ledger, self._jobs_dir)
            while True:
                changed = self._ledger.wakeups.listen(QUEUE)
                try:
                    await self._fill(nursery)
                except Exception as error:
                    if not isinstance(error, CryoMambaError) and not may_pass(error):
                        raise
                    log.error("no job can be started: %s", error)
                await wait_briefly(changed, QUEUE_INTERVAL)

    async def _fill(self, nursery: trio.Nursery) -> None:
        """Start queued jobs in free slots."""
        while free := list((Counter(self._slots) - self._busy).elements()):
            if not await self._ledger.call(self._ledger.store.queued):
                return
            work = await self._ledger.call(self._ledger.store.claim, free[0], further=free[1:])
            if work is None:
                return
            self._busy.update(work.devices)
            nursery.start_soon(self._run, work)
            self._ledger.changed(work.record)

    async def _run(self, work: Work) -> None:
        JOB_ID.set(work.id)
        with self._slots_of(work):
            async with self._alone(work.id):
                started = await self._supervise(work).run()
            if not started:
                await trio.sleep(REST_SECONDS)

    @asynccontextmanager
    async def _alone(self, job_id: str) -> AsyncIterator[None]:
        """Wait until an earlier attempt at the job has removed what is of no more use."""
        lock = self._attempts.setdefault(job_id, trio.Lock())
        async with lock:
            yield
        if not lock.locked():
            self._attempts.pop(job_id, None)

    async def _recover(self, work: Work, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        JOB_ID.set(work.id)
        with self._slots_of(work):
            async with self._alone(work.id):
                started = await self._supervise(work).recover(task_status)
            if not started:
                await trio.sleep(REST_SECONDS)

    @contextmanager
    def _slots_of(self, work: Work) -> Iterator[None]:
        """Give back the slots that a job has taken, at the end of the block."""
        try:
            yield
        finally:
            self._busy.subtract(work.devices)
            self._ledger.wakeups.notify(QUEUE)
