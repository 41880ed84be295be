"""The jobs that a window shows, and what can be done with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio
from psygnal import Signal

from cryomamba_core.errors import IllegalTransition, ServerUnreachable, UnknownJob
from cryomamba_core.jobs import JobRecord, JobState
from cryomamba_gui.desk import fetching
from cryomamba_gui.desk.attendance import leaving, next_news, session_with
from cryomamba_gui.desk.following import Watch
from cryomamba_gui.desk.items import JobItem
from cryomamba_gui.desk.link import Link, LinkState
from cryomamba_gui.desk.outbox import Outbox, Soon
from cryomamba_gui.desk.shelf import KeptJob, Shelf, without_addresses
from cryomamba_gui.desk.telling import tell

if TYPE_CHECKING:
    from cryomamba_core.artifacts import Artifact
    from cryomamba_core.events import JobEvent
    from cryomamba_core.interfaces import Session
    from cryomamba_core.interfaces.transports import OnProgress
    from cryomamba_gui.desk.history import History
    from cryomamba_gui.desk.journal import Journal
    from cryomamba_gui.desk.submission import Submission

T = TypeVar("T")

#: Previews of jobs that have ended which are kept.
PREVIEWS = 4


class JobList:
    """All jobs of the engine that the window is connected with, and those of others that are kept here.

    Parameters
    ----------
    link
        The engine.
    history
        Remembers which file a job is of, and what is on its way.
    journal
        Is told what happens.
    soon
        Starts a task.

    Attributes
    ----------
    link
        As above.
    outbox
        Files on their way to a job.
    """

    #: A job is in the list that was not; is different; has a new preview; has ended; is in the list no longer.
    added = Signal(JobItem)
    changed = Signal(JobItem)
    previewed = Signal(JobItem)
    ended = Signal(JobItem)
    removed = Signal(JobItem)

    def __init__(self, link: Link, history: History, journal: Journal, soon: Soon) -> None:
        self.link = link
        self.outbox = Outbox(link, history, soon, enlist=self.enlist)
        self._history = history
        self._journal = journal
        self._host = journal.host
        self._shelf = Shelf(self._host.settings.data_dir / "desktop" / "jobs", journal)
        self._items: dict[tuple[str, str], JobItem] = {}
        self._watch: Watch | None = None
        self._ended: deque[JobItem] = deque()
        self._last_state = link.state

    @property
    def items(self) -> tuple[JobItem, ...]:
        """All jobs, the newest first."""
        return tuple(sorted(self._items.values(), key=lambda item: (item.record.created_at, item.id), reverse=True))

    def of(self, url: str) -> tuple[JobItem, ...]:
        """Jobs of one engine, in no order."""
        return tuple(item for item in self._items.values() if item.url == url)

    def find(self, url: str, job_id: str) -> JobItem | None:
        """A job; None if it is not in the list."""
        return self._items.get((url, job_id))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the list up to date until cancelled."""
        self.link.changed.connect(self._heed_link)
        try:
            async with trio.open_nursery() as nursery:
                await self._recall_jobs()
                self._heed_link()
                nursery.start_soon(self._shelf.run)
                task_status.started()
                while True:
                    await self._watch_engine(await session_with(self.link))
        finally:
            self.link.changed.disconnect(self._heed_link)

    def refresh(self) -> None:
        """Look now at what the engine says."""
        if self._watch is not None:
            self._watch.look_soon()

    async def cancel(self, item: JobItem) -> None:
        """Stop a job; returns when it has ended, as canceled or (had it been quicker) otherwise."""
        item.stopping = True
        tell(self.changed, item)
        try:
            record = await self._ask(item, lambda session: session.cancel(item.id))
            self.take(item.url, record)
        finally:
            if item.stopping:
                item.stopping = False
                tell(self.changed, item)

    async def retry(self, item: JobItem) -> None:
        """Queue a failed or canceled job again; raises `IllegalTransition` for any other."""
        if item.state not in (JobState.FAILED, JobState.CANCELED):
            raise IllegalTransition(f"a job that is {item.state} cannot be retried", hint="submit the tomogram again")
        record = await self._ask(item, partial(_retry, job_id=item.id))
        self.take(item.url, record)

    async def fetch(self, item: JobItem, on_progress: OnProgress | None = None) -> Path:
        """Bring the results of a completed job into its folder: the mask, the statistics and the provenance.

        What is there already with the right digest is not fetched again, and what was cut off is
        continued. If all is there, the engine need not be.

        Parameters
        ----------
        item
            The job.
        on_progress
            Hears bytes that are here by now, and bytes in all.

        Returns
        -------
        path
            The file of the mask.
        """
        async with item.fetching:
            wanted = fetching.wanted_of(item.record.artifacts, self._host)
            await self._bring(item, wanted, on_progress)
            item.preview, item.kept = None, True
            self._keep(item)
            tell(self.changed, item)
            return item.folder / wanted[0].name

    async def fetch_companion(self, item: JobItem, name: str, on_progress: OnProgress | None = None) -> Path:
        """Bring a companion of the labels into the folder of a completed job, as `fetch` brings the mask.

        Parameters
        ----------
        item, on_progress
            As for `fetch`.
        name
            Of the `Companion`.

        Returns
        -------
        path
            Its file.
        """
        async with item.fetching:
            companion = fetching.volume_of(item.record.artifacts, self._host, stem=name)
            await self._bring(item, (companion,), on_progress)
            return item.folder / companion.name

    async def delete_local(self, item: JobItem) -> None:
        """Remove what is kept of a job on this computer: its results, and what was edited of them.

        A job of which no engine is there leaves the list.
        """
        async with item.fetching:
            await self._shelf.remove(item.url, item.id)
        item.kept = False
        if item.reachable:
            tell(self.changed, item)
        else:
            self._history.forget_job(item.id)
            self._remove(item)

    def take(self, url: str, record: JobRecord) -> JobItem:
        """Take in what an engine says of a job, perhaps of a new one."""
        item = self.find(url, record.id)
        if item is None:
            return self._add(self._new_item(url, record))
        before = item.record
        item.take_record(record)
        item.gone = False
        if self._place(item) or without_addresses(record) != without_addresses(before):
            tell(self.changed, item)
        if (record.state, record.attempt) != (before.state, before.attempt):
            self._keep(item)
        if record.state.ended and not before.state.ended:
            self._end(item)
        elif before.state.ended and not record.state.ended:
            self._follow()
        return item

    def hear(self, item: JobItem, event: JobEvent) -> None:
        """Take in what happens to a job."""
        before = item.state
        previewed = item.take_event(event)
        if item.state is not before:
            self._journal.note("job", f"{item.name}: {before} → {item.state}")
            self._keep(item)
        if previewed:
            tell(self.previewed, item)
        tell(self.changed, item)

    def lose(self, item: JobItem) -> None:
        """Take in that its engine does not know a job."""
        item.gone, item.stopping = True, False
        item.version += 1
        self._place(item)
        if item.kept:
            tell(self.changed, item)
        else:
            self._remove(item)

    def enlist(self, record: JobRecord, submission: Submission) -> JobItem:
        """Take in that a submission has become a job."""
        self._history.remember_job(record.id, path=submission.path, url=submission.url, model=record.config.model)
        known = self.find(submission.url, record.id)  # the list of jobs may have told of it before
        item = known or self._new_item(submission.url, record)
        item.path, item.started_here = submission.path, True
        self._journal.note("job", f"{item.name} is queued as {item.id}")
        if known is None:
            self._add(item)
        else:
            tell(self.changed, item)
        self._keep(item)
        self._follow()
        return item

    def _new_item(self, url: str, record: JobRecord) -> JobItem:
        note = self._history.job(record.id)
        path = Path(note.path) if note is not None and note.path is not None and note.url == url else None
        item = JobItem(
            record=record,
            url=url,
            path=path,
            data_dir=self._host.settings.data_dir,
            folder=self._shelf.folder(url, record.id),
        )
        item.take_record(record)
        return item

    def _add(self, item: JobItem) -> JobItem:
        self._items[item.url, item.id] = item
        self._place(item)
        tell(self.added, item)
        return item

    def _remove(self, item: JobItem) -> None:
        if self._items.pop((item.url, item.id), None) is not None:
            tell(self.removed, item)

    def _end(self, item: JobItem) -> None:
        self._journal.note("job", f"{item.name}: {item.state}")
        self._ended.append(item)
        while len(self._ended) > PREVIEWS:
            older = self._ended.popleft()
            if older.state.ended:
                older.preview = None
        tell(self.ended, item)

    def _follow(self) -> None:
        if self._watch is not None:
            self._watch.follow()

    async def _watch_engine(self, session: Session) -> None:
        """Keep the jobs of one engine up to date for as long as the session lasts."""
        url = self.link.url
        assert url is not None, "there is a session"
        with leaving(self.link, session):
            self._watch = Watch(session, url, self)
            try:
                await self._watch.run()
            finally:
                self._watch = None

    async def _bring(self, item: JobItem, wanted: Sequence[Artifact], on_progress: OnProgress | None) -> None:
        """Fetch those of a job's artifacts that are not in its folder."""
        missing = await fetching.missing_of(wanted, item.folder)
        if missing:
            known = sum(artifact.size for artifact in wanted) - sum(artifact.size for artifact in missing)
            bring = partial(
                fetching.fetch,
                job_id=item.id,
                artifacts=missing,
                folder=item.folder,
                known=known,
                on_progress=on_progress,
            )
            await self._ask_again(item, bring)

    async def _ask_again(self, item: JobItem, work: Callable[[Session], Awaitable[T]]) -> T:
        """Ask the engine of a job for something, as soon as the window is connected, and again after a lost session."""
        while True:
            while self._is_coming(item):
                await next_news(self.link.changed)
            session = self.link.session
            try:
                return await self._ask(item, work)
            except ServerUnreachable:
                if session is self.link.session and not self._is_coming(item):
                    raise

    def _is_coming(self, item: JobItem) -> bool:
        """Whether the window is about to be connected with the engine of a job."""
        expected = self.link.state in (LinkState.CONNECTING, LinkState.WAITING)
        return expected and self.link.session is None and self.link.url == item.url

    async def _ask(self, item: JobItem, work: Callable[[Session], Awaitable[T]]) -> T:
        """Ask the engine of a job for something."""
        session = self.link.session
        if session is None or self.link.url != item.url:
            raise ServerUnreachable("the engine of this job is not connected", hint=f"connect to {item.url} first")
        with leaving(self.link, session):
            try:
                return await work(session)
            except UnknownJob:
                self.lose(item)
                raise
        raise ServerUnreachable("the connection was ended meanwhile", hint=f"connect to {item.url}, and try again")

    def _place(self, item: JobItem) -> bool:
        """Say whether the engine of a job is there; whether that is news."""
        before = (item.reachable, item.stale)
        here = item.url == self.link.url and not item.gone
        item.reachable = here and self.link.session is not None
        item.stale = here and self.link.state is not LinkState.CONNECTED
        return before != (item.reachable, item.stale)

    def _heed_link(self) -> None:
        for item in tuple(self._items.values()):
            if self._place(item):
                tell(self.changed, item)
        self.outbox.heed_link()
        state, self._last_state = self._last_state, self.link.state
        if self.link.state is LinkState.CONNECTED is not state:
            self.refresh()

    async def _recall_jobs(self) -> None:
        for kept in await self._shelf.jobs():
            if self.find(kept.url, kept.record.id) is None:
                item = self._new_item(kept.url, kept.record)
                item.path = Path(kept.path) if kept.path is not None else item.path
                item.started_here, item.kept = kept.started_here, True
                self._add(item)

    def _keep(self, item: JobItem) -> None:
        """Have its record kept in its folder, if it is one of ours or its results are here."""
        item.kept = item.kept or item.started_here
        if item.kept:
            path = None if item.path is None else str(item.path)
            record = without_addresses(item.record)
            self._shelf.keep(KeptJob(url=item.url, path=path, started_here=item.started_here, record=record))


async def _retry(session: Session, *, job_id: str) -> JobRecord:
    try:
        return await session.retry(job_id)
    except ServerUnreachable:  # it may have heard us all the same
        record = await session.job(job_id)
        if record.state in (JobState.FAILED, JobState.CANCELED):
            raise
        return record


__all__ = ["JobItem", "JobList"]
