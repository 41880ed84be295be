"""Room in memory for the parts of uploads that are on their way, shared out fairly between owners."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from cryomamba_core.errors import RateLimited, RequestTooSlow

#: Seconds between two looks of whoever waits, and after which it is told to come again.
LOOK_INTERVAL, LONGEST_WAIT = 1.0, 60.0

#: Seconds, and bytes a second, in which a part must come while others wait for its room.
LEAST_SECONDS, LEAST_RATE = 10.0, 128 << 10


class Slot:
    """Room for a part that was asked for, and once it was given, its buffer.

    Attributes
    ----------
    view
        So many bytes as were asked for.
    """

    def __init__(self, owner: str, length: int) -> None:
        self.owner = owner
        self.length = length
        self.buffer: mmap.mmap | None = None
        self.given = trio.Event()
        self.view: memoryview = memoryview(b"")
        self._coming = trio.CancelScope()
        self._due = 0.0

    @contextmanager
    def filling(self) -> Iterator[memoryview]:
        """Fill it; raises `RequestTooSlow` if that takes so long that others have waited too long for its room."""
        self._due = trio.current_time() + max(LEAST_SECONDS, self.length / LEAST_RATE)
        with self._coming:
            yield self.view
        self._due = 0.0
        if self._coming.cancelled_caught:
            raise RequestTooSlow(
                "the part comes so slowly that it keeps others waiting",
                hint=f"send fewer parts at the same time; {LEAST_RATE} bytes a second are enough",
            )

    def hasten(self) -> None:
        """Give it up if it should have been filled by now."""
        if 0 < self._due < trio.current_time():
            self._coming.cancel()


class PartSlots:
    """A fixed number of buffers, each made when it is first needed and used again.

    A buffer that is free goes to the waiting owner who holds the fewest, and among these to who waits
    longest. Where there are two or more, one owner never holds all of them: however slow one's parts
    come, others find room. Where several owners are slow, theirs are taken from them.

    Parameters
    ----------
    count
        How many there are.
    size
        Bytes of each.
    """

    def __init__(self, count: int, size: int) -> None:
        self._size = size
        self._free: list[mmap.mmap] = []
        self._unmade = count
        self._most = max(1, count - 1)
        self._given: dict[Slot, None] = {}
        self._waiting: list[Slot] = []

    @asynccontextmanager
    async def take(self, owner: str, length: int) -> AsyncIterator[Slot]:
        """Wait for room for `length` bytes, and have it as long as the context lasts.

        Raises
        ------
        RateLimited
            If there is none for `LONGEST_WAIT` seconds.
        """
        slot = Slot(owner, length)
        self._waiting.append(slot)
        self._hand_out()
        try:
            await self._wait(slot)
            assert slot.buffer is not None
            if len(slot.buffer) < length:  # of an upload that began when parts were larger
                slot.buffer = _memory(length)
            with memoryview(slot.buffer) as whole, whole[:length] as slot.view:
                yield slot
        finally:
            if slot.buffer is None:
                self._waiting.remove(slot)
            else:
                self._free.append(slot.buffer)
                del self._given[slot]
            self._hand_out()

    @property
    def held(self) -> int:
        """How many buffers are in use."""
        return len(self._given)

    async def _wait(self, slot: Slot) -> None:
        with trio.move_on_after(LONGEST_WAIT):
            while not slot.given.is_set():
                with trio.move_on_after(LOOK_INTERVAL):
                    await slot.given.wait()
                    return
                for other in self._given:
                    other.hasten()
        if not slot.given.is_set():
            raise RateLimited("too many parts are on their way to this server", hint="try again later")

    def _hand_out(self) -> None:
        while (self._free or self._unmade) and (following := self._following()) is not None:
            self._waiting.remove(following)
            following.buffer = self._free.pop() if self._free else self._make()
            self._given[following] = None
            following.given.set()

    def _following(self) -> Slot | None:
        held = Counter(slot.owner for slot in self._given)
        able = [slot for slot in self._waiting if held[slot.owner] < self._most]
        return min(able, key=lambda slot: held[slot.owner], default=None)

    def _make(self) -> mmap.mmap:
        self._unmade -= 1
        return _memory(self._size)


def _memory(size: int) -> mmap.mmap:
    """Memory that starts at a page boundary, so that a disk can take a part from where it lies."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
