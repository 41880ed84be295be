"""When an engine is asked whether it is there."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from attrs import frozen

from cryomamba_core.errors import ServerUnreachable

T = TypeVar("T")


@frozen(kw_only=True)
class Pace:
    """How often to ask, and how long to wait, in seconds.

    Attributes
    ----------
    ping
        Between two questions while the engine answers.
    answer
        For an answer; a session that says that it goes on trying is given the time that it takes.
    first_pause, longest_pause
        Before it is asked again when it has not answered: at most so long, each time twice as long as
        before, and never longer than that.
    """

    ping: float = 30.0
    answer: float = 20.0
    first_pause: float = 1.0
    longest_pause: float = 30.0


class Rounds:
    """The questions of one connection, one after the other.

    Parameters
    ----------
    pace
        How often to ask, and how long to wait.

    Attributes
    ----------
    anew
        Whether more is to be asked than whether the engine is there: it was away, or somebody wants to know.
    """

    def __init__(self, pace: Pace) -> None:
        self.anew = True
        self._pace = pace
        self._failures = 0
        self._pause_ends: float | None = None
        self._asking: trio.CancelScope | None = None
        self._hurried = False
        self._called = trio.Event()

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question, which is put again if somebody is in a hurry.

        Raises
        ------
        ServerUnreachable
            If none comes.
        """
        while True:
            self._hurried = False
            with trio.CancelScope(deadline=trio.current_time() + self._pace.answer) as self._asking:
                try:
                    return await question()
                finally:
                    self._asking = None
            if not self._hurried:
                raise ServerUnreachable("the engine does not answer", hint="it is asked again and again")

    async def rest(self) -> None:
        """Wait until the engine is to be asked again."""
        await self._wait(self._pace.ping)

    @property
    def seconds_to_next(self) -> float | None:
        """Time to the next question after a failure; None while nothing has failed or it is being put."""
        return None if self._pause_ends is None else max(0.0, self._pause_ends - time.monotonic())

    def failed(self) -> None:
        """Take in that it was not answered: there is a pause, a moment longer than after the failure before.

        It is drawn evenly, so that not all windows come back at once.
        """
        self.anew = True
        longest = min(self._pace.longest_pause, self._pace.first_pause * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._pause_ends = time.monotonic() + random.uniform(0.5, 1) * longest  # noqa: S311  # no secret

    async def pause(self) -> None:
        """Wait until the engine is to be asked again after a failure."""
        try:
            await self._wait(self.seconds_to_next or 0.0)
        finally:
            self._pause_ends = None

    def succeeded(self) -> None:
        """Take in that all was answered."""
        self.anew, self._failures = False, 0

    def patient(self) -> None:
        """Give the question that is being put all the time that the session takes for it, or put one now."""
        if self._asking is not None:
            self._asking.deadline = float("inf")
        else:
            self._call()

    def hurry(self) -> None:
        """Ask now: what is being asked is asked anew, since it may be about to wait."""
        if self._asking is not None:
            self.anew = self._hurried = True
            self._asking.cancel()
        else:
            self._call()

    def hurry_unless_asking(self) -> None:
        """Ask now, unless the answer is on its way."""
        if self._asking is None:
            self._call()

    def _call(self) -> None:
        self.anew = True
        self._called.set()

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._called.wait()
        self._called = trio.Event()
