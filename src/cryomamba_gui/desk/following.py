"""The jobs of one engine, kept up to date for as long as one session with it lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from cryomamba_core.errors import UnknownJob
from cryomamba_core.jobs import JobState
from cryomamba_gui.desk.attendance import AWAY

if TYPE_CHECKING:
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobRecord
    from cryomamba_gui.desk.items import JobItem
    from cryomamba_gui.desk.jobs import JobList

log = logging.getLogger(__name__)

#: How many jobs are listened to at a time; of more, those that run come first, and the others are looked at only.
FOLLOWED = 32
#: Seconds between two looks at the list of jobs, which tell where the queued ones stand, and what others have queued.
#: A server allows one request a second for everything: where a look takes several, there are fewer of them.
INTERVAL = 15.0
#: Jobs that are looked at, the newest.
MOST = 200
#: Jobs in one answer, at first and later: reading it holds up the window, for 0.05 ms each, and each has 3 KB.
FIRST_PAGE, PAGE = 50, 20
#: Jobs that are asked after in one look, since the list should have had them and does not.
ASKED = 5


class Watch:
    """Looks at the list of jobs now and then, and listens to each that has not ended.

    Whatever fails is tried again with the next look.

    Parameters
    ----------
    session, url
        The conversation with the engine, and its address.
    jobs
        Is told.
    """

    def __init__(self, session: Session, url: str, jobs: JobList) -> None:
        self._session = session
        self._url = url
        self._jobs = jobs
        self._followed: set[str] = set()
        self._seen_all = False
        self._pages = 0
        self._wanted = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                wanted = self._wanted
                await self._look()
                with trio.move_on_after(INTERVAL * max(1.0, self._pages / 2)):
                    await wanted.wait()

    def look_soon(self) -> None:
        """Look at the list of jobs now."""
        self._wanted.set()
        self._wanted = trio.Event()

    def follow(self) -> None:
        """Listen to whatever should be listened to and is not."""
        if self._nursery is None:
            return
        left = [item for item in self._jobs.of(self._url) if self._is_open(item) and item.reachable]
        left.sort(key=lambda item: (not item.state.active, item.id))
        for item in left[: FOLLOWED - len(self._followed)]:
            self._followed.add(item.id)
            self._nursery.start_soon(self._follow, item)

    def _is_open(self, item: JobItem) -> bool:
        """Whether news of a job can come that nobody listens to."""
        return not item.state.ended and item.id not in self._followed

    async def _look(self) -> None:
        try:
            for item in await self._look_at_list():
                await self._ask(item)
        except AWAY as error:
            log.debug("the list of jobs cannot be seen: %s", error)
        except Exception as error:
            log.exception("the list of jobs cannot be seen: %s", error)
        self.follow()

    async def _look_at_list(self) -> list[JobItem]:
        """Take in the newest jobs, as far back as something may be new; returns those that should be there and are not.

        That is the first time all of them, later those that are not known, or have not ended.
        """
        before: str | None = None
        missing = {item.id: item.version for item in self._jobs.of(self._url) if not item.gone}
        page = PAGE if self._seen_all else FIRST_PAGE
        for self._pages in range(1, MOST // page + 1):
            known = {item.id: item for item in self._jobs.of(self._url)}
            versions = {name: item.version for name, item in known.items()}
            records = await self._session.jobs(limit=page, before=before)
            for record in records:
                self._take(record, versions.get(record.id))
                missing.pop(record.id, None)
            self.follow()
            if len(records) < page:
                self._seen_all, before = True, None
                break
            before = records[-1].id
            if self._seen_all and before in known and not any(self._has_news_behind(before)):
                break
        self._seen_all = True
        listed = [item for item in self._jobs.of(self._url) if missing.get(item.id) == item.version]
        wanted = [item for item in listed if before is None or item.id > before or self._is_open(item)]
        return wanted[:ASKED]

    def _has_news_behind(self, before: str) -> Iterator[bool]:
        """For each job that is older than another: whether only the list tells how it goes on."""
        for item in self._jobs.of(self._url):
            if item.id < before and item.reachable:
                yield self._is_open(item) or item.state is JobState.QUEUED

    async def _ask(self, item: JobItem) -> None:
        version = item.version
        try:
            self._take(await self._session.job(item.id), version)
        except UnknownJob:
            self._jobs.lose(item)

    def _take(self, record: JobRecord, version: int | None) -> None:
        """Take in a record, unless something newer was heard while it was on its way."""
        item = self._jobs.find(self._url, record.id)
        if item is None or item.version == version:
            self._jobs.take(self._url, record)

    async def _follow(self, item: JobItem) -> None:
        """Listen to one job until it has ended."""
        try:
            async with aclosing(self._session.events(item.id, after=item.last_seq)) as events:  # type: ignore[type-var]  # generators, all of them
                async for event in events:
                    self._jobs.hear(item, event)
            self._jobs.take(self._url, await self._session.job(item.id))
        except UnknownJob:
            self._jobs.lose(item)
        except AWAY as error:
            log.debug("job %s cannot be heard: %s", item.id, error)
            return
        except Exception as error:
            log.exception("job %s cannot be heard: %s", item.id, error)
            return
        finally:
            self._followed.discard(item.id)
        if item.state.ended:
            self.follow()
