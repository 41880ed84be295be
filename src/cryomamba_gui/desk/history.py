"""What a window remembers for the next one: files, the engine, which job is of which file, what is on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio
from attrs import evolve
from psygnal import Signal

from cryomamba_core.errors import StorageError
from cryomamba_gui.desk.history_file import Contents, HistoryFile, JobNote, RecentFile, SubmissionNote, bounded, now
from cryomamba_gui.desk.words import all_errors

if TYPE_CHECKING:
    from cryomamba_core.geometry import Index3, Vector3
    from cryomamba_core.jobs import JobConfig
    from cryomamba_gui.desk.journal import Journal
    from cryomamba_gui.desk.troubles import Troubles

T = TypeVar("T")

#: What is about to be changed in the file.
Change = Callable[[Contents], Contents]

#: Seconds before another attempt to write what could not be written.
AGAIN = 10.0
#: Seconds that the last write may take.
LAST = 5.0


class History:
    """What is remembered; changes are there at once, and in the file a moment later.

    Several windows may share the file, in one process or in several: each writes down only what it
    has changed itself.

    Parameters
    ----------
    file
        Where it is kept; a missing or damaged one is an empty one.
    journal, troubles
        Hear what is wrong with the file.
    """

    #: Anything of it is different.
    changed = Signal()

    def __init__(self, file: Path, journal: Journal, troubles: Troubles) -> None:
        self._file = HistoryFile(file)
        self._journal = journal
        self._troubles = troubles
        self._unwritten: list[Change] = []
        self._called = trio.Event()
        self._settled = trio.Event()
        self._told = False
        self._contents = Contents()
        with all_errors() as errors:
            self._contents = self._file.read()
        for error in errors:
            troubles.report(error, what="reading what was remembered")
        self._say_damage()

    @property
    def recent(self) -> tuple[Path, ...]:
        """Files that were opened, the last one first."""
        return tuple(Path(file.path) for file in self._contents.recent)

    @property
    def engine(self) -> str | None:
        """Address of the engine that was used last."""
        return self._contents.engine

    @property
    def submissions(self) -> tuple[SubmissionNote, ...]:
        """What is on its way, the oldest first."""
        return tuple(self._contents.submissions.values())

    @property
    def unwritten(self) -> bool:
        """Whether something is not in the file yet."""
        return bool(self._unwritten)

    def job(self, job_id: str) -> JobNote | None:
        """What is remembered of a job; None where nothing is."""
        return self._contents.jobs.get(job_id)

    def job_path(self, job_id: str) -> Path | None:
        """The file on this computer that a job is of; None where it is not known."""
        note = self.job(job_id)
        return Path(note.path) if note is not None and note.path is not None else None

    def jobs_of(self, url: str) -> dict[str, JobNote]:
        """What is remembered of the jobs of an engine, by their ids, the oldest first."""
        return {job_id: note for job_id, note in self._contents.jobs.items() if note.url == url}

    def file(self, path: Path) -> RecentFile | None:
        """What is remembered of a file; None where nothing is."""
        return next((file for file in self._contents.recent if file.path == str(path.absolute())), None)

    def remember_file(self, path: Path, *, voxel_size: Vector3 | None = None, shape: Index3 | None = None) -> None:
        """Put a file at the head of those that were opened.

        Parameters
        ----------
        path
            The file.
        voxel_size
            Voxel size (z, y, x) in Å that the user gave instead of the header's.
        shape
            Number of its voxels (z, y, x): of another file at this path the voxel size is not true.
        """
        file = RecentFile(path=str(path.absolute()), at=now(), voxel_size=voxel_size, shape=shape)

        def change(contents: Contents) -> Contents:
            return evolve(contents, recent=(file, *_others(contents.recent, file.path)))

        self._change(change)

    def forget_file(self, path: Path) -> None:
        """Remember a file no longer."""
        gone = str(path.absolute())
        self._change(lambda contents: evolve(contents, recent=_others(contents.recent, gone)))

    def remember_engine(self, url: str) -> None:
        """Remember the engine that is used; no secret is in its address."""
        if url != self.engine:
            self._change(lambda contents: evolve(contents, engine=url))

    def remember_job(self, job_id: str, *, path: Path | None, url: str, model: str | None) -> None:
        """Remember which file a job is of, and which engine has it."""
        note = JobNote(path=None if path is None else str(path.absolute()), url=url, model=model, at=now())
        self._change(lambda contents: evolve(contents, jobs={**_without(contents.jobs, job_id), job_id: note}))

    def forget_job(self, job_id: str) -> None:
        """Remember a job no longer."""
        self._change(lambda contents: evolve(contents, jobs=_without(contents.jobs, job_id)))

    def remember_submission(
        self, key: str, *, path: Path, url: str, config: JobConfig, auto: bool = False, asked: bool = False
    ) -> None:
        """Remember a file that is on its way; await `written` before the engine is asked to queue it.

        Parameters
        ----------
        key
            Its idempotency key: what is remembered under it is replaced.
        path, url, config
            The file, the engine, and what is asked for.
        auto
            Whether it is queued as soon as it can be.
        asked
            Whether the engine was asked to queue it, and may have done so.
        """
        note = SubmissionNote(
            key=key, path=str(path.absolute()), url=url, config=config, auto=auto, asked=asked, at=now()
        )
        self._change(lambda contents: evolve(contents, submissions={**contents.submissions, key: note}))

    def forget_submission(self, key: str) -> None:
        """Remember it no longer: it has become a job, or was given up."""
        self._change(lambda contents: evolve(contents, submissions=_without(contents.submissions, key)))

    async def written(self) -> None:
        """Wait until all that is remembered by now is in the file; at once where it cannot be written."""
        while self._unwritten and not self._told:
            await self._settled.wait()

    async def run(self) -> None:
        """Write down what changes, until cancelled; then what is left, for `LAST` seconds at most."""
        try:
            while True:
                await self._called.wait()
                self._called = trio.Event()
                await self._write()
                if self._unwritten:
                    with trio.move_on_after(AGAIN):
                        await self._called.wait()
                    self._called.set()
        finally:
            with trio.move_on_after(LAST, shield=True):
                await self._write()

    def _change(self, change: Change) -> None:
        self._unwritten.append(change)
        self._called.set()
        self._show(bounded(change(self._contents)))

    async def _write(self) -> None:
        """Bring the changes into the file, and what others have changed there in here."""
        changes = tuple(self._unwritten)
        if not changes:
            return

        def change(contents: Contents) -> Contents:
            for each in changes:
                contents = each(contents)
            return bounded(contents)

        with all_errors() as errors:
            contents = await trio.to_thread.run_sync(self._file.change, change, abandon_on_cancel=True)
            del self._unwritten[: len(changes)]
            for later in self._unwritten:
                contents = bounded(later(contents))
            self._told = False
            self._show(contents)
        self._say_damage()
        self._say_errors(errors)
        self._settled.set()
        self._settled = trio.Event()

    def _show(self, contents: Contents) -> None:
        before, self._contents = self._contents, contents
        if before != contents:
            with self._troubles.catching("showing what is remembered"):
                self.changed.emit()

    def _say_damage(self) -> None:
        for damage in self._file.damages:
            self._journal.note("warning", damage)
        self._file.damages.clear()

    def _say_errors(self, errors: list[Exception]) -> None:
        """Say that the file cannot be written: aloud once, until it can be again."""
        for error in errors:
            self._journal.note("warning", f"{self._file.path} cannot be written: {error}")
            if not self._told:
                self._told = True
                self._troubles.report(_told(error, self._file.path), what="remembering what is done")


def _told(error: Exception, path: Path) -> Exception:
    if not isinstance(error, OSError) or isinstance(error, StorageError):
        return error
    told = StorageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="the next window will not know what this one does; free some space, or see who owns the folder",
    )
    told.__cause__ = error
    return told


def _others(recent: tuple[RecentFile, ...], path: str) -> tuple[RecentFile, ...]:
    return tuple(file for file in recent if file.path != path)


def _without(entries: dict[str, T], key: str) -> dict[str, T]:
    return {name: entry for name, entry in entries.items() if name != key}


__all__ = ["Contents", "History", "JobNote", "RecentFile", "SubmissionNote"]
