"""What is kept of jobs on this computer, so that they are known while their engine is not there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attrs import evolve, frozen

from cryomamba_core.durable import write_whole
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.jobs import JobRecord
from cryomamba_core.wire import dump_json, load_json
from cryomamba_gui.desk.fetching import folder_of

if TYPE_CHECKING:
    from cryomamba_gui.desk.journal import Journal

log = logging.getLogger(__name__)

#: The file in the folder of a job.
NAME = "record.json"
#: Jobs that are known again, those that changed last; and bytes of a record that is read.
MOST, MOST_BYTES = 500, 1 << 20
#: Seconds that the last of what is kept may take to be written.
LAST = 5.0


@frozen(kw_only=True)
class KeptJob:
    """A job as it was when it was last heard of.

    Attributes
    ----------
    url
        Address of its engine.
    path
        Absolute path of its tomogram on this computer; None where it is not known.
    started_here
        Whether this desktop has queued it.
    record
        What the engine said of it.
    """

    url: str
    path: str | None
    started_here: bool
    record: JobRecord


def without_addresses(record: JobRecord) -> JobRecord:
    """A record without the addresses of its artifacts, each of which is new in every answer, and opens the door."""
    bare = tuple(evolve(artifact, url=None, url_expires_at=None) for artifact in record.artifacts)
    return evolve(record, artifacts=bare)


class Shelf:
    """The folders of all jobs, one for each below one for each engine, and the record of the job in it.

    Parameters
    ----------
    root
        The folder of all of them.
    journal
        Hears what cannot be written.
    """

    def __init__(self, root: Path, journal: Journal) -> None:
        self._root = root
        self._journal = journal
        self._unwritten: dict[Path, KeptJob] = {}
        self._news = trio.Event()
        self._writing = trio.Lock()

    def folder(self, url: str, job_id: str) -> Path:
        """The folder of a job."""
        return folder_of(self._root, url, job_id)

    def keep(self, job: KeptJob) -> None:
        """Keep a job, in the place of what was kept of it before; it is written a moment later."""
        self._unwritten[self.folder(job.url, job.record.id)] = job
        self._news.set()

    async def jobs(self) -> tuple[KeptJob, ...]:
        """All that are kept, except what cannot be read."""
        return await trio.to_thread.run_sync(self._read_all, abandon_on_cancel=True)

    async def remove(self, url: str, job_id: str) -> None:
        """Remove the folder of a job and all that is in it."""
        folder = self.folder(url, job_id)
        async with self._writing:
            self._unwritten.pop(folder, None)
            await trio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))

    async def run(self) -> None:
        """Write what is to be kept, until cancelled; then what is left, for `LAST` seconds at most."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._write_all()
        finally:
            with trio.move_on_after(LAST, shield=True):
                await self._write_all()

    async def _write_all(self) -> None:
        async with self._writing:
            while self._unwritten:
                folder, job = next(iter(self._unwritten.items()))
                try:
                    await trio.to_thread.run_sync(_write, folder, job)
                except (OSError, CryoMambaError) as error:
                    self._journal.note("warning", f"job {job.record.id} cannot be remembered: {error}")
                if self._unwritten.get(folder) is job:  # else there is a newer one by now
                    del self._unwritten[folder]

    def _read_all(self) -> tuple[KeptJob, ...]:
        files = sorted(self._files(), key=lambda found: found[0], reverse=True)[:MOST]
        return tuple(job for job in (self._read(path) for _, path in files) if job is not None)

    def _files(self) -> Iterator[tuple[float, Path]]:
        for path in self._root.glob(f"*/*/{NAME}"):
            try:
                yield path.stat().st_mtime, path
            except OSError:
                continue

    def _read(self, path: Path) -> KeptJob | None:
        try:
            with path.open("rb") as stream:
                job = load_json(stream.read(MOST_BYTES), KeptJob)
        except (OSError, CryoMambaError, RecursionError) as error:
            log.debug("%s cannot be read: %s", path, error)
            return None
        return job if self.folder(job.url, job.record.id) == path.parent else None


def _write(folder: Path, job: KeptJob) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / NAME, dump_json(job).encode())
