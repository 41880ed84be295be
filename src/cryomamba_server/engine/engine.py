"""The engine: takes jobs, runs them, and tells how they go. All its methods are for trio."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import trio
import uuid_utils
from attrs import evolve

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import CryoMambaError, UnknownObject
from cryomamba_core.events import JobEvent, PreviewReady
from cryomamba_core.files import FileRecord
from cryomamba_core.hookspecs import API_VERSION
from cryomamba_core.interfaces import ServerInfo, Storage
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobConfig, JobRecord, JobState
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import JobPlan
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import Preview
from cryomamba_core.settings import Settings
from cryomamba_core.wire import to_plain
from cryomamba_server.engine.intake import Accepted, SourcePath, accept, check_path, list_models, require_space
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.publishing import artifact_key
from cryomamba_server.engine.receiving import OnPiece, receive
from cryomamba_server.engine.records import StoredFile, Work, now
from cryomamba_server.engine.scheduler import Scheduler
from cryomamba_server.engine.store import JobStore
from cryomamba_server.engine.supervision import Supervision, clear, order_cancel
from cryomamba_server.engine.wakeups import wait_briefly

log = logging.getLogger(__name__)

#: Seconds after which a listener looks for events that another process has recorded.
LISTEN_INTERVAL = 0.2


@asynccontextmanager
async def open_engine(
    host: PluginHost, settings: Settings, *, executor: str = "local", storage: str = "filesystem"
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
    """
    engine = await trio.to_thread.run_sync(partial(Engine, host, settings, executor=executor, storage=storage))
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as observing:
            observing.start_soon(engine.ledger.tell_observers)
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
    host, settings, executor, storage
        As for `open_engine`.
    """

    def __init__(self, host: PluginHost, settings: Settings, *, executor: str, storage: str) -> None:
        self._host = host
        self._settings = settings
        self._executor = host.executors.get(executor)
        self.storage: Storage = host.storages.get(storage)
        self.devices = tuple(self._executor.slots())
        self._store = JobStore(settings.data_dir)
        self.ledger = Ledger(self._store, host)
        self.scheduler = Scheduler(
            ledger=self.ledger, data_dir=settings.data_dir, slots=self.devices, supervise=self._supervision
        )

    def close(self) -> None:
        """Let go of the job store."""
        self._store.close()

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
        return JobPlan(run=accepted.plan, device=self._device, queue_position=position)

    async def submit(self, config: JobConfig, *, owner: str, idempotency_key: str | None = None) -> JobRecord:
        """Queue a job. What is wrong with it is raised before anything is recorded."""
        digest = hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()
        if idempotency_key is not None:
            known = await self.ledger.call(self._store.find_job, owner, idempotency_key, digest)
            if known is not None:
                return known
        accepted = await self._accept(config, owner)
        record = JobRecord(
            id=str(uuid_utils.uuid7()), owner=owner, state=JobState.QUEUED, config=accepted.config, created_at=now()
        )
        stored = await self.ledger.call(
            self._store.add_job,
            record,
            accepted.grid,
            accepted.source_name,
            idempotency_key=idempotency_key,
            request_digest=digest,
        )
        if stored.id == record.id:
            self.ledger.changed(stored)
        return stored

    async def job(self, job_id: str, *, owner: str | None) -> JobRecord:
        """A job's record; raises `UnknownJob`."""
        return await self.ledger.call(self._store.job, job_id, owner=owner)

    async def jobs(self, *, owner: str | None, limit: int = 100, before: str | None = None) -> Sequence[JobRecord]:
        """The newest jobs first, at most `limit`, only those older than the job `before`."""
        return await self.ledger.call(self._store.jobs, owner=owner, limit=limit, before=before)

    async def cancel(self, job_id: str, *, owner: str | None) -> JobRecord:
        """Stop a job; returns when it has ended, one way or another.

        If it is cancelled itself, the order stands.
        """
        record, canceled = await self.ledger.call(self._store.request_cancel, job_id, owner=owner)
        directory = self._directory(job_id)
        if canceled:
            self.ledger.changed(record)
            await trio.to_thread.run_sync(clear, directory)
        elif not record.state.ended:
            await trio.to_thread.run_sync(order_cancel, directory)
        while not record.state.ended:
            changed = self.ledger.wakeups.listen(job_id)
            record = await self.ledger.call(self._store.job, job_id, owner=owner)
            if not record.state.ended:
                await wait_briefly(changed, LISTEN_INTERVAL)
        return record

    async def retry(self, job_id: str, *, owner: str | None) -> JobRecord:
        """Queue a failed or canceled job again; raises `IllegalTransition` for any other."""
        record = await self.ledger.call(self._store.retry, job_id, owner=owner)
        self.ledger.changed(record)
        return record

    async def events(self, job_id: str, *, owner: str | None, after: int = 0) -> AsyncIterator[JobEvent]:
        """A job's events behind number `after`, first those that are recorded, then as they come.

        Ends with the event that ended the job. The store keeps the newest progress and the newest
        preview only, and one event is fetched at a time: however slow the listener, it gets what is
        newest when it asks, and every change of state.
        """
        while True:
            heard = self.ledger.wakeups.listen(job_id)
            following = await self.ledger.call(self._store.next_event, job_id, after=after, owner=owner)
            event = following.event
            if event is not None:
                after = event.seq
                if isinstance(event, PreviewReady):
                    event = evolve(event, preview=await trio.to_thread.run_sync(self._preview, job_id))
                yield event
            if following.last:
                return
            if event is None:
                await wait_briefly(heard, LISTEN_INTERVAL)

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

    @property
    def _device(self) -> str:
        return self.devices[0] if self.devices else "cpu"

    async def _accept(self, config: JobConfig, owner: str) -> Accepted:
        stored: StoredFile | None = None
        if config.source.file_id is not None:
            stored = await self.ledger.call(self._store.file, config.source.file_id, owner=owner)
        return await trio.to_thread.run_sync(self._check, config, stored)

    def _check(self, config: JobConfig, stored: StoredFile | None) -> Accepted:
        if stored is None:
            source = check_path(config.source.path or "")
            accepted = accept(self._host, config, source=source, device=self._device)
        else:
            with self.storage.localize(stored.key) as path:
                source = SourcePath(path=path, name=stored.record.name)
                accepted = accept(self._host, config, source=source, device=self._device)
        require_space(self._settings.data_dir, accepted.disk_bytes)
        return accepted

    def _supervision(self, work: Work) -> Supervision:
        return Supervision(
            ledger=self.ledger,
            executors=self._host.executors,
            executor=self._executor,
            storage=self.storage,
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
