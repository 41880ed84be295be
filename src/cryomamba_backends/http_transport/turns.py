"""Whose turn it is to ask: all questions of a connection keep to the server's limit together."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from cryomamba_core.errors import RateLimited

#: Seconds that a question may have to wait before that is worth a word.
WORTH_A_WORD = 2.0
#: What a server says of its limit in ``RateLimit`` and ``RateLimit-Policy``: the number behind a letter.
_VALUE = re.compile(r";\s*([rqw])=(\d{1,9})\b")
#: Status of a question that came too early.
TOO_EARLY = 429


class Turns:
    """Lets questions set out as they come, and one behind the other where the server's limit is near.

    Many tasks ask at the same time: were each to find out alone that it came too early, all would
    come back together and be refused again.

    Parameters
    ----------
    tell
        Hears that questions have to wait for longer, and None once none has to.
    """

    def __init__(self, tell: Callable[[RateLimited | None], None]) -> None:
        self._tell = tell
        self._queue = trio.Lock()
        self._waiting = 0
        self._under_way = 0
        self._not_before = -math.inf
        self._apart = 0.0
        self._room = math.inf
        self._room_at = -math.inf

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until it is one's turn; the question is under way for as long as the context lasts."""
        await self._wait()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def note(self, status: int, headers: Mapping[str, str], delay: float = 0.0) -> None:
        """Take in what an answer says of the limit.

        Parameters
        ----------
        status, headers
            Of the answer.
        delay
            Seconds after which a question that came too early may come again.
        """
        said = dict(_VALUE.findall(headers.get("ratelimit-policy", "") + headers.get("ratelimit", "")))
        now = trio.current_time()
        pause = float(said["w"]) / max(1.0, float(said["q"])) if {"w", "q"} <= said.keys() else 0.0
        if status == TOO_EARLY:
            self._not_before = max(self._not_before, now + delay)
            self._apart = pause or self._apart
        elif "r" in said and self._left(int(said["r"]), now, pause) <= self._under_way + self._waiting:
            self._apart = pause
            self._not_before = max(self._not_before, now + pause)
        else:
            self._apart = 0.0

    def _left(self, said: int, now: float, pause: float) -> float:
        """How many may ask at once: answers overtake each other, but there cannot be more room than has come back."""
        back = (now - self._room_at) / pause if pause else math.inf
        self._room, self._room_at = min(float(said), self._room + back), now
        return self._room

    async def _wait(self) -> None:
        if not self._waiting and trio.current_time() >= self._not_before:
            self._take()
            return
        self._waiting += 1
        try:
            async with self._queue:
                while (left := self._not_before - trio.current_time()) > 0:
                    if left + self._apart * (self._waiting - 1) > WORTH_A_WORD:
                        self._tell(RateLimited("the server wants fewer requests in a minute"))
                    await trio.sleep(left)
                self._take()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._tell(None)

    def _take(self) -> None:
        """Set out, and let the next one wait if questions have to lie apart."""
        if self._apart:
            self._not_before = trio.current_time() + self._apart
