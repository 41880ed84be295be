"""Which requests are in progress: what a server waits for before it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Traffic:
    """Requests and WebSockets in progress.

    Parameters
    ----------
    stopping
        Set when the server is about to stop.
    """

    def __init__(self, stopping: trio.Event) -> None:
        self._stopping = stopping
        self._under_way: set[object] = set()
        self._one_ended = trio.Event()

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def ending(self) -> bool:
        """Whether an answer should be the last on its connection."""
        return self._stopping.is_set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request for as long as the block lasts."""
        ticket = object()
        self.began(ticket)
        try:
            yield
        finally:
            self.ended(ticket)

    def began(self, ticket: object) -> None:
        """Count what a ticket stands for until it has `ended`."""
        self._under_way.add(ticket)

    def ended(self, ticket: object) -> None:
        """Count it no longer."""
        self._under_way.discard(ticket)
        self._one_ended.set()
        self._one_ended = trio.Event()

    async def settled(self) -> None:
        """Wait until those that are in progress now have ended; what comes later is not waited for."""
        waiting = self._under_way.copy()
        while waiting := waiting & self._under_way:
            await self._one_ended.wait()
