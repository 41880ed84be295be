"""How many parts travel at the same time: as many as help."""

from __future__ import annotations

import trio

#: Parts at a time to begin with.
START = 2
#: One more is kept if it made the whole so much faster, and taken back if the whole became so much slower.
GAIN, LOSS = 1.05, 0.9
#: After so many rounds without a change another one is tried.
ROUNDS = 16


class Pace:
    """Lets so many parts travel as make the whole faster, and fewer after a failure.

    Parameters
    ----------
    most
        The most that may travel at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self.allowed: int = min(START, self._most)
        self._under_way = 0
        self._room = trio.Event()
        self._best = 0.0
        self._rounds = 0
        self._bytes = 0
        self._parts = 0
        self._since: float | None = None

    async def enter(self) -> None:
        """Wait until another part may set out."""
        while self._under_way >= self.allowed:
            await self._room.wait()
        self._under_way += 1
        if self._since is None:
            self._since = trio.current_time()

    def leave(self, size: int) -> None:
        """Note that a part of `size` bytes has arrived; 0 for one that was given up."""
        self._under_way -= 1
        self._bytes += size
        self._parts += 1
        if self._parts >= 2 * self.allowed:
            self._judge()
        self._wake()

    def failed(self) -> None:
        """Note that a part has to be sent again, or that the server asked for patience."""
        self.allowed = max(1, self.allowed // 2)
        self._best = 0.0
        self._begin_round()

    def _judge(self) -> None:
        assert self._since is not None, "a part was under way"
        rate = self._bytes / max(1e-6, trio.current_time() - self._since)
        self._rounds += 1
        if rate > self._best * GAIN or self._rounds >= ROUNDS:
            self._best, self._rounds = rate, 0
            self.allowed = min(self._most, self.allowed + 1)
        elif rate < self._best * LOSS:
            self._best = rate
            self.allowed = max(1, self.allowed - 1)
        self._begin_round()

    def _begin_round(self) -> None:
        self._bytes = self._parts = 0
        self._since = trio.current_time()

    def _wake(self) -> None:
        self._room.set()
        self._room = trio.Event()
