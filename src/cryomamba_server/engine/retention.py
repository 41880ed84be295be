"""Cleaning up: uploads that were given up, jobs and files past their time, and what a crash left of their removal.

The record goes first, and leaves a note of what it stood for; then that goes. So nobody is promised what is
half gone, and whatever a crash leaves in between is found by its note in the next round. Whole content that
neither a record nor a note names stays: see `cryomamba_server.engine.removals`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import trio
from attrs import frozen

from cryomamba_core.errors import CryoMambaError
from cryomamba_server.engine.engine import Engine
from cryomamba_server.engine.expiry import ExpiryStore
from cryomamba_server.engine.publishing import withdraw
from cryomamba_server.engine.records import now
from cryomamba_server.engine.removals import Removal
from cryomamba_server.engine.troubles import may_pass
from cryomamba_server.engine.unnamed import look_round, unnamed

log = logging.getLogger(__name__)

#: Seconds between two rounds, and between two looks whether this process schedules.
ROUND_SECONDS, LOOK_SECONDS = 600.0, 1.0

#: Records that are removed in one transaction.
BATCH = 100


@frozen(kw_only=True)
class RetentionPolicy:
    """How long things are kept.

    Attributes
    ----------
    upload_hours
        An upload to which nothing was added for so long goes.
    keep_jobs_days
        A job goes so long after its end, with its results; 0 for never.
    keep_files_days
        A file goes so long after the last job that was given it, or after it was last sent; 0 for never.
    """

    upload_hours: float
    keep_jobs_days: float
    keep_files_days: float


class Retention:
    """Keeps a data directory tidy.

    Parameters
    ----------
    engine
        The engine; only the one that schedules cleans up.
    jobs_dir
        Its job directories.
    policy
        How long things are kept.
    on_removed
        Hears how many things of a kind were removed: ``upload``, ``job`` or ``file``.
    """

    def __init__(
        self, engine: Engine, *, jobs_dir: Path, policy: RetentionPolicy, on_removed: Callable[[str, int], None]
    ) -> None:
        self._engine = engine
        self._jobs_dir = jobs_dir
        self._policy = policy
        self._on_removed = on_removed
        self._store = ExpiryStore(engine.database)
        self._told_of_unnamed = False

    async def run(self) -> None:
        """Clean up at once and then every `ROUND_SECONDS`, until cancelled."""
        while True:
            while not self._engine.scheduler.leads:
                await trio.sleep(LOOK_SECONDS)
            await self.clean_up()
            await trio.sleep(ROUND_SECONDS)

    async def clean_up(self) -> None:
        """Make one round; what cannot be removed is logged, and tried again in the next."""
        policy, call = self._policy, self._engine.ledger.call
        with _complaining("uploads"):
            self._tell("upload", await self._engine.uploads.expire(policy.upload_hours * 3600))
        if policy.keep_jobs_days:
            with _complaining("jobs"):
                before = now() - timedelta(days=policy.keep_jobs_days)
                while found := await call(self._store.forget_jobs, before, most=BATCH):
                    self._tell("job", found)
        if policy.keep_files_days:
            with _complaining("files"):
                before = now() - timedelta(days=policy.keep_files_days)
                while found := await call(self._store.forget_files, before, most=BATCH):
                    self._tell("file", found)
        await self._remove_forgotten()
        if not self._told_of_unnamed:
            with _complaining("what no record names"):
                await self._tell_of_unnamed()

    async def _remove_forgotten(self) -> None:
        """Remove what forgotten jobs and files have left, those of earlier rounds included."""
        call = self._engine.ledger.call
        with _complaining("what is forgotten"):
            for job_id in await call(self._store.forgotten, Removal.JOB):
                with _complaining(f"job {job_id}"):
                    await trio.to_thread.run_sync(self._remove_results, job_id)
                    await call(self._store.removed, Removal.JOB, job_id)
            for key in await call(self._store.forgotten, Removal.CONTENT):
                with _complaining(key):
                    await call(self._store.remove_content, key, self._engine.storage.delete)

    def _remove_results(self, job_id: str) -> None:
        withdraw(self._engine.storage, job_id)
        folder = self._jobs_dir / job_id
        if folder.exists():
            shutil.rmtree(folder)

    async def _tell_of_unnamed(self) -> None:
        """Say once what lies there without a record: it is left alone, but it takes room."""
        lying = await trio.to_thread.run_sync(look_round, self._engine.storage, self._jobs_dir)
        named = await self._engine.ledger.call(self._store.named)
        for found in await trio.to_thread.run_sync(unnamed, lying, named, self._jobs_dir):
            log.warning(
                "no record names %d of the things in %s, of %d bytes in all, such as %s: they are left alone;"
                " restore their records from a backup, or remove by hand what nobody needs",
                found.count,
                found.where,
                found.size,
                found.example,
            )
        self._told_of_unnamed = True

    def _tell(self, kind: str, count: int) -> None:
        if count:
            log.info("the clean-up removed: %d × %s", count, kind)
            self._on_removed(kind, count)


@contextmanager
def _complaining(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, CryoMambaError | OSError) and not may_pass(error):
            raise
        log.error("the clean-up of %s was cut short: %s", what, error)
