"""The engine: takes jobs, runs them, and tells how they go. All its methods are for trio."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import trio
import uuid_utils
from attrs import evolve

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import CryoMambaError, InvalidParameter, SubmissionInFlight, UnknownObject
from cryomamba_core.events import JobEvent
from cryomamba_core.files import FileRecord
from cryomamba_core.hookspecs import API_VERSION
from cryomamba_core.interfaces import Executor, ServerInfo, Storage
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobConfig, JobRecord, JobState
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import JobPlan
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import Preview
from cryomamba_core.settings import Settings
from cryomamba_core.wire import to_plain
from cryomamba_server.engine.allowed_paths import AllowedPaths
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.estimates import Estimates
from cryomamba_server.engine.fitting import computer_memory
from cryomamba_server.engine.following import Following
from cryomamba_server.engine.intake import Accepted, Room, SourcePath, accept, list_models, require_space
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.leftovers import clear, order_cancel
from cryomamba_server.engine.publishing import artifact_key
from cryomamba_server.engine.receiving import OnPiece, receive
from cryomamba_server.engine.records import SEPARATOR, StoredFile, Work, now
from cryomamba_server.engine.scheduler import Scheduler
from cryomamba_server.engine.store import JobStore
from cryomamba_server.engine.supervision import Supervision
from cryomamba_server.engine.troubles import insist
from cryomamba_server.engine.upload_rules import UploadRules
from cryomamba_server.engine.uploads import Uploads
from cryomamba_server.engine.wakeups import wait_briefly

log = logging.getLogger(__name__)

#: Requests whose sources are looked at at the same time: one that hangs, as on a network disk, holds a thread.
MOST_LOOKING = 16

#: Seconds after which a job's end is looked for that another process has recorded.
END_INTERVAL = 0.2


@asynccontextmanager
async def open_engine(
    host: PluginHost,
    settings: Settings,
    *,
    executor: str = "local",
    storage: str = "filesystem",
    allow_roots: Sequence[Path] | None = None,
    upload_rules: UploadRules | None = None,
) -> AsyncIterator[Engine]:
    """Run an engine on the data directory for as long as the context lasts.

    Several engines, in one process or in several, may share a data directory: one of them
    schedules. When the context is left, queued jobs stay queued and workers go on; the next engine
    takes them over. What the block raises is raised as it is, not in an exception group.

    Parameters
    ----------
    host
        Where every plugin comes from.
    settings
        The settings of this process.
    executor, storage
        Names of the plugins that run workers and that keep files.
    allow_roots
        Folders whose files jobs may name by their path; None for any path, where all who can reach the
        engine are its own user.
    upload_rules
        What is allowed of uploads; None for the defaults.
    """
    engine = await trio.to_thread.run_sync(
        partial(
            Engine,
            host,
            settings,
            executor=executor,
            storage=storage,
            allow_roots=allow_roots,
            upload_rules=upload_rules,
        )
    )
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as observing:
            observing.start_soon(engine.ledger.tell_observers)
            await observing.start(engine.following.run)
            async with trio.open_nursery() as scheduling:
                await scheduling.start(engine.scheduler.run)
                try:
                    yield engine
                except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # raised below, not in a group
                    raised = error
                scheduling.cancel_scope.cancel()
            observing.cancel_scope.cancel()
    finally:
        engine.close()
    if raised is not None:
        raise raised


class Engine:
    """Jobs of any number of owners. Use `open_engine`, which also runs the background tasks.

    Methods that take an `owner` treat what belongs to others as if it did not exist; None sees all.

    Parameters
    ----------
    host, settings, executor, storage, allow_roots, upload_rules
        As for `open_engine`.
    """

    def __init__(
        self,
        host: PluginHost,
        settings: Settings,
        *,
        executor: str,
        storage: str,
        allow_roots: Sequence[Path] | None = None,
        upload_rules: UploadRules | None = None,
    ) -> None:
        self._host = host
        self._settings = settings
        self._executor = host.executors.get(executor)
        self.storage: Storage = host.storages.get(storage)
        self.devices = _slots(self._executor)
        self._paths = AllowedPaths(allow_roots, settings.data_dir)  # before anything is opened: it may refuse
        self.database = Database(settings.data_dir)
        self._store = JobStore(self.database)
        self.ledger = Ledger(self._store, host)
        self.uploads = Uploads(
            host=host,
            storage=self.storage,
            ledger=self.ledger,
            database=self.database,
            rules=upload_rules or UploadRules(),
        )
        self._estimates = Estimates(self.database, slots=len(self.devices))
        self._memory = computer_memory()
        self._room = Room(executor=self._executor, slots=self.devices, threads=settings.threads)
        self.following = Following(self.ledger, self._preview)
        self._in_flight: set[tuple[str, str]] = set()
        self._looking = trio.CapacityLimiter(MOST_LOOKING)
        self._cleared: Counter[str] = Counter()
        self.scheduler = Scheduler(
            ledger=self.ledger,
            data_dir=settings.data_dir,
            jobs_dir=settings.jobs_dir,
            slots=self.devices,
            supervise=self._supervision,
        )

    def close(self) -> None:
        """Let go of the job store, and of worker processes without a job."""
        try:
            self._executor.close()
        finally:
            self.database.close()

    def server_info(self, *, shares_files: bool) -> ServerInfo:
        """What the engine is and can do."""
        return ServerInfo(
            version=metadata.version("cryomamba"),
            api_version=API_VERSION,
            shares_files=shares_files,
            devices=self.devices,
            runners=self._host.runners.names,
            exporters=self._host.exporters.names,
            problems=self._host.problems,
        )

    async def models(self) -> Sequence[ModelInfo]:
        """Models of all runners."""
        return await trio.to_thread.run_sync(list_models, self._host)

    async def plan(self, config: JobConfig, *, owner: str) -> JobPlan:
        """What a job would cost, or the error that would refuse it."""
        accepted = await self._accept(config, owner)
        position = await self.ledger.call(self._store.next_position, owner)
        starts, seconds = await self.ledger.call(
            self._estimates.newcomer,
            owner,
            runner=accepted.config.runner or "",
            model=accepted.config.model or "",
            voxels=accepted.grid.voxels,
        )
        run = accepted.plan if accepted.plan.seconds is not None else evolve(accepted.plan, seconds=seconds)
        return JobPlan(
            run=run,
            device=self._room.device,
            disk_bytes=accepted.disk_bytes,
            queue_position=position,
            starts_in_seconds=starts,
        )

    async def submit(self, config: JobConfig, *, owner: str, idempotency_key: str | None = None) -> JobRecord:
        """Queue a job, or find the one that came with the same key; raises as `take`."""
        record, _ = await self.take(config, owner=owner, idempotency_key=idempotency_key)
        return record

    async def take(
        self, config: JobConfig, *, owner: str, idempotency_key: str | None = None
    ) -> tuple[JobRecord, bool]:
        """Queue a job. What is wrong with it is raised before anything is recorded.

        Returns
        -------
        record, fresh
            The job, and whether it is new: a request that came before with the same key made it else.

        Raises
        ------
        IdempotencyConflict
            If the key came with another request before.
        SubmissionInFlight
            If a request with the same key is being answered.
        TooManyJobs
            If too many of its owner's jobs wait.
        """
        if idempotency_key is None:
            return await self._take(config, owner, None)
        identity = (owner, idempotency_key)
        if identity in self._in_flight:
            raise SubmissionInFlight(
                f"a request with the idempotency key {idempotency_key!r} is being answered",
                hint="try again in a moment",
            )
        self._in_flight.add(identity)
        try:
            return await self._take(config, owner, idempotency_key)
        finally:
            self._in_flight.remove(identity)

    async def _take(self, config: JobConfig, owner: str, idempotency_key: str | None) -> tuple[JobRecord, bool]:
        digest = hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()
        if idempotency_key is not None:
            known = await self.ledger.call(self._store.find_job, owner, idempotency_key, digest)
            if known is not None:
                return await self._expected(known), False
        accepted = await self._accept(config, owner)
        record = JobRecord(
            id=str(uuid_utils.uuid7()), owner=owner, state=JobState.QUEUED, config=accepted.config, created_at=now()
        )
        stored = await self.ledger.call(
            self._store.add_job,
            record,
            accepted.grid,
            accepted.source_name,
            source_root=self._paths.root_named(accepted.config.source),
            idempotency_key=idempotency_key,
            request_digest=digest,
        )
        fresh = stored.id == record.id
        if fresh:
            self.ledger.changed(stored)
        return await self._expected(stored), fresh

    async def job(self, job_id: str, *, owner: str | None) -> JobRecord:
        """A job's record; raises `UnknownJob`."""
        return await self._expected(await self.ledger.call(self._store.job, job_id, owner=owner))

    async def jobs(self, *, owner: str | None, limit: int = 100, before: str | None = None) -> Sequence[JobRecord]:
        """The newest jobs first, at most `limit`, only those older than the job `before`."""
        records = await self.ledger.call(self._store.jobs, owner=owner, limit=limit, before=before)
        return await self._all_expected(records)

    async def cancel(self, job_id: str, *, owner: str | None) -> JobRecord:
        """Stop a job; returns when it has ended, one way or another.

        If it is cancelled itself, the order stands.
        """
        directory = self._directory(job_id)
        with self._clearing(job_id):
            record, canceled = await self.ledger.call(self._store.request_cancel, job_id, owner=owner)
            if canceled:
                self.ledger.changed(record)
                await insist(clear, directory, what=f"what job {job_id} left cannot be removed yet")
                await self.ledger.call(self._store.cleared, job_id)
        if not canceled and not record.state.ended:
            await insist(order_cancel, directory, what=f"job {job_id} cannot be told to stop")
        while not record.state.ended:
            changed = self.ledger.wakeups.listen(job_id)
            record = await self.ledger.call(self._store.job, job_id, owner=owner)
            if not record.state.ended:
                await wait_briefly(changed, END_INTERVAL)
        return record

    @contextmanager
    def _clearing(self, job_id: str) -> Iterator[None]:
        """Hold back a retry of a job, of which something may be removed."""
        self._cleared[job_id] += 1
        try:
            yield
        finally:
            self._cleared[job_id] -= 1
            self._cleared += Counter()  # forgets those that are at 0

    async def retry(self, job_id: str, *, owner: str | None) -> JobRecord:
        """Queue a failed or canceled job again; raises `IllegalTransition` for any other, or `TooManyJobs`."""
        while self._cleared[job_id]:  # else what a new worker makes would be removed, too
            await trio.sleep(END_INTERVAL)
        record = await self.ledger.call(self._store.retry, job_id, owner=owner)
        self.ledger.changed(record)
        return await self._expected(record)

    async def events(self, job_id: str, *, owner: str | None, after: int = 0) -> AsyncIterator[JobEvent]:
        """A job's events behind number `after`, first those that are recorded, then as they come.

        Ends with the event that ended the job. However slow the listener, it gets the progress and
        the preview that are newest when it asks, and every change of state.
        """
        async with self.following.listen(job_id, owner=owner, after=after) as listener:
            async for message in listener:
                yield message.event

    async def add_file(self, path: Path, *, owner: str, on_piece: OnPiece | None = None) -> FileRecord:
        """Take a copy of a local file into the storage; content that is known is not copied again.

        Parameters
        ----------
        path
            The file.
        owner
            Whose it will be.
        on_piece
            Called in a thread with bytes done and in all; what it raises stops the work, and
            nothing is left of it.

        Raises
        ------
        InputError
            If no reader takes the file.
        """
        stored = await trio.to_thread.run_sync(partial(receive, self._host, self.storage, path, on_piece=on_piece))
        return await self.ledger.call(self._store.add_file, stored.record, stored.key, owner=owner)

    async def artifact(self, job_id: str, name: str, *, owner: str | None) -> tuple[Artifact, str]:
        """An artifact of a job and the key under which `storage` has it; raises `UnknownObject`."""
        record = await self.job(job_id, owner=owner)
        for artifact in record.artifacts:
            if artifact.name == name:
                return artifact, artifact_key(job_id, name)
        names = ", ".join(artifact.name for artifact in record.artifacts) or "none"
        raise UnknownObject(f"job {job_id} has no artifact {name!r}", hint=f"it is {record.state} and has: {names}")

    async def _expected(self, record: JobRecord) -> JobRecord:
        return (await self._all_expected([record]))[0]

    async def _all_expected(self, records: Sequence[JobRecord]) -> Sequence[JobRecord]:
        """Records that say when the jobs start that wait, where that can be told."""
        waiting = [record.id for record in records if record.state is JobState.QUEUED]
        if not waiting:
            return records
        starts = await self.ledger.call(self._estimates.starts, waiting)
        return [evolve(record, starts_in_seconds=starts.get(record.id)) for record in records]

    async def _accept(self, config: JobConfig, owner: str) -> Accepted:
        stored: StoredFile | None = None
        if config.source.file_id is not None:
            stored = await self.ledger.call(self._store.file, config.source.file_id, owner=owner)
        return await trio.to_thread.run_sync(self._check, config, stored, limiter=self._looking)

    def _check(self, config: JobConfig, stored: StoredFile | None) -> Accepted:
        if stored is None:
            with self._paths.opened(config.source.path or "") as source:
                accepted = self._accept_from(config, source)
        else:
            with self.storage.localize(stored.key) as path:
                source = SourcePath(path=path, name=stored.record.name)
                accepted = self._accept_from(config, source)
        require_space(self._settings.data_dir, accepted.disk_bytes)
        return accepted

    def _accept_from(self, config: JobConfig, source: SourcePath) -> Accepted:
        return accept(
            self._host,
            config,
            source=source,
            room=self._room,
            memory=self._memory,
        )

    def _supervision(self, work: Work) -> Supervision:
        return Supervision(
            ledger=self.ledger,
            executors=self._host.executors,
            executor=self._executor,
            storage=self.storage,
            paths=self._paths,
            settings=self._settings,
            work=work,
        )

    def _directory(self, job_id: str) -> JobDirectory:
        return JobDirectory(self._settings.jobs_dir / job_id)

    def _preview(self, job_id: str) -> Preview | None:
        try:
            return self._directory(job_id).preview()
        except (CryoMambaError, OSError) as error:
            log.warning("the preview of job %s cannot be read: %s", job_id, error)
            return None


def _slots(executor: Executor) -> tuple[str, ...]:
    """The slots of an executor; raises `InvalidParameter` for names that the job store could not keep."""
    slots = tuple(executor.slots())
    for slot in slots:
        if SEPARATOR in slot:
            raise InvalidParameter(
                f"executor {executor.name} has a slot called {slot!r}, with a {SEPARATOR!r} in it",
                hint="give each device a name of its own in CRYOMAMBA_DEVICES or in the settings' list `devices`",
            )
    return slots
