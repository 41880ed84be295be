"""Work of which only the newest matters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Latest(Generic[T]):
    """Does one piece of work at a time; of those that wait, only the newest is done.

    Parameters
    ----------
    work
        What to do with each.
    interrupt
        Whether a newer one cancels the one that is being done.
    """

    def __init__(self, work: Callable[[T], Awaitable[object]], *, interrupt: bool) -> None:
        self._work = work
        self._interrupt = interrupt
        self._waiting: list[T] = []
        self._asked = trio.Event()
        self._scope = trio.CancelScope()

    def ask(self, item: T) -> int:
        """Have it done; how many others that waited will not be done (0 or 1). For the thread that trio runs in."""
        dropped = len(self._waiting)
        self._waiting = [item]
        self._asked.set()
        if self._interrupt:
            self._scope.cancel()
        return dropped

    def forget(self) -> None:
        """Do not do what waits, and cancel what is being done."""
        self._waiting.clear()
        self._scope.cancel()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            if not self._waiting:
                continue
            item = self._waiting.pop()
            with trio.CancelScope() as self._scope:
                await self._work(item)
