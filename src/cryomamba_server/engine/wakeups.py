"""Tells tasks of this process at once what tasks of other processes learn by looking again."""

from __future__ import annotations

import trio


class Wakeups:
    """Wakes the tasks that wait for a change of some kind.

    The change itself is in the job store: a wake-up that is missed costs one interval of polling.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, trio.Event] = {}

    def listen(self, topic: str) -> trio.Event:
        """The event that the next `notify` of `topic` sets; get it before looking at the store."""
        return self._waiting.setdefault(topic, trio.Event())

    def awaited(self, topic: str) -> bool:
        """Whether somebody listens."""
        return topic in self._waiting

    def notify(self, topic: str) -> None:
        """Wake everybody who listens."""
        event = self._waiting.pop(topic, None)
        if event is not None:
            event.set()


async def wait_briefly(event: trio.Event, seconds: float) -> None:
    """Wait for `event`, but no longer than `seconds`."""
    with trio.move_on_after(seconds):
        await event.wait()
