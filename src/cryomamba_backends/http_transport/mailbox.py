"""Events on their way to a listener that may be slow."""

from __future__ import annotations

from collections import deque

import trio

from cryomamba_core.events import JobEvent, PreviewReady, Progress


class Mailbox:
    """Keeps what its reader has not taken yet: all states and ends, of progress and previews the newest only.

    So whoever fills it never waits, and its memory is bounded.
    """

    def __init__(self) -> None:
        self._events: deque[JobEvent] = deque()
        self._news = trio.Event()
        self._closed = False
        self._error: BaseException | None = None

    def put(self, event: JobEvent) -> None:
        """Add an event."""
        if isinstance(event, Progress | PreviewReady):
            self._events = deque(older for older in self._events if type(older) is not type(event))
        self._events.append(event)
        self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """Say that nothing follows, or what the reader is to meet once it has taken what is there."""
        self._closed, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def __aiter__(self) -> Mailbox:
        return self

    async def __anext__(self) -> JobEvent:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        return self._events.popleft()
