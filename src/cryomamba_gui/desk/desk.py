"""What one window works with: its connection, its jobs, what it remembers, and what went wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from cryomamba_gui.desk.history import History
from cryomamba_gui.desk.jobs import JobList
from cryomamba_gui.desk.journal import Journal
from cryomamba_gui.desk.link import Link
from cryomamba_gui.desk.troubles import Troubles

if TYPE_CHECKING:
    from cryomamba_core.plugins import PluginHost
    from cryomamba_core.settings import Settings

#: Where the desktop keeps what is its own, below the data directory.
FOLDER, HISTORY = "desktop", "history.json"


class Desk:
    """Everything behind one window, and nothing that is seen of it.

    Making one reads the history and starts nothing: `run` does.

    Parameters
    ----------
    host
        Every plugin.

    Attributes
    ----------
    host, settings
        Plugins, and the settings of this process.
    link, jobs, history, troubles, journal
        As their classes say.
    """

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self.journal = Journal(host)
        self.troubles = Troubles(self.journal)
        self.history = History(self.settings.data_dir / FOLDER / HISTORY, self.journal, self.troubles)
        self.link = Link(host, self.history, self.journal, self.troubles)
        self.jobs = JobList(self.link, self.history, self.journal, self.soon)
        self._nursery: trio.Nursery | None = None
        self._early: list[tuple[Callable[[], Awaitable[object]], str, trio.CancelScope]] = []
        self._closed = False

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.host.settings

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; nothing is left running, but workers, which go on with their jobs.

        What `soon` was asked for before is begun now.
        """
        async with trio.open_nursery() as around:
            shelter = trio.CancelScope(shield=True)  # what is said and done at the end is taken down, too
            around.start_soon(self._take_down, shelter)
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._guarded, self.link.run, "keeping the connection")
                    nursery.start_soon(self._guarded, self.jobs.run, "following the jobs")
                    for early in self._early:
                        nursery.start_soon(self._attempt, *early)
                    self._early.clear()
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                self._nursery, self._closed = None, True
                shelter.cancel()

    def soon(self, work: Callable[[], Awaitable[object]], *, name: str) -> trio.CancelScope:
        """Begin a task; what it raises becomes a trouble, and nothing else.

        Parameters
        ----------
        work
            What to do.
        name
            What is attempted, as a clause for people, e.g. ``sending a.mrc``.

        Returns
        -------
        scope
            Cancels the task. Once the desk has been closed it is cancelled already, and nothing begins.
        """
        scope = trio.CancelScope()
        if self._closed:
            scope.cancel()
        elif self._nursery is None:
            self._early.append((work, name, scope))
        else:
            self._nursery.start_soon(self._attempt, work, name, scope, name=name)
        return scope

    async def _attempt(self, work: Callable[[], Awaitable[object]], name: str, scope: trio.CancelScope) -> None:
        with self.troubles.catching(name), scope, self.journal.timing("task", name):
            await trio.lowlevel.checkpoint_if_cancelled()
            await work()

    async def _take_down(self, shelter: trio.CancelScope) -> None:
        with shelter:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._guarded, self.journal.run, "listening to the loggers")
                nursery.start_soon(self._guarded, self.history.run, "remembering what is done")

    async def _guarded(self, work: Callable[[], Awaitable[object]], name: str) -> None:
        with self.troubles.catching(name):
            await work()
