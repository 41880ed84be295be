"""The job store as the engine's tasks use it, and the news of its changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

import trio

from cryomamba_core.errors import StorageError
from cryomamba_core.jobs import JobRecord
from cryomamba_core.plugins import PluginHost
from cryomamba_server.engine.store import JobStore
from cryomamba_server.engine.wakeups import Wakeups

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

#: Topic of `Wakeups` for everything that may let another job start.
QUEUE = "queue"

#: Seconds between two tries to record something that must be recorded, e.g. while the disk is full.
PERSIST_INTERVAL = 1.0

#: Seconds that observers are given at the end for what they have not heard yet.
OBSERVERS_GRACE = 5.0


class Ledger:
    """Calls the store in a thread, one call at a time, and tells listeners and observers of changes.

    Parameters
    ----------
    store
        The store.
    host
        Has the observers.
    """

    def __init__(self, store: JobStore, host: PluginHost) -> None:
        self.store = store
        self.wakeups = Wakeups()
        self._host = host
        self._watchers: list[Callable[[JobRecord], None]] = []
        self._limiter = trio.CapacityLimiter(1)
        self._news_in, self._news_out = trio.open_memory_channel[JobRecord](1_000_000)

    async def call(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store. Once begun it is carried through, also if the caller is cancelled."""
        return await trio.to_thread.run_sync(partial(method, *args, **kwargs), limiter=self._limiter)

    async def persist(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store until it succeeds: a full disk only delays it."""
        complained = False
        while True:
            try:
                return await self.call(method, *args, **kwargs)
            except StorageError as error:
                if not complained:
                    log.error("%s; trying again until it works", error)
                complained = True
                await trio.sleep(PERSIST_INTERVAL)

    def changed(self, record: JobRecord) -> None:
        """Tell everybody of a job that entered a new state; the record is durable."""
        self.advanced(record)
        self.wakeups.notify(QUEUE)
        with suppress(trio.ClosedResourceError):  # the engine is leaving: the store has it
            self._news_in.send_nowait(record)

    def advanced(self, record: JobRecord) -> None:
        """Tell listeners that there is a new event of a job."""
        self.wakeups.notify(record.id)
        for watcher in self._watchers:
            watcher(record)

    def watch(self, watcher: Callable[[JobRecord], None]) -> None:
        """Call `watcher`, which must be quick and must not raise, with each record that this process changes."""
        self._watchers.append(watcher)

    async def tell_observers(self) -> None:
        """Call the observers for each change, in order, until cancelled and everything is told."""
        try:
            async for record in self._news_out:
                await trio.to_thread.run_sync(self._host.job_changed, record)
        finally:
            with trio.move_on_after(OBSERVERS_GRACE, shield=True):
                self._news_in.close()
                async for record in self._news_out:
                    await trio.to_thread.run_sync(self._host.job_changed, record, abandon_on_cancel=True)
