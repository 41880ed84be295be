"""Jobs' events for any number of listeners: each job that somebody listens to is followed once.

What a follower holds is everybody's mailbox: all changes of state, and of progress and previews the
newest only. A listener has nothing but the number of the event that it heard last. However slow it is,
it costs nobody anything, and when it asks again it gets what is newest.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Self

import trio
from attrs import evolve

from cryomamba_core.errors import UnknownJob
from cryomamba_core.events import JobEvent, PreviewReady, Progress
from cryomamba_core.previews import Preview
from cryomamba_core.protocol.live import event_to_frame, event_to_json
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.wakeups import wait_briefly

log = logging.getLogger(__name__)

#: Seconds after which a follower looks for events that another process has recorded.
FOLLOW_INTERVAL = 0.2


class Message:
    """An event, and what is sent of it: made once, for all listeners.

    Parameters
    ----------
    event
        The event.
    previews
        How many previews of the job there have been since it is followed.
    """

    def __init__(self, event: JobEvent, *, previews: int = 0) -> None:
        self.event = event
        self.previews = previews

    @cached_property
    def text(self) -> str:
        """As a JSON message."""
        return event_to_json(self.event)

    @cached_property
    def frame(self) -> bytes:
        """As a binary frame."""
        return event_to_frame(self.event)


class Listener:
    """One listener's place among a job's events; it can be iterated over. See `Following.listen`.

    Attributes
    ----------
    spared
        How many previews came and went while it was not looking.
    """

    __slots__ = ("_after", "_follower", "_leave", "_previews", "spared")

    def __init__(self, follower: _Follower, after: int, leave: Callable[[_Follower], None]) -> None:
        self.spared = 0
        self._follower = follower
        self._after = after
        self._leave = leave
        self._previews: int | None = None

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left, and nothing will come unless the job is retried."""
        return self._follower.ended and self._follower.next(self._after) is None

    async def next(self) -> Message | None:
        """What is next to hear, as soon as there is something; None when nothing will come.

        If it is cancelled, nothing is lost.
        """
        while True:
            heard = self._follower.heard
            message = self._follower.next(self._after)
            if message is not None:
                self._after = message.event.seq
                self._count(message)
                return message
            if self._follower.failure is not None:
                raise self._follower.failure
            if self._follower.ended:
                return None
            await heard.wait()

    def leave(self) -> None:
        """Listen no longer; once only."""
        self._leave(self._follower)

    def _count(self, message: Message) -> None:
        if isinstance(message.event, PreviewReady):
            if self._previews is not None:
                self.spared += message.previews - self._previews - 1
            self._previews = message.previews

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        message = await self.next()
        if message is None:
            raise StopAsyncIteration
        return message


class Following:
    """Follows the jobs that somebody listens to.

    Parameters
    ----------
    ledger
        The job store.
    read_preview
        Reads the newest preview of a job; called in a thread.
    """

    def __init__(self, ledger: Ledger, read_preview: Callable[[str], Preview | None]) -> None:
        self._ledger = ledger
        self._read_preview = read_preview
        self._followers: dict[str, _Follower] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @property
    def listeners(self) -> int:
        """How many there are now."""
        return sum(follower.listeners for follower in self._followers.values())

    @asynccontextmanager
    async def listen(self, job_id: str, *, owner: str | None, after: int = 0) -> AsyncIterator[Listener]:
        """Listen to a job for as long as the context lasts; raises `UnknownJob`.

        The listener yields the events behind number `after`, first those that are recorded, then as
        they come, and ends with the event that ended the job.
        """
        listener = await self.join(job_id, owner=owner, after=after)
        try:
            yield listener
        finally:
            listener.leave()

    async def join(self, job_id: str, *, owner: str | None, after: int = 0) -> Listener:
        """Listen to a job until the listener is told to leave; see `listen`."""
        assert self._nursery is not None, "nothing is followed before `run`"
        follower = self._followers.get(job_id)
        if follower is None or follower.failure is not None:
            follower = self._followers[job_id] = _Follower(job_id, self._ledger, self._read_preview)
        follower.listeners += 1
        try:
            await follower.refresh(owner)
        except BaseException:
            self._leave(follower)
            raise
        follower.begin(self._nursery)
        return Listener(follower, after, self._leave)

    def _leave(self, follower: _Follower) -> None:
        follower.listeners -= 1
        if not follower.listeners and self._followers.get(follower.job_id) is follower:
            del self._followers[follower.job_id]
            follower.stop()


class _Follower:
    """Holds what there is to hear of one job."""

    def __init__(self, job_id: str, ledger: Ledger, read_preview: Callable[[str], Preview | None]) -> None:
        self.listeners = 0
        self.ended = False
        self.failure: Exception | None = None
        self.heard = trio.Event()
        self.job_id = job_id
        self._ledger = ledger
        self._read_preview = read_preview
        self._seen = self._previews = 0
        self._kept: list[Message] = []
        self._refreshing = trio.Lock()
        self._scope: trio.CancelScope | None = None

    def next(self, after: int) -> Message | None:
        """The first message behind number `after`."""
        return next((message for message in self._kept if message.event.seq > after), None)

    def begin(self, nursery: trio.Nursery) -> None:
        """Follow from now on, if that is not done yet."""
        if self._scope is None:
            self._scope = trio.CancelScope()
            nursery.start_soon(self._follow, self._scope)

    def stop(self) -> None:
        """Follow no longer."""
        if self._scope is not None:
            self._scope.cancel()
        self._ledger.wakeups.notify(self.job_id)

    async def refresh(self, owner: str | None = None) -> None:
        """Take in what the store has; raises `UnknownJob`, also for a job of another owner."""
        async with self._refreshing:
            store = self._ledger.store
            news = await self._ledger.call(store.events_behind, self.job_id, after=self._seen, owner=owner)
            for event in news.events:
                if isinstance(event, PreviewReady):
                    event = evolve(event, preview=await trio.to_thread.run_sync(self._read_preview, self.job_id))
                self._keep(event)
            if news.events or news.ended != self.ended:
                self.ended = news.ended
                self._wake()

    def _keep(self, event: JobEvent) -> None:
        """Add an event; progress and previews take the place of the last of their kind."""
        self._seen = event.seq
        if isinstance(event, Progress | PreviewReady):
            self._kept = [message for message in self._kept if message.event.type != event.type]
        self._previews += isinstance(event, PreviewReady)
        self._kept.append(Message(event, previews=self._previews))

    async def _follow(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                changed = self._ledger.wakeups.listen(self.job_id)
                try:
                    await self.refresh()
                except Exception as error:  # noqa: BLE001  # it is the listeners' to deal with, not the engine's
                    log.log(logging.INFO if isinstance(error, UnknownJob) else logging.WARNING, "%s", error)
                    self.failure = error
                    self._wake()
                    return
                await wait_briefly(changed, FOLLOW_INTERVAL)

    def _wake(self) -> None:
        self.heard.set()
        self.heard = trio.Event()
